"""Running statistics that lone outliers do not spoil."""

from __future__ import annotations

import torch
from torch import nn

OUTLIER_DEVIATIONS = 100.0
"""How far from the mean, in standard deviations, values are counted, and normalised states are read."""


class RunningStatistics(nn.Module):
    """Mean and variance of every entry of a stream, of which lone outliers are clipped before they are counted.

    Batches are merged exactly (Chan, Golub and LeVeque 1979), in float64, so without outliers the statistics equal
    those of one pass over the whole stream. They are buffers: part of every checkpoint, never trained.

    A value is judged by everything before it and by its batch, of which the 2% farthest from the median are left out.
    So a change that more of a batch shows counts in full at once, and rare values that come more often than once in
    OUTLIER_DEVIATIONS^2 widen the deviation until they count in full as well.

    Args:
        size: entries.
    """

    MIN_COUNT = 20  # fewer values say nothing about what is far
    MIN_VARIANCE = 1e-8  # below it an entry is constant, which says nothing either
    TRIMMED = 50  # one value in so many

    count: torch.Tensor
    mean: torch.Tensor
    sum_of_squares: torch.Tensor
    num_outliers: torch.Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))
        self.register_buffer("mean", torch.zeros(size, dtype=torch.float64))
        self.register_buffer("sum_of_squares", torch.zeros(size, dtype=torch.float64))
        self.register_buffer("num_outliers", torch.zeros((), dtype=torch.float64))

    def _count(self, values: torch.Tensor) -> torch.Tensor:
        """Adds values (B, size), at least one, to the statistics; returns them as they were counted."""
        values = self._without_outliers(values.to(self.mean))
        count, mean, sum_of_squares = self._merged(values)
        self.count.copy_(count)
        self.mean.copy_(mean)
        self.sum_of_squares.copy_(sum_of_squares)
        return values

    def _merged(self, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Count, mean and sum of squares with `values` (B, size) added."""
        if not len(values):
            return self.count, self.mean, self.sum_of_squares
        total, mean = self.count + len(values), values.mean(0)
        delta, squares = mean - self.mean, (values - mean).square().sum(0)
        squares = squares + delta.square() * self.count * len(values) / total
        return total, self.mean + delta * len(values) / total, self.sum_of_squares + squares

    def _without_outliers(self, values: torch.Tensor) -> torch.Tensor:
        """The values (B, size), lone outliers among them clipped and counted."""
        num_judging = len(values) - max(1, len(values) // self.TRIMMED)
        nearest = (values - values.median(0).values).abs().argsort(0)[:num_judging]
        count, mean, sum_of_squares = self._merged(values.gather(0, nearest))
        variance = sum_of_squares / count.clamp(min=1)
        knows = (count >= self.MIN_COUNT) & (variance > self.MIN_VARIANCE)
        limit = torch.where(knows, OUTLIER_DEVIATIONS * variance.sqrt(), torch.inf)
        self.num_outliers += ((values - mean).abs() > limit).sum()
        return values.clamp(mean - limit, mean + limit)
