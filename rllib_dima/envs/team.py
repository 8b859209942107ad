"""What all environments of ours share: agents that all act at every step, episodes, the global state and saving."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any

import gymnasium
import numpy as np
from ray.rllib.env.multi_agent_env import MultiAgentEnv

from rllib_dima.envs.spaces import ContractError, finite_action

ALL = "__all__"


class TeamEnv(MultiAgentEnv, ABC):
    """A team with one reward and one end; after an end or an error only `reset()` helps.

    A subclass sets its spaces and has `_start`, `_read_actions` and `_advance`; both `_start` and `_advance` must set
    `self._state`.

    Args:
        agents: all agents, in order.
    """

    def __init__(self, agents: Iterable[Any]) -> None:
        self.possible_agents = list(agents)
        self.agents = list(self.possible_agents)
        super().__init__()
        self._num_steps = 0
        self._is_running = False
        self._state: np.ndarray | None = None

    def _share_spaces(self, state: gymnasium.Space, observation: gymnasium.Space, action: gymnasium.Space) -> None:
        """Sets the spaces of agents that are all alike."""
        self.state_space = state
        self.observation_spaces = dict.fromkeys(self.agents, observation)
        self.action_spaces = dict.fromkeys(self.agents, action)

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[dict, dict]:
        """Starts an episode, even in the middle of another.

        Args:
            seed: seed of the environment's random numbers; None continues the present stream.
            options: passed to the environment, if it has any.

        Returns:
            Observations of all agents, and infos with the state (S,) in `infos[first agent]["state"]`.

        Raises:
            SimulationError: the simulator broke down.
        """
        self._is_running = False
        self._num_steps = 0
        result = self._start(seed, options)
        self._is_running = True
        return result

    def step(self, action_dict: Mapping[Any, Any]) -> tuple[dict, dict, dict, dict, dict]:
        """Moves all agents at once.

        Args:
            action_dict: for every agent an action of its space; continuous ones are clipped.

        Returns:
            Observations and rewards of all agents, flags under "__all__", and infos with the state (S,) in
            `infos[first agent]["state"]`.

        Raises:
            RuntimeError: no episode is running.
            ValueError: missing or unknown agents; actions of a wrong shape, or not finite.
            SimulationError: the simulator broke down.
        """
        require_running(self._is_running)
        actions = self._read_actions(action_dict)
        self._is_running = False  # until the step has succeeded
        self._num_steps += 1
        observations, reward, terminated, truncated, infos = self._advance(actions)
        self._is_running = not (terminated or truncated)
        return observations, dict.fromkeys(self.agents, reward), {ALL: terminated}, {ALL: truncated}, infos

    def state(self) -> np.ndarray:
        """(S,) float32: a copy of the present global state.

        Raises:
            RuntimeError: the environment was never reset.
        """
        return self._require_state().copy()

    @abstractmethod
    def _start(self, seed: int | None, options: dict | None) -> tuple[dict, dict]:
        """Begins an episode; returns observations and infos."""

    @abstractmethod
    def _read_actions(self, action_dict: Mapping[Any, Any]) -> Any:
        """The agents' actions, checked, in the form that `_advance` takes."""

    @abstractmethod
    def _advance(self, actions: Any) -> tuple[dict, float, bool, bool, dict]:
        """Makes a step; returns observations, the team's reward, terminated, truncated and infos."""

    def _finite_actions(self, action_dict: Mapping[Any, Any]) -> list[np.ndarray]:
        """Every agent's continuous action (A,), in order, not clipped."""
        require_agents("action_dict", action_dict, self.agents)
        return [finite_action(agent, action_dict[agent], space.shape[0]) for agent, space in self.action_spaces.items()]

    def _team_info(self, **info: Any) -> dict[Any, dict]:
        """Infos in which the first agent's hold the team's and the state."""
        return {self.agents[0]: {**info, "state": self._state.copy()}}

    def _require_state(self) -> np.ndarray:
        if self._state is None:
            raise RuntimeError("There is no state before the first episode: call reset() first.")
        return self._state

    def _progress(self) -> dict[str, Any]:
        """The entries that `get_state()` of a subclass must hold."""
        return {"num_steps": self._num_steps, "is_running": self._is_running, "state": copy.copy(self._state)}

    def _resume(self, state: Mapping[str, Any]) -> None:
        """Takes over what `_progress()` returned."""
        self._num_steps, self._is_running = int(state["num_steps"]), bool(state["is_running"])
        self._state = copy.copy(state["state"])

    def _require_own(self, state: Any, own: Mapping[str, Any], *others: str) -> None:
        """Refuses a state that is not from `get_state()` of this environment or of one made alike.

        Args:
            state: what was given.
            own: the entries in which this environment differs from others.
            others: names of the remaining entries, but for those of `_progress()`.

        Raises:
            ValueError: other entries, or those of another environment.
        """
        expected = {*own, *others, *self._progress()}
        if not isinstance(state, Mapping) or set(state) != expected:
            given = sorted(map(str, state)) if isinstance(state, Mapping) else type(state).__name__
            raise ValueError(f"set_state() needs what get_state() returned, {sorted(expected)}, but was given {given}.")
        own = {**own, "shape of the state": self.state_space.shape}
        shape = own["shape of the state"] if state["state"] is None else np.shape(state["state"])
        given = {name: state.get(name, shape) for name in own}
        if given != own:
            raise ValueError(f"The state is that of another environment, {given}, but this one is {own}.")


def require_running(is_running: bool) -> None:
    """Refuses a step without an episode.

    Raises:
        RuntimeError: no episode is running.
    """
    if not is_running:
        raise RuntimeError("step() needs a running episode: call reset() first, and again after every end or error.")


def require_agents(what: str, given: Mapping[Any, Any], agents: Iterable[Any], advice: str = "") -> None:
    """Refuses a dict that does not hold exactly one entry per agent.

    Args:
        what: what the dict is, for the error.
        given: the dict.
        agents: the agents it must have.
        advice: what to do about it, if the environment gave the dict.

    Raises:
        ContractError: agents are missing or unknown.
    """
    agents = list(agents)
    if given.keys() == set(agents):
        return
    missing = [agent for agent in agents if agent not in given]
    unknown = [agent for agent in given if agent not in agents]
    raise ContractError(
        f"{what} must have one entry for each of {agents}. Missing: {missing}; unknown: {unknown}.", advice
    )


def require_states(states: np.ndarray, size: int) -> None:
    """Refuses anything but (T, S) global states.

    Args:
        states: what was given.
        size: S.

    Raises:
        ValueError: another shape.
    """
    if np.ndim(states) != 2 or np.shape(states)[1] != size:
        raise ValueError(
            f"The states of this environment have {size} entries, but an array of shape {np.shape(states)} was given "
            f"instead of (T, {size}). Only the environment's own states can be drawn."
        )
