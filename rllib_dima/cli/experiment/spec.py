"""The settings of an experiment around the algorithm's own: their names, then and now, and their values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ray.tune import CheckpointConfig
from ray.tune.utils import flatten_dict

from rllib_dima.cli.checkpoints import find_checkpoint
from rllib_dima.cli.errors import UsageError, notice
from rllib_dima.cli.experiment.search_space import is_search_space
from rllib_dima.cli.vocabulary import CHECKPOINT_KEYS, KEYS, REFUSED, RENAMED_KEYS, check_in_place, present_metric
from rllib_dima.core.names import check_name

PYTHON_KEYS = ("search_alg", "metric", "mode", "callbacks", "reuse_actors", "trial_name_creator")
PYTHON_KEYS += ("trial_dirname_creator",)  # of ray.tune's TuneConfig and RunConfig, which only a .py file can hold
DEFAULT_STORAGE_PATH = "~/ray_results"
NUMBERS = ("num_samples", "max_failures", "time_budget_s", "max_concurrent_trials")
OPTIONS = (*NUMBERS, "storage_path", "restore", "log_to_file", *PYTHON_KEYS)


def present_spec(spec: dict[str, Any]) -> dict[str, Any]:
    """The settings of an experiment under their present names, the environment among the algorithm's.

    Raises:
        UsageError, ValueError: a name that is unknown, means nothing any more, or stands in the wrong place.
    """
    known = (*KEYS, *PYTHON_KEYS) if isinstance(spec.get("run"), type) else KEYS
    result: dict[str, Any] = {}
    for key in [key for key in spec if key not in CHECKPOINT_KEYS]:
        if key in REFUSED:
            raise UsageError(f"{key} means nothing any more. {REFUSED[key]}")
        new = RENAMED_KEYS.get(key, key)
        if new != key:
            notice(f"{key} is now {new}")
        check_in_place(new, known, "run")
        result[new] = spec[key]
    beside = {new: spec[old] for old, new in CHECKPOINT_KEYS.items() if old in spec}
    env, config = result.pop("env", None), mapping(result, "config")
    if None not in (env, config.get("env")) and env != config["env"]:
        raise UsageError(f"The environment is {env}, but config names {config['env']}. Keep one of them.")
    return merged(result, {"config": {} if env is None else {"env": env}, "checkpoint_config": beside})


def merged(spec: dict[str, Any], flags: dict[str, Any]) -> dict[str, Any]:
    """Settings of a file and of the command line, which counts more; `config` and `checkpoint_config` are merged."""
    both = {key: nested(mapping(spec, key), mapping(flags, key)) for key in ("config", "checkpoint_config")}
    return {**spec, **flags, **both}


def nested(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """`over` over `base`, key by key also in nested mappings that are no search spaces."""
    result = dict(base)
    for key, value in over.items():
        is_nested = all(isinstance(side, dict) and not is_search_space(side) for side in (base.get(key), value))
        result[key] = nested(base[key], value) if is_nested else value
    return result


def mapping(spec: dict[str, Any], key: str) -> dict[str, Any]:
    """The mapping at a key, empty if there is none; a UsageError if it is something else."""
    value = spec.get(key)
    if value is not None and not isinstance(value, dict):
        raise UsageError(f"{key} must be a mapping of names to values, but is {value!r}.")
    return dict(value or {})


def stop_criteria(stop: Any) -> Any:
    """Present paths of metrics, and the values at which a trial ends; or of a .py file whatever `ray.tune.run` takes.

    Raises:
        UsageError: a metric is misspelt, a value is no number, or `stop` is nothing that Tune takes.
    """
    if stop is None or callable(stop):
        return stop
    if not isinstance(stop, dict):
        raise UsageError(f"stop must map metrics to the values at which a trial ends, but is {stop!r}.")
    criteria = {present_metric(name, "stop"): value for name, value in flatten_dict(stop).items()}
    for name in criteria:
        require_number(criteria, name, f"stop: {name}")
    return criteria


def require_number(values: dict[str, Any], name: str, what: str) -> None:
    """Raises UsageError if a value is no number."""
    if isinstance(values[name], bool) or not isinstance(values[name], (int, float)):
        raise UsageError(f"{what} must be a number, but is {values[name]!r}.")


def checkpoint_config(own: dict[str, Any]) -> dict[str, Any]:
    """Arguments of `ray.tune.CheckpointConfig`: a checkpoint at the end, and the newest three of those by time."""
    for key in own:
        check_name(key, [*CHECKPOINT_KEYS.values(), "checkpoint_score_order"], "key in checkpoint_config:")
    if score := own.get("checkpoint_score_attribute"):
        order = "min" if score.startswith("min-") else own.get("checkpoint_score_order", "max")
        metric = present_metric(score.removeprefix("min-"), "checkpoint_score_attribute")
        own = {**own, "checkpoint_score_attribute": metric, "checkpoint_score_order": order}
    CheckpointConfig(**own)
    kept = {} if "checkpoint_frequency" in own else {"num_to_keep": 3}  # PBT may still need the last but one
    return {"checkpoint_at_end": True, **kept, **own}


def options(spec: dict[str, Any]) -> dict[str, Any]:
    """Arguments of `ray.tune.run` that are passed as they are, except that paths become absolute."""
    chosen = {"storage_path": DEFAULT_STORAGE_PATH}
    chosen |= {name: spec[name] for name in OPTIONS if spec.get(name) is not None}
    for name in chosen.keys() & NUMBERS:
        require_number(chosen, name, name)
    if "://" not in str(chosen["storage_path"]):
        chosen["storage_path"] = str(Path(chosen["storage_path"]).expanduser().absolute())
    if "restore" in chosen:
        chosen["restore"] = str(find_checkpoint(chosen["restore"]))
    return chosen
