"""What the adapters of other interfaces to RLlib's `MultiAgentEnv` have in common."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from ray.rllib.env.multi_agent_env import MultiAgentEnv


class TeamAdapter(MultiAgentEnv):
    """What all adapters have in common: everything but the episodes.

    Args:
        env: what is adapted.
        agents: all agents.
        observation_spaces: by agent.
        action_spaces: by agent.

    Attributes:
        env: what is adapted.
        given: what the user gave; callbacks reach it.
    """

    def __init__(
        self,
        env: Any,
        agents: Iterable[Any],
        observation_spaces: Mapping[Any, gymnasium.Space],
        action_spaces: Mapping[Any, gymnasium.Space],
    ) -> None:
        self.env = self.given = env
        self.metadata = dict(getattr(env, "metadata", None) or {})
        self.render_mode, self.spec = getattr(env, "render_mode", None), getattr(env, "spec", None)
        self.possible_agents, self.agents = list(agents), list(agents)
        super().__init__()
        self.observation_spaces, self.action_spaces = dict(observation_spaces), dict(action_spaces)
        self.observations_identify_agent = getattr(env, "observations_identify_agent", False)

    @property
    def unwrapped(self) -> Any:
        """The user's environment, within all wrappers."""
        return self.given.unwrapped

    def render(self) -> Any:
        """What the environment's own `render()` returns."""
        return self.env.render()

    def close(self) -> None:
        """Closes the environment."""
        self.env.close()

    @property
    def can_restore(self) -> bool:
        """Whether the environment, of wrappers the outermost, has `get_state()` and `set_state()`."""
        return can_restore(self.env)

    def get_state(self) -> Any:
        """What the environment's own `get_state()` returns."""
        return self.env.get_state()

    def set_state(self, state: Any) -> None:
        """Passes a state to the environment's own `set_state()`."""
        self.env.set_state(state)

    @property
    def can_render_states(self) -> bool:
        """Whether the environment, of wrappers the outermost, has `render_states()`."""
        return can_render_states(self.env)

    def render_states(self, states: np.ndarray, start: Any) -> Iterable[np.ndarray]:
        """Passes states to the environment's own `render_states()`."""
        return self.env.render_states(states, start)


def can_restore(env: Any) -> bool:
    """Whether an environment offers both `get_state()` and `set_state()`.

    A wrapper always has both methods; it says with an attribute `can_restore` whether what it wraps has them.
    """
    has_methods = all(callable(getattr(env, name, None)) for name in ("get_state", "set_state"))
    return has_methods and getattr(env, "can_restore", True)


def can_render_states(env: Any) -> bool:
    """Whether an environment offers `render_states()`; a wrapper says so as for `can_restore`."""
    return callable(getattr(env, "render_states", None)) and getattr(env, "can_render_states", True)


def find_attribute(env: Any, name: str) -> Any:
    """An attribute of the outermost layer of an environment that has it; None if none has."""
    while env is not None:
        if (value := getattr(env, name, None)) is not None:
            return value
        inner = getattr(env, "env", None)
        env = None if inner is env else inner
    return None


def joint_agents(env: Any) -> list:
    """The agents of an environment whose spaces are both a Tuple or Dict of agents; empty for any other."""
    observations, actions = (getattr(env, f"{kind}_space", None) for kind in ("observation", "action"))
    if isinstance(observations, spaces.Dict) and isinstance(actions, spaces.Dict):
        return list(actions) if set(actions) == set(observations) else []
    if isinstance(observations, spaces.Tuple) and isinstance(actions, spaces.Tuple):
        return [f"agent_{index}" for index in range(len(actions))] if len(actions) == len(observations) else []
    return []
