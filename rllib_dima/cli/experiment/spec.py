"""The settings of an experiment around the algorithm's own: their names, then and now, and their values."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rllib_dima.cli.checkpoints import find_checkpoint
from rllib_dima.cli.console.spelling import REFUSED_KEYS, RENAMED_KEYS, Notify, present_metric
from rllib_dima.cli.errors import UsageError
from rllib_dima.core.names import check_name

KEYS = ("run", "env", "stop", "config", "num_samples", "checkpoint_config", "storage_path", "restore", "max_failures")
KEYS += ("time_budget_s", "max_concurrent_trials", "scheduler", "scheduler_config", "log_to_file")
PYTHON_KEYS = ("search_alg", "metric", "mode", "callbacks", "reuse_actors", "trial_name_creator")
PYTHON_KEYS += ("trial_dirname_creator",)  # of ray.tune's TuneConfig and RunConfig, which only a .py file can hold

CHECKPOINT_KEYS = {  # old files and the command line have these beside checkpoint_config
    "checkpoint_freq": "checkpoint_frequency",
    "checkpoint_at_end": "checkpoint_at_end",
    "keep_checkpoints_num": "num_to_keep",
    "checkpoint_score_attr": "checkpoint_score_attribute",
}
DEFAULT_STORAGE_PATH = "~/ray_results"
NUMBERS = ("num_samples", "max_failures", "time_budget_s", "max_concurrent_trials")
OPTIONS = (*NUMBERS, "storage_path", "restore", "log_to_file", *PYTHON_KEYS)


def present_spec(spec: dict[str, Any], notify: Notify) -> dict[str, Any]:
    """The settings of an experiment under their present names.

    Args:
        spec: as a file or the command line spells them.
        notify: is told about translated names.

    Raises:
        UsageError: a setting that means nothing any more.
        ValueError: an unknown name, with the nearest known ones.
    """
    from rllib_dima.cli.console.places import check_place

    known = (*KEYS, *PYTHON_KEYS) if isinstance(spec.get("run"), type) else KEYS
    result: dict[str, Any] = {}
    for key, value in spec.items():
        if key in REFUSED_KEYS:
            raise UsageError(f"{key} means nothing any more. {REFUSED_KEYS[key]}")
        if key in CHECKPOINT_KEYS:
            continue
        new = RENAMED_KEYS.get(key, key)
        if new != key:
            notify(f"{key} is now {new}")
        if new not in known:
            check_place(new, "run")
        check_name(new, known, "key")
        result[new] = value
    beside = {new: spec[old] for old, new in CHECKPOINT_KEYS.items() if old in spec}
    if beside:
        result["checkpoint_config"] = {**mapping(result, "checkpoint_config"), **beside}
    return result


def mapping(spec: dict[str, Any], key: str) -> dict[str, Any]:
    """The mapping at a key, empty if there is none.

    Raises:
        UsageError: it is something else.
    """
    value = spec.get(key)
    if value is not None and not isinstance(value, dict):
        raise UsageError(f"{key} must be a mapping of names to values, but is {value!r}.")
    return dict(value or {})


def stop_criteria(stop: Any, notify: Notify) -> Any:
    """Present paths of metrics, and the values at which a trial ends.

    Args:
        stop: metrics by old or present name, nested or joined by "/"; or of a .py file whatever `ray.tune.run` takes.
        notify: is told about translated names.

    Raises:
        UsageError: a metric is misspelt, a value is no number, or `stop` is nothing that Tune takes.
    """
    if not isinstance(stop, dict):
        if stop is not None and not callable(stop):
            raise UsageError(f"stop must map metrics to the values at which a trial ends, but is {stop!r}.")
        return stop
    criteria = {present_metric(name, notify, "stop"): value for name, value in flat(stop)}
    for name, value in criteria.items():
        if not isinstance(value, (int, float)):
            raise UsageError(f"stop: {name} must be a number, but is {value!r}.")
    return criteria


def flat(metrics: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Paths joined by "/", and values, of nested mappings."""
    for name, value in metrics.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{name}/")
        else:
            yield f"{prefix}{name}", value


def checkpoint_config(own: dict[str, Any], notify: Notify) -> dict[str, Any]:
    """Arguments of `ray.tune.CheckpointConfig`: a checkpoint at the end, and the newest three of those written by time.

    Raises:
        ValueError: an unknown name, with the nearest known ones, or a wrong value.
    """
    from ray.tune import CheckpointConfig

    names = [field.name for field in dataclasses.fields(CheckpointConfig) if not field.name.startswith("_")]
    for key in own:
        check_name(key, names, "key in checkpoint_config:")
    score = own.get("checkpoint_score_attribute")
    if score is not None:
        order = "min" if score.startswith("min-") else own.get("checkpoint_score_order", "max")
        metric = present_metric(score.removeprefix("min-"), notify, "checkpoint_score_attribute")
        own = {**own, "checkpoint_score_attribute": metric, "checkpoint_score_order": order}
    CheckpointConfig(**own)
    kept = {} if "checkpoint_frequency" in own else {"num_to_keep": 3}  # PBT may still need the last but one
    return {"checkpoint_at_end": True, **kept, **own}


def options(spec: dict[str, Any]) -> dict[str, Any]:
    """Arguments of `ray.tune.run` that are passed as they are, except that paths become absolute.

    Raises:
        UsageError: a value is no number where one is needed, or there is no checkpoint to restore.
    """
    chosen = {name: spec[name] for name in OPTIONS if spec.get(name) is not None}
    for name in NUMBERS:
        if name in chosen and (isinstance(chosen[name], bool) or not isinstance(chosen[name], (int, float))):
            raise UsageError(f"{name} must be a number, but is {chosen[name]!r}.")
    storage_path = str(chosen.get("storage_path", DEFAULT_STORAGE_PATH))
    if "://" not in storage_path:
        storage_path = str(Path(storage_path).expanduser().absolute())
    if "restore" in chosen:
        chosen["restore"] = str(find_checkpoint(chosen["restore"]))
    return {**chosen, "storage_path": storage_path}
