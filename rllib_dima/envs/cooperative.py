"""The form of environment that DIMA trains on, and the wrapper that brings any cooperative environment into it.

The contract, which `CooperativeEnv` keeps and all code outside this folder relies on:

    agents        the same at every step, all acting at once; at least two; in the natural order of their names
                  ("agent_2" before "agent_10"), so that every process numbers them alike
    observations  float32 (O,) for every agent at every step: [own entries | zeros | one-hot agent id]
    actions       float32 (A,) in [-1, 1], or an integer below the largest number of choices; padding is ignored.
                  Entries beyond [-1, 1] are clipped, unless the environment has an attribute clip_actions = False
    state         float32 (S,) in infos[first agent]["state"] after every reset and step, the last one included; what
                  the environment itself has there is under "env_state"
    reward        one number, given to every agent
    flags         only {"__all__": bool}. Terminated: the task ended. Truncated: time ran out and the last state has a
                  value. Never both: an episode that ended by itself at the time limit is terminated.
    numbers       always finite and within `LARGEST`; otherwise NonFiniteError says which were not, and when
    breakdowns    where the environment raises SimulationError, the episode is truncated in that step, which returns the
                  observations and the state before it once more, a reward of 0, and the reason in
                  infos[first agent][SIMULATION_ERROR]; nothing is learnt from it

O, A, S and the masks of what is padding are in `CooperativeEnv.layout`.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete
from ray.rllib.env.multi_agent_env import MultiAgentEnv

from rllib_dima.core.layout import AgentLayout
from rllib_dima.core.names import check_name
from rllib_dima.envs.adapter import TeamAdapter, can_render_states, can_restore, joint_agents
from rllib_dima.envs.spaces import (
    LARGEST,
    BoxAction,
    ContractError,
    DiscreteAction,
    EnvTypeError,
    agent_action,
    are_in_range,
    box_size,
    in_range,
    refuse_old_gym,
)
from rllib_dima.envs.team import ALL, TeamEnv, require_agents

TeamReward = Literal["shared", "mean", "sum"]
TEAM_REWARDS = ("shared", "mean", "sum")
StateSource = Literal["environment", "observations"]
STATE_SOURCES = ("environment", "observations")
SIMULATION_ERROR = "__simulation_error__"  # key of an info; see the contract
RESET_ATTEMPTS = 5
SHARED_REWARD_TOLERANCE = 1e-6  # relative to the largest reward, or absolute below 1: float32 rounding passes


KEEP_AGENTS = (
    "possible_agents names all agents, and all act at every step: keep a finished agent in the environment, with its "
    "actions without effect, and end the episode for all at once (in PettingZoo, supersuit.black_death_v3 keeps them)."
)
LEAVE_STATE_OUT = 'Or have all observations concatenated instead: env_config={"state": "observations"}.'


class NonFiniteError(ContractError, RuntimeError):
    """An environment produced NaN, infinity, or numbers beyond `LARGEST`."""


class SimulationError(RuntimeError):
    """A simulator broke down: its state became NaN, infinite or unstable, which says nothing about the task.

    Any environment may raise it. From `step()`: the episode is truncated and counted, and the step is not learnt from
    (see the contract at the head of this file). From `reset()`: it is called again, without a seed.
    """


class CooperativeEnv(TeamEnv):
    """Any cooperative `MultiAgentEnv` in the form DIMA trains on (see the contract at the head of this file).

    The global state is the environment's own, if it offers one as PettingZoo does (a method `state()` and a Box
    `state_space`), and else the concatenation of all agents' unpadded observations.

    A one-hot agent id is appended to the observations, unless the environment declares with an attribute
    `observations_identify_agent = True` that the last N entries of every observation already identify its agent (by
    their largest entry) and all observations have the same size.

    Args:
        env: the environment. Box observations of any shape; Box actions with finite bounds, or Discrete actions, of
            one kind for all agents.
        team_reward: how the agents' rewards become the team's. "shared": they are equal, and it is an error if they
            are not; "mean" or "sum" of the agents' rewards.
        state: "environment": the environment's own state, if it offers one; "observations": never.

    Attributes:
        env: the wrapped environment.
        layout: sizes and masks of observations and actions, the agents in order.
        state_space: Box of shape (S,), float32.
        observations_identify_agent: True, as every observation ends in its agent's id.

    Raises:
        EnvTypeError: `env` is no `MultiAgentEnv`, or is wrapped already.
        ContractError: unsupported agents or spaces.
        ValueError: an unknown `team_reward` or `state`.
    """

    observations_identify_agent = True

    possible_agents: list[Any]
    agents: list[Any]
    observation_spaces: dict[Any, gymnasium.Space]
    action_spaces: dict[Any, gymnasium.Space]

    def __init__(
        self, env: MultiAgentEnv, team_reward: TeamReward = "shared", state: StateSource = "environment"
    ) -> None:
        require_multi_agent(env)
        check_name(team_reward, TEAM_REWARDS, "team_reward")
        check_name(state, STATE_SOURCES, "state in env_config")
        self.env: Any = env  # it may have state(), get_state() and more than the class that RLlib wants
        self.metadata, self.render_mode, self.spec = dict(env.metadata), env.render_mode, env.spec
        super().__init__(ordered_agents(env))
        self._team_reward: TeamReward = team_reward
        clip = getattr(env, "clip_actions", True)
        self._actions = {agent: agent_action(agent, env.get_action_space(agent), clip) for agent in self.agents}
        require_one_kind(self._actions)
        self._offers_state = state == "environment" and offers_state(env)
        self.layout = self._build_layout()
        self._build_spaces()
        self._build_blank()
        self._observations: np.ndarray | None = None  # (N, O)

    @property
    def unwrapped(self) -> Any:
        """The user's environment, within all wrappers."""
        return self.env.unwrapped

    @property
    def given(self) -> Any:
        """What the user gave, with the user's wrappers."""
        return self.env.given if isinstance(self.env, TeamAdapter) else self.env

    def has_wrapper_attr(self, name: str) -> bool:
        """Whether the user's environment, or a wrapper of the user's around it, has an attribute."""
        return hasattr(self._owner(name), name)

    def get_wrapper_attr(self, name: str) -> Any:
        """An attribute of the user's environment, or of a wrapper of the user's around it."""
        return getattr(self._owner(name), name)

    def set_wrapper_attr(self, name: str, value: Any, *, force: bool = True) -> bool:
        """Sets an attribute where the user's environment has it; if nowhere and `force`, in the innermost."""
        if force or self.has_wrapper_attr(name):
            setattr(self._owner(name), name, value)
            return True
        return False

    def _owner(self, name: str) -> Any:
        """The outermost layer of the user's environment that has an attribute itself, or else the innermost."""
        layer = self.given
        while layer is not self.unwrapped and name not in vars(layer) and not hasattr(type(layer), name):
            layer = getattr(layer, "env", self.unwrapped)
        return layer

    def _build_layout(self) -> AgentLayout:
        sizes = tuple(
            box_size(self.env.get_observation_space(agent), f"The observation space of agent {agent!r}")
            for agent in self.agents
        )
        identified = getattr(self.env, "observations_identify_agent", False) and len(set(sizes)) == 1
        return AgentLayout(
            agent_ids=tuple(self.agents),
            state_size=box_size(self.env.state_space, "state_space") if self._offers_state else sum(sizes),
            observation_sizes=sizes,
            action_sizes=tuple(action.size for action in self._actions.values()),
            action_kind=next(iter(self._actions.values())).kind,
            appends_agent_id=not identified,
        )

    def _build_spaces(self) -> None:
        layout = self.layout
        state, observation = (
            Box(-np.inf, np.inf, (size,), np.float32) for size in (layout.state_size, layout.observation_size)
        )
        continuous_actions = Box(-1.0, 1.0, (layout.action_size,), np.float32)
        self._share_spaces(
            state, observation, Discrete(layout.action_size) if layout.is_discrete else continuous_actions
        )

    def _build_blank(self) -> None:
        """Prepares `_observe`: observations of padding and ids alone, and where own entries go."""
        layout = self.layout
        self._blank = np.zeros((layout.num_agents, layout.observation_size), np.float32)  # (N, O)
        if layout.appends_agent_id:
            self._blank[:, -layout.num_agents :] = np.eye(layout.num_agents)
        shapes = [self.env.get_observation_space(agent).shape for agent in self.agents]
        self._own = list(zip(self.agents, shapes, layout.observation_sizes, strict=True))
        self._own_mask = np.arange(layout.observation_size) < np.array(layout.observation_sizes)[:, None]  # (N, O)

    def _start(self, seed: int | None, options: dict | None) -> tuple[dict, dict]:
        try:
            return self._observe(*self._reset_env(seed, options))
        except ContractError as error:
            raise self._in_step(error) from error.__cause__

    def _read_actions(self, action_dict: Mapping[Any, Any]) -> dict:
        require_agents("action_dict", action_dict, self.agents)
        width = self.layout.action_size
        return {agent: action.to_env(action_dict[agent], width) for agent, action in self._actions.items()}

    def _advance(self, actions: dict) -> tuple[dict, float, bool, bool, dict]:
        try:
            observations, rewards, terminateds, truncateds, infos = self.env.step(actions)
            terminated, truncated = team_flags(self.agents, terminateds, truncateds)
            observations, infos = self._observe(observations, infos)
            return observations, self._reward(rewards), terminated, truncated, infos
        except SimulationError as error:
            return self._broken_step(error)
        except ContractError as error:
            raise self._in_step(error) from error.__cause__

    @property
    def can_restore(self) -> bool:
        """Whether the wrapped environment offers both `get_state()` and `set_state()`."""
        return can_restore(self.env)

    def get_state(self) -> dict[str, Any]:
        """Everything the future depends on, as numpy arrays and plain values.

        Raises:
            NotImplementedError: the wrapped environment does not offer it.
        """
        self._require_restorable()
        observations = copy.copy(self._observations)
        return {
            "agents": list(self.agents),
            **self._progress(),
            "observations": observations,
            "env": self.env.get_state(),
        }

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Goes on exactly where another environment of the same kind was.

        Args:
            state: what its `get_state()` returned.

        Raises:
            NotImplementedError: the wrapped environment does not offer it.
            ValueError: the state is that of another environment; nothing has changed then.
        """
        self._require_restorable()
        self._require_own(state, {"agents": self.agents}, "observations", "env")
        self.env.set_state(state["env"])
        self._resume(state)
        self._observations = copy.copy(state["observations"])

    def _require_restorable(self) -> None:
        if not self.can_restore:
            raise NotImplementedError(
                f"{type(self.given).__name__} cannot be saved and restored: it needs both get_state(), which returns "
                "a picklable dict of everything its future depends on, and set_state(state), which goes on from there."
            )

    @property
    def can_render_states(self) -> bool:
        """Whether the wrapped environment can draw global states."""
        return can_render_states(self.env)

    def render_states(self, states: np.ndarray, start: Mapping[str, Any] | None) -> Iterable[np.ndarray]:
        """Pictures of a sequence of states, by the wrapped environment's method of this name.

        Args:
            states: (T, S), one step apart.
            start: what `get_state()` returned at the first of them, for what states leave out; None if it cannot.

        Returns:
            T images (height, width, 3), uint8.

        Raises:
            NotImplementedError: the wrapped environment does not draw states.
        """
        if not self.can_render_states:
            raise NotImplementedError(
                f"{type(self.given).__name__} cannot draw a global state: it needs a method render_states(states, "
                "start) that yields a picture (height, width, 3) for each of the states (T, S). `start` is what its "
                "get_state() returned at the first, or None if it has no such method."
            )
        return self.env.render_states(states, None if start is None else start["env"])

    def render(self) -> Any:
        """What the environment's own `render()` returns."""
        return self.env.render()

    def close(self) -> None:
        """Closes the environment."""
        self.env.close()

    def _reset_env(self, seed: int | None, options: dict | None) -> tuple[dict, dict]:
        attempt = 1
        while True:
            try:
                return self.env.reset(seed=seed, options=options)
            except SimulationError as error:
                if attempt == RESET_ATTEMPTS:
                    raise SimulationError(f"The simulator broke down in {attempt} resets in a row: {error}") from error
            attempt, seed = attempt + 1, None  # the same seed would do the same again

    def _broken_step(self, error: SimulationError) -> tuple[dict, float, bool, bool, dict]:
        observations = dict(zip(self.agents, self._observations.copy(), strict=True))
        return observations, 0.0, False, True, self._team_info(**{SIMULATION_ERROR: str(error)})

    def _in_step(self, error: ContractError) -> ContractError:
        """The same error with the step in which it happened."""
        found = f"In step {self._num_steps} of the episode (0 is the reset): {error.found}"
        return type(error)(found, error.advice)

    def _observe(self, observations: Mapping[Any, Any], infos: Mapping[Any, Any] | None) -> tuple[dict, dict]:
        """Padded observations, and infos with the state."""
        require_agents("The environment's observations", observations, self.agents, KEEP_AGENTS)
        with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is reported below
            padded = self._padded(observations)
            state = self._read_state(padded)
        if not (in_range(padded) and in_range(state)):
            self._raise_non_finite(padded, state)
        self._state, self._observations = state, padded.copy()
        infos = {agent: dict(info or {}) for agent, info in (infos or {}).items()}
        _put_state(infos.setdefault(self.agents[0], {}), state.copy())
        return dict(zip(self.agents, padded, strict=True)), infos

    def _padded(self, observations: Mapping[Any, Any]) -> np.ndarray:
        """(N, O) float32: all observations in a new array."""
        padded = self._blank.copy()
        for row, (agent, shape, size) in zip(padded, self._own, strict=True):
            row[:size] = read_array(f"the observation of agent {agent!r}", observations[agent], shape).reshape(-1)
        return padded

    def _read_state(self, padded: np.ndarray) -> np.ndarray:
        """(S,) float32, in a new array."""
        if not self._offers_state:
            return padded[self._own_mask]  # all agents' own entries, one agent after the other
        try:
            values, shape = self.env.state(), self.env.state_space.shape
        except SimulationError:
            raise
        except Exception as error:  # whatever an environment raises
            raise broken_state(self.env, error) from error
        return read_array("the state", values, shape, f" {LEAVE_STATE_OUT}").astype(np.float32).reshape(-1)

    def _raise_non_finite(self, padded: np.ndarray, state: np.ndarray) -> None:
        for row, (agent, _, size) in zip(padded, self._own, strict=True):
            require_usable(f"the observation of agent {agent!r}", row[:size])
        require_usable("the state", state)

    def _reward(self, rewards: Mapping[Any, Any]) -> float:
        require_agents("The environment's rewards", rewards, self.agents, KEEP_AGENTS)
        return combine_rewards(
            {agent: reward_number(agent, rewards[agent]) for agent in self.agents}, self._team_reward
        )


