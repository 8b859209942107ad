"""The words that files and flags use: keys, metrics, names from older versions of RLlib, and where each belongs."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection
from typing import Any

from rllib_dima.cli.errors import UsageError, notice
from rllib_dima.core.names import check_name, near_names

KEYS = ("run", "env", "stop", "config", "num_samples", "checkpoint_config", "storage_path", "restore", "max_failures")
KEYS += ("time_budget_s", "max_concurrent_trials", "scheduler", "scheduler_config", "log_to_file")
CHECKPOINT_KEYS = {  # flags, and keys of old files, for what now stands in checkpoint_config
    "checkpoint_freq": "checkpoint_frequency",
    "checkpoint_at_end": "checkpoint_at_end",
    "keep_checkpoints_num": "num_to_keep",
    "checkpoint_score_attr": "checkpoint_score_attribute",
}

RENAMED_SETTINGS = {
    "num_workers": "num_env_runners",
    "num_rollout_workers": "num_env_runners",
    "num_envs_per_worker": "num_envs_per_env_runner",
    "num_sgd_iter": "num_epochs",
    "sgd_minibatch_size": "minibatch_size",
    "model": "model_config",
    "evaluation_num_workers": "evaluation_num_env_runners",
}
RENAMED_METRICS = {
    "episode_reward_mean": "env_runners/episode_return_mean",
    "timesteps_total": "num_env_steps_sampled_lifetime",
    "num_env_steps_sampled": "num_env_steps_sampled_lifetime",
}
RENAMED_KEYS = {"local_dir": "storage_path"}
RENAMED_COMMANDS = {"rollout": "evaluate"}
REFUSED = {
    "--framework": "RLlib trains with torch only: leave it out.",
    "--torch": "RLlib trains with torch only: leave it out.",
    "--local-mode": "Ray has no local mode any more: build the algorithm in Python to debug it in one process.",
    "resources_per_trial": "Set num_env_runners, num_learners, num_cpus_per_... and num_gpus_per_... in config.",
    "exploration_config": "Exploration belongs to the module's forward_exploration().",
    "observation_filter": "Set env_to_module_connector in a .py file.",
    "horizon": "Wrap the environment in gymnasium's TimeLimit.",
}

_OF_EPISODES = [f"episode_{what}_{how}" for what in ("return", "len") for how in ("mean", "min", "max")]
_OF_EPISODES += ["episode_duration_sec_mean", "num_episodes", "num_episodes_lifetime"]
_OF_EPISODES += ["num_env_steps_sampled", "num_env_steps_sampled_lifetime"]
KNOWN_METRICS = (
    "training_iteration",
    "iterations_since_restore",
    "time_total_s",
    "time_this_iter_s",
    "time_since_restore",
    "num_env_steps_sampled_lifetime",
    "learners/__all_modules__/num_env_steps_trained_lifetime",
    *(f"{place}env_runners/{name}" for place in ("", "evaluation/") for name in _OF_EPISODES),
)
OTHER_STOPS = "A function named `stop` in a .py file can end trials by anything."
_EPISODE_METRIC = re.compile("(evaluation/)?(sampler_results/|env_runners/)?episode_(reward|return|len)_(mean|min|max)")

_PLACES = {"config": "in config", "run": "beside run", "stop": "in stop"}


def translate_settings(settings: dict[str, Any]) -> dict[str, Any]:
    """An algorithm's settings under their present names; a UsageError if one has its old name as well."""
    result: dict[str, Any] = {}
    for name, value in settings.items():
        present = _gpus(value) if name == "num_gpus" else {RENAMED_SETTINGS.get(name, name): value}
        if name == "evaluation_config" and isinstance(value, dict):
            present = {name: translate_settings(value)}
        if name not in present:
            notice(f"{name} is now {', '.join(f'{new}: {new_value}' for new, new_value in present.items())}")
            for new in present.keys() & {*settings, *result}:
                raise UsageError(f"{name} is the old name of {new}, and both are set: remove one of them.")
        result |= present
    return result


def _gpus(value: Any) -> dict[str, Any]:
    """The GPUs of the old driver process as settings of the learners."""
    if isinstance(value, int) and value > 1:
        return {"num_learners": value, "num_gpus_per_learner": 1}
    return {"num_gpus_per_learner": value}


def translate_metric(name: str) -> str:
    """The present path of a metric, such as "env_runners/episode_return_mean" of "episode_reward_mean"."""
    new = RENAMED_METRICS.get(name, name)
    if match := _EPISODE_METRIC.fullmatch(name):
        place, _, what, how = match.groups()
        new = f"{place or ''}env_runners/episode_{'len' if what == 'len' else 'return'}_{how}"
    if new != name:
        notice(f"the metric {name} is now {new}")
    return new


def present_metric(name: str, where: str) -> str:
    """The present path of a metric; refuses what is almost one that every run reports. `where` is for the message."""
    name = translate_metric(name)
    alike = [known for known in (*KNOWN_METRICS, *RENAMED_METRICS) if known.count("/") == name.count("/")]
    near = [] if name in KNOWN_METRICS else difflib.get_close_matches(name, alike, n=3, cutoff=0.85)
    if near:
        hint = " or ".join(map(repr, near))
        raise UsageError(f"{where}: no run reports {name!r}. Did you mean {hint}? {OTHER_STOPS}")
    return name


def names_in(place: str) -> set[str]:
    """Names, present and old, that may stand in `config` (of DIMA), in `stop` or beside `run`."""
    if place == "config":
        from rllib_dima import DIMA
        from rllib_dima.cli.experiment.settings import settings_of

        return {*settings_of(DIMA), *RENAMED_SETTINGS, "num_gpus"}
    return {*KNOWN_METRICS, *RENAMED_METRICS} if place == "stop" else {*KEYS, *RENAMED_KEYS, *CHECKPOINT_KEYS}


def check_in_place(name: str, known: Collection[str], place: str) -> None:
    """Refuses a name that is unknown in `config` or beside `run`, with where it belongs or the nearest known names."""
    for other in _PLACES if name not in known else ():
        if other != place and name in names_in(other):
            raise UsageError(f"{name!r} means nothing {_PLACES[place]}: it belongs {_PLACES[other]}.")
    check_name(name, known, "key" if place == "run" else "setting in config:")


def hint_at_flag(flag: str, flags: Collection[str], commands: Collection[str]) -> str:
    """What an unknown flag was probably meant to be, as one writes it: a flag, command, metric or setting."""
    name = flag.lstrip("-").replace("-", "_")
    places = [{known[2:].replace("-", "_"): known for known in flags}]
    places += [{command.split()[-1]: f"`rllib {command}`" for command in commands}]
    for place in ("stop", "config") if "--stop" in flags else ():
        places.append({known: f"--{place} '{{\"{known}\": ...}}'" for known in names_in(place)})
    near = [written[name] for written in places if name in written]
    for cutoff in (1.0, 0.65):  # first by whole words
        near = near or [written[other] for written in places for other in near_names(name, written, cutoff)]
    if near:
        return f"Did you mean {' or '.join(near[:3])}?"
    return "" if "--stop" in flags else f"Known: {', '.join(flags)}."
