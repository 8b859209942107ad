"""Teams behind gymnasium's interface as RLlib's multi-agent environments.

Wrappers' changes take effect, as with RLlib's own runner: the outermost wrapper is played, and agents, spaces and state
are those of the outermost layer that has any.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces, wrappers
from ray.rllib.env.multi_agent_env import MultiAgentEnv

from rllib_dima.envs.adapter import TeamAdapter, can_render_states, can_restore, joint_agents
from rllib_dima.envs.outcomes import KEEP_AGENTS
from rllib_dima.envs.spaces import ContractError, EnvTypeError
from rllib_dima.envs.team import ALL

WRAPPERS_FOR_TEAMS = (
    wrappers.TimeLimit,
    wrappers.OrderEnforcing,
    wrappers.PassiveEnvChecker,
    wrappers.TransformAction,
    wrappers.TransformObservation,
    wrappers.TransformReward,
    wrappers.HumanRendering,
    wrappers.RenderCollection,
    wrappers.RecordVideo,
    wrappers.AddWhiteNoise,
    wrappers.ObstructView,
)
"""Gymnasium's own wrappers that can take dicts by agent: they ignore values or pass them to the user's function."""


_MEMORIES = {wrappers.TimeLimit: ("_elapsed_steps",), wrappers.OrderEnforcing: ("_has_reset",)}
"""What the wrappers of `gymnasium.make` remember of an episode."""


class GymnasiumTeam(TeamAdapter):
    """A team behind gymnasium's interface.

    Either a `MultiAgentEnv` in gymnasium's wrappers, or an environment whose observation and action spaces are a Tuple
    or a Dict of agents, wrapped or not. Such an environment may return observations, rewards, flags and infos as a dict
    by agent or as a list, tuple or array of all agents; rewards and flags also as one for all, as gymnasium's
    `TimeLimit` does for every team.

    Agents of a Tuple are called "agent_0", "agent_1", and so on.

    Args:
        env: the environment; a `MultiAgentEnv` within it, or `joint_agents(env)`, tells the agents.
        stateful: what has the global state, if no layer of the environment has it.

    Raises:
        EnvTypeError: a wrapper of gymnasium's own that works on single agents only.
    """

    def __init__(self, env: gymnasium.Env, stateful: MultiAgentEnv | None = None) -> None:
        *around, base = layers(env)
        for wrapper in around:
            _require_for_teams(wrapper)
        self._around, self._base = around, base
        self._is_joint = not isinstance(base, MultiAgentEnv)
        self._acts_in_tuples = self._is_joint and isinstance(env.action_space, spaces.Tuple)
        if self._is_joint:
            agents = joint_agents(env)
            own_spaces = [_by_agent(space, agents) for space in (env.observation_space, env.action_space)]
        else:
            agents = list(_first([*around, base], "possible_agents")) or joint_agents(env)
            own_spaces = [{agent: _space(env, kind, agent) for agent in agents} for kind in ("observation", "action")]
        super().__init__(env, agents, *own_spaces)
        for name in ("state", "state_space"):
            if (value := _first([*around, base, stateful], name)) is not None:
                setattr(self, name, value)

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[dict, dict]:
        """Starts an episode.

        Args:
            seed: passed to the environment.
            options: passed to the environment.

        Returns:
            Observations and infos by agent.
        """
        observations, infos = self.env.reset(seed=seed, options=options)
        return _by_agent(observations, self.agents), self._infos(infos)

    def step(self, action_dict: Mapping[Any, Any]) -> tuple[dict, dict, dict, dict, dict]:
        """Moves all agents.

        Args:
            action_dict: the agents' actions.

        Returns:
            Observations, rewards, terminated and truncated flags and infos by agent; a flag for all under "__all__".
        """
        actions: Any = dict(action_dict)
        if self._acts_in_tuples:  # one of an agent that has left is needed, too, and has no effect
            idle = {agent: _idle(self.action_spaces[agent]) for agent in self.agents if agent not in action_dict}
            actions = tuple({**idle, **action_dict}[agent] for agent in self.agents)
        observations, rewards, terminateds, truncateds, infos = self.env.step(actions)
        if _is_one(rewards):
            rewards = dict.fromkeys(self.agents, rewards)
        flags = self._flags(terminateds), self._flags(truncateds)
        return _by_agent(observations, self.agents), _by_agent(rewards, self.agents), *flags, self._infos(infos)

    @property
    def can_restore(self) -> bool:
        """Whether the outermost layer can, or the innermost can and all others are wrappers of `gymnasium.make`."""
        return super().can_restore or (can_restore(self._base) and all(type(w) in _MEMORIES for w in self._around))

    def get_state(self) -> Any:
        """The outermost layer's own state, or the innermost's together with what the wrappers remember."""
        if super().can_restore:
            return super().get_state()
        memories = [{name: getattr(wrapper, name) for name in _MEMORIES[type(wrapper)]} for wrapper in self._around]
        return {"wrappers": memories, "env": self._base.get_state()}

    def set_state(self, state: Any) -> None:
        """Continues from what `get_state()` returned."""
        if super().can_restore:
            super().set_state(state)
            return
        self._base.set_state(state["env"])
        for wrapper, memory in zip(self._around, state["wrappers"], strict=True):
            vars(wrapper).update(memory)

    @property
    def can_render_states(self) -> bool:
        """Whether any layer can draw states."""
        return any(map(can_render_states, [*self._around, self._base]))

    def render_states(self, states: np.ndarray, start: Any) -> Iterable[np.ndarray]:
        """Passes states to the outermost layer that can draw them, and what was saved to it."""
        layer = next(layer for layer in [*self._around, self._base] if can_render_states(layer))
        is_inner = start is not None and not super().can_restore
        return layer.render_states(states, start["env"] if is_inner else start)

    def _flags(self, flags: Any) -> dict:
        """Flags by agent, or only "__all__" where there is one flag for all."""
        if _is_one(flags):
            return {ALL: bool(flags)}
        flags = _by_agent(flags, self.agents)
        return {ALL: all(flags.get(agent) for agent in self.agents), **flags} if self._is_joint else flags

    def _infos(self, infos: Any) -> dict:
        """Infos by agent; an info of the whole team is the first agent's."""
        if self._is_joint and isinstance(infos, Mapping) and not infos.keys() <= set(self.agents):
            return {self.agents[0]: infos}
        return _by_agent(infos or {}, self.agents)


