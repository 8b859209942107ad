"""Multi-agent MuJoCo (MAMuJoCo): one robot whose joints are divided among several agents.

The tasks of the paper run on Gymnasium's `-v4` environments, whose rewards and states are those of the old `-v2`
(`-v5` changed both), with 1,000 steps per episode. `SCENARIOS` holds everything that differs between tasks.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import gymnasium
import mujoco
import numpy as np
from gymnasium.spaces import Box
from ray.rllib.env.multi_agent_env import MultiAgentEnv

from rllib_dima.core.names import check_name
from rllib_dima.envs.base import ALL, NonFiniteError, require_agents, require_finite, require_running
from rllib_dima.envs.spaces import finite_action

PartitionKind = Literal["consecutive", "joints"]
PARTITION_KINDS = ("consecutive", "joints")
RENDER_MODES = ("human", "rgb_array", "depth_array", "rgbd_tuple")  # of Gymnasium's MuJoCo environments
EPISODE_STEPS = 1000

Partition = tuple[tuple[str, ...], ...]  # for every agent, the joints it moves


@dataclass(frozen=True)
class Scenario:
    """A robot and the ways to divide it.

    Args:
        name: as the benchmark writes it.
        env_id: Gymnasium's id of the single-agent environment.
        partitions: by name, for every agent the joints it moves, in the order of its action.
    """

    name: str
    env_id: str
    partitions: Mapping[str, Partition]


SCENARIOS = {
    "ant": Scenario(
        "Ant",
        "Ant-v4",
        {
            "2x4": (("hip_1", "ankle_1", "hip_2", "ankle_2"), ("hip_3", "ankle_3", "hip_4", "ankle_4")),
            "4x2": (("hip_1", "ankle_1"), ("hip_2", "ankle_2"), ("hip_3", "ankle_3"), ("hip_4", "ankle_4")),
        },
    ),
    "halfcheetah": Scenario(
        "HalfCheetah",
        "HalfCheetah-v4",
        {
            "2x3": (("bfoot", "bshin", "bthigh"), ("ffoot", "fshin", "fthigh")),
            "3x2": (("bfoot", "bshin"), ("bthigh", "ffoot"), ("fshin", "fthigh")),
            "6x1": (("bfoot",), ("bshin",), ("bthigh",), ("ffoot",), ("fshin",), ("fthigh",)),
        },
    ),
    "walker2d": Scenario(
        "Walker2d",
        "Walker2d-v4",
        {
            "2x3": (
                ("foot_joint", "leg_joint", "thigh_joint"),
                ("foot_left_joint", "leg_left_joint", "thigh_left_joint"),
            ),
            "3x2": (
                ("foot_joint", "leg_joint"),
                ("thigh_joint", "foot_left_joint"),
                ("leg_left_joint", "thigh_left_joint"),
            ),
        },
    ),
}
"""The scenarios by their name in lower case."""

_INSTABILITY = (
    mujoco.mjtWarning.mjWARN_BADQPOS,
    mujoco.mjtWarning.mjWARN_BADQVEL,
    mujoco.mjtWarning.mjWARN_BADQACC,
    mujoco.mjtWarning.mjWARN_BADCTRL,
)


class MAMuJoCo(MultiAgentEnv):
    """One MuJoCo robot moved by a team, as in the paper.

    - Agents "agent_0", "agent_1", ... move the joints of their partition, with actions in [-1, 1] that are rescaled to
      the range of the environment. Entries outside [-1, 1] are clipped.
    - Global state: the environment's observation, raw, in `infos["agent_0"]["state"]` and from `state()`.
    - Observation of an agent: (environment's observation, one-hot agent id), standardised over its own entries,
      (x - mean(x)) / std(x). The last N entries identify the agent by their largest.
    - Reward: the environment's, given to every agent.
    - Flags only under "__all__": terminated as the environment says, truncated after 1,000 steps.

    Args:
        scenario: "Ant", "HalfCheetah" or "Walker2d", in any case.
        partition: agents x joints per agent, as in "4x2".
        partition_kind: "consecutive": agent i moves the i-th block of consecutive actuators of the MuJoCo model, as in
            the code behind the published numbers, whose step function ignores the benchmark's joint lists. "joints":
            the benchmark's joint lists.
        render_mode: one of `RENDER_MODES`, or None; with "rgb_array" `render()` returns images.
        seed: seed of the first episode, unless `reset` is given one.

    Attributes:
        env: the Gymnasium environment.
        actuators: for every agent the actuators it moves, as indices into the environment's action.

    Raises:
        ValueError: unknown scenario, partition, kind of partition or render mode; joints that do not fit the model.
    """

    observations_identify_agent = True

    def __init__(
        self,
        scenario: str,
        partition: str,
        partition_kind: PartitionKind = "consecutive",
        render_mode: str | None = None,
        seed: int | None = None,
    ) -> None:
        joints = find_partition(scenario, partition)
        check_name(partition_kind, PARTITION_KINDS, "partition_kind")
        if render_mode is not None:  # Gymnasium would only warn
            check_name(render_mode, RENDER_MODES, "render_mode")
        self.env = _make_gymnasium(SCENARIOS[scenario.lower()].env_id, render_mode)
        self.metadata, self.render_mode = dict(self.env.metadata), render_mode
        divide = consecutive_actuators if partition_kind == "consecutive" else actuators_of_joints
        self.actuators = divide(self.env.unwrapped.model, joints)
        self.possible_agents = [f"agent_{index}" for index in range(len(self.actuators))]
        self.agents = list(self.possible_agents)
        super().__init__()
        self._build_spaces()
        self._first_seed = seed
        self._num_steps = 0
        self._is_running = False

    def _build_spaces(self) -> None:
        num_agents, state_size = len(self.agents), self.env.observation_space.shape[0]
        self.state_space = Box(-np.inf, np.inf, (state_size,), np.float32)
        observation_space = Box(-np.inf, np.inf, (state_size + num_agents,), np.float32)
        self.observation_spaces = dict.fromkeys(self.agents, observation_space)
        self.action_spaces = {
            agent: Box(-1.0, 1.0, (len(own),), np.float32)
            for agent, own in zip(self.agents, self.actuators, strict=True)
        }
        low, high = self.env.action_space.low, self.env.action_space.high
        self._center, self._half_range = (high + low) / 2, (high - low) / 2

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[dict, dict]:
        """Starts an episode.

        Args:
            seed: seed of the simulator's random numbers; None goes on with those there are.
            options: passed to Gymnasium.

        Returns:
            Observations (S + N,) of all agents, and infos with the state (S,).

        Raises:
            NonFiniteError: the observation is not finite.
        """
        seed = self._first_seed if seed is None else seed
        self._first_seed = None
        observation, info = self.env.reset(seed=seed, options=options)
        self._num_steps = 0
        self._read_state(observation)
        self._is_running = True
        return self._observations(), self._infos(info)

    def step(self, action_dict: Mapping[str, Any]) -> tuple[dict, dict, dict, dict, dict]:
        """Moves all joints.

        Args:
            action_dict: for every agent its action, (joints,) in [-1, 1].

        Returns:
            Observations (S + N,) and rewards of all agents, flags under "__all__", and infos with the state (S,).

        Raises:
            RuntimeError: no episode is running.
            ValueError: missing or unknown agents; actions of a wrong shape, or not finite.
            NonFiniteError: observation or reward are not finite, or MuJoCo reports an unstable simulation.
        """
        require_running(self._is_running)
        action = self._joint_action(action_dict)
        self._is_running = False  # until the step has succeeded: after an error only reset() helps
        observation, reward, terminated, truncated, info = self.env.step(action)
        self._num_steps += 1
        self._require_stable()
        self._read_state(observation)
        require_finite("the reward", reward, self._num_steps)
        self._is_running = not (terminated or truncated)
        rewards = dict.fromkeys(self.agents, float(reward))
        flags = {ALL: bool(terminated)}, {ALL: bool(truncated)}
        return self._observations(), rewards, *flags, self._infos(info)

    def state(self) -> np.ndarray:
        """(S,) float32: a copy of the present global state, the environment's raw observation.

        Raises:
            RuntimeError: the environment was never reset.
        """
        if not hasattr(self, "_state"):
            raise RuntimeError("There is no state before the first episode: call reset() first.")
        return self._state.copy()

    def render(self) -> Any:
        """What Gymnasium's `render()` returns: for "rgb_array" an image (height, width, 3), uint8."""
        return self.env.render()

    def close(self) -> None:
        """Closes the simulator and its window."""
        self.env.close()

    def _joint_action(self, action_dict: Mapping[str, Any]) -> np.ndarray:
        """The environment's action, one entry per actuator, from those of all agents."""
        require_agents("action_dict", action_dict, self.agents)
        unit = np.zeros_like(self._center)
        for agent, own in zip(self.agents, self.actuators, strict=True):
            unit[own] = np.clip(finite_action(agent, action_dict[agent], len(own)), -1.0, 1.0)
        return self._center + self._half_range * unit

    def _require_stable(self) -> None:
        """MuJoCo answers an exploding simulation by resetting it in mid-episode, with finite numbers."""
        counts = self.env.unwrapped.data.warning
        unstable = [warning.name for warning in _INSTABILITY if counts[warning].number]
        if unstable:
            raise NonFiniteError(
                f"In step {self._num_steps} of the episode the simulation became unstable (NaN, infinite or huge "
                f"numbers): MuJoCo warns {', '.join(unstable)} and has put the robot back into its initial pose. "
                "Reset the environment. If it happens again, look for actions that alternate between extremes."
            )

    def _read_state(self, observation: np.ndarray) -> None:
        with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is reported below
            self._state = observation.astype(np.float32)
        require_finite("the simulator's observation", self._state, self._num_steps)
        self._raw_observation = observation

    def _observations(self) -> dict[str, np.ndarray]:
        """Observation (S + N,) of every agent."""
        num_agents = len(self.agents)
        raw = np.broadcast_to(self._raw_observation, (num_agents, self._raw_observation.size))
        return dict(zip(self.agents, standardised(np.hstack([raw, np.eye(num_agents)])), strict=True))

    def _infos(self, info: dict) -> dict[str, dict]:
        return {self.agents[0]: {**info, "state": self._state.copy()}}


def standardised(vectors: np.ndarray) -> np.ndarray:
    """(..., D) float32: every vector minus its mean, divided by its standard deviation, both over its own D entries."""
    centered = vectors - vectors.mean(axis=-1, keepdims=True)
    return (centered / vectors.std(axis=-1, keepdims=True)).astype(np.float32)


def find_partition(scenario: str, partition: str) -> Partition:
    """The joints of every agent, from `SCENARIOS`.

    Args:
        scenario: name of the robot, in any case.
        partition: name of the partition.

    Raises:
        ValueError: unknown scenario, or a partition the scenario does not have.
    """
    if str(scenario).lower() not in SCENARIOS:
        check_name(scenario, SCENARIOS, "MAMuJoCo scenario")
    known = SCENARIOS[scenario.lower()]
    check_name(partition, known.partitions, f"partition of {known.name}")
    return known.partitions[partition]


def consecutive_actuators(model: mujoco.MjModel, partition: Partition) -> list[np.ndarray]:
    """For every agent a block of consecutive actuators of the model, as many as its partition has joints.

    Raises:
        ValueError: the partition has not as many joints as the model has actuators.
    """
    sizes = [len(joints) for joints in partition]
    if sum(sizes) != model.nu:
        raise ValueError(f"The agents move {sizes} joints, but the MuJoCo model has {model.nu} actuators.")
    return np.split(np.arange(model.nu), np.cumsum(sizes)[:-1])


def actuators_of_joints(model: mujoco.MjModel, partition: Partition) -> list[np.ndarray]:
    """For every agent the actuators of the joints that the partition names.

    Raises:
        ValueError: a joint that the model does not have or does not drive; joints that are missing or named twice.
    """
    actuator_of = {model.joint(joint).name: index for index, joint in enumerate(model.actuator_trnid[:, 0])}
    named = [joint for joints in partition for joint in joints]
    for joint in named:
        check_name(joint, actuator_of, "joint")
    if sorted(named) != sorted(actuator_of):
        raise ValueError(f"Every joint of {sorted(actuator_of)} must be named once, but the partition has {partition}.")
    return [np.array([actuator_of[joint] for joint in joints]) for joints in partition]


def _make_gymnasium(env_id: str, render_mode: str | None) -> gymnasium.Env:
    with warnings.catch_warnings():
        # -v4 is what the published numbers were obtained on, so the advice to use -v5 is of no use here.
        warnings.filterwarnings("ignore", f".*The environment {env_id} is out of date", DeprecationWarning)
        return gymnasium.make(
            env_id, render_mode=render_mode, max_episode_steps=EPISODE_STEPS, disable_env_checker=True
        )
