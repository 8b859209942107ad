"""Words of older versions of RLlib that files and command lines still hold, and what to write now."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from typing import Any

from rllib_dima.cli.errors import UsageError

Notify = Callable[[str], None]

RENAMED_SETTINGS: dict[str, str] = {
    "num_workers": "num_env_runners",
    "num_rollout_workers": "num_env_runners",
    "num_envs_per_worker": "num_envs_per_env_runner",
    "num_cpus_per_worker": "num_cpus_per_env_runner",
    "num_gpus_per_worker": "num_gpus_per_env_runner",
    "evaluation_num_workers": "evaluation_num_env_runners",
    "evaluation_num_episodes": "evaluation_duration",
    "num_sgd_iter": "num_epochs",
    "sgd_minibatch_size": "minibatch_size",
    "lr_schedule": "lr",
    "entropy_coeff_schedule": "entropy_coeff",
    "model": "model_config",
}

_LEAVE_OUT = "RLlib trains with torch only: leave it out."
_TENSORFLOW = ("tf_session_args", "local_tf_session_args", "eager_tracing", "eager_max_retraces")
_CONNECTORS = "Observations are filtered by connectors, which only a .py file can set: env_to_module_connector."

# What RLlib still accepts and silently ignores, and what a file for DIMA may mean by a word it has for something else.
REFUSED_SETTINGS: dict[str, str] = {
    **dict.fromkeys(_TENSORFLOW, _LEAVE_OUT),
    **dict.fromkeys(("observation_filter", "preprocessor_pref"), _CONNECTORS),
    "exploration_config": "Exploration belongs to the module's forward_exploration(); DQN has `epsilon`.",
    "optimizer": "Optimisers belong to the learner class, which only a .py file can set.",
    "render_env": "Watch episodes with `rllib evaluate CHECKPOINT --render`.",
    "remote_worker_envs": "Set gym_env_vectorize_mode: async.",
    "sample_collector": "Env runners collect episodes now: leave it out.",
    "horizon": "Environments decide when their episodes end: wrap yours in gymnasium's TimeLimit.",
}

RENAMED_KEYS = {"local_dir": "storage_path", "upload_dir": "storage_path", "repeat": "num_samples"}
_RESOURCES = "Set num_env_runners, num_learners, num_cpus_per_... and num_gpus_per_... in config."
REFUSED_KEYS = {"resources_per_trial": _RESOURCES}
RENAMED_COMMANDS = {"rollout": "evaluate"}
REFUSED_FLAGS = {
    "--framework": _LEAVE_OUT,
    "--torch": _LEAVE_OUT,
    "--local-mode": "Ray has no local mode any more; build the algorithm in Python to debug it in one process.",
    "--resources-per-trial": _RESOURCES,
}
REFUSED_BY_EVALUATE = {"--steps": "Evaluation runs whole episodes: use --episodes."}

# Names that a file may use although the configuration has them under another attribute.
SPOKEN_SETTINGS = ("framework", "callbacks", "lambda", "input", "model_config", "train_batch_size_per_learner")

RENAMED_METRICS: dict[str, str] = {
    "episode_reward_mean": "env_runners/episode_return_mean",
    "episode_reward_min": "env_runners/episode_return_min",
    "episode_reward_max": "env_runners/episode_return_max",
    "episode_return_mean": "env_runners/episode_return_mean",
    "episode_len_mean": "env_runners/episode_len_mean",
    "episodes_total": "env_runners/num_episodes_lifetime",
    "timesteps_total": "num_env_steps_sampled_lifetime",
    "num_env_steps_sampled": "num_env_steps_sampled_lifetime",
    "num_env_steps_trained": "learners/__all_modules__/num_env_steps_trained_lifetime",
}

_OF_EPISODES = [f"episode_{what}_{how}" for what in ("return", "len") for how in ("mean", "min", "max")]
_OF_EPISODES += ["episode_duration_sec_mean", "num_episodes", "num_episodes_lifetime"]
_OF_EPISODES += ["num_env_steps_sampled", "num_env_steps_sampled_lifetime"]

KNOWN_METRICS: tuple[str, ...] = (
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


def translate_settings(settings: dict[str, Any], notify: Notify) -> dict[str, Any]:
    """Settings of an algorithm under the names they have now.

    Args:
        settings: as a file or the command line spells them.
        notify: is told about every name that was translated.

    Raises:
        UsageError: a setting is given under its old name and its present one.
    """
    result: dict[str, Any] = {}
    for name, value in settings.items():
        if name in RENAMED_SETTINGS and value is None:
            continue
        translated = {name: value}
        if name in RENAMED_SETTINGS:
            translated = {RENAMED_SETTINGS[name]: value}
        elif name == "num_gpus":
            translated = _gpus(value)
        elif name == "evaluation_config" and isinstance(value, dict):
            translated = {name: translate_settings(value, notify)}
        if name not in translated:
            notify(f"{name} is now {', '.join(f'{new}: {new_value}' for new, new_value in translated.items())}")
        for new in translated.keys() - {name}:
            if new in result or new in settings:
                raise UsageError(f"{name} is the old name of {new}, and both are set: remove one of them.")
        result.update(translated)
    return result


def translate_metric(name: str, notify: Notify) -> str:
    """The present path of a metric, which older versions reported under another name.

    Args:
        name: old or present path, such as "episode_reward_mean" or "evaluation/episode_reward_mean".
        notify: is told if it was translated.
    """
    place, rest = ("evaluation/", name.removeprefix("evaluation/")) if name.startswith("evaluation/") else ("", name)
    old = rest.removeprefix("sampler_results/")
    if old.startswith("env_runners/episode_reward"):
        old = old.removeprefix("env_runners/")
    new = place + RENAMED_METRICS.get(old, old) if old != rest or old in RENAMED_METRICS else name
    if new != name:
        notify(f"the metric {name} is now {new}")
    return new


def present_metric(name: str, notify: Notify, where: str) -> str:
    """The present path of a metric.

    Args:
        name: old or present path.
        notify: is told if it was translated.
        where: it is used, for messages.

    Raises:
        UsageError: it is almost, but not quite, a metric of every run, for which one would wait for ever.
    """
    name = translate_metric(name, notify)
    alike = [known for known in (*KNOWN_METRICS, *RENAMED_METRICS) if known.count("/") == name.count("/")]
    near = [] if name in KNOWN_METRICS else difflib.get_close_matches(name, alike, n=3, cutoff=0.85)
    if near:
        raise UsageError(
            f"{where}: no run reports {name!r}. Did you mean {' or '.join(map(repr, near))}? {OTHER_STOPS}"
        )
    return name


def _gpus(value: Any) -> dict[str, Any]:
    """The GPUs that the old driver process trained on are those of the learners."""
    if isinstance(value, int) and value > 1:
        return {"num_learners": value, "num_gpus_per_learner": 1}
    return {"num_gpus_per_learner": value}
