"""Multi-agent MuJoCo (MAMuJoCo): one robot whose joints are divided among several agents.

The tasks of the paper run on Gymnasium's `-v4` environments, whose rewards and states are those of the old `-v2`
(`-v5` changed both). The robots and their divisions are in `scenarios.py`.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal

import mujoco
import numpy as np
from gymnasium.spaces import Box

from rllib_dima.core.names import check_name
from rllib_dima.envs.mamujoco.local_observations import LocalObservations
from rllib_dima.envs.mamujoco.observations import FullObservations
from rllib_dima.envs.mamujoco.poses import poses
from rllib_dima.envs.mamujoco.scenarios import (
    Partition,
    check_agent_conf,
    divide_actuators,
    find_partition,
    find_scenario,
    find_version,
)
from rllib_dima.envs.mamujoco.settings import check_settings, flag, whole_number
from rllib_dima.envs.mamujoco.simulator import check_saved, load_simulator, make_simulator, save_simulator
from rllib_dima.envs.mujoco_poses import pose
from rllib_dima.envs.outcomes import SimulationError, require_finite
from rllib_dima.envs.team import TeamEnv, require_states

Observations = Literal["full", "local"]
OBSERVATIONS = ("full", "local")
Version = Literal["v4", "v5"]
RENDER_MODES = ("human", "rgb_array", "depth_array", "rgbd_tuple")  # of Gymnasium's MuJoCo environments

# MuJoCo's own arrays, which Gymnasium's v5 humanoids put into every info, though the next step changes them.
_SHARED_INFOS = ("tendon_length", "tendon_velocity")

_INSTABILITY = (
    mujoco.mjtWarning.mjWARN_BADQPOS,
    mujoco.mjtWarning.mjWARN_BADQVEL,
    mujoco.mjtWarning.mjWARN_BADQACC,
    mujoco.mjtWarning.mjWARN_BADCTRL,
)


class MAMuJoCo(TeamEnv):
    """One MuJoCo robot moved by a team.

    - Agents "agent_0", "agent_1", ... move the joints of their part, with actions in [-1, 1] that are rescaled to the
      range of the environment. Entries outside [-1, 1] are clipped, unless `clip_actions` is off.
    - Global state: the environment's observation, raw, in `infos["agent_0"]["state"]` and from `state()`.
    - Observation of an agent: (environment's observation, one-hot agent id), standardised over its own entries,
      (x - mean(x)) / std(x), as in the paper; the last N entries identify the agent by their largest. Or, if local,
      that of Gymnasium-Robotics. What local observations show need not be in the state: ants' contain contact forces
      (`cfrc_ext`), which are part of the state of Ant-v5 but not of Ant-v4.
    - Reward: the environment's, given to every agent.
    - Flags only under "__all__": terminated as the environment says, truncated after `max_episode_steps`.

    Pickling or copying an instance keeps its state, but not an open window.

    Args:
        scenario: name of the robot, in any case; see `scenarios.SCENARIOS`.
        agent_conf: its division, agents x joints per agent as in "4x2", or a name as "9|8".
        partition: "consecutive": agent i moves the i-th block of consecutive actuators of the MuJoCo model, as in the
            code behind the published numbers, whose step function ignores the benchmark's joint lists. "joints": the
            benchmark's joint lists: in Ant "2x4d" diagonal legs, in the humanoids "9|8" upper and lower body. The
            default is "consecutive" in the paper's seven tasks, and "joints" in all others.
        observations: "full" or "local". With "local", an agent's own joints are those that it truly moves; for the
            mistakes in Gymnasium-Robotics' graphs of some robots see `local_observations.LocalObservations`.
        agent_obsk: how many edges of the robot's graph local observations reach; 1 if not given. Only with "local".
        version: "v4" or "v5" of Gymnasium's environment; by default "v4" where it works and else "v5" (Pusher,
            ManySegmentAnt, ManySegmentSwimmer). CoupledHalfCheetah has a single version and accepts none.
        render_mode: one of `RENDER_MODES`, or None; with "rgb_array" `render()` returns images.
        max_episode_steps: after which an episode is truncated; by default Gymnasium's: Reacher 50, Pusher 100, all
            others 1,000.
        clip_actions: whether entries outside [-1, 1] are clipped. Without it the simulator still limits what actuators
            do, but costs of controls are those of the actions as given, as in the code behind the published numbers.
        state_padding: zeros at the end of the state, and so of full observations before they are standardised; 84 make
            Ant's as long as those of Gym's -v2.
        settings: keywords of Gymnasium's environment, such as `healthy_reward`, `terminate_when_unhealthy` or
            `exclude_current_positions_from_observation`: those that `settings.default_settings` lists.
        seed: seed of the first episode, unless `reset` is given one.

    Attributes:
        env: the environment of the robot as a whole, a Gymnasium `MujocoEnv` without wrappers.
        version: of it, "v4" or "v5"; None for CoupledHalfCheetah.
        actuators: for every agent the actuators it moves, as indices into the environment's action.
        max_episode_steps: as given, or the default.
        observations_identify_agent: whether `CooperativeEnv` need not append an agent id; true for full observations.

    Raises:
        ValueError: unknown names, impossible values, or settings that do not go together.
    """

    agents: list[str]

    def __init__(
        self,
        scenario: str,
        agent_conf: str,
        *,
        partition: Partition | None = None,
        observations: Observations = "full",
        agent_obsk: int | None = None,
        version: Version | None = None,
        render_mode: str | None = None,
        max_episode_steps: int | None = None,
        clip_actions: bool = True,
        state_padding: int = 0,
        seed: int | None = None,
        **settings: Any,
    ) -> None:
        robot = self._robot = find_scenario(scenario)
        check_agent_conf(robot, agent_conf)
        partition = find_partition(robot, agent_conf, partition)
        agent_obsk = _find_agent_obsk(observations, agent_obsk)
        self.version = find_version(robot, version)
        if render_mode is not None:  # Gymnasium would only warn
            check_name(render_mode, RENDER_MODES, "render_mode")
        self.clip_actions = flag("clip_actions", clip_actions)
        self._padding = np.zeros(whole_number("state_padding", state_padding, low=0))
        settings = check_settings(robot, self.version, settings)
        self.env, self.max_episode_steps = make_simulator(robot, agent_conf, self.version, render_mode, settings)
        if max_episode_steps is not None:
            self.max_episode_steps = whole_number("max_episode_steps", max_episode_steps)
        self._settings = {
            "scenario": robot.name,
            "agent_conf": agent_conf,
            "partition": partition,
            "observations": observations,
            "agent_obsk": agent_obsk,
            "version": self.version,
            "max_episode_steps": self.max_episode_steps,
            "clip_actions": self.clip_actions,
            "state_padding": self._padding.size,
            **settings,
        }
        self.metadata, self.render_mode = dict(self.env.metadata), render_mode
        self.actuators = divide_actuators(robot, agent_conf, partition, self.env.model)
        super().__init__(f"agent_{index}" for index in range(len(self.actuators)))
        self.observations_identify_agent = observations == "full"
        if agent_obsk is None:
            self._observe = FullObservations(self.agents, self._state_size)
        else:
            self._observe = LocalObservations(self.env, robot, agent_conf, self.actuators, self.agents, agent_obsk)
        self._build_spaces()
        self._build_action()
        self._warning_counts = self.env.data.warning.number  # MuJoCo counts in the same memory
        self._first_seed = seed

    @property
    def _state_size(self) -> int:
        return self.env.observation_space.shape[0] + self._padding.size

    def _build_spaces(self) -> None:
        self.state_space = _unbounded(self._state_size)
        sizes = dict(zip(self.agents, self._observe.sizes, strict=True))
        self.observation_spaces = {agent: _unbounded(size) for agent, size in sizes.items()}
        self.action_spaces = {
            agent: Box(-1.0, 1.0, (own.size,), np.float32)
            for agent, own in zip(self.agents, self.actuators, strict=True)
        }

    def _build_action(self) -> None:
        """What `_read_actions` needs at every step."""
        moved = np.concatenate(self.actuators)
        self._pick = operator.itemgetter(*self.agents)
        self._usual_forms = [((own.size,), np.dtype(np.float32)) for own in self.actuators]
        order = np.argsort(moved)  # from the agents' actions, one after the other, to the environment's
        self._order = None if (order == np.arange(moved.size)).all() else order
        space = self.env.action_space
        assert isinstance(space, Box)
        low, high = space.low, space.high
        self._center, self._half_range = (high + low) / 2, (high - low) / 2
        self._has_unit_range = bool((low == -1.0).all() and (high == 1.0).all())

    def _start(self, seed: int | None, options: dict | None) -> tuple[dict, dict]:
        seed = self._first_seed if seed is None else seed
        self._first_seed = None
        observation, info = self._simulate(self.env.reset, seed=seed, options=options)
        return self._read(observation), self._infos(info)

    def _advance(self, actions: np.ndarray) -> tuple[dict, float, bool, bool, dict]:
        observation, reward, terminated, truncated, info = self._simulate(self.env.step, actions)
        observations = self._read(observation)
        reward = float(reward)
        if not math.isfinite(reward):
            require_finite("the reward", reward, self._num_steps)
        is_late = self._num_steps >= self.max_episode_steps
        return observations, reward, bool(terminated), bool(truncated) or is_late, self._infos(info)

    def get_state(self) -> dict[str, Any]:
        """Everything the future depends on, as numpy arrays and plain values.

        With it, another instance made with the same settings (but for `render_mode` and `seed`) goes on exactly as
        this one would.
        """
        return {
            "settings": dict(self._settings),
            "simulator": save_simulator(self.env),
            "first_seed": self._first_seed,
            **self._progress(),
        }

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Goes on exactly where another instance was.

        Args:
            state: what its `get_state()` returned.

        Raises:
            ValueError: the state is that of another environment; nothing has changed then.
        """
        self._require_own(state, {"settings": self._settings}, "simulator", "first_seed")
        check_saved(self.env, state["simulator"])
        load_simulator(self.env, state["simulator"])
        self._first_seed = state["first_seed"]
        self._resume(state)

    def render(self) -> Any:
        """What Gymnasium's `render()` returns: for "rgb_array" an image (height, width, 3), uint8.

        Raises:
            RuntimeError: the environment was never reset, or has no render mode.
        """
        if self.render_mode is None:
            raise RuntimeError("There is nothing to render: make the environment with render_mode='rgb_array'.")
        self._require_state()
        return self.env.render()

    def render_states(self, states: np.ndarray, start: Mapping[str, Any]) -> Iterator[np.ndarray]:
        """Pictures of the robot in a sequence of states, which need not be ones that it could reach.

        What states leave out is taken from the start and moved by its velocities: by default the horizontal position,
        on which nothing else depends. Velocities of Hopper and Walker2d are clipped to [-10, 10] in their states.

        Args:
            states: (T, S), one step apart.
            start: what `get_state()` returned at the first of them.

        Returns:
            T images (height, width, 3), uint8; after the last of them the environment is as it was before.

        Raises:
            RuntimeError: the environment has no render mode, or was never reset.
            ValueError: states of another size, or the start is that of another environment.
        """
        require_states(states, self._state_size)
        before = self.get_state()
        try:
            self.set_state(start)
            for qpos in poses(self.env, self._robot, states, self.env.data.qpos.copy()):
                pose(self.env.model, self.env.data, qpos)
                yield self.render()
        finally:
            self.set_state(before)

    def close(self) -> None:
        """Closes the simulator and its window."""
        self.env.close()

    def __reduce__(self) -> tuple:
        settings = {**self._settings, "render_mode": self.render_mode}
        return _restored, (type(self), settings, self.get_state())

    def _simulate(self, method: Callable, *args: Any, **kwargs: Any) -> tuple:
        """What a method of the simulator returns, unless MuJoCo breaks down in it."""
        try:
            results = method(*args, **kwargs)
        except mujoco.FatalError as error:
            raise SimulationError(f"In step {self._num_steps} of the episode MuJoCo gave up: {error}.") from error
        if any(self._warning_counts.tolist()):
            self._require_stable()
        return results

    def _require_stable(self) -> None:
        """MuJoCo answers an exploding simulation by resetting it in mid-episode, with finite numbers."""
        unstable = [warning.name for warning in _INSTABILITY if self._warning_counts[warning]]
        if unstable:
            raise SimulationError(
                f"In step {self._num_steps} of the episode the simulation became unstable (NaN, infinite or huge "
                f"numbers): MuJoCo warns {', '.join(unstable)} and has put the robot back into its initial pose."
            )

    def _read_actions(self, action_dict: Mapping[str, Any]) -> np.ndarray:
        """The environment's action, one entry per actuator, from those of all agents."""
        joint = self._usual_action(action_dict)
        if joint is None:
            joint = self._checked_action(action_dict)
        if self._order is not None:
            joint = joint[self._order]
        return joint if self._has_unit_range else self._center + self._half_range * joint

    def _usual_action(self, action_dict: Mapping[str, Any]) -> np.ndarray | None:
        """All agents' actions, one after the other, if in the form that a policy gives: much faster than a full check.

        That is, contiguous float32 arrays of the right shapes with entries in [-1, 1]; otherwise None.
        """
        try:
            given = self._pick(action_dict)
            if [(own.shape, own.dtype) for own in given] != self._usual_forms or len(given) != len(action_dict):
                return None
            joint = np.frombuffer(b"".join(given), np.float32)  # takes half as long as np.concatenate
        except (KeyError, AttributeError, TypeError, BufferError):
            return None
        entries = joint.tolist()
        is_finite = math.isfinite(sum(entries))
        is_usual = is_finite and (not self.clip_actions or (min(entries) >= -1.0 and max(entries) <= 1.0))
        return joint if is_usual else None

    def _checked_action(self, action_dict: Mapping[str, Any]) -> np.ndarray:
        """All agents' actions, one after the other, in any form that is correct."""
        joint = np.concatenate(self._finite_actions(action_dict))
        return (joint.clip(-1.0, 1.0) if self.clip_actions else joint).astype(np.float32)

    def _read(self, observation: np.ndarray) -> dict[str, np.ndarray]:
        """Takes over the state, and returns what the agents observe."""
        if self._padding.size:
            observation = np.concatenate([observation, self._padding])
        observations = self._observe(observation, self._num_steps)
        self._state = observation.astype(np.float32)
        return observations

    def _infos(self, info: Mapping[str, Any]) -> dict[str, dict]:
        return self._team_info(**{**info, **{name: info[name].copy() for name in _SHARED_INFOS if name in info}})


def _find_agent_obsk(observations: str, agent_obsk: object) -> int | None:
    """How far local observations reach; None for full observations.

    Raises:
        ValueError: unknown observations, or an `agent_obsk` that does not fit them.
    """
    check_name(observations, OBSERVATIONS, "observations")
    if observations == "full":
        if agent_obsk is not None:
            raise ValueError(
                f"agent_obsk={agent_obsk!r} has no meaning for full observations: leave it out, or use "
                "observations='local'."
            )
        return None
    if agent_obsk is None:
        return 1
    if isinstance(agent_obsk, bool) or not isinstance(agent_obsk, (int, np.integer)) or agent_obsk < 0:
        raise ValueError(f"agent_obsk is {agent_obsk!r}, but it must be a whole number, 0 or more.")
    return int(agent_obsk)


def _unbounded(size: int) -> Box:
    return Box(-np.inf, np.inf, (size,), np.float32)


def _restored(env_class: type[MAMuJoCo], settings: Mapping[str, Any], state: Mapping[str, Any]) -> MAMuJoCo:
    """An unpickled instance."""
    env = env_class(**settings)
    env.set_state(state)
    return env
