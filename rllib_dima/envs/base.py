"""The form of environment that DIMA trains on, and the wrapper that brings any cooperative environment into it.

The contract, which `CooperativeEnv` keeps and all code outside this folder relies on:

    agents        the same at every step, all acting at once; at least two; in the natural order of their names
                  ("agent_2" before "agent_10"), so that every process numbers them alike
    observations  float32 (O,) for every agent at every step: [own entries | zeros | one-hot agent id]
    actions       float32 (A,) in [-1, 1], or an integer below the largest number of choices; padding is ignored
    state         float32 (S,) in infos[first agent]["state"] after every reset and step, the last one included
    reward        one number, given to every agent
    flags         only {"__all__": bool}. Terminated: the task ended. Truncated: time ran out and the last state has a
                  value. Never both: an episode that ended by itself at the time limit is terminated.
    numbers       always finite; otherwise NonFiniteError says what was not, and when

O, A, S and the masks of what is padding are in `CooperativeEnv.layout`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete
from ray.rllib.env.multi_agent_env import MultiAgentEnv

from rllib_dima.core.layout import AgentLayout
from rllib_dima.core.names import check_name
from rllib_dima.envs.spaces import agent_action, box_size

TeamReward = Literal["shared", "mean", "sum"]
TEAM_REWARDS = ("shared", "mean", "sum")
ALL = "__all__"
SHARED_REWARD_TOLERANCE = 1e-6  # relative to the largest reward, or absolute below 1: float32 rounding passes


class NonFiniteError(RuntimeError):
    """An environment produced NaN, infinity, or a simulation that became unstable."""


class CooperativeEnv(MultiAgentEnv):
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

    Attributes:
        env: the wrapped environment.
        layout: sizes and masks of observations and actions, the agents in order.
        state_space: Box of shape (S,), float32.

    Raises:
        TypeError: `env` is no `MultiAgentEnv`, or is wrapped already.
        ValueError: unsupported agents or spaces, or an unknown `team_reward`.
    """

    def __init__(self, env: MultiAgentEnv, team_reward: TeamReward = "shared") -> None:
        _require_multi_agent(env)
        check_name(team_reward, TEAM_REWARDS, "team_reward")
        self.env = env
        self.metadata, self.render_mode, self.spec = dict(env.metadata), env.render_mode, env.spec
        self.possible_agents = _ordered_agents(env)
        self.agents = list(self.possible_agents)
        super().__init__()
        self._team_reward = team_reward
        self._actions = _agent_actions(env, self.agents)
        self._offers_state = _offers_state(env)
        self.layout = self._build_layout()
        self._build_spaces()
        self._num_steps = 0
        self._is_running = False

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
        self.state_space = Box(-np.inf, np.inf, (layout.state_size,), np.float32)
        observation_space = Box(-np.inf, np.inf, (layout.observation_size,), np.float32)
        continuous_actions = Box(-1.0, 1.0, (layout.action_size,), np.float32)
        action_space = Discrete(layout.action_size) if layout.is_discrete else continuous_actions
        self.observation_spaces = dict.fromkeys(self.agents, observation_space)
        self.action_spaces = dict.fromkeys(self.agents, action_space)

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[dict, dict]:
        """Starts an episode.

        Args:
            seed: passed to the environment.
            options: passed to the environment.

        Returns:
            Observations (O,) of all agents, and infos with the state (S,) in `infos[first agent]["state"]`.

        Raises:
            NonFiniteError: an observation or the state is not finite.
            ValueError: the environment breaks the contract.
        """
        observations, infos = self.env.reset(seed=seed, options=options)
        self._num_steps = 0
        result = self._observe(observations, infos)
        self._is_running = True
        return result

    def step(self, action_dict: Mapping[Any, Any]) -> tuple[dict, dict, dict, dict, dict]:
        """Moves all agents at once.

        Args:
            action_dict: for every agent a padded action (A,) in [-1, 1], clipped if outside, or an integer.

        Returns:
            Observations (O,) and the team reward of all agents, terminated and truncated flags under "__all__" only,
            and infos with the state (S,) in `infos[first agent]["state"]`.

        Raises:
            RuntimeError: no episode is running.
            NonFiniteError: an observation, the state or a reward is not finite.
            ValueError: wrong actions, or the environment breaks the contract.
        """
        require_running(self._is_running)
        require_agents("action_dict", action_dict, self.agents)
        env_actions = self._to_env(action_dict)
        self._is_running = False  # until the step has succeeded: after an error only reset() helps
        observations, rewards, terminateds, truncateds, infos = self.env.step(env_actions)
        self._num_steps += 1
        observations, infos = self._observe(observations, infos)
        reward = self._reward(rewards)
        terminated, truncated = team_flags(self.agents, terminateds, truncateds)
        self._is_running = not (terminated or truncated)
        return observations, dict.fromkeys(self.agents, reward), {ALL: terminated}, {ALL: truncated}, infos

    def state(self) -> np.ndarray:
        """(S,) float32: a copy of the present global state.

        Raises:
            RuntimeError: the environment was never reset.
        """
        if not hasattr(self, "_state"):
            raise RuntimeError("There is no state before the first episode: call reset() first.")
        return self._state.copy()

    def render(self) -> Any:
        """What the environment's own `render()` returns."""
        return self.env.render()

    def close(self) -> None:
        """Closes the environment."""
        self.env.close()

    def _to_env(self, action_dict: Mapping[Any, Any]) -> dict:
        width = self.layout.action_size
        return {agent: action.to_env(action_dict[agent], width) for agent, action in self._actions.items()}

    def _observe(self, observations: Mapping[Any, Any], infos: Mapping[Any, Any] | None) -> tuple[dict, dict]:
        """Padded observations, and infos with the state."""
        require_agents("the environment's observations", observations, self.agents, "; all agents act at every step")
        own = [self._own_entries(agent, observations[agent]) for agent in self.agents]
        self._state = self._read_state(own)
        infos = {agent: dict(info or {}) for agent, info in (infos or {}).items()}
        infos.setdefault(self.agents[0], {})["state"] = self._state.copy()
        return {agent: self._pad(index, own[index]) for index, agent in enumerate(self.agents)}, infos

    def _own_entries(self, agent: Any, observation: Any) -> np.ndarray:
        """(own size,) float32, an observation flattened."""
        shape = self.env.get_observation_space(agent).shape
        return self._flat(f"the observation of agent {agent!r}", observation, shape)

    def _read_state(self, own_entries: list[np.ndarray]) -> np.ndarray:
        if not self._offers_state:
            return np.concatenate(own_entries)
        return self._flat("the state", self.env.state(), self.env.state_space.shape)

    def _flat(self, name: str, values: Any, shape: tuple[int, ...]) -> np.ndarray:
        """Float32 vector of all entries, checked."""
        with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is reported below
            values = np.array(values, dtype=np.float32)
        if values.shape != shape:
            raise ValueError(f"{name} has shape {values.shape}, but its space says {shape}: correct one of the two.")
        require_finite(name, values, self._num_steps)
        return values.reshape(-1)

    def _pad(self, index: int, own_entries: np.ndarray) -> np.ndarray:
        padded = np.zeros(self.layout.observation_size, np.float32)
        padded[: own_entries.size] = own_entries
        if self.layout.appends_agent_id:
            padded[index - self.layout.num_agents] = 1.0
        return padded

    def _reward(self, rewards: Mapping[Any, Any]) -> float:
        require_agents("the environment's rewards", rewards, self.agents)
        values = [float(rewards[agent]) for agent in self.agents]
        for agent, value in zip(self.agents, values, strict=True):
            require_finite(f"the reward of agent {agent!r}", value, self._num_steps)
        if self._team_reward == "shared":
            return _shared_reward(dict(zip(self.agents, values, strict=True)))
        return sum(values) / (len(values) if self._team_reward == "mean" else 1)


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
        ValueError: some agents are done and others are not, and the episode goes on.
    """
    own_terminated = {agent: bool(terminateds.get(agent, False)) for agent in agents}
    own_truncated = {agent: bool(truncateds.get(agent, False)) for agent in agents}
    done = [agent for agent in own_terminated if own_terminated[agent] or own_truncated[agent]]
    ended_by_limit = all(own_truncated.values()) and all(not terminateds.get(agent, True) for agent in own_terminated)
    terminated = all(own_terminated.values()) or (bool(terminateds.get(ALL, False)) and not ended_by_limit)
    ended = terminated or bool(truncateds.get(ALL, False)) or len(done) == len(own_terminated)
    if done and not ended:
        raise ValueError(
            f"Agents {done} of {list(own_terminated)} are done while the episode goes on, but DIMA needs every agent "
            "until the end. Keep a finished agent in the environment, with its actions without effect, and end the "
            "episode for all agents at once."
        )
    return terminated, ended and not terminated


def require_running(is_running: bool) -> None:
    """Refuses a step without an episode.

    Raises:
        RuntimeError: no episode is running.
    """
    if not is_running:
        raise RuntimeError("step() needs a running episode: call reset() first, and again after every end or error.")


def require_agents(what: str, given: Mapping[Any, Any], agents: Iterable[Any], why: str = "") -> None:
    """Refuses a dict that does not hold exactly one entry per agent.

    Args:
        what: what the dict is, for the error.
        given: the dict.
        agents: the agents it must have.
        why: added to the error, after a semicolon.

    Raises:
        ValueError: agents are missing or unknown.
    """
    agents = list(agents)
    missing = [agent for agent in agents if agent not in given]
    unknown = [agent for agent in given if agent not in agents]
    if missing or unknown:
        raise ValueError(
            f"{what} must have one entry for each of {agents}{why}. Missing: {missing}; unknown: {unknown}."
        )


def require_finite(quantity: str, values: np.ndarray | float, step: int) -> None:
    """Refuses NaN and infinity.

    Args:
        quantity: what the numbers are, for the error.
        values: array of any shape, or a number.
        step: steps since the reset.

    Raises:
        NonFiniteError: an entry is NaN or infinite.
    """
    finite = np.isfinite(values)
    if not finite.all():
        entries = np.flatnonzero(~np.atleast_1d(finite)).tolist()
        raise NonFiniteError(
            f"In step {step} of the episode (0 is the reset), {quantity} became NaN or infinite, in entries "
            f"{entries[:8]}{'...' if len(entries) > 8 else ''} of {np.size(values)}. "
            "Find out why the environment computes it, or end the episode before it does."
        )


def _require_multi_agent(env: Any) -> None:
    if isinstance(env, CooperativeEnv):
        raise TypeError("The environment is a CooperativeEnv already: wrap it once only (DIMA's env runner wraps it).")
    if isinstance(env, MultiAgentEnv):
        return
    if isinstance(env, gymnasium.Env):
        raise TypeError(
            f"{type(env).__name__} is a single-agent gymnasium.Env, but DIMA trains teams: it needs an RLlib "
            "MultiAgentEnv with at least 2 agents. For a single agent use RLlib's PPO or SAC."
        )
    raise TypeError(
        f"DIMA needs an RLlib MultiAgentEnv, but was given a {type(env).__name__}. Wrap a parallel PettingZoo "
        "environment in ray.rllib.env.wrappers.pettingzoo_env.ParallelPettingZooEnv."
    )


def _ordered_agents(env: MultiAgentEnv) -> list:
    """All agents in the natural order of their names.

    The environment's own order does not serve: RLlib's PettingZoo wrapper takes it from a set of strings, and Python
    orders that differently in every process.
    """
    agents = list(env.possible_agents)
    if len(agents) < 2:
        raise ValueError(
            f"DIMA trains teams of at least 2 agents, but possible_agents of {type(env).__name__} is {agents}. "
            "If it has more, set self.possible_agents to all of them in its __init__."
        )
    return sorted(agents, key=_natural_order)


def _natural_order(agent: Any) -> tuple[list, str]:
    """Sort key that compares numbers within names as numbers."""
    text_and_numbers = re.split(r"([0-9]+)", str(agent))
    return [int(part) if index % 2 else part for index, part in enumerate(text_and_numbers)], str(agent)


def _agent_actions(env: MultiAgentEnv, agents: list) -> dict:
    actions = {agent: agent_action(agent, env.get_action_space(agent)) for agent in agents}
    kinds = {agent: action.kind for agent, action in actions.items()}
    if len(set(kinds.values())) > 1:
        raise ValueError(
            f"All agents must have the same kind of actions, but they are {kinds}. Make all of them Box or all of "
            "them Discrete, for example by giving continuous agents a few fixed actions to choose from."
        )
    return actions


def _offers_state(env: MultiAgentEnv) -> bool:
    """Whether the environment has a global state of its own.

    Raises:
        ValueError: it has only one of `state()` and `state_space`.
    """
    has_method, has_space = callable(getattr(env, "state", None)), getattr(env, "state_space", None) is not None
    if has_method != has_space:
        raise ValueError(
            f"{type(env).__name__} has {'state() but no state_space' if has_method else 'state_space but no state()'}. "
            "Give it both to offer a global state, or neither to have all observations concatenated instead."
        )
    return has_method


def _shared_reward(rewards: dict) -> float:
    low, high = min(rewards.values()), max(rewards.values())
    if high - low > SHARED_REWARD_TOLERANCE * max(1.0, abs(low), abs(high)):
        raise ValueError(
            f"The agents' rewards differ: {rewards}. DIMA is for cooperative tasks, with one reward for the team. If "
            'the task is cooperative, say how to combine them: env_config={"team_reward": "mean"} or "sum".'
        )
    return next(iter(rewards.values()))
