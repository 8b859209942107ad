"""The form of environment that DIMA trains on, and the wrapper that brings any cooperative environment into it.

The contract, which `CooperativeEnv` keeps and all code outside this folder relies on:

    agents        the same at every step, all acting at once; at least two; in the natural order of their names
                  ("agent_2" before "agent_10"), so that every process numbers them alike
    observations  float32 (O,) for every agent at every step: [own entries | zeros | flags | one-hot agent id]. Flags
                  tell which actions are available and whether the agent is alive, in teams where that can change
    actions       float32 (A,) in [-1, 1], or an integer below the largest number of choices, or several of these;
                  padding is ignored, as is the action of an agent that has left. Entries beyond [-1, 1] are clipped,
                  unless the environment has an attribute clip_actions = False
    leaving       an agent that is done before the others, or is not among the observations, stays in the team until the
                  episode ends: its observation is zero but for its id, and what it does goes nowhere. It is back as
                  soon as it is among the observations and not done
    state         float32 (S,) in infos[first agent]["state"] after every reset and step, the last one included; what
                  the environment itself has there is under "env_state". Where agents can leave, it ends in N entries
                  that tell who is alive
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
from gymnasium.spaces import Box, Discrete, MultiDiscrete
from ray.rllib.env.multi_agent_env import MultiAgentEnv

from rllib_dima.core.layout import AgentLayout
from rllib_dima.core.names import check_name
from rllib_dima.envs.adapter import TeamAdapter, can_render_states, can_restore, find_attribute, joint_agents
from rllib_dima.envs.masks import MASK_SOURCES, ActionMasks, MaskSource
from rllib_dima.envs.observations import MASK_KEY, ObservationReader, read_array
from rllib_dima.envs.outcomes import (
    KEEP_AGENTS,
    TEAM_REWARDS,
    SimulationError,
    TeamReward,
    combine_rewards,
    counted_rewards,
    require_usable,
    reward_number,
    staying,
    team_flags,
)
from rllib_dima.envs.spaces import ContractError, EnvTypeError, box_size, in_range, refuse_old_gym, team_actions
from rllib_dima.envs.team import TeamEnv, require_agents

StateSource = Literal["environment", "observations"]
STATE_SOURCES = ("environment", "observations")
SIMULATION_ERROR = "__simulation_error__"  # key of an info; see the contract
RESET_ATTEMPTS = 5
LEAVE_STATE_OUT = 'Or have all observations concatenated instead: env_config={"state": "observations"}.'


class CooperativeEnv(TeamEnv):
    """Any cooperative `MultiAgentEnv` in the form that all algorithms here train on.

    The contract stands at the head of `rllib_dima/envs/cooperative.py`.

    The global state is the environment's own, if it offers one as PettingZoo does (a method `state()` and a Box
    `state_space`), and else the concatenation of all agents' unpadded observations.

    A one-hot agent id is appended to the observations, unless the environment declares with an attribute
    `observations_identify_agent = True` that the last N entries of every observation already identify its agent (by
    their largest entry) and all observations have the same size.

    Args:
        env: the environment. Observations of any space that gymnasium can flatten, but no images; Box actions with
            finite bounds, or Discrete, MultiDiscrete and MultiBinary actions, of one kind for all agents.
        team_reward: how the agents' rewards become the team's. "shared": they are equal, and it is an error if they
            are not; "mean" or "sum" of the agents' rewards.
        state: "environment": the environment's own state, if it offers one; "observations": never.
        agents_leave: whether agents may be done, or absent, while the others go on; None: whatever the environment says
            with an attribute `agents_leave`, or else no.
        action_masks: "auto": actions are masked if observations are Dicts with an "action_mask", or the environment has
            `get_avail_actions()`; "infos": they are, by the "action_mask" in infos. An attribute `action_masks` of the
            environment says the same.

    Attributes:
        env: the wrapped environment.
        layout: sizes and masks of observations and actions, the agents in order.
        state_space: Box of shape (S,), float32.
        observations_identify_agent: True, as every observation ends in its agent's id.

    Raises:
        EnvTypeError: `env` is no `MultiAgentEnv`, or is wrapped already.
        ContractError: unsupported agents or spaces.
        ValueError: an unknown `team_reward` or `state`, or flags that are no such.
    """

    observations_identify_agent = True

    possible_agents: list[Any]
    agents: list[Any]
    observation_spaces: dict[Any, gymnasium.Space]
    action_spaces: dict[Any, gymnasium.Space]

    def __init__(
        self,
        env: MultiAgentEnv,
        team_reward: TeamReward = "shared",
        state: StateSource = "environment",
        agents_leave: bool | None = None,
        action_masks: MaskSource | None = None,
    ) -> None:
        require_multi_agent(env)
        check_name(team_reward, TEAM_REWARDS, "team_reward")
        check_name(state, STATE_SOURCES, "state in env_config")
        self.env: Any = env  # it may have state(), get_state() and more than the class that RLlib wants
        self.metadata, self.render_mode, self.spec = dict(env.metadata), env.render_mode, env.spec
        super().__init__(ordered_agents(env))
        self._team_reward: TeamReward = team_reward
        self._clips = declared(env, "clip_actions", None, True)
        self._actions = team_actions({agent: env.get_action_space(agent) for agent in self.agents}, self._clips)
        spaces = {agent: env.get_observation_space(agent) for agent in self.agents}
        self._readers = {agent: ObservationReader(agent, space) for agent, space in spaces.items()}
        self._leave = declared(env, "agents_leave", agents_leave, False)
        source = declared(env, "action_masks", action_masks, "auto")
        check_name(source, MASK_SOURCES, "action_masks in env_config")
        self._masks = ActionMasks(env, self._readers, self._actions, source)
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
        sizes, actions = tuple(reader.size for reader in self._readers.values()), list(self._actions.values())
        identified = getattr(self.env, "observations_identify_agent", False) and len(set(sizes)) == 1
        masks, leave, kind = self._masks.source is not None, self._leave, actions[0].kind
        action_sizes = tuple(action.size for action in actions)
        seen = sum(sizes) + (sum(action_sizes) if masks else 0)
        state_size = box_size(self.env.state_space, "state_space") if self._offers_state else seen
        return AgentLayout(
            agent_ids=tuple(self.agents),
            state_size=state_size + (len(sizes) if leave else 0),
            observation_sizes=sizes,
            action_sizes=action_sizes,
            action_kind=kind,
            appends_agent_id=masks or leave or not identified,
            action_choices=tuple(action.choices for action in actions) if kind == "multi_discrete" else (),
            masks_actions=masks,
            agents_leave=leave,
            clips_actions=bool(self._clips),
        )

    def _build_spaces(self) -> None:
        layout = self.layout
        state, observation = (
            Box(-np.inf, np.inf, (size,), np.float32) for size in (layout.state_size, layout.observation_size)
        )
        action: gymnasium.Space = Box(-1.0, 1.0, (layout.action_size,), np.float32)
        if layout.is_discrete:
            action = MultiDiscrete(list(layout.block_sizes)) if layout.is_factored else Discrete(layout.action_size)
        self._share_spaces(state, observation, action)

    def _build_blank(self) -> None:
        """Prepares `_observe`: observations of padding and ids alone, and where own entries go."""
        layout = self.layout
        self._blank = np.zeros((layout.num_agents, layout.observation_size), np.float32)  # (N, O)
        if layout.appends_agent_id:
            self._blank[:, -layout.num_agents :] = np.eye(layout.num_agents)
        self._in_state = layout.observation_mask().numpy()  # (N, O): own entries and flags, not the appended id
        if layout.appends_agent_id:
            self._in_state[:, -layout.num_agents :] = False
        self._choices = [np.flatnonzero(own) for own in layout.action_mask().numpy()]
        self._alive = dict.fromkeys(self.agents, True)

    def _start(self, seed: int | None, options: dict | None) -> tuple[dict, dict]:
        try:
            observations, infos = self._reset_env(seed, options)
            self._note_alive(observations, set(observations))
            return self._observe(observations, infos)
        except ContractError as error:
            raise self._in_step(error) from error.__cause__

    def _read_actions(self, action_dict: Mapping[Any, Any]) -> dict:
        require_agents("action_dict", action_dict, self.agents)
        width, acting = self.layout.action_size, [agent for agent in self.agents if self._alive[agent]]
        return {agent: self._actions[agent].to_env(action_dict[agent], width) for agent in acting}

    def _advance(self, actions: dict) -> tuple[dict, float, bool, bool, dict]:
        try:
            observations, rewards, terminateds, truncateds, infos = self.env.step(actions)
            there = {*actions, *observations} if self._leave else self.agents
            terminated, truncated = team_flags(there, terminateds, truncateds, self._leave)
            self._note_alive(observations, staying(observations, terminateds, truncateds, terminated, truncated))
            observations, infos = self._observe(observations, infos, terminated or truncated)
            return observations, self._reward(rewards, actions), terminated, truncated, infos
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
            "alive": dict(self._alive),
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
        self._require_own(state, {"agents": self.agents}, "observations", "alive", "env")
        self.env.set_state(state["env"])
        self._resume(state)
        self._observations, self._alive = copy.copy(state["observations"]), dict(state["alive"])

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

    def _note_alive(self, observations: Mapping[Any, Any], staying: set) -> None:
        """Keeps who is alive: those who stay, of agents that can leave.

        Raises:
            ContractError: there are observations of unknown agents, or some lack though no agent leaves.
        """
        known = set(observations) & set(self.agents) if self._leave else self.agents
        require_agents("The environment's observations", observations, known, KEEP_AGENTS)
        self._alive = {agent: not self._leave or agent in staying for agent in self.agents}

    def _observe(
        self, observations: Mapping[Any, Any], infos: Mapping[Any, Any] | None, is_last: bool = False
    ) -> tuple[dict, dict]:
        """Padded observations, and infos with the state."""
        with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is reported below
            padded = self._padded(observations)
            self._set_flags(padded, observations, infos or {}, is_last)
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
        for row, (agent, reader) in zip(padded, self._readers.items(), strict=True):
            if self._alive[agent]:
                row[: reader.size] = reader.read(observations[agent])
        return padded

    def _set_flags(
        self, padded: np.ndarray, observations: Mapping[Any, Any], infos: Mapping[Any, Any], is_last: bool
    ) -> None:
        """Writes into observations which actions are available, and who is alive."""
        layout, alive = self.layout, [agent for agent in self.agents if self._alive[agent]]
        if layout.masks_actions:
            masks = self._masks.read(alive, observations, infos, is_last)
            for index, agent in enumerate(self.agents):
                if agent in masks:
                    padded[index, layout.available_slice][self._choices[index]] = masks[agent]
        elif layout.is_discrete:
            refuse_unread_masks(infos)
        if layout.agents_leave:
            padded[:, layout.alive_index] = list(self._alive.values())

    def _read_state(self, padded: np.ndarray) -> np.ndarray:
        """(S,) float32, in a new array."""
        if not self._offers_state:
            return padded[self._in_state]  # all agents' own entries, one agent after the other
        try:
            values, shape = self.env.state(), self.env.state_space.shape
        except SimulationError:
            raise
        except Exception as error:  # whatever an environment raises
            raise broken_state(self.env, error) from error
        state = read_array("the state", values, shape, f" {LEAVE_STATE_OUT}").astype(np.float32).reshape(-1)
        return np.append(state, padded[:, self.layout.alive_index]) if self._leave else state

    def _raise_non_finite(self, padded: np.ndarray, state: np.ndarray) -> None:
        for row, (agent, reader) in zip(padded, self._readers.items(), strict=True):
            require_usable(f"the observation of agent {agent!r}", row[: reader.size])
        require_usable("the state", state)

    def _reward(self, rewards: Mapping[Any, Any], acted: Mapping[Any, Any]) -> float:
        known = set(rewards) & set(self.agents) if self._leave else self.agents
        require_agents("The environment's rewards", rewards, known, KEEP_AGENTS)
        numbers = {agent: reward_number(agent, rewards[agent]) for agent in self.agents if agent in known}
        return combine_rewards(counted_rewards(numbers, self.agents, acted, self._team_reward), self._team_reward)


def declared(env: Any, name: str, setting: Any, default: Any) -> Any:
    """A setting, or else what the environment, or what it wraps, says in an attribute of that name."""
    found = find_attribute(env, name) if setting is None else setting
    return default if found is None else found


def refuse_unread_masks(infos: Mapping[Any, Any]) -> None:
    """Refuses masks of actions in infos of an environment that has not said that they are there.

    Raises:
        ContractError: there are.
    """
    masked = [agent for agent, info in infos.items() if isinstance(info, Mapping) and MASK_KEY in info]
    if masked:
        raise ContractError(
            f"Infos of agents {masked} have an {MASK_KEY!r}, but nothing says that actions are masked.",
            'Say so with env_config={"action_masks": "infos"}, or leave it out.',
        )


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
