"""What a step of an environment leads to, made the team's: one reward, one end, and numbers that can be used."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

import numpy as np

from rllib_dima.envs.observations import numbers_of
from rllib_dima.envs.spaces import LARGEST, ContractError, are_in_range, in_range
from rllib_dima.envs.team import ALL

TeamReward = Literal["shared", "mean", "sum"]
TEAM_REWARDS = ("shared", "mean", "sum")
SHARED_REWARD_TOLERANCE = 1e-6  # relative to the largest reward, or absolute below 1: float32 rounding passes
KEEP_AGENTS = (
    'If agents may leave, and perhaps come back, say so with env_config={"agents_leave": True}: DIMA then keeps them '
    "in the team until the episode ends. Else possible_agents must name all agents, and all must act at every step."
)


class NonFiniteError(ContractError, RuntimeError):
    """An environment produced NaN, infinity, or numbers beyond `LARGEST`."""


class SimulationError(RuntimeError):
    """A simulator broke down: its state became NaN, infinite or unstable, which says nothing about the task.

    Any environment may raise it. From `step()`: the episode is truncated and counted, and the step is not learnt from
    (the contract is at the head of `rllib_dima/envs/cooperative.py`). From `reset()`: it is called again, without a
    seed.
    """


def team_flags(
    agents: Iterable[Any],
    terminateds: Mapping[Any, bool],
    truncateds: Mapping[Any, bool],
    agents_leave: bool = False,
) -> tuple[bool, bool]:
    """(terminated, truncated) of the whole team, from flags per agent, under "__all__", or both.

    A team is terminated if "__all__" or every agent is. Where an environment marks the end of a time limit with a
    terminated "__all__", while each agent's own flags say truncated and not terminated, it counts as truncated.
    An end at which some agents are terminated and the others truncated is a truncation. Never both.

    Args:
        agents: all agents; of those that can leave, the ones that acted in this step or are there after it.
        terminateds: flags as an environment's `step` returns them.
        truncateds: likewise.
        agents_leave: whether some may be done while the others go on.

    Raises:
        ContractError: some agents are done and others are not, and the episode goes on.
    """
    if not (any(terminateds.values()) or any(truncateds.values())):  # almost every step
        return False, False
    own_terminated = {agent: bool(terminateds.get(agent, False)) for agent in agents}
    own_truncated = {agent: bool(truncateds.get(agent, False)) for agent in agents}
    done = [agent for agent in own_terminated if own_terminated[agent] or own_truncated[agent]]
    all_done = 0 < len(done) == len(own_terminated)
    ended_by_limit = all_done and all(own_truncated[agent] and not terminateds.get(agent, True) for agent in done)
    terminated = (all_done and all(own_terminated.values())) or (bool(terminateds.get(ALL)) and not ended_by_limit)
    ended = terminated or bool(truncateds.get(ALL, False)) or all_done
    if done and not ended and not agents_leave:
        raise ContractError(
            f"Agents {done} of {len(own_terminated)} are done while the episode goes on, but DIMA needs every agent "
            "until the end.",
            KEEP_AGENTS,
        )
    return terminated, ended and not terminated


def staying(
    agents: Iterable[Any],
    terminateds: Mapping[Any, bool],
    truncateds: Mapping[Any, bool],
    terminated: bool,
    truncated: bool,
) -> set:
    """Those of the observed agents who are alive after a step.

    Whoever is done leaves, but not where all end together: then only those leave who are terminated at a time limit, as
    the state after it has a value.

    Args:
        agents: of whom there are observations.
        terminateds: flags as an environment's `step` returns them.
        truncateds: likewise.
        terminated: whether the team is.
        truncated: whether the team is.
    """
    if terminated:
        return set(agents)
    leaving = {agent for agent in agents if terminateds.get(agent) or (truncateds.get(agent) and not truncated)}
    return set(agents) - leaving


def counted_rewards(
    rewards: Mapping[Any, float], agents: Iterable[Any], acted: Iterable[Any], team_reward: TeamReward
) -> dict[Any, float]:
    """The rewards that `combine_rewards` combines: of a shared one those of agents that acted, else those of all.

    Agents that have none, as they have left, count with 0, so that a mean does not rise when an agent leaves.

    Args:
        rewards: of the agents that have one.
        agents: all.
        acted: those that acted in this step.
        team_reward: as for `CooperativeEnv`.
    """
    if team_reward != "shared":
        return {agent: rewards.get(agent, 0.0) for agent in agents}
    counted = {agent: rewards[agent] for agent in acted if agent in rewards}
    return counted or dict.fromkeys(agents, 0.0)


def reward_number(agent: Any, reward: Any) -> float:
    """An agent's reward as a number.

    Args:
        agent: whose reward it is, for the error.
        reward: what the environment returned.

    Raises:
        ContractError: it is no single number.
        NonFiniteError: it is NaN, infinite or larger than `LARGEST` in size.
    """
    array = None if type(reward) is float else numbers_of(reward)
    if type(reward) is not float and (array is None or array.shape != ()):
        raise ContractError(
            f"The reward of agent {agent!r} is {reward!r} ({type(reward).__name__}), but must be one number.",
            "Return a float for every agent, for example float(reward) or float(reward.sum()).",
        )
    number = reward if array is None else float(array)
    if not abs(number) <= LARGEST:
        require_usable(f"the reward of agent {agent!r}", number)
    return number


def combine_rewards(rewards: Mapping[Any, float], team_reward: TeamReward) -> float:
    """The team's reward.

    Args:
        rewards: of every agent; "shared", of those that acted.
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
