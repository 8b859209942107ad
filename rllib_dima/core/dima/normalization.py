"""Running statistics of states and rewards, and normalisation of what networks read and learn."""

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


class StateNormalizer(RunningStatistics):
    """z = (s - mean) / sqrt(var + 1e-8) with statistics of every real state seen so far, within OUTLIER_DEVIATIONS.

    Args:
        state_size: S.
    """

    shift: torch.Tensor
    scale: torch.Tensor

    def __init__(self, state_size: int) -> None:
        super().__init__(state_size)
        self.register_buffer("shift", torch.zeros(state_size, dtype=torch.float32))
        self.register_buffer("scale", torch.ones(state_size, dtype=torch.float32))

    @torch.no_grad()
    def update(self, states: torch.Tensor) -> None:
        """Adds real states (B, S) to the statistics; none at all are fine."""
        if len(states):
            self._count(states)
            self.shift.copy_(self.mean)
            self.scale.copy_((self.sum_of_squares / self.count + 1e-8).rsqrt())

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """Normalises raw states (..., S)."""
        return ((states - self.shift) * self.scale).clamp(-OUTLIER_DEVIATIONS, OUTLIER_DEVIATIONS)

    def denormalize(self, normalized: torch.Tensor) -> torch.Tensor:
        """Inverse of `forward`, but for what that clips."""
        return normalized / self.scale + self.shift


class ChangeStatistics(RunningStatistics):
    """How much each entry of the normalised state changes in a step.

    Args:
        state_size: S.

    Attributes:
        scale: (S,) one over the standard deviation of changes, and at most 1e4.
    """

    scale: torch.Tensor

    def __init__(self, state_size: int) -> None:
        super().__init__(state_size)
        self.register_buffer("scale", torch.ones(state_size, dtype=torch.float32))

    @torch.no_grad()
    def update(self, changes: torch.Tensor, state_scale: torch.Tensor) -> None:
        """Adds changes of raw states (B, S) to the statistics; none at all are fine.

        Args:
            changes: s_{t+1} - s_t.
            state_scale: (S,) what raw states are multiplied by when they are normalised.
        """
        if len(changes):
            self._count(changes)
            variance = (self.sum_of_squares / self.count) * state_scale.double().square()
            self.scale.copy_((variance + 1e-8).rsqrt())


class RewardNormalizer(RunningStatistics):
    """(r - offset) / scale, where ordinary rewards keep the offset 0 and the scale 1.

    The scale stays while the rewards' standard deviation is at most BAND scales and their spread at least 1 / BAND;
    else it becomes the power of two nearest to that. The spread is the deviation, or a tenth of the largest reward's if
    that is larger: rare rewards of 1 are not small. The offset stays while the mean is within BAND scales of it, else
    it becomes the mean. So both change seldom, and what has been learnt can be kept by an exact change of the last
    layer (`update` tells it; van Hasselt et al. 2016, "PopArt").
    """

    BAND = 16.0  # MAMuJoCo's deviations are 0.4 to 5 and Bi-DexHands' 0.1 to 0.5, except for the pen's 0.0002

    offset: torch.Tensor
    scale: torch.Tensor
    lowest: torch.Tensor
    highest: torch.Tensor

    def __init__(self) -> None:
        super().__init__(1)
        self.register_buffer("offset", torch.zeros((), dtype=torch.float32))
        self.register_buffer("scale", torch.ones((), dtype=torch.float32))
        self.register_buffer("lowest", torch.full((), torch.inf, dtype=torch.float64))
        self.register_buffer("highest", torch.full((), -torch.inf, dtype=torch.float64))

    @torch.no_grad()
    def update(self, rewards: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Adds real rewards (B,), at least one, to the statistics.

        Returns:
            Factor and shift, () each: what was x on the old scale is factor * x + shift on the new one.
        """
        counted = self._count(rewards.unsqueeze(1))
        self.lowest.copy_(torch.minimum(self.lowest, counted.min()))
        self.highest.copy_(torch.maximum(self.highest, counted.max()))
        offset, scale = self.offset.clone(), self.scale.clone()
        mean, deviation = self.mean[0], (self.sum_of_squares[0] / self.count).sqrt()
        spread = torch.maximum(deviation, torch.maximum(self.highest - mean, mean - self.lowest) / 10)
        varies = deviation > 1e-6 * mean.abs()  # beyond float32's rounding
        is_large, is_small = deviation > self.BAND * scale, varies & (spread < scale / self.BAND)
        nearest = torch.where(is_large, deviation, spread).log2().round().exp2()
        self.scale.copy_(torch.where(is_large | is_small, nearest, scale))
        self.offset.copy_(torch.where((mean - offset).abs() > self.BAND * self.scale, mean, offset))
        return scale / self.scale, (offset - self.offset) / self.scale

    def forward(self, rewards: torch.Tensor) -> torch.Tensor:
        """Normalises rewards of any shape."""
        return (rewards - self.offset) / self.scale

    def denormalize(self, normalized: torch.Tensor) -> torch.Tensor:
        """Inverse of `forward`."""
        return normalized * self.scale + self.offset
