"""Tune's trial schedulers by name, with their arguments checked."""

from __future__ import annotations

import inspect
from typing import Any

from ray.tune.schedulers import SCHEDULER_IMPORT, create_scheduler

from rllib_dima.algorithms.base import TeamAlgorithm
from rllib_dima.cli.errors import UsageError, failing_as
from rllib_dima.core.names import check_name

# A scheduler that ends trials early must know when they would end by themselves; these stop criteria tell.
_TIME_ATTRIBUTES = ("training_iteration", "num_env_steps_sampled_lifetime", "time_total_s")


def make_scheduler(name: str | Any, arguments: dict[str, Any], stop: Any, algorithm: type) -> Any:
    """Makes the scheduler of Tune's that has this name; returns anything but a name as it is.

    Args:
        name: as in `ray.tune.create_scheduler`, in any case, or "asha".
        arguments: of the scheduler's class. Not given, the metric is the mean training return, to be maximised, and
            `max_t` comes from `stop`, at which trials end.
        stop: criteria at which trials end.
        algorithm: the class of what is trained.

    Raises:
        UsageError: an unknown name or argument, or a wrong value.
    """
    if not isinstance(name, str):
        if arguments:
            raise UsageError("scheduler_config needs the name of a scheduler.")
        return name
    with failing_as(UsageError, f"scheduler {name}: "):
        check_name(name.lower(), [*SCHEDULER_IMPORT, "asha"], "scheduler")
        key = "async_hyperband" if name.lower() == "asha" else name.lower()
        found: Any = SCHEDULER_IMPORT[key]
        known = inspect.signature(found() if inspect.isfunction(found) else found).parameters  # some are imported by it
        for argument in arguments:
            check_name(argument, known, "argument in scheduler_config:")
        ends = _end_of_trials(arguments, stop) if "max_t" in known and "max_t" not in arguments else {}
        defaults = {"metric": _training_return(algorithm), "mode": "max"}
        return create_scheduler(key, **{**defaults, **ends, **arguments})  # which passes those on that the class takes


def _training_return(algorithm: type) -> str:
    """The metric's path. Tune ends an experiment whose metric a report lacks; on top, ours is NaN before an episode."""
    return "episode_return_mean" if issubclass(algorithm, TeamAlgorithm) else "env_runners/episode_return_mean"


def _end_of_trials(arguments: dict[str, Any], stop: Any) -> dict[str, Any]:
    """When trials end by themselves. (Tune's default would end every trial at iteration 100.)"""
    candidates = (arguments["time_attr"],) if "time_attr" in arguments else _TIME_ATTRIBUTES
    for attribute in candidates:
        if isinstance(stop, dict) and attribute in stop:
            return {"time_attr": attribute, "max_t": stop[attribute]}
    raise UsageError(
        f"to end trials early one must know when they would end by themselves: stop by {', '.join(candidates)}, or "
        "give max_t (and time_attr) in scheduler_config."
    )
