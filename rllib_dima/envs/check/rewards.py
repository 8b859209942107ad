"""Whether agents' rewards of their own can be made one of the team, and how.

Of rewards r_i that differ, the variance of their sum over the sum of their variances tells how they go together: N if
all want the same, 1 if each has a part of its own, 0 if what one wins the others lose.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from rllib_dima.envs.check.report import EnvReport
from rllib_dima.envs.outcomes import SHARED_REWARD_TOLERANCE

CONFLICT = 0.5
"""Below it agents' rewards are against each other."""
MIN_STEPS = 10
"""Steps in which rewards differ, before anything is said of them."""


def judge_rewards(
    report: EnvReport, agents: Sequence[Any], rewards: np.ndarray, difference: tuple[str, str] | None
) -> None:
    """Says of rewards that differ whether the team's is to be their mean or their sum, or that there is no such team.

    Args:
        report: where it is said.
        agents: N of them.
        rewards: (T, N) of T steps, NaN of agents that had left.
        difference: of rewards that should have been shared but differed: what was found, and what to do.
    """
    own = total = 0.0
    if _num_different(rewards) >= MIN_STEPS:
        known = np.nan_to_num(rewards)
        own, total = known.var(axis=0).sum(), known.sum(axis=1).var()
        if total < CONFLICT * own:
            _refuse(report, agents, known, total / own)
            return
    if difference is not None:
        found, advice = difference
        fits = "mean" if total > (1 + len(agents)) / 2 * own else "sum"
        report.add("error", "rewards", found, f"{_ways(total / own, len(agents))} {_FIT[fits]}" if own else advice)


def _num_different(rewards: np.ndarray) -> int:
    """Steps in which agents that were there had different rewards."""
    paid = rewards[~np.isnan(rewards).all(axis=1)] if len(rewards) else rewards
    if not len(paid):
        return 0
    spread, size = np.nanmax(paid, axis=1) - np.nanmin(paid, axis=1), np.nanmax(np.abs(paid), axis=1).clip(min=1)
    return int((spread > SHARED_REWARD_TOLERANCE * size).sum())


def _ways(ratio: float, num_agents: int) -> str:
    how = (
        "They mostly rise and fall together" if ratio > (1 + num_agents) / 2 else "Each is mostly paid for its own part"
    )
    return f"{how} (variance of the sum over the sum of variances: {ratio:.2g}; {num_agents} if all are equal)."


def _refuse(report: EnvReport, agents: Sequence[Any], rewards: np.ndarray, ratio: float) -> None:
    total, largest = rewards.sum(axis=1), np.abs(rewards).max()
    is_constant = np.ptp(total) <= 1e-4 * largest
    if is_constant:
        found = f"the agents' rewards add up to {total.mean():.3g} in every step: what one wins, others lose."
    else:
        correlations = np.corrcoef(rewards[:, rewards.std(axis=0) > 0], rowvar=False)
        first, second = np.unravel_index(np.argmin(correlations), correlations.shape)
        names = [agent for agent, moves in zip(agents, rewards.std(axis=0) > 0, strict=True) if moves]
        found = (
            f"the agents' rewards are against each other: those of {names[first]!r} and {names[second]!r} have a "
            f"correlation of {correlations[first, second]:.2f}, and their sum has {ratio:.2g} times their variances."
        )
    report.add("error", "rewards", found, _ZERO_SUM if is_constant else _MIXED)


_FIT = {
    "mean": 'With env_config={"team_reward": "mean"} the team is paid on the scale of one agent, which fits here; '
    '"sum" is the same times the number of agents.',
    "sum": 'With env_config={"team_reward": "sum"} the team is paid all that its agents are, which fits here; "mean" '
    "is the same divided by the number of agents.",
}
_ZERO_SUM = (
    "Mean and sum would always be the same, so that a team has nothing to learn. Train one side, with the others as "
    "part of the environment, or take an algorithm for games."
)
_MIXED = (
    "A team that is paid their mean or sum would learn to sacrifice some for others. If that is not meant, train one "
    "side with the others as part of the environment; if the task is cooperative, pay what the team achieves."
)
