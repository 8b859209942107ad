"""The flags of imagined observations: which actions are available, and who is alive.

The state decoder predicts a logit for each. A flag is set where its logit is positive; of choices of which none is, the
likeliest is available, so that whoever is alive can act. Of an agent that has left, everything but the id is zero, as
in real observations.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from rllib_dima.core.layout import AgentLayout


class Flags(nn.Module):
    """Reads and learns the flags in decoded observations.

    Args:
        layout: of a team that has flags.
    """

    observation_mask: torch.Tensor
    action_mask: torch.Tensor

    def __init__(self, layout: AgentLayout) -> None:
        super().__init__()
        self.layout, first = layout, max(layout.observation_sizes)
        self._own, self._all = slice(first), slice(first, first + layout.num_flags)
        self.register_buffer("observation_mask", layout.observation_mask().float(), persistent=False)  # (N, O)
        self.register_buffer("action_mask", layout.action_mask().float(), persistent=False)  # (N, A)

    def set(self, decoded: torch.Tensor, agents: torch.Tensor | None = None) -> torch.Tensor:
        """Decoded observations as an environment would return them.

        Args:
            decoded: (..., N, O), or (B, O) together with `agents`.
            agents: (B,) which agent each row of (B, O) belongs to.
        """
        alive, flags = self._present(decoded), []
        if self.layout.masks_actions:
            action_mask = self.action_mask if agents is None else self.action_mask[agents]
            flags.append(self._available(decoded[..., self.layout.available_slice], action_mask) * alive)
        if self.layout.agents_leave:
            flags.append(alive)
        own, ids = decoded[..., self._own] * alive, decoded[..., -self.layout.num_agents :]
        return torch.cat([own, *flags, ids], dim=-1)

    def loss(
        self, decoded: torch.Tensor, observations: torch.Tensor, error: torch.Tensor
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Reconstruction error of living agents, and the binary cross-entropy of flags, each a mean over real entries.

        Args:
            decoded: (B, N, O) with logits for flags.
            observations: (B, N, O) real ones.
            error: (B, N, O) of reconstruction, 0 where padded.
        """
        alive = _or_ones(self.layout.alive(observations), observations).unsqueeze(-1)  # (B, N, 1)
        is_value = self.observation_mask.clone()
        is_value[:, self._all] = 0
        loss = _mean(error, is_value * alive)
        metrics = {"decoder_loss": loss.detach()}
        logits, flags = decoded[..., self._all], observations[..., self._all]
        entropy = functional.binary_cross_entropy_with_logits(logits, flags, reduction="none")
        wrong = (self.set(decoded)[..., self._all] != flags).float()
        if self.layout.masks_actions:
            of_choices, weights = slice(self.layout.action_size), self.action_mask * alive
            loss = loss + _mean(entropy[..., of_choices], weights)
            metrics["mask_error"] = _mean(wrong[..., of_choices], weights)
        if self.layout.agents_leave:
            loss = loss + entropy[..., -1].mean()
            metrics["alive_error"] = wrong[..., -1].mean()
        return loss, metrics

    def _present(self, decoded: torch.Tensor) -> torch.Tensor:
        """(..., N, 1) float: whose logit says alive."""
        logits = self.layout.alive(decoded)
        return _or_ones(None if logits is None else (logits > 0).to(decoded.dtype), decoded).unsqueeze(-1)

    def _available(self, logits: torch.Tensor, action_mask: torch.Tensor) -> torch.Tensor:
        """(..., A) float: likely choices, of each block at least one that the agent has."""
        logits = logits.masked_fill(action_mask == 0, torch.finfo(logits.dtype).min)
        blocks = logits.split(list(self.layout.block_sizes), -1)
        chosen = [(block > 0) | (block == block.amax(-1, keepdim=True)) for block in blocks]
        return torch.cat(chosen, dim=-1).to(logits.dtype) * action_mask


def _or_ones(values: torch.Tensor | None, observations: torch.Tensor) -> torch.Tensor:
    return torch.ones_like(observations[..., 0]) if values is None else values


def _mean(x: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """The weighted mean; 0 where there is nothing to weigh."""
    return (x * weights).sum() / weights.expand_as(x).sum().clamp(min=1)
