"""What replay takes in and gives out: trajectories of episodes, and windows of transitions."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch

from rllib_dima.core.layout import AgentLayout


@dataclass(frozen=True)
class Trajectory:
    """Consecutive steps of one episode, as they come from an environment (numpy float32).

    Args:
        episode_id: chunks with the same id continue each other.
        states: (T + 1, S) raw global states, the one after the last step included.
        observations: (T, N, O) padded observations.
        actions: (T, N, A) executed actions: continuous in [-1, 1], discrete one-hot; 0 for agents that have left.
        rewards: (T,) team rewards.
        terminated: whether the last step ended the task.
        truncated: whether the episode was cut off behind the last step, which is not an ending to learn.
        broke_down: whether it was cut off because the simulator broke down, and by no time limit.
        is_start: whether the first step is the first of its episode.
        drawn_actions: (T, N, A) continuous before clipping, or (T, N) or (T, N, F) choices: as the policy drew them.
        log_probs: (T, N) of the drawn actions under the policy that drew them, where the trainer is `ON_POLICY`.
        last_observations: (N, O) padded observations after the last step.
    """

    episode_id: str
    states: np.ndarray
    observations: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    terminated: bool = False
    truncated: bool = False
    broke_down: bool = False
    is_start: bool = True
    drawn_actions: np.ndarray | None = None
    log_probs: np.ndarray | None = None
    last_observations: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.rewards)

    @property
    def is_at_time_limit(self) -> bool:
        """Whether a time limit ended the episode behind the last step."""
        return self.truncated and not self.broke_down


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


@dataclass(frozen=True)
class MultiStep:
    """B stretches of m <= n steps of one episode each, m being smaller where the episode or what is known of it ends.

    Shapes: states, next_states (B, S); observations, next_observations (B, N, O); actions (B, N, A); the rest (B,).
    """

    states: torch.Tensor  # at the first step, as observations and actions
    observations: torch.Tensor
    actions: torch.Tensor
    returns: torch.Tensor  # sum over j < m of gamma^j r_j
    discounts: torch.Tensor  # gamma^m
    next_states: torch.Tensor  # after the last step, as next_observations
    next_observations: torch.Tensor
    terminated: torch.Tensor  # bool: whether the last step ended the task


def states_to_count(trajectories: Iterable[Trajectory]) -> np.ndarray:
    """(M, S): every state of the trajectories once; a continuation's first state was counted with the chunk before."""
    return np.concatenate([t.states if t.is_start else t.states[1:] for t in trajectories])


def executed_actions(drawn: np.ndarray, observations: np.ndarray, layout: AgentLayout) -> np.ndarray:
    """Drawn actions (..., N, *drawn_shape) as the environment executed them (..., N, A); see `AgentLayout.executed`.

    Args:
        drawn: as the policy drew them.
        observations: (..., N, O) for which they were drawn.
        layout: sizes.
    """
    effective = layout.effective(layout.action_mask().float(), torch.as_tensor(observations))
    actions = torch.as_tensor(drawn, dtype=torch.int64 if layout.is_discrete else None)
    return layout.executed(actions, effective).numpy()


def check_trajectory(trajectory: Trajectory, layout: AgentLayout) -> None:
    """Looks at what a trainer is given.

    Raises:
        ValueError: if the shapes do not fit the layout, or a value is NaN or beyond float32.
    """
    length, agents = len(trajectory), layout.num_agents
    expected = {
        "states": (length + 1, layout.state_size),
        "observations": (length, agents, layout.observation_size),
        "actions": (length, agents, layout.action_size),
        "rewards": (length,),
        "drawn_actions": (length, agents, *layout.drawn_shape),
        "log_probs": (length, agents),
        "last_observations": (agents, layout.observation_size),
    }
    for name, shape in expected.items():
        values = getattr(trajectory, name)
        if values is None:
            continue
        if values.shape != shape:
            raise ValueError(f"A trajectory's {name} must have shape {shape}, not {values.shape}.")
        check_finite(name, torch.as_tensor(values, dtype=torch.float32), "A trajectory")


def check_finite(name: str, values: torch.Tensor, owner: str) -> None:
    """Raises ValueError if a row of `values` holds what no network can learn from."""
    rows = (~values.isfinite()).unsqueeze(-1).flatten(1).any(1).nonzero()
    if len(rows):
        raise ValueError(
            f"{owner} holds NaN or infinity (or a number beyond float32's 3.4e38) in its {name}, first in step "
            f"{int(rows[0])} of {len(values)}. They come from the environment: have it return finite numbers."
        )
