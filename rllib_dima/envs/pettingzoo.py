"""PettingZoo's parallel environments as RLlib's multi-agent environments, and the other way round.

    PettingZoo ParallelEnv  --PettingZooEnv-->  RLlib MultiAgentEnv  --to_pettingzoo-->  PettingZoo ParallelEnv

Differences between the two: PettingZoo has no "__all__" flag and empties `agents` at the end of an episode; its
`state()` exists in every environment and raises NotImplementedError where it means nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box
from pettingzoo import AECEnv, ParallelEnv
from ray.rllib.env.multi_agent_env import MultiAgentEnv

from rllib_dima.envs.adapter import TeamAdapter, can_render_states, can_restore
from rllib_dima.envs.cooperative import broken_state, offers_state
from rllib_dima.envs.outcomes import team_flags
from rllib_dima.envs.spaces import EnvTypeError
from rllib_dima.envs.team import ALL, require_running


class PettingZooEnv(TeamAdapter):
    """Any parallel PettingZoo environment as an RLlib `MultiAgentEnv`, with its global state.

    It has `state()` and `state_space` only if the environment's `state()` works; an environment without a `state_space`
    then gets a Box of the shape of its first state. To find out, an environment that may have a state is reset once.

    Args:
        par_env: the PettingZoo environment.
        use_state: False: never to ask for the state.
        given: what the user gave, if not `par_env`.

    Attributes:
        par_env: the PettingZoo environment.

    Raises:
        EnvTypeError: `par_env` is no parallel PettingZoo environment.
        ContractError: its `state()` fails.
    """

    def __init__(self, par_env: ParallelEnv, use_state: bool = True, given: Any = None) -> None:
        _require_parallel(par_env)
        self.par_env = par_env
        agents = list(getattr(par_env, "possible_agents", []))
        own_spaces = [
            {agent: space(agent) for agent in agents} for space in (par_env.observation_space, par_env.action_space)
        ]
        super().__init__(par_env, agents, *own_spaces)
        self.given = given or par_env
        if use_state:
            self._offer_state()

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[dict, dict]:
        """Starts an episode.

        Args:
            seed: passed to the environment.
            options: passed to the environment.

        Returns:
            Observations and infos of all agents.
        """
        observations, infos = self.par_env.reset(seed=seed, options=options)
        return dict(observations), dict(infos or {})

    def step(self, action_dict: Mapping[Any, Any]) -> tuple[dict, dict, dict, dict, dict]:
        """Moves all agents.

        Args:
            action_dict: the agents' actions.

        Returns:
            Observations, rewards, terminated and truncated flags and infos, as the environment gives them. The flag
            "__all__" is set once no agent is left: terminated if all agents that acted last are terminated, else
            truncated.
        """
        observations, rewards, terminateds, truncateds, infos = self.par_env.step(dict(action_dict))
        has_ended = not self.par_env.agents or self._all_done(terminateds, truncateds)
        terminated = has_ended and bool(terminateds) and all(terminateds.values())
        flags = {**terminateds, ALL: terminated}, {**truncateds, ALL: has_ended and not terminated}
        return dict(observations), dict(rewards), *flags, dict(infos or {})

    def _all_done(self, terminateds: Mapping[Any, bool], truncateds: Mapping[Any, bool]) -> bool:
        return all(terminateds.get(agent, False) or truncateds.get(agent, False) for agent in self.possible_agents)

    def _offer_state(self) -> None:
        """Sets `state` and `state_space` of this instance, if the environment's `state()` works."""
        state = _first_state(self.par_env)
        if state is None:
            return
        space = getattr(self.par_env, "state_space", None)
        self.state_space = Box(-np.inf, np.inf, np.shape(state), np.float32) if space is None else space
        self.state = self.par_env.state


def to_pettingzoo(env: MultiAgentEnv) -> ParallelEnv:
    """Presents a cooperative environment as a parallel PettingZoo environment.

    Args:
        env: an environment whose agents all act at every step, such as `MAMuJoCo` or a `CooperativeEnv`.

    Raises:
        EnvTypeError: `env` is no `MultiAgentEnv`.
        ContractError: it has only one of `state()` and `state_space`.
    """
    if not isinstance(env, MultiAgentEnv):
        found = f"to_pettingzoo needs an RLlib MultiAgentEnv, but was given a {type(env).__name__}."
        raise EnvTypeError(found, "Convert the environment to one first.")
    return ParallelTeam(env)


