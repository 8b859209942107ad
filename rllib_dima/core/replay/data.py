"""What replay takes in and gives out: trajectories of episodes, and windows of transitions."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch


@dataclass(frozen=True)
class Trajectory:
    """Consecutive steps of one episode, as they come from an environment (numpy float32).

    Args:
        episode_id: chunks with the same id continue each other.
        states: (T + 1, S) raw global states, the one after the last step included.
        observations: (T, N, O) padded observations.
        actions: (T, N, A) executed actions: continuous in [-1, 1], discrete one-hot.
        rewards: (T,) team rewards.
        terminated: whether the last step ended the task.
        truncated: whether the last step was cut off (a time limit), which is not an ending to learn.
        is_start: whether the first step is the first of its episode.
    """

    episode_id: str
    states: np.ndarray
    observations: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    terminated: bool = False
    truncated: bool = False
    is_start: bool = True

    def __len__(self) -> int:
        return len(self.rewards)


@dataclass(frozen=True)
class Window:
    """Rows around B anchors: W = past + 1 + future positions in time, the anchor at position `past`.

    Invalid positions hold some other row's values; whoever reads them masks them with `valid`.

    Shapes: states, next_states (B, W, S); observations (B, W, N, O); actions (B, W, N, A); rewards (B, W);
    terminated (B, W) bool; valid (B, W) bool.
    """

    states: torch.Tensor
    next_states: torch.Tensor
    observations: torch.Tensor
    actions: torch.Tensor
    rewards: torch.Tensor
    terminated: torch.Tensor
    valid: torch.Tensor


def states_to_count(trajectories: Iterable[Trajectory]) -> np.ndarray:
    """(M, S): every state of the trajectories once; a continuation's first state was counted with the chunk before."""
    return np.concatenate([t.states if t.is_start else t.states[1:] for t in trajectories])
