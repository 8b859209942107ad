"""Observations on a common scale, whatever units the environment has."""

from __future__ import annotations

from typing import cast

import torch
from torch import nn

from rllib_dima.core.layout import AgentLayout
from rllib_dima.core.running_statistics import RunningStatistics


class ObservationNormalizer(nn.Module):
    """(o - mean) / sqrt(var + 1e-8) within +-10, with statistics of every agent's own entries over its steps so far.

    Flags, and the last N entries, which tell whose observation it is, stay as they are. Steps of agents that have left
    do not count.

    Args:
        layout: sizes.

    Attributes:
        size: entries that are normalised.
    """

    LIMIT = 10.0

    shift: torch.Tensor
    scale: torch.Tensor

    def __init__(self, layout: AgentLayout) -> None:
        super().__init__()
        shape = (layout.num_agents, layout.observation_size)
        self.layout, self.size = layout, layout.observation_size - layout.num_agents - layout.num_flags
        self.statistics = nn.ModuleList(_Statistics(self.size) for _ in layout.agent_ids)
        self.register_buffer("shift", torch.zeros(shape, dtype=torch.float32))
        self.register_buffer("scale", torch.ones(shape, dtype=torch.float32))

    @torch.no_grad()
    def update(self, observations: torch.Tensor) -> None:
        """Adds real observations (B, N, O) to the statistics; none at all are fine."""
        alive = self.layout.alive(observations)
        for agent, statistics in enumerate(self.statistics):
            own = observations[:, agent, : self.size]
            own = own if alive is None else own[alive[:, agent] > 0]
            if len(own):
                shift, scale = cast(_Statistics, statistics).update(own)
                self.shift[agent, : self.size], self.scale[agent, : self.size] = shift, scale

    def forward(self, observations: torch.Tensor, agents: torch.Tensor | None = None) -> torch.Tensor:
        """Normalises raw observations.

        Args:
            observations: (..., N, O), or (B, O) together with `agents`.
            agents: (B,) which agent each row belongs to.
        """
        shift, scale = (self.shift, self.scale) if agents is None else (self.shift[agents], self.scale[agents])
        normalized = ((observations - shift) * scale).clamp(-self.LIMIT, self.LIMIT)
        return torch.cat([normalized[..., : self.size], observations[..., self.size :]], dim=-1)

    def denormalize(self, normalized: torch.Tensor, agents: torch.Tensor | None = None) -> torch.Tensor:
        """The inverse of `forward`, but for what that clips; arguments as there."""
        shift, scale = (self.shift, self.scale) if agents is None else (self.shift[agents], self.scale[agents])
        return normalized / scale + shift


class _Statistics(RunningStatistics):
    """Those of one agent's entries."""

    def update(self, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Adds values (B, size); returns mean and inverse deviation (size,) of all so far."""
        self._count(values)
        return self.mean.float(), (self.sum_of_squares / self.count + 1e-8).rsqrt().float()