def team_flags(agents: Iterable[Any], terminateds: Mapping[Any, bool], truncateds: Mapping[Any, bool]) -> tuple:
    """(terminated, truncated) of the whole team, from flags per agent, under "__all__", or both.

    A team is terminated if "__all__" or every agent is. Where an environment marks the end of a time limit with a
    terminated "__all__", while each agent's own flags say truncated and not terminated, it counts as truncated.
    An end at which some agents are terminated and the others truncated is a truncation. Never both.

    Args:
        agents: all agents.
        terminateds: flags as an environment's `step` returns them.
        truncateds: likewise.

    Raises:
        ContractError: some agents are done and others are not, and the episode goes on.
    """
    if not (any(terminateds.values()) or any(truncateds.values())):  # almost every step
        return False, False
    own_terminated = {agent: bool(terminateds.get(agent, False)) for agent in agents}
    own_truncated = {agent: bool(truncateds.get(agent, False)) for agent in agents}
    done = [agent for agent in own_terminated if own_terminated[agent] or own_truncated[agent]]
    ended_by_limit = all(own_truncated.values()) and all(not terminateds.get(agent, True) for agent in own_terminated)
    terminated = all(own_terminated.values()) or (bool(terminateds.get(ALL, False)) and not ended_by_limit)
    ended = terminated or bool(truncateds.get(ALL, False)) or len(done) == len(own_terminated)
    if done and not ended:
        raise ContractError(
            f"Agents {done} of {len(own_terminated)} are done while the episode goes on, but DIMA needs every agent "
            "until the end.",
            KEEP_AGENTS,
        )
    return terminated, ended and not terminated


