"""What a policy learns from: rollouts, and batches for PPO."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch

TINY = 1e-30  # of a sum of weights: where all agents have left, means are 0


class Rollout(NamedTuple):
    """B imagined rollouts of H steps; see the diagram at the head of `core/imagination.py`."""

    states: torch.Tensor  # (H + 1, B, ...) what the critic reads
    observations: torch.Tensor  # (H, B, N, O) what the actor reads
    actions: torch.Tensor  # as drawn: continuous (H, B, N, A) before clipping, discrete (H, B, N) or (H, B, N, F) int64
    log_probs: torch.Tensor  # (H, B, N)
    rewards: torch.Tensor  # (H, B), or (H, B, N) or (H, B, 1) beside a critic that values agents one by one
    continuations: torch.Tensor  # as rewards


class PPOBatch(NamedTuple):
    """M imagined steps with everything the PPO losses need."""

    states: torch.Tensor  # (M, ...) what the critic reads: (M, S) normalised states, say
    observations: torch.Tensor  # (M, N, O) what the actor reads
    actions: torch.Tensor  # (M, N, A), or (M, N) or (M, N, F) int64
    log_probs: torch.Tensor  # (M, N) under the policy that drew the actions
    advantages: torch.Tensor  # (M,), or (M, N) where the critic values agents one by one, as the next two
    returns: torch.Tensor  # (M,) or (M, N) lambda-returns
    values: torch.Tensor  # (M,) or (M, N) the critic's raw outputs before the update
    weights: torch.Tensor | None = None  # (M,) of the steps in every mean; None weighs all alike
    alive: torch.Tensor | None = None  # (M, N) which agents are; None if all are, and only then may weights be None

    def mean(self, x: torch.Tensor) -> torch.Tensor:
        """The mean of (M,) over steps, or of (M, N) over steps and living agents, with the steps' weights, ()."""
        if self.weights is None:
            return x.mean()
        weights = self.weights.view(-1, *[1] * (x.ndim - 1)).expand_as(x)
        return self._weighted_mean(x, weights)

    def agent_mean(self, x: torch.Tensor) -> torch.Tensor:
        """The mean of (M, N) over steps and living agents, without weights, ()."""
        return x.mean() if self.alive is None else self._weighted_mean(x, torch.ones_like(x))

    def _weighted_mean(self, x: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        if self.alive is not None and x.ndim == 2:
            weights = weights * self.alive
        return (x * weights).sum() / weights.sum().clamp(min=TINY)

    def minibatches(self, count: int) -> Iterator[PPOBatch]:
        """The batch in `count` random parts, whose sizes differ by one step at most."""
        if count == 1:
            yield self
            return
        order = torch.rand(len(self.returns), device=self.returns.device, dtype=torch.float64).argsort()
        for rows in order.tensor_split(count):
            yield PPOBatch(*(column[rows] for column in self.columns()))

    def columns(self) -> tuple[torch.Tensor, ...]:
        """The tensors that are not None, in order."""
        return tuple(column for column in self if column is not None)
