"""The poses of a robot out of its global states: the inverse of Gymnasium's `_get_obs`.

A state begins with the generalised positions, but for those in `Scenario.root`, and the velocities. Positions of the
root that it leaves out are moved by their velocities; Reacher's angles come as cosine and sine, and Pusher's object and
goal as the places of their bodies.
"""

from __future__ import annotations

import mujoco
import numpy as np
from gymnasium.envs.mujoco.mujoco_env import MujocoEnv

from rllib_dima.envs.mamujoco.scenarios import Scenario


def poses(env: MujocoEnv, scenario: Scenario, states: np.ndarray, start: np.ndarray) -> np.ndarray:
    """(T, nq) generalised positions in a sequence of states.

    Args:
        env: the robot.
        scenario: which it is.
        states: (T, S), one control step apart.
        start: (nq,) the robot in the first of them, for what states leave out.
    """
    states = np.asarray(states, np.float64)
    if scenario.name == "Reacher":
        return np.concatenate([np.arctan2(states[:, 2:4], states[:, :2]), states[:, 4:6]], axis=1)
    if scenario.name == "Pusher":
        return np.concatenate([states[:, :7], _pushed(env.model, states[:, 17:23])], axis=1)
    root = list(scenario.root) if getattr(env, "_exclude_current_positions_from_observation", True) else []
    shown = np.setdiff1d(np.arange(env.model.nq), root)
    result = np.tile(start, (len(states), 1))
    result[:, shown] = states[:, : shown.size]
    velocities = states[:, shown.size : shown.size + env.model.nv][:, root]
    result[1:, root] += np.cumsum((velocities[1:] + velocities[:-1]) / 2 * env.dt, axis=0)
    return result


def _pushed(model: mujoco.MjModel, places: np.ndarray) -> np.ndarray:
    """(T, 4) slides of object and goal, along y and x each, out of the places (T, 6) of their bodies."""
    at_zero = np.concatenate([model.body("object").pos, model.body("goal").pos])
    return (places - at_zero)[:, [1, 0, 4, 3]]