def require_usable(quantity: str, values: np.ndarray | float) -> None:
    """Refuses NaN, infinity and numbers beyond `LARGEST` from an environment.

    Args:
        quantity: what the numbers are, for the error.
        values: array of any shape, or a number.

    Raises:
        NonFiniteError: an entry is NaN, infinite or larger than `LARGEST` in size.
    """
    if not in_range(values):
        advice = "Find out why the environment computes it, or end the episode before it does."
        raise NonFiniteError(_non_finite(quantity, values), advice)


def require_finite(quantity: str, values: np.ndarray | float, step: int) -> None:
    """Refuses them from a simulator, which has then broken down.

    Args:
        quantity: what the numbers are, for the error.
        values: array of any shape, or a number.
        step: steps since the reset.

    Raises:
        SimulationError: an entry is NaN, infinite or larger than `LARGEST` in size.
    """
    if not in_range(values):
        raise SimulationError(f"In step {step} of the episode (0 is the reset), {_non_finite(quantity, values)}")


def _non_finite(quantity: str, values: np.ndarray | float) -> str:
    entries = np.flatnonzero(~are_in_range(values))
    return (
        f"{quantity} became NaN or infinite, or larger than {LARGEST:g}, in entries {listed(entries)} of "
        f"{np.size(values)}; the first is {np.ravel(values)[entries[0]]:g}."
    )


