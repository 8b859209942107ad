"""Observations on a common scale, whatever units the environment has."""

from __future__ import annotations

import torch

from rllib_dima.core.layout import AgentLayout
from rllib_dima.core.running_statistics import RunningStatistics


class ObservationNormalizer(RunningStatistics):
    """(o - mean) / sqrt(var + 1e-8) within +-10, with statistics of every agent's entries over all steps seen so far.

    The last N entries, which tell whose observation it is, stay as they are.

    Args:
        layout: sizes.
    """

    LIMIT = 10.0

    shift: torch.Tensor
    scale: torch.Tensor

    def __init__(self, layout: AgentLayout) -> None:
        super().__init__(layout.num_agents * layout.observation_size)
        shape = (layout.num_agents, layout.observation_size)
        self.size = layout.observation_size - layout.num_agents  # entries that are normalised
        self.register_buffer("shift", torch.zeros(shape, dtype=torch.float32))
        self.register_buffer("scale", torch.ones(shape, dtype=torch.float32))

    @torch.no_grad()
    def update(self, observations: torch.Tensor) -> None:
        """Adds real observations (B, N, O) to the statistics; none at all are fine."""
        if not len(observations):
            return
        self._count(observations.flatten(1))
        shape, own = self.shift.shape, slice(self.size)
        variance = (self.sum_of_squares / self.count).view(shape)
        self.shift[:, own] = self.mean.view(shape)[:, own].float()
        self.scale[:, own] = (variance[:, own] + 1e-8).rsqrt().float()

    def forward(self, observations: torch.Tensor, agents: torch.Tensor | None = None) -> torch.Tensor:
        """Normalises raw observations.

        Args:
            observations: (..., N, O), or (B, O) together with `agents`.
            agents: (B,) which agent each row belongs to.
        """
        shift, scale = (self.shift, self.scale) if agents is None else (self.shift[agents], self.scale[agents])
        normalized = ((observations - shift) * scale).clamp(-self.LIMIT, self.LIMIT)
        return torch.cat([normalized[..., : self.size], observations[..., self.size :]], dim=-1)

    def denormalize(self, normalized: torch.Tensor) -> torch.Tensor:
        """The inverse of `forward` for (..., N, O), but for what that clips."""
        return normalized / self.scale + self.shift
