"""The four Bi-DexHands tasks in MuJoCo, as an RLlib environment."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import mujoco
import numpy as np
from gymnasium.spaces import Box

from rllib_dima.core.names import check_name
from rllib_dima.envs.bidexhands.observations import LIMIT, Observer
from rllib_dima.envs.bidexhands.poses import Poses
from rllib_dima.envs.bidexhands.rendering import Camera
from rllib_dima.envs.bidexhands.settings import SETTING_NAMES, Settings
from rllib_dima.envs.bidexhands.simulation import Simulation
from rllib_dima.envs.bidexhands.tasks import (
    ACTION_SIZE,
    AGENT_IDS,
    CONTROL_FREQUENCY,
    HAND_OBSERVATION_SIZE,
    TASKS,
    Points,
)
from rllib_dima.envs.outcomes import SimulationError, require_finite
from rllib_dima.envs.team import TeamEnv, require_states

RENDER_MODES = ("rgb_array",)


class BiDexHands(TeamEnv):
    """Two Shadow Hands that handle an object together; a port of four Bi-DexHands tasks to MuJoCo.

    Sizes, order and scales of observations and actions, rewards, terminations, success and resets are the benchmark's.
    Contacts are MuJoCo's, objects are built from primitives, and the measured joint forces and contact wrenches are
    stand-ins for Isaac Gym's sensors: returns are of the same scale as the benchmark's, but not certified equal.

    - "agent_0" is the right hand, "agent_1" the left one. Actions (26,) in [-1, 1], clipped: force and torque on the
      base in world axes, 20 joint targets. 60 steps per second.
    - Observation of an agent (221,) or (218,): its own hand, and the object. Global state (420,) or (417,): both hands
      and the object; in `infos["agent_0"]["state"]` and from `state()`. See `observations.py`. Both clipped to [-5, 5].
    - Reward: one for both. Flags only under "__all__": terminated as the task says, truncated at the time limit, and
      terminated if both happen at once.
    - `infos["agent_0"]["success"]`: whether the object has been open far enough in this episode. Ends nothing.
    - Resets are deterministic.
    - Forces of 833 N on hands of 5 kg may, rarely, make a simulation unstable: a `SimulationError`.

    Args:
        task: "bottle_cap", "door_open_inward", "door_open_outward" or "pen".
        render_mode: "rgb_array" or None.
        seed: accepted for symmetry with other environments; nothing here is random.
        settings: parameters that only Isaac Gym could settle, with documented defaults: see `settings.Settings`.

    Attributes:
        task: the task.
        simulation: the physics.
        state_space: Box of the global state.

    Raises:
        ValueError: unknown task, render mode or setting, or a setting with an impossible value.
    """

    agents: list[str]

    def __init__(self, task: str, *, render_mode: str | None = None, seed: int | None = None, **settings: Any) -> None:
        check_name(task, TASKS, "Bi-DexHands task")
        if render_mode is not None:
            check_name(render_mode, RENDER_MODES, "render_mode")
        for name in settings:
            check_name(name, SETTING_NAMES, "setting of BiDexHands:")
        self.task, self.render_mode = TASKS[task], render_mode
        self.metadata = {"render_modes": list(RENDER_MODES), "render_fps": int(CONTROL_FREQUENCY)}
        super().__init__(AGENT_IDS)
        self.simulation = Simulation(self.task, Settings(**settings))
        self._observer = Observer(self.simulation)
        self._camera: Camera | None = None
        self._episode_steps = self.simulation.settings.episode_steps or self.task.episode_steps
        self._share_spaces(
            Box(-LIMIT, LIMIT, (self.task.state_size,), np.float32),
            Box(-LIMIT, LIMIT, (self.task.observation_size,), np.float32),
            Box(-1.0, 1.0, (ACTION_SIZE,), np.float32),
        )
        self._actions = np.zeros((len(AGENT_IDS), ACTION_SIZE))
        self._has_succeeded = False

    def _start(self, seed: int | None, options: dict | None) -> tuple[dict, dict]:
        self.simulation.reset()
        self._actions[:] = 0.0
        self._has_succeeded = False
        self._read_state()
        return self._observations(), self._team_info(success=self._has_succeeded)

    def _read_actions(self, action_dict: Mapping[str, Any]) -> np.ndarray:
        return np.clip(self._finite_actions(action_dict), -1.0, 1.0, out=self._actions)

    def _advance(self, actions: np.ndarray) -> tuple[dict, float, bool, bool, dict]:
        self.simulate(actions)
        self._read_state()
        outcome = self.task.outcome(self.points())
        self._has_succeeded |= outcome.success
        truncated = self._num_steps >= self._episode_steps and not outcome.terminated
        infos = self._team_info(success=self._has_succeeded)
        return self._observations(), outcome.reward, outcome.terminated, truncated, infos

    def simulate(self, actions: np.ndarray) -> None:
        """The bare physics of one step, without observations, reward or end.

        Args:
            actions: (2, 26) in [-1, 1], right hand first.

        Raises:
            SimulationError: MuJoCo gave up, or reports an unstable simulation.
        """
        try:
            self.simulation.advance(actions)
        except mujoco.FatalError as error:
            raise SimulationError(f"In step {self._num_steps} of the episode MuJoCo gave up: {error}.") from error
        if not self.simulation.is_stable():
            warnings = ", ".join(self.simulation.warnings())
            raise SimulationError(f"In step {self._num_steps} of the episode MuJoCo warns of {warnings}.")

    def points(self) -> Points:
        """The present positions of fingertips, palms and object, on which the reward depends."""
        return self._observer.points()

    def render(self) -> np.ndarray:
        """(480, 640, 3) uint8: a picture of the scene.

        Raises:
            RuntimeError: the environment was made without render_mode="rgb_array", or was never reset.
        """
        camera = self._open_camera()
        self._require_state()
        return camera.image(self.simulation.data)

    def render_states(self, states: np.ndarray, start: Mapping[str, Any]) -> Iterator[np.ndarray]:
        """Pictures of the scene in a sequence of states, which need not be ones that it could reach.

        See `poses.py` for what in a state determines the pose, and what is taken from the start.

        Args:
            states: (T, S).
            start: what `get_state()` returned at the first of them.

        Returns:
            T images (480, 640, 3), uint8; the environment stays as it is.

        Raises:
            RuntimeError: the environment was made without render_mode="rgb_array".
            ValueError: states of another size, or the start is that of another environment.
        """
        require_states(states, self.task.state_size)
        self._check_saved(start)
        camera, poses = self._open_camera(), Poses(self.simulation)
        qpos = self.simulation.positions(start["simulation"])
        for state in states:
            poses.take(state, qpos)
            yield camera.image(poses.data)

    def _open_camera(self) -> Camera:
        if self.render_mode is None:
            raise RuntimeError('This environment does not render: make it with render_mode="rgb_array".')
        if self._camera is None:
            self._camera = Camera(self.simulation.model)
        return self._camera

    def close(self) -> None:
        """Frees the graphics context."""
        if self._camera is not None:
            self._camera.close()
            self._camera = None

    def get_state(self) -> dict[str, Any]:
        """All that the future depends on, for `set_state`: numpy arrays and plain values."""
        return {
            **self._own_entries(),
            **self._progress(),
            "simulation": self.simulation.get_state(),
            "joint_forces": self.simulation.joint_forces.copy(),
            "fingertip_wrenches": self.simulation.fingertip_wrenches.copy(),
            "actions": self._actions.copy(),
            "has_succeeded": self._has_succeeded,
        }

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Goes on, bit by bit, where `get_state` was called, in this or another process.

        Args:
            state: from an environment of the same task and settings.

        Raises:
            ValueError: a state of another environment.
        """
        self._check_saved(state)
        self.simulation.set_state(state["simulation"])
        self.simulation.joint_forces[:] = state["joint_forces"]
        self.simulation.fingertip_wrenches[:] = state["fingertip_wrenches"]
        self._actions[:] = state["actions"]
        self._resume(state)
        self._has_succeeded = state["has_succeeded"]

    def _check_saved(self, state: Any) -> None:
        names = ("simulation", "joint_forces", "fingertip_wrenches", "actions", "has_succeeded")
        self._require_own(state, self._own_entries(), *names)

    def _own_entries(self) -> dict[str, Any]:
        return {"task": self.task.name, "settings": dataclasses.asdict(self.simulation.settings)}

    def _read_state(self) -> None:
        state = self._observer.state(self._actions)
        require_finite("the state", state, self._num_steps)
        self._state = state.clip(-LIMIT, LIMIT).astype(np.float32)

    def _observations(self) -> dict[str, np.ndarray]:
        """Observation (O,) of each agent: its hand and the object."""
        hands, size = self._state, HAND_OBSERVATION_SIZE
        return {
            agent: np.concatenate([hands[index * size : (index + 1) * size], hands[2 * size :]])
            for index, agent in enumerate(self.agents)
        }