def listed(entries: np.ndarray) -> str:
    """The first numbers of entries, for errors."""
    return f"{entries[:8].tolist()}{'...' if entries.size > 8 else ''}"


def read_array(name: str, value: Any, shape: tuple[int, ...] | None, or_else: str = "") -> np.ndarray:
    """An array that an environment returned.

    Args:
        name: what it is, for the error.
        value: what was returned.
        shape: that of its space.
        or_else: what else can be done if it is another one, for the error.

    Raises:
        ContractError: it is no array of numbers, or of another shape.
    """
    array = _numbers(value)
    if array is None:
        advice = "Return a numpy array of the shape and the dtype of its space."
        raise ContractError(f"{name} is not an array of numbers: {value!r}.", advice)
    if array.shape != shape:
        found = f"{name} has shape {array.shape}, but its space says {shape}."
        raise ContractError(found, f"Correct one of the two.{or_else}")
    return array


def _numbers(value: Any) -> np.ndarray | None:
    try:
        array = np.asarray(value)
    except (ValueError, TypeError):  # nested lists of unequal lengths, tensors on a GPU
        return None
    return array if array.dtype.kind in "biuf" else None


def reward_number(agent: Any, reward: Any) -> float:
    """An agent's reward as a number.

    Args:
        agent: whose reward it is, for the error.
        reward: what the environment returned.

    Raises:
        ContractError: it is no single number.
        NonFiniteError: it is NaN, infinite or larger than `LARGEST` in size.
    """
    array = None if type(reward) is float else _numbers(reward)
    if type(reward) is not float and (array is None or array.shape != ()):
        raise ContractError(
            f"The reward of agent {agent!r} is {reward!r} ({type(reward).__name__}), but must be one number.",
            "Return a float for every agent, for example float(reward) or float(reward.sum()).",
        )
    number = reward if array is None else float(array)
    if not abs(number) <= LARGEST:
        require_usable(f"the reward of agent {agent!r}", number)
    return number