class ParallelTeam(ParallelEnv):
    """A cooperative `MultiAgentEnv` as a parallel PettingZoo environment; made by `to_pettingzoo`.

    Every agent gets the team's flags. `agents` is empty before the first reset and after the end of an episode.

    Args:
        env: the environment.

    Attributes:
        env: the environment.
        state_space: the environment's own; missing if it has none.
    """

    def __init__(self, env: MultiAgentEnv) -> None:
        self.env: Any = env  # it may have state(), get_state() and set_state()
        self.metadata = {"name": type(env).__name__, **env.metadata}
        self.render_mode = env.render_mode
        self.possible_agents, self.agents = list(env.possible_agents), []
        self.observations_identify_agent = getattr(env, "observations_identify_agent", False)
        self._has_state = offers_state(env)
        if self._has_state:
            self.state_space = self.env.state_space

    def observation_space(self, agent: Any) -> gymnasium.Space:
        """The agent's own observation space, the same object at every call."""
        return self.env.get_observation_space(agent)

    def action_space(self, agent: Any) -> gymnasium.Space:
        """The agent's own action space, the same object at every call."""
        return self.env.get_action_space(agent)

    def reset(self, seed: int | None = None, options: dict | None = None) -> tuple[dict, dict]:
        """Starts an episode.

        Args:
            seed: passed to the environment.
            options: passed to the environment.

        Returns:
            Observations and infos of all agents.
        """
        observations, infos = self.env.reset(seed=seed, options=options)
        self.agents = list(self.possible_agents)
        return dict(observations), self._infos(infos)

    def step(self, actions: Mapping[Any, Any]) -> tuple[dict, dict, dict, dict, dict]:
        """Moves all agents.

        Args:
            actions: of every agent.

        Returns:
            Observations, rewards, terminated and truncated flags and infos of all agents.

        Raises:
            RuntimeError: no episode is running.
            SimulationError: the environment raises it; only `reset()` helps.
            ContractError: some agents are done and others are not.
        """
        require_running(bool(self.agents))
        observations, rewards, terminateds, truncateds, infos = self.env.step(dict(actions))
        team = team_flags(self.possible_agents, terminateds, truncateds)
        terminated, truncated = (dict.fromkeys(self.possible_agents, flag) for flag in team)
        self.agents = [] if any(team) else list(self.possible_agents)
        return dict(observations), dict(rewards), terminated, truncated, self._infos(infos)

    def state(self) -> np.ndarray:
        """The global state.

        Raises:
            NotImplementedError: the environment has none.
        """
        return self.env.state() if self._has_state else super().state()

    def render(self) -> Any:
        """What the environment's own `render()` returns."""
        return self.env.render()

    def close(self) -> None:
        """Closes the environment."""
        self.env.close()

    @property
    def can_restore(self) -> bool:
        """Whether the environment has `get_state()` and `set_state()`."""
        return can_restore(self.env)

    def get_state(self) -> dict[str, Any]:
        """What the environment's own `get_state()` returns, and the agents that are present."""
        return {"agents": list(self.agents), "env": self.env.get_state()}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Continues from what `get_state()` returned, if the environment can."""
        self.env.set_state(state["env"])
        self.agents = list(state["agents"])

    @property
    def can_render_states(self) -> bool:
        """Whether the environment has `render_states()`."""
        return can_render_states(self.env)

    def render_states(self, states: np.ndarray, start: Mapping[str, Any] | None) -> Iterable[np.ndarray]:
        """Pictures of global states, as the environment draws them; see `CooperativeEnv.render_states`."""
        return self.env.render_states(states, None if start is None else start["env"])

    def _infos(self, infos: Mapping[Any, dict] | None) -> dict:
        return {**{agent: {} for agent in self.possible_agents}, **(infos or {})}


def _first_state(par_env: ParallelEnv) -> Any:
    """The state after a reset; None if the environment's `state()` is not implemented."""
    if type(par_env).state is ParallelEnv.state:
        return None
    par_env.reset()  # wrappers may refuse state() before it
    try:
        return par_env.state()
    except NotImplementedError:
        return None
    except Exception as error:  # whatever an environment raises
        raise broken_state(par_env, error) from error


def _require_parallel(env: Any) -> None:
    if isinstance(env, AECEnv):
        raise turn_based(env)
    if not isinstance(env, ParallelEnv):
        found = f"PettingZooEnv needs a pettingzoo.ParallelEnv, but was given a {type(env).__name__}."
        raise EnvTypeError(found, "An RLlib MultiAgentEnv needs no conversion.")


def turn_based(env: AECEnv) -> EnvTypeError:
    """The error for PettingZoo's turn-based form."""
    return EnvTypeError(
        f"{env} is a turn-based (AEC) PettingZoo environment, but DIMA's agents act all at once.",
        "Use its parallel form: parallel_env() of the module it comes from, or "
        "pettingzoo.utils.conversions.aec_to_parallel(env).",
    )
