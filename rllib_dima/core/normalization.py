"""Running statistics of the global state, and normalisation of the critic's targets."""

from __future__ import annotations

import torch
from torch import nn


class StateNormalizer(nn.Module):
    """z = (s - mean) / sqrt(var + 1e-8) with statistics of every real state seen so far.

    Batches are merged exactly (Chan, Golub and LeVeque 1979), in float64, so the statistics equal those of one pass
    over the whole stream. They are buffers: part of every checkpoint, never trained.

    Args:
        state_size: S.
    """

    def __init__(self, state_size: int) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))
        self.register_buffer("mean", torch.zeros(state_size, dtype=torch.float64))
        self.register_buffer("sum_of_squares", torch.zeros(state_size, dtype=torch.float64))
        self.register_buffer("shift", torch.zeros(state_size))
        self.register_buffer("scale", torch.ones(state_size))

    @torch.no_grad()
    def update(self, states: torch.Tensor) -> None:
        """Adds real states to the statistics.

        Args:
            states: (B, S); none at all are fine.
        """
        if not len(states):
            return
        states = states.to(self.mean)
        total = self.count + len(states)
        delta = states.mean(0) - self.mean
        squares = (states - states.mean(0)).square().sum(0)
        self.sum_of_squares += squares + delta.square() * self.count * len(states) / total
        self.mean += delta * len(states) / total
        self.count.copy_(total)
        self.shift.copy_(self.mean)
        self.scale.copy_((self.sum_of_squares / total + 1e-8).rsqrt())

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """Normalises raw states (..., S)."""
        return (states - self.shift) * self.scale

    def denormalize(self, normalized: torch.Tensor) -> torch.Tensor:
        """Inverse of `forward`."""
        return normalized / self.scale + self.shift


class ValueNormalizer(nn.Module):
    """Debiased exponential mean and standard deviation of value targets (as in MAPPO's released code).

    Args:
        beta: decay of the moving averages.
        enabled: with False both directions are the identity and nothing is tracked.
    """

    MIN_VARIANCE = 1e-2

    def __init__(self, beta: float, enabled: bool = True) -> None:
        super().__init__()
        self.beta, self.enabled = beta, enabled
        self.register_buffer("mean", torch.zeros((), dtype=torch.float64))
        self.register_buffer("mean_square", torch.zeros((), dtype=torch.float64))
        self.register_buffer("weight", torch.zeros((), dtype=torch.float64))

    @torch.no_grad()
    def update(self, targets: torch.Tensor) -> None:
        """Moves the averages towards those of `targets` (any shape)."""
        if not self.enabled:
            return
        targets = targets.double()
        self.mean.lerp_(targets.mean(), 1 - self.beta)
        self.mean_square.lerp_(targets.square().mean(), 1 - self.beta)
        self.weight.lerp_(torch.ones_like(self.weight), 1 - self.beta)

    def statistics(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Debiased mean and standard deviation, () float32 each; (0, 1) before the first update."""
        seen = self.weight > 0
        weight = torch.where(seen, self.weight, 1.0)
        mean, mean_square = self.mean / weight, self.mean_square / weight
        variance = (mean_square - mean.square()).clamp(min=self.MIN_VARIANCE)
        std = torch.where(seen, variance.sqrt(), 1.0)
        return mean.float(), std.float()

    def normalize(self, values: torch.Tensor) -> torch.Tensor:
        """From returns to the critic's scale."""
        if not self.enabled:
            return values
        mean, std = self.statistics()
        return (values - mean) / std

    def denormalize(self, normalized: torch.Tensor) -> torch.Tensor:
        """From the critic's scale to returns."""
        if not self.enabled:
            return normalized
        mean, std = self.statistics()
        return normalized * std + mean
