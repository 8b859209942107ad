"""Normalisation of the critic's targets."""

from __future__ import annotations

import torch
from torch import nn


class ValueNormalizer(nn.Module):
    """Debiased exponential mean and standard deviation of value targets (as in MAPPO's released code).

    Args:
        beta: decay of the moving averages.
        enabled: with False both directions are the identity and nothing is tracked.
        initial_std: the standard deviation before the first update.
    """

    MIN_VARIANCE = 1e-2

    mean: torch.Tensor
    mean_square: torch.Tensor
    weight: torch.Tensor

    def __init__(self, beta: float, enabled: bool = True, initial_std: float = 1.0) -> None:
        super().__init__()
        self.beta, self.enabled, self.initial_std = beta, enabled, initial_std
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
        """Debiased mean and standard deviation, () float32 each; (0, `initial_std`) before the first update."""
        seen = self.weight > 0
        weight = torch.where(seen, self.weight, 1.0)
        mean, mean_square = self.mean / weight, self.mean_square / weight
        variance = (mean_square - mean.square()).clamp(min=self.MIN_VARIANCE)
        std = torch.where(seen, variance.sqrt(), self.initial_std)
        return mean.float(), std.float()

    def rescale(self, factor: torch.Tensor) -> None:
        """Turns the averages into those of targets that are `factor` times as large."""
        self.mean.mul_(factor)
        self.mean_square.mul_(factor.square())

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
