"""Tune's trial schedulers by name, with their arguments checked."""

from __future__ import annotations

import inspect
from typing import Any

from rllib_dima.cli.errors import UsageError
from rllib_dima.core.names import check_name

ALIASES = {"asha": "async_hyperband"}
DEFAULT_METRIC = "env_runners/episode_return_mean"
# A scheduler that ends trials early must know when they would end by themselves; these stop criteria tell.
_TIME_ATTRIBUTES = ("training_iteration", "num_env_steps_sampled_lifetime", "time_total_s")


def make_scheduler(name: str | Any, arguments: dict[str, Any], stop: Any) -> Any:
    """A scheduler of Tune's.

    Args:
        name: as in `ray.tune.create_scheduler`, in any case, or "asha"; or a scheduler, which is returned as it is.
        arguments: of the scheduler's class. Not given, the metric is the mean training return, to be maximised, and
            `max_t` comes from the stop criterion.
        stop: metrics and values at which trials end.

    Returns:
        The scheduler, or None for Tune's default.

    Raises:
        UsageError: an unknown name or argument, or a wrong value.
    """
    if name is None or not isinstance(name, str):
        if arguments:
            raise UsageError("scheduler_config needs the name of a scheduler.")
        return name
    scheduler_class = _find(name)
    known = inspect.signature(scheduler_class).parameters
    for argument in arguments:
        _check(argument, known, f"argument in scheduler_config of {name}:")
    chosen = {**_defaults(known, arguments, stop), **arguments}
    try:
        return scheduler_class(**chosen)
    except Exception as error:  # whatever the scheduler checks
        raise UsageError(f"scheduler {name}: {error}") from error


def _find(name: str) -> type:
    from ray.tune.schedulers import SCHEDULER_IMPORT

    _check(name.lower(), [*SCHEDULER_IMPORT, *ALIASES], "scheduler")
    found = SCHEDULER_IMPORT[ALIASES.get(name.lower(), name.lower())]
    return found() if inspect.isfunction(found) else found  # some are imported by a function


def _defaults(known: Any, arguments: dict[str, Any], stop: Any) -> dict[str, Any]:
    defaults = {"metric": DEFAULT_METRIC, "mode": "max"}
    if "max_t" in known and "max_t" not in arguments:
        defaults |= _end_of_trials(arguments, stop)
    return {name: value for name, value in defaults.items() if name in known}


def _end_of_trials(arguments: dict[str, Any], stop: Any) -> dict[str, Any]:
    """When trials end by themselves. (Tune's default would end every trial at iteration 100.)"""
    candidates = (arguments["time_attr"],) if "time_attr" in arguments else _TIME_ATTRIBUTES
    for attribute in candidates:
        if isinstance(stop, dict) and attribute in stop:
            return {"time_attr": attribute, "max_t": stop[attribute]}
    raise UsageError(
        "This scheduler ends trials early and needs to know when they would end by themselves: give max_t (and "
        f"time_attr) in scheduler_config, or stop by {', '.join(candidates)}."
    )


def _check(name: str, known: Any, kind: str) -> None:
    try:
        check_name(name, known, kind)
    except ValueError as error:
        raise UsageError(str(error)) from None
