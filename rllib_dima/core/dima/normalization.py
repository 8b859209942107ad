"""Running statistics of states and rewards, and normalisation of what networks read and learn."""

from __future__ import annotations

import torch
from torch import nn

from rllib_dima.core.running_statistics import OUTLIER_DEVIATIONS, RunningStatistics


class StateNormalizer(RunningStatistics):
    """z = (s - mean) / sqrt(var + 1e-8) with statistics of every real state seen so far, within OUTLIER_DEVIATIONS.

    Args:
        state_size: S.

    Attributes:
        is_whole: (S,) which entries vary and have only ever been whole numbers, such as places on a grid and flags.
    """

    shift: torch.Tensor
    scale: torch.Tensor
    only_whole: torch.Tensor
    is_whole: torch.Tensor

    def __init__(self, state_size: int) -> None:
        super().__init__(state_size)
        self.register_buffer("shift", torch.zeros(state_size, dtype=torch.float32))
        self.register_buffer("scale", torch.ones(state_size, dtype=torch.float32))
        self.register_buffer("only_whole", torch.ones(state_size, dtype=torch.bool))
        self.register_buffer("is_whole", torch.zeros(state_size, dtype=torch.bool))

    @torch.no_grad()
    def update(self, states: torch.Tensor) -> None:
        """Adds real states (B, S) to the statistics; none at all are fine."""
        if len(states):
            self._count(states)
            self.shift.copy_(self.mean)
            self.scale.copy_((self.sum_of_squares / self.count + 1e-8).rsqrt())
            self.only_whole &= (states == states.round()).all(0)
            self.is_whole.copy_(self.only_whole & (self.sum_of_squares > 0))

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """Normalises raw states (..., S)."""
        return ((states - self.shift) * self.scale).clamp(-OUTLIER_DEVIATIONS, OUTLIER_DEVIATIONS)

    def denormalize(self, normalized: torch.Tensor) -> torch.Tensor:
        """Inverse of `forward`, but for what that clips."""
        return normalized / self.scale + self.shift

    def rounded(self, normalized: torch.Tensor) -> torch.Tensor:
        """Normalised states (..., S) with entries that are whole numbers made so: errors on a grid do not add up."""
        whole = (self.denormalize(normalized).round() - self.shift) * self.scale
        return torch.where(self.is_whole, whole, normalized)


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


class PredictionErrors(nn.Module):
    """The latest errors of predicted states, to be drawn from: with their tails, their bias, and what goes together.

    Errors are large in some states and small in others: of CANDIDATES random ones, that of the nearest state is drawn.

    Args:
        state_size: S.

    Attributes:
        errors: (CAPACITY, S) truth minus prediction, normalised, the latest first.
        states: (CAPACITY, S) the normalised states that the predictions were made in.
        count: () how many there are.
    """

    CAPACITY = 1024
    CANDIDATES = 16

    errors: torch.Tensor
    states: torch.Tensor
    count: torch.Tensor

    def __init__(self, state_size: int) -> None:
        super().__init__()
        for name in ("errors", "states"):
            self.register_buffer(name, torch.zeros(self.CAPACITY, state_size, dtype=torch.float32))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def add(self, states: torch.Tensor, errors: torch.Tensor) -> None:
        """Keeps errors (B, S) made in states (B, S), and forgets the oldest."""
        for kept, new in ((self.states, states), (self.errors, errors)):
            kept.copy_(torch.cat([new, kept])[: self.CAPACITY])
        self.count.add_(len(errors)).clamp_(max=self.CAPACITY)

    def draw(self, states: torch.Tensor) -> torch.Tensor:
        """Errors (B, S) that a prediction may make in states (B, S); 0 before there are any."""
        uniform = torch.rand(len(states), self.CANDIDATES, dtype=torch.float32, device=states.device)
        rows = (uniform * self.count).long()
        distances = (self.states[rows] - states.unsqueeze(1)).square().sum(dim=2)
        return self.errors[rows.gather(1, distances.argmin(dim=1, keepdim=True)).squeeze(1)]


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
