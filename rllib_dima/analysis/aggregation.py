"""What several seeds and tasks amount to: means and interquartile means with bootstrap intervals, and scores.

Intervals are percentile bootstraps (scipy's) over runs: of one task its runs are drawn again with replacement, of
several tasks each task's own (Agarwal et al. 2021, "Deep Reinforcement Learning at the Edge of the Statistical
Precipice"). One run says nothing of its spread, so that there is no interval where a task has no more.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import bootstrap

from rllib_dima.analysis.published import RETURNS, Published
from rllib_dima.analysis.runs import KINDS, Group, ResultsError, Run

AXES = ("steps", "seconds")
MOST_POINTS = 200
NUM_RESAMPLES = 2000


def weighted_mean(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(..., n) and (n,) -> (...)."""
    return values @ weights / weights.sum()


def interquartile_mean(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Mean of the middle half by weight, values that are cut counting in part: (..., n) and (n,) -> (...)."""
    order = values.argsort(axis=-1)
    ends = (weights / weights.sum())[order].cumsum(axis=-1)
    begins = np.concatenate([np.zeros_like(ends[..., :1]), ends[..., :-1]], axis=-1)
    inside = ends.clip(0.25, 0.75) - begins.clip(0.25, 0.75)
    return (np.take_along_axis(values, order, axis=-1) * inside).sum(axis=-1) / inside.sum(axis=-1)


STATISTICS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "mean": weighted_mean,
    "iqm": interquartile_mean,
}


@dataclass(frozen=True)
class Estimate:
    """A statistic and its confidence interval, which is NaN where a task has one run only. Shapes () or (P,)."""

    value: np.ndarray
    low: np.ndarray
    high: np.ndarray


def estimate(strata: Sequence[np.ndarray], statistic: str = "mean", confidence: float = 0.95) -> Estimate:
    """A statistic over runs, in which every stratum (a task) has the same weight however many runs it has.

    Args:
        strata: by task (n_i,) or (n_i, P); runs come first.
        statistic: of `STATISTICS`.
        confidence: of the interval.
    """
    weights = np.concatenate([np.full(len(stratum), 1 / len(stratum)) for stratum in strata])

    def of(*samples: np.ndarray, axis: int = 0) -> np.ndarray:
        return STATISTICS[statistic](np.concatenate([np.moveaxis(s, axis, -1) for s in samples], axis=-1), weights)

    value = np.asarray(of(*strata))
    if min(map(len, strata)) < 2:
        return Estimate(value, np.full_like(value, np.nan), np.full_like(value, np.nan))
    found = bootstrap(
        strata, of, vectorized=True, axis=0, confidence_level=confidence, n_resamples=NUM_RESAMPLES,
        method="percentile", rng=np.random.default_rng(0),
    ).confidence_interval  # fmt: skip
    return Estimate(value, np.asarray(found.low), np.asarray(found.high))


@dataclass(frozen=True)
class Curve:
    """A group's returns along an axis, where all of its runs have some.

    Attributes:
        group: whose.
        x: (P,) environment steps or seconds.
        returns: (n, P) of each run.
        estimate: (P,) over runs.
    """

    group: Group
    x: np.ndarray
    returns: np.ndarray
    estimate: Estimate


def curve(group: Group, kind: str, axis: str = "steps", statistic: str = "mean", confidence: float = 0.95) -> Curve:
    """Returns of runs, interpolated linearly to the same places, which end where the shortest run does.

    Runs of one report each are one point, where the last of them is.

    Args:
        group: runs of a task.
        kind: of `KINDS`.
        axis: of `AXES`.
        statistic, confidence: as of `estimate`.

    Raises:
        ResultsError: a run has no returns of that kind, or there is no place at which all runs have one.
    """
    column = AXES.index(axis)
    columns = [_points(run, kind)[:, [column, 2]] for run in group.runs]
    first, last = max(points[0, 0] for points in columns), min(points[-1, 0] for points in columns)
    if all(len(points) == 1 for points in columns):  # reports of one length end a few steps apart
        last = first
    if first > last:
        raise ResultsError(f"No {axis} are common to the {len(columns)} runs of {group.name} on {group.task}.")
    x = np.unique(np.concatenate([points[:, 0] for points in columns]))
    x = x[(x >= first) & (x <= last)]
    x = x if len(x) <= MOST_POINTS else np.linspace(first, last, MOST_POINTS)
    returns = np.stack([np.interp(x, points[:, 0], points[:, 1]) for points in columns])
    return Curve(group, x, returns, estimate([returns], statistic, confidence))


def common_kind(groups: Sequence[Group]) -> str:
    """Returns of evaluation if every run has some, else those of training."""
    runs = [run for group in groups for run in group.runs]
    return next((kind for kind in KINDS if all(len(run.points[kind]) for run in runs)), "training")


def _points(run: Run, kind: str) -> np.ndarray:
    points = run.points[kind]
    if len(points):
        return points
    others = [other for other in KINDS if len(run.points[other])]
    why = f"It has those of {others[0]}." if others else "It ended before its first episode did."
    raise ResultsError(f"{run.file} holds no returns of {kind} ({' or '.join(KINDS[kind])}). {why}")


@dataclass(frozen=True)
class Score:
    """Where a group has come, or an experiment over several tasks.

    Attributes:
        name: of the experiment.
        tasks: one, or all tasks of the paper that the experiment has runs of.
        num_runs: how many.
        steps: at which; None for several tasks.
        returns: at that place; None for several tasks.
        published: the paper's return, if it is one task of the paper.
        score: returns divided by the paper's.
    """

    name: str
    tasks: tuple[str, ...]
    num_runs: int
    steps: float | None
    returns: Estimate | None
    published: Published | None
    score: Estimate | None


def scores(curves: Sequence[Curve], statistic: str = "mean", confidence: float = 0.95) -> list[Score]:
    """The end of every curve over steps, and for every experiment on several tasks of the paper its score over these.

    A score is the return divided by the paper's, and weighs all tasks alike.
    """
    found: list[Score] = []
    shares: dict[str, dict[str, np.ndarray]] = {}
    for of in curves:
        group, ends, published = of.group, of.returns[:, -1], RETURNS.get(of.group.task)
        score = None
        if published is not None:
            shares.setdefault(group.name, {})[group.task] = ends / published.mean
            score = estimate([ends / published.mean], statistic, confidence)
        end = estimate([ends], statistic, confidence)
        found.append(Score(group.name, (group.task,), len(ends), float(of.x[-1]), end, published, score))
    for name, by_task in shares.items():
        if len(by_task) > 1:
            strata = list(by_task.values())
            total = estimate(strata, statistic, confidence)
            found.append(Score(name, tuple(by_task), sum(map(len, strata)), None, None, None, total))
    return found