def layers(env: Any) -> list:
    """Gymnasium's wrappers from the outermost inwards, and what they wrap; a `MultiAgentEnv` is the last."""
    found = [env]
    while isinstance(found[-1], gymnasium.Wrapper) and not isinstance(found[-1], MultiAgentEnv):
        found.append(found[-1].env)
    return found


def _require_for_teams(wrapper: gymnasium.Wrapper) -> None:
    single = [kind for kind in type(wrapper).__mro__ if kind.__module__.startswith("gymnasium.wrappers.")]
    if single and single[0] not in WRAPPERS_FOR_TEAMS:
        raise EnvTypeError(
            f"The wrapper {type(wrapper).__name__} of gymnasium is made for single agents: it does not know "
            "observations, rewards and flags by agent.",
            "Leave it out, or write a gymnasium.Wrapper whose reset() and step() take and return dicts by agent.",
        )


def _first(candidates: list, name: str) -> Any:
    """An attribute of the first layer that has it; None if none has."""
    found = (getattr(candidate, name, None) for candidate in candidates)
    return next((value for value in found if value is not None), None)


def _space(env: Any, kind: str, agent: Any) -> Any:
    """An agent's space, as told by the outermost layer that has changed spaces."""
    if hasattr(env, f"get_{kind}_space"):
        return getattr(env, f"get_{kind}_space")(agent)
    own, joint = getattr(env, f"{kind}_spaces", None), getattr(env, f"{kind}_space")
    if own is None and joint is not getattr(env.env, f"{kind}_space"):
        own = joint
    if own is None:
        return _space(env.env, kind, agent)
    return own[agent] if isinstance(own, Mapping) else own


def _idle(space: gymnasium.Space) -> Any:
    """The action of the space that is nearest to 0."""
    if isinstance(space, spaces.Discrete):
        return int(space.start)
    if isinstance(space, spaces.MultiDiscrete):
        return space.start.copy()
    zeros = np.zeros(space.shape or (), space.dtype)
    return np.clip(zeros, space.low, space.high) if isinstance(space, spaces.Box) else zeros


def _is_one(value: Any) -> bool:
    """Whether a reward or a flag is one for all agents."""
    return not isinstance(value, (Mapping, list, tuple)) and np.ndim(value) == 0


def _by_agent(values: Any, agents: list) -> dict:
    """What a dict, list, tuple or array holds for every agent.

    Raises:
        ContractError: there are more or fewer values than agents.
    """
    if isinstance(values, Mapping):
        return dict(values)
    if len(values) != len(agents):
        raise ContractError(f"There are {len(values)} results for the {len(agents)} agents {agents}.", KEEP_AGENTS)
    return dict(zip(agents, values, strict=True))
