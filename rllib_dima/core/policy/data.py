"""What a policy learns from: rollouts, and batches for PPO."""

from __future__ import annotations

from typing import NamedTuple

import torch

TINY = 1e-30  # of a sum of weights: where all agents have left, means are 0


class Rollout(NamedTuple):
    """B imagined rollouts of H steps; see the diagram at the head of this file."""

    states: torch.Tensor
    observations: torch.Tensor
    actions: torch.Tensor  # as drawn: continuous (H, B, N, A) before clipping, discrete (H, B, N) or (H, B, N, F) int64
    log_probs: torch.Tensor  # (H, B, N)
    rewards: torch.Tensor
    continuations: torch.Tensor


class PPOBatch(NamedTuple):
    """M imagined steps with everything the PPO losses need."""

    states: torch.Tensor  # (M, S) normalised
    observations: torch.Tensor  # (M, N, O)
    actions: torch.Tensor  # (M, N, A), or (M, N) or (M, N, F) int64
    log_probs: torch.Tensor  # (M, N) under the policy that drew the actions
    advantages: torch.Tensor  # (M,)
    returns: torch.Tensor  # (M,) lambda-returns
    values: torch.Tensor  # (M,) the critic's raw outputs before the update
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

    def columns(self) -> tuple[torch.Tensor, ...]:
        """The tensors that are not None, in order."""
        return tuple(column for column in self if column is not None)
