"""The environments of one runner, as RLlib's runner wants them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gymnasium.spaces import Dict
from ray.rllib.env.vector.vector_multi_agent_env import VectorMultiAgentEnv

from rllib_dima.envs import CooperativeEnv
from rllib_dima.envs.base import ALL


class TeamVector(VectorMultiAgentEnv):
    """Teams that are stepped one after the other. A step after an episode's end is a reset.

    RLlib's own class asks `envs[i].unwrapped` for agents and spaces, but that is the user's environment here, so that
    callbacks reach it. This class asks the teams.

    Args:
        teams: at least one, all alike.

    Attributes:
        envs: the teams.
        must_reset: by team, whether its episode has ended; None before the first reset.
    """

    def __init__(self, teams: Sequence[CooperativeEnv]) -> None:
        super().__init__()
        self.envs, self.num_envs = list(teams), len(teams)
        self.must_reset: list[bool] | None = None
        first = self.envs[0]
        self.metadata, self.render_mode = {**first.metadata, "autoreset_mode": "next_step"}, first.render_mode
        self.single_observation_spaces, self.single_action_spaces = first.observation_spaces, first.action_spaces
        self.single_observation_space = Dict(first.observation_spaces)
        self.single_action_space = Dict(first.action_spaces)

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[tuple, ...]:
        """Starts an episode in every team.

        Args:
            seed: of the first team; the others have the next ones.
            options: passed to every team.

        Returns:
            Observations and infos, by team and agent.
        """
        seeds = [None if seed is None else seed + index for index in range(self.num_envs)]
        results = [team.reset(seed=seed, options=options) for team, seed in zip(self.envs, seeds, strict=True)]
        self.must_reset = [False] * self.num_envs
        return tuple(zip(*results, strict=True))

    def step(self, actions: Sequence[Mapping[Any, Any]]) -> tuple[tuple, ...]:
        """Moves every team, or resets it if its episode has ended.

        Args:
            actions: by team and agent.

        Returns:
            Observations, rewards, terminated and truncated flags and infos, by team and agent.
        """
        results = [
            _reset_in_step(team) if has_ended else team.step(action)
            for team, action, has_ended in zip(self.envs, actions, self.must_reset, strict=True)
        ]
        self.must_reset = [terminateds[ALL] or truncateds[ALL] for _, _, terminateds, truncateds, _ in results]
        return tuple(zip(*results, strict=True))

    def render(self) -> tuple:
        """A picture of every team."""
        return tuple(team.render() for team in self.envs)

    def call(self, name: str, *args: Any, **kwargs: Any) -> tuple:
        """Calls a method of every user's environment; an attribute is returned.

        Args:
            name: of the method.
            *args: passed to it.
            **kwargs: passed to it.
        """
        found = self.get_attr(name)
        return tuple(method(*args, **kwargs) if callable(method) else method for method in found)

    def get_attr(self, name: str) -> tuple:
        """An attribute of every user's environment.

        Args:
            name: of the attribute.
        """
        return tuple(team.get_wrapper_attr(name) for team in self.envs)

    def set_attr(self, name: str, values: Any) -> None:
        """Sets an attribute of every user's environment.

        Args:
            name: of the attribute.
            values: one for all, or a list or tuple of one for each.
        """
        if not isinstance(values, (list, tuple)):
            values = [values] * self.num_envs
        for team, value in zip(self.envs, values, strict=True):
            team.set_wrapper_attr(name, value)

    def close_extras(self, **kwargs: Any) -> None:
        """Closes every team."""
        for team in self.envs:
            team.close()


def _reset_in_step(team: CooperativeEnv) -> tuple[dict, dict, dict, dict, dict]:
    observations, infos = team.reset()
    return observations, dict.fromkeys(team.agents, 0.0), {ALL: False}, {ALL: False}, infos
