"""Rewards and endings: a causal transformer over states and joint actions.

Sequence of one window of H steps, two tokens per step:

    position     0     1     2     3    ...   2H-2     2H-1
    token       s_0   a_0   s_1   a_1   ...  s_{H-1}  a_{H-1}
    predicts          r_0         r_1   ...           r_{H-1}      (and whether the episode goes on after the step)
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn
from torch.nn import functional

from rllib_dima.core.dima.action_encoder import SumActionEncoder
from rllib_dima.core.hyperparameters import Hyperparameters, knob
from rllib_dima.core.layout import AgentLayout
from rllib_dima.core.mlp import mlp
from rllib_dima.core.transformer import Block, KeyValueCache, dropout, unseen_tokens


@dataclass(frozen=True)
class RewardTerminationHyperparameters(Hyperparameters):
    """What the model of rewards and endings is made and trained with."""

    reward_network: str = knob(
        "transformer",
        "Network of rewards and endings: the paper's transformer over the imagined rollout so far, or a residual MLP "
        "of the present state and joint action (mlp).",
        choices=("transformer", "mlp"),
    )
    reward_width: int = knob(256, "Width of the residual MLP (mlp).", low=1)
    reward_num_blocks: int = knob(1, "Residual blocks of the MLP (mlp).", low=0)
    reward_reads_next_state: bool = knob(
        False, "Whether rewards and endings are predicted from the next state, too, as it is imagined (mlp)."
    )
    reward_imagined_fraction: float = knob(
        0.0,
        "Share of the training data whose states are imagined ones, reached from real starts by the recorded actions; "
        "rewards and endings are the recorded ones. Endings then have an MLP of their own, half as wide (mlp).",
        low=0.0,
        high=1.0,
    )
    imagination_horizon: int = knob(15, "Steps of an imagined rollout and of a transformer window.", symbol="H", low=1)
    reward_embedding_size: int = knob(256, "Width of the transformer.", symbol="d_e", low=1)
    reward_num_layers: int = knob(6, "Transformer blocks.", low=1)
    reward_num_heads: int = knob(4, "Attention heads.", low=1)
    reward_dropout: float = knob(0.1, "Dropout on embedding, attention and residuals.", low=0.0, high=0.99)
    reward_lr: float = knob(1e-4, "Learning rate of the model of rewards and endings (AdamW).", low=0.0)
    reward_weight_decay: float = knob(0.01, "Weight decay of the model of rewards and endings.", low=0.0)
    reward_grad_clip: float = knob(
        10.0, "Largest gradient norm of that model; a larger gradient is scaled down to it.", low=1e-9
    )
    reward_batch_size: int = knob(128, "Windows per update: of H steps (transformer), or of one (mlp).", low=1)
    reward_updates_per_iteration: int = knob(200, "Updates of the model of rewards and endings per iteration.", low=1)

    @property
    def reward_window(self) -> int:
        """Steps of a training window."""
        return self.imagination_horizon if self.reward_network == "transformer" else 1

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require_multiple("reward_embedding_size", of="reward_num_heads")
        for name in ("reward_reads_next_state", "reward_imagined_fraction"):
            if getattr(self, name) and self.reward_network != "mlp":
                raise ValueError(
                    f"{name}={getattr(self, name)} needs reward_network='mlp', not {self.reward_network!r}, which "
                    "reads the real states and actions so far: set reward_reads_next_state=False and "
                    "reward_imagined_fraction=0.0, which recipe 'swift' turns on."
                )


class OutcomeModel(nn.Module, ABC):
    """What every model of rewards and endings can do."""

    @abstractmethod
    def forward(
        self, states: torch.Tensor, actions: torch.Tensor, next_states: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Rewards and continuation logits, (B, M) each, of M steps.

        Args:
            states: (B, M, S) normalised.
            actions: (B, M, N, A).
            next_states: (B, M, S) normalised, those after the actions.
        """

    @abstractmethod
    def new_cache(self, batch_size: int) -> Any:
        """What `extend` remembers of B rollouts, empty."""

    @abstractmethod
    def extend(
        self, states: torch.Tensor, actions: torch.Tensor, next_states: torch.Tensor, cache: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """As `forward`, of M more steps after those in the cache, which are added to it."""

    @abstractmethod
    def transform_rewards(self, factor: torch.Tensor, shift: torch.Tensor) -> None:
        """Makes all predicted rewards x become factor * x + shift."""


def summed(reward_loss: torch.Tensor, termination_loss: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The loss of eq. 23, (), and its two parts as metrics."""
    metrics = {"reward_loss": reward_loss.detach(), "termination_loss": termination_loss.detach()}
    return reward_loss + termination_loss, metrics


class RewardTermination(OutcomeModel):
    """f_phi(s_<=t, a_<=t) -> reward r_t, normalised, and logit of the episode continuing after step t.

    Args:
        layout: sizes.
        hp: hyperparameters.
    """

    def __init__(self, layout: AgentLayout, hp: RewardTerminationHyperparameters) -> None:
        super().__init__()
        size = hp.reward_embedding_size
        self.num_layers, self.num_heads, self.dropout = hp.reward_num_layers, hp.reward_num_heads, hp.reward_dropout
        self.num_agents, self.max_tokens = layout.num_agents, 2 * hp.imagination_horizon
        self.state_in = nn.Sequential(
            nn.Linear(layout.state_size, size), nn.LayerNorm(size), nn.SiLU(), nn.Linear(size, size)
        )
        self.action_in = SumActionEncoder(1, layout.num_agents, layout.action_mask(), size, size)
        self.position_embedding = nn.Parameter(torch.randn(self.max_tokens, size) * 0.02)
        blocks = nn.ModuleList(
            Block(layer, size, hp.reward_num_heads, hp.reward_dropout) for layer in range(hp.reward_num_layers)
        )
        self.blocks = cast("Sequence[Block]", blocks)
        self.norm_out = nn.LayerNorm(size)
        sizes = [size, size, size, 1]
        self.reward_head, self.continuation_head = mlp(sizes, nn.GELU), mlp(sizes, nn.GELU)

    def forward(
        self, states: torch.Tensor, actions: torch.Tensor, next_states: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Rewards and continuation logits of the first M steps of rollouts.

        Args:
            states: (B, M, S) normalised.
            actions: (B, M, N, A).
            next_states: not read.

        Returns:
            (B, M) rewards and (B, M) logits.

        Raises:
            ValueError: if the steps exceed the horizon H.
        """
        x = self._embed(states, actions, 0)
        for block in self.blocks:
            x = block(x)
        return self._predict(x, states.dtype)

    def loss(
        self,
        states: torch.Tensor,
        actions: torch.Tensor,
        rewards: torch.Tensor,
        terminated: torch.Tensor,
        valid: torch.Tensor,
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """SmoothL1 of the reward plus cross-entropy of the continuation, averaged over valid steps; eq. 23.

        Valid steps come first in a window, and predictions are causal, so what follows an episode's end cannot reach
        them.

        Args:
            states: (B, M, S) normalised.
            actions: (B, M, N, A).
            rewards: (B, M) normalised.
            terminated: (B, M) bool; a time limit is not a termination.
            valid: (B, M) bool, true at the first step.
        """
        predicted_rewards, logits = self(states, actions)
        weight = valid.float() / valid.sum()
        reward_error = functional.smooth_l1_loss(predicted_rewards, rewards, reduction="none")
        ending_error = functional.binary_cross_entropy_with_logits(logits, (~terminated).float(), reduction="none")
        return summed((reward_error * weight).sum(), (ending_error * weight).sum())

    def extend(
        self, states: torch.Tensor, actions: torch.Tensor, next_states: torch.Tensor | None, cache: KeyValueCache
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """As `forward`, of M more steps after those in the cache, which are added to it."""
        x = self._embed(states, actions, cache.length)
        unseen = unseen_tokens(x.shape[1], cache.length, x.device)
        for block in self.blocks:
            x = block.extend(x, cache, unseen)
        cache.length += x.shape[1]
        return self._predict(x, states.dtype)

    def _predict(self, x: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
        """Rewards and logits (B, M) from tokens (B, 2M, D)."""
        outcome = self.norm_out(x[:, 1::2])  # (B, M, D) at the action tokens
        rewards, logits = self.reward_head(outcome), self.continuation_head(outcome)
        return rewards.squeeze(-1).to(dtype), logits.squeeze(-1).to(dtype)

    @torch.no_grad()
    def transform_rewards(self, factor: torch.Tensor, shift: torch.Tensor) -> None:
        """Makes all predicted rewards x become factor * x + shift."""
        last = cast(nn.Linear, self.reward_head[-1])
        last.weight.mul_(factor)
        last.bias.mul_(factor).add_(shift)

    def new_cache(self, batch_size: int) -> KeyValueCache:
        """An empty cache for B rollouts of up to H steps."""
        like = self.position_embedding
        head_size, device = like.shape[1] // self.num_heads, like.device
        is_reduced = torch.is_autocast_enabled(device.type)
        dtype = torch.get_autocast_dtype(device.type) if is_reduced else like.dtype
        return KeyValueCache(self.num_layers, batch_size, self.num_heads, self.max_tokens, head_size, dtype, device)

    def _embed(self, states: torch.Tensor, actions: torch.Tensor, start: int) -> torch.Tensor:
        """Interleaved embeddings s, a, s, a, ...: (B, 2M, D)."""
        batch_size, steps = states.shape[:2]
        if start + 2 * steps > self.max_tokens:
            raise ValueError(
                f"The transformer holds {self.max_tokens // 2} steps, but was given {start // 2} + {steps}: "
                "imagination_horizon bounds the length of a window."
            )
        everyone = torch.ones((), dtype=torch.bool, device=actions.device).expand(
            batch_size * steps, 1, self.num_agents
        )
        joint = self.action_in(actions.flatten(0, 1).unsqueeze(1), everyone)  # (B * M, D)
        tokens = torch.stack([self.state_in(states), joint.unflatten(0, (batch_size, steps))], dim=2)  # (B, M, 2, D)
        x = tokens.flatten(1, 2) + self.position_embedding[start : start + 2 * steps]
        return dropout(x, self.dropout) if self.training else x