def require_multi_agent(env: Any) -> None:
    """Refuses what `CooperativeEnv` cannot wrap.

    Raises:
        EnvTypeError: it is no `MultiAgentEnv`, or is a `CooperativeEnv` already.
        ContractError: its spaces are of the old gym package.
    """
    if isinstance(env, CooperativeEnv):
        raise EnvTypeError(
            "The environment is a CooperativeEnv already.", "Wrap it once only; DIMA's env runner wraps it."
        )
    if isinstance(env, MultiAgentEnv):
        return
    if isinstance(env, gymnasium.Env):
        for kind in ("observation", "action"):
            refuse_old_gym(getattr(env, f"{kind}_space", None), f"The {kind} space of {type(env).__name__}")
        raise EnvTypeError(
            f"{type(env).__name__} is a single-agent gymnasium.Env, but DIMA trains teams: it needs an RLlib "
            "MultiAgentEnv with at least 2 agents, or spaces that are a Tuple or Dict of agents.",
            "For a single agent use RLlib's PPO or SAC.",
        )
    if any(kind.__module__.split(".")[0] == "gym" for kind in type(env).__mro__):
        raise EnvTypeError(
            f"{type(env).__name__} is an environment of the old gym package.",
            "Use its gymnasium or PettingZoo version, or make its class a MultiAgentEnv with spaces of gymnasium.",
        )
    raise EnvTypeError(
        f"DIMA needs an RLlib MultiAgentEnv, but was given a {type(env).__name__}.",
        "Convert a parallel PettingZoo environment with rllib_dima.envs.as_multi_agent_env, as DIMA's env runner does.",
    )


