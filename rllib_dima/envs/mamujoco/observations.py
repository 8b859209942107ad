"""What every agent of a MAMuJoCo robot observes: the whole robot, or the joints near its own.

full     (S + N,) the environment's observation and a one-hot agent id, standardised: (x - mean(x)) / std(x) over its
         own entries, as in the paper
local    Gymnasium-Robotics' observation of all joints at most k edges of the robot's graph away, as it is, after its
         `build_obs`; agents may have different sizes
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from rllib_dima.envs.outcomes import require_finite

_SAFE_VARIANCE = 1e60  # of numbers that are certainly finite as float32


class FullObservations:
    """The paper's observations.

    Args:
        agents: all agents.
        state_size: S.

    Attributes:
        sizes: entries of every agent's observation, S + N each.
    """

    def __init__(self, agents: Sequence[str], state_size: int) -> None:
        num_agents, size = len(agents), state_size + len(agents)
        self.sizes = (size,) * num_agents
        self._agents = list(agents)
        # The N vectors have the same entries in another order: those of the state, one 1, and N - 1 times 0. So they
        # have one mean and one standard deviation, and are picked from S + 2 numbers.
        self._entries = np.array([0.0] * state_size + [0.0, 1.0])
        self._state_entries = self._entries[:state_size]
        self._mean_weights = np.full(state_size + 2, 1.0 / size)
        ids = state_size + np.eye(num_agents, dtype=int)
        self._places = np.hstack([np.tile(np.arange(state_size), (num_agents, 1)), ids])  # (N, S + N)

    def __call__(self, state: np.ndarray, step: int) -> dict[str, np.ndarray]:
        """(S + N,) float32 for every agent, rows of a new array.

        Args:
            state: (S,) float64.
            step: of the episode, for the error.

        Raises:
            SimulationError: an entry of the state is NaN or infinite as float32.
        """
        entries = self._entries
        self._state_entries[...] = state
        mean = float(self._mean_weights.dot(entries))
        # No digits to speak of are lost: with 0 and 1 among the entries, mean**2 is at most S / N times the variance.
        variance = float(entries.dot(entries)) / self.sizes[0] - mean * mean
        if not variance < _SAFE_VARIANCE:
            require_finite_state(state, step)
        standardised = (entries - mean) / math.sqrt(variance)
        observations = standardised.astype(np.float32)[self._places]
        return dict(zip(self._agents, observations))  # noqa: B905 - strict=True costs 2% of a step


def require_finite_state(state: np.ndarray, step: int) -> None:
    """Refuses a state that is not finite as float32.

    Raises:
        SimulationError: an entry is NaN or infinite.
    """
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite
        require_finite("the simulator's observation", state.astype(np.float32), step)
