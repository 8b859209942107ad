"""How much the next state depends on each agent's action, in the model and in the simulator, by central differences.

A derivative d[i, a, s] is the change of entry s of the normalised next state per unit of entry a of agent i's action.
Of many starts the matrix agent x state entry shows the root mean square over starts of its length over a. Both sides
take the same step in the action, so that contacts blur both alike. An agent's number is the length of its row.

A start from which a side has no next state, because the simulator breaks down there or the model's numbers overflow,
has no derivative: it is left out and counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from rllib_dima.core.dima.world_model import WorldModel
from rllib_dima.core.layout import AgentLayout
from rllib_dima.core.replay.data import Window
from rllib_dima.core.training.random_numbers import own_random_numbers

STEP = 0.05  # of an action entry to either side, which stays within [-1, 1]


@dataclass(frozen=True)
class Sensitivity:
    """Of M starts; with none there is no matrix, and no number of an agent.

    Attributes:
        derivatives: (M, N, A, S), 0 where actions are padded.
        left_out: numbers of the further starts that were given, but have no derivative.
    """

    derivatives: np.ndarray
    left_out: tuple[int, ...] = ()

    @property
    def num_starts(self) -> int:
        """M."""
        return len(self.derivatives)

    @property
    def matrix(self) -> np.ndarray:
        """(N, S) root mean square over starts of the length over action entries."""
        return np.sqrt(np.square(self.derivatives).sum(axis=2).mean(axis=0))

    @property
    def by_agent(self) -> np.ndarray:
        """(N,)."""
        return np.sqrt(np.square(self.matrix).sum(axis=1))

    @property
    def shares(self) -> np.ndarray:
        """(N,) of each agent in the sum over agents; all equal where nothing depends on any."""
        total = self.by_agent.sum()
        return self.by_agent / total if total > 0 else np.full(len(self.by_agent), 1 / len(self.by_agent))


def model_sensitivity(world_model: WorldModel, layout: AgentLayout, start: Window, seed: int = 0) -> Sensitivity:
    """Derivatives of the sampled next state, with the same noise before and after.

    Args:
        world_model: in evaluation mode.
        layout: who the agents are.
        start: M windows of L positions, the last of which holds the present actions.
        seed: of the noise, and of the order where it is drawn.

    Raises:
        ValueError: the actions are discrete.
    """
    _require_continuous(layout)
    derivatives = np.zeros((len(start.states), layout.num_agents, layout.action_size, layout.state_size))
    for agent, entry in layout.action_mask().nonzero().tolist():
        sides = [_moved(start.actions[:, -1].numpy(), agent, entry, way) for way in (-STEP, STEP)]
        low, high = (_model_next(world_model, start, torch.from_numpy(side), seed) for side in sides)
        derivatives[:, agent, entry] = (high - low) / (2 * STEP)
    return _known(derivatives)


def simulator_sensitivity(env: Any, snapshots: Sequence[Any], actions: np.ndarray, scale: np.ndarray) -> Sensitivity:
    """Derivatives of what the simulator does, which is put back to the same state before every action.

    Args:
        env: a `CooperativeEnv` that can restore its state; it is left as it was before.
        snapshots: M results of its `get_state()`.
        actions: (M, N, A) present actions.
        scale: (S,) what raw states are multiplied by when they are normalised.

    Raises:
        ValueError: the actions are discrete.
        NotImplementedError: the environment cannot restore its state.
    """
    layout = env.layout
    _require_continuous(layout)
    before = env.get_state()
    derivatives = np.zeros((len(snapshots), layout.num_agents, layout.action_size, layout.state_size))
    for agent, entry in layout.action_mask().nonzero().tolist():
        low, high = (_moved(actions, agent, entry, way) for way in (-STEP, STEP))
        for row, snapshot in enumerate(snapshots):
            change = _simulator_next(env, snapshot, high[row]) - _simulator_next(env, snapshot, low[row])
            derivatives[row, agent, entry] = change * scale / (2 * STEP)
    env.set_state(before)
    return _known(derivatives)


def _known(derivatives: np.ndarray) -> Sensitivity:
    """The starts all of whose derivatives are numbers."""
    known = np.isfinite(derivatives).all(axis=(1, 2, 3))
    return Sensitivity(derivatives[known], tuple(np.flatnonzero(~known).tolist()))


def _moved(actions: np.ndarray, agent: int, entry: int, way: float) -> np.ndarray:
    """Actions (M, N, A) with one entry moved, around the nearest place from which both sides are within [-1, 1]."""
    moved = actions.copy()
    moved[:, agent, entry] = moved[:, agent, entry].clip(-1 + STEP, 1 - STEP) + way
    return moved


@torch.no_grad()
def _model_next(world_model: WorldModel, start: Window, actions: torch.Tensor, seed: int) -> np.ndarray:
    """(M, S) normalised."""
    with own_random_numbers(seed):
        return world_model.reset(start).step(actions).states.double().numpy()


def _simulator_next(env: Any, snapshot: Any, actions: np.ndarray) -> np.ndarray:
    """(S,) raw; NaN where the simulator breaks down, as what a `CooperativeEnv` returns then is the state before."""
    from rllib_dima.envs.cooperative import SIMULATION_ERROR  # which imports Ray: all else here does without

    env.set_state(snapshot)
    agents = env.layout.agent_ids
    info = env.step(dict(zip(agents, actions, strict=True)))[-1][agents[0]]
    return np.full(env.layout.state_size, np.nan) if SIMULATION_ERROR in info else info["state"].astype(np.float64)


def _require_continuous(layout: AgentLayout) -> None:
    if layout.is_discrete:
        raise ValueError("A derivative by actions needs continuous ones, but these agents choose among discrete ones.")
