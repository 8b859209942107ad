"""The environments of one runner, as RLlib's runner wants them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium.spaces import Dict
from ray.rllib.env.vector.vector_multi_agent_env import VectorMultiAgentEnv

from rllib_dima.envs import CooperativeEnv
from rllib_dima.envs.team import ALL

Result = tuple[dict, dict, dict, dict, dict]
"""Observations, rewards, terminated and truncated flags and infos, by agent."""

Seeds = list[int | None]
"""None: as the environment draws."""


class TeamVector(VectorMultiAgentEnv):
    """Teams that are stepped one after the other. A step after an episode's end is a reset.

    Teams can be assigned the episodes that they play. The first N episodes to end among several teams would be the
    short ones; so here every team plays those assigned to it and then rests: it is not stepped, and its last
    observation is repeated.

    RLlib's own class asks `envs[i].unwrapped` for agents and spaces, but that is the user's environment here, so that
    callbacks reach it. This class asks the teams.

    Args:
        teams: at least one, all alike.

    Attributes:
        envs: the teams.
        must_reset: by team, whether its episode has ended; None before the first reset.
        due: by team, seeds of the episodes that it has to end, the running one first; None: no limit.
        resting: by team, whether it has ended all of them.
    """

    envs: list[CooperativeEnv]

    def __init__(self, teams: Sequence[CooperativeEnv]) -> None:
        super().__init__()
        self.envs, self.num_envs = list(teams), len(teams)
        self.must_reset: list[bool] | None = None
        self.due: list[Seeds] | None = None
        self.resting = [False] * self.num_envs
        first = self.envs[0]
        self.metadata, self.render_mode = {**first.metadata, "autoreset_mode": "next_step"}, first.render_mode
        self.single_observation_spaces, self.single_action_spaces = first.observation_spaces, first.action_spaces
        self.single_observation_space = Dict(first.observation_spaces)
        self.single_action_space = Dict(first.action_spaces)

    def assign(self, seeds: Seeds | None) -> None:
        """Shares out episodes, one per seed, which begin with the next reset; None: no limit."""
        self.due = None if seeds is None else [seeds[index :: self.num_envs] for index in range(self.num_envs)]

    def go_on(self, must_reset: list[bool]) -> None:
        """Goes on with episodes that were restored into the teams, without a limit.

        Args:
            must_reset: by team, whether its episode has ended.
        """
        self.must_reset, self.due, self.resting = must_reset, None, [False] * self.num_envs

    def take_over(self, due: list[Seeds] | None) -> None:
        """Takes over the episodes that failed teams had yet to play; running ones get new seeds, or may fail again."""
        self.due = due and [[_other(seed) for seed in episodes[:1]] + episodes[1:] for episodes in due]

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[tuple, ...]:
        """Starts an episode in every team.

        Args:
            seed: of the first team, from which those of the others follow, where episodes that are due have none.
            options: passed to every team.

        Returns:
            Observations and infos, by team and agent.
        """
        seeds = [_other(seed, index) if index else seed for index in range(self.num_envs)]
        if self.due is not None:
            own = [next(iter(episodes), None) for episodes in self.due]
            seeds = [other if number is None else number for number, other in zip(own, seeds, strict=True)]
        results = [team.reset(seed=seed, options=options) for team, seed in zip(self.envs, seeds, strict=True)]
        self.must_reset = [False] * self.num_envs
        self.resting = [self.due is not None and not self.due[index] for index in range(self.num_envs)]
        self._last = [_quiet(team, *result) for team, result in zip(self.envs, results, strict=True)]
        return tuple(zip(*results, strict=True))

    def step(self, actions: Sequence[Mapping[Any, Any]]) -> tuple[tuple, ...]:
        """Moves every team, or resets it if its episode has ended, unless it rests.

        Args:
            actions: by team and agent.

        Returns:
            Observations, rewards, terminated and truncated flags and infos, by team and agent.
        """
        results = [self._step(index, action) for index, action in enumerate(actions)]
        self.must_reset = [terminateds[ALL] or truncateds[ALL] for _, _, terminateds, truncateds, _ in results]
        self._last = results
        return tuple(zip(*results, strict=True))

    def _step(self, index: int, action: Mapping[Any, Any]) -> Result:
        team, due = self.envs[index], None if self.due is None else self.due[index]
        if self.must_reset[index]:
            if due is None:
                return _quiet(team, *team.reset())
            due.pop(0)
            if due:
                return _quiet(team, *team.reset(seed=due[0]))
            self.resting[index] = True
        if self.resting[index]:
            observations, *_, infos = self._last[index]
            return _quiet(team, observations, infos)
        return team.step(action)

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


def _quiet(team: CooperativeEnv, observations: dict, infos: dict) -> Result:
    """What a step returns for a team that rests or was just reset."""
    return observations, dict.fromkeys(team.agents, 0.0), {ALL: False}, {ALL: False}, infos


def _other(seed: int | None, *key: int) -> int | None:
    return None if seed is None else int(np.random.SeedSequence([seed, *key]).generate_state(1)[0])