def ordered_agents(env: MultiAgentEnv) -> list:
    """All agents in the natural order of their names.

    The environment's own order does not serve: it may come from a set of strings, as in RLlib's PettingZoo wrapper, and
    Python orders that differently in every process.

    An environment that names no possible_agents has those of which its spaces are a Dict, as RLlib allows.

    Raises:
        ContractError: there are fewer than two.
    """
    agents = list(env.possible_agents) or joint_agents(env)
    if len(agents) < 2:
        raise ContractError(
            f"DIMA trains teams of at least 2 agents, but possible_agents of {type(env).__name__} is {agents}.",
            "If it has more, set self.possible_agents to all of them in its __init__.",
        )
    return sorted(agents, key=_natural_order)


def _natural_order(agent: Any) -> tuple[list, str]:
    """Sort key that compares numbers within names as numbers."""
    text_and_numbers = re.split(r"([0-9]+)", str(agent))
    return [int(part) if index % 2 else part for index, part in enumerate(text_and_numbers)], str(agent)


def require_one_kind(actions: Mapping[Any, BoxAction | DiscreteAction]) -> None:
    """Refuses a team whose agents have different kinds of actions.

    Args:
        actions: by agent.

    Raises:
        ContractError: some are continuous and others discrete.
    """
    kinds = {agent: action.kind for agent, action in actions.items()}
    if len(set(kinds.values())) > 1:
        raise ContractError(
            f"All agents must have the same kind of actions, but they are {kinds}.",
            "Make all of them Box or all of them Discrete, for example by giving continuous agents a few fixed "
            "actions to choose from.",
        )


def offers_state(env: MultiAgentEnv) -> bool:
    """Whether the environment has a global state of its own.

    Raises:
        ContractError: it has only one of `state()` and `state_space`.
    """
    has_method, has_space = callable(getattr(env, "state", None)), getattr(env, "state_space", None) is not None
    if has_method != has_space:
        one, other = ("state()", "state_space") if has_method else ("state_space", "state()")
        raise ContractError(
            f"{type(env).__name__} has {one} but no {other}.",
            f"Give it both to offer a global state, or neither. {LEAVE_STATE_OUT}",
        )
    return has_method


def broken_state(env: Any, error: Exception) -> ContractError:
    """The error for an environment whose `state()` raises one."""
    found = f"state() of {type(env).__name__} failed: {type(error).__name__}: {error}."
    return ContractError(found, f"Repair it. {LEAVE_STATE_OUT}")


def combine_rewards(rewards: Mapping[Any, float], team_reward: TeamReward) -> float:
    """The team's reward.

    Args:
        rewards: of every agent.
        team_reward: as for `CooperativeEnv`.

    Raises:
        ContractError: they should be shared, but differ by more than float32 rounding.
        NonFiniteError: their sum is larger than `LARGEST` in size.
    """
    if team_reward != "shared":
        total = sum(rewards.values())
        if team_reward == "mean":
            return total / len(rewards)
        if not abs(total) <= LARGEST:
            require_usable("the sum of the agents' rewards", total)
        return total
    low, high = min(rewards.values()), max(rewards.values())
    if high - low > SHARED_REWARD_TOLERANCE * max(1.0, abs(low), abs(high)):
        lowest, highest = min(rewards, key=rewards.__getitem__), max(rewards, key=rewards.__getitem__)
        raise ContractError(
            f"The agents' rewards differ: {low} of agent {lowest!r}, {high} of agent {highest!r}. DIMA is for "
            "cooperative tasks, with one reward for the team.",
            'If the task is cooperative, say how to combine them: env_config={"team_reward": "mean"} or "sum".',
        )
    return next(iter(rewards.values()))


def _put_state(info: dict, state: np.ndarray) -> None:
    """Adds the state to the first agent's info; something else in its place is kept under "env_state".

    Raises:
        ContractError: there is an "env_state" as well.
    """
    if "state" in info and not np.array_equal(info["state"], state):
        if "env_state" in info:
            raise ContractError(
                'The infos of the first agent have both "state" and "env_state". DIMA puts the global state under '
                '"state" and would keep yours under "env_state".',
                "Rename one of them.",
            )
        info["env_state"] = info["state"]
    info["state"] = state
