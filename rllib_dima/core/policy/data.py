"""What a policy learns from: rollouts, and batches for PPO."""

from __future__ import annotations

from typing import NamedTuple

import torch


class Rollout(NamedTuple):
    """B imagined rollouts of H steps; see the diagram at the head of this file."""

    states: torch.Tensor
    observations: torch.Tensor
    actions: torch.Tensor  # as drawn: continuous (H, B, N, A) before clipping, discrete (H, B, N) int64
    log_probs: torch.Tensor  # (H, B, N)
    rewards: torch.Tensor
    continuations: torch.Tensor


class PPOBatch(NamedTuple):
    """M imagined steps with everything the PPO losses need."""

    states: torch.Tensor  # (M, S) normalised
    observations: torch.Tensor  # (M, N, O)
    actions: torch.Tensor  # (M, N, A) or (M, N) int64
    log_probs: torch.Tensor  # (M, N) under the policy that drew the actions
    advantages: torch.Tensor  # (M,)
    returns: torch.Tensor  # (M,) lambda-returns
    values: torch.Tensor  # (M,) the critic's raw outputs before the update
    weights: torch.Tensor | None = None  # (M,) of the steps in every mean; None weighs all alike

    def mean(self, x: torch.Tensor) -> torch.Tensor:
        """The mean of (M, ...) with the steps' weights, ()."""
        if self.weights is None:
            return x.mean()
        weights = self.weights.view(-1, *[1] * (x.ndim - 1)).expand_as(x)
        return (x * weights).sum() / weights.sum()

    def columns(self) -> tuple[torch.Tensor, ...]:
        """The tensors that are not None, in order."""
        return tuple(column for column in self if column is not None)
