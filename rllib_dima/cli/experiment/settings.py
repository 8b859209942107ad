"""Algorithms by name, the settings each of them knows, and whether it accepts those of an experiment."""

from __future__ import annotations

import dataclasses
from typing import Any

import gymnasium
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.algorithms.registry import ALGORITHMS
from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig
from ray.rllib.env.env_context import EnvContext
from ray.tune.registry import TRAINABLE_CLASS, _global_registry, get_trainable_cls

from rllib_dima import ALGORITHMS as OURS
from rllib_dima.algorithms.base_config import TeamConfig
from rllib_dima.cli.errors import UsageError, failing_as
from rllib_dima.cli.experiment.search_space import is_search_space, variants
from rllib_dima.cli.vocabulary import REFUSED, check_in_place, translate_settings
from rllib_dima.core.layout import AgentLayout
from rllib_dima.core.names import check_name
from rllib_dima.envs import is_registered
from rllib_dima.sampling.env_runner import make_cooperative_env

# Names that a file may use although the configuration has them under another attribute.
_SPOKEN = {"framework", "callbacks", "lambda", "input", "model_config", "train_batch_size_per_learner"}


def find_algorithm(run: str | type | None) -> Any:
    """The class of an algorithm of RLlib's, by its registered name or itself."""
    if run is None:
        raise UsageError("The algorithm to train is missing: `run: DIMA` in a file, or --run DIMA.")
    if isinstance(run, str) and not _global_registry.contains(TRAINABLE_CLASS, run):
        check_name(run, [*OURS, *ALGORITHMS], "algorithm")
    algorithm = get_trainable_cls(run) if isinstance(run, str) else run
    if not issubclass(algorithm, Algorithm):
        raise UsageError(f"The algorithm to train must be one of RLlib's, but {algorithm.__name__} is none.")
    return algorithm


def settings_of(algorithm: Any) -> set[str]:
    """Every name that `config` may hold for an algorithm. (RLlib keeps what it has dropped as -1.)"""
    dropped = {name for name, value in vars(AlgorithmConfig()).items() if value == -1}
    names = {name for name in vars(algorithm.get_default_config()) if not name.startswith("_")}
    return (names - dropped - {"algo_class"}) | _SPOKEN


def read_settings(config: dict[str, Any], algorithm: Any) -> dict[str, Any]:
    """Translates settings of an algorithm to their present names, and checks the names.

    Raises:
        UsageError, ValueError: a name that is unknown, means nothing any more, or stands in the wrong place.
    """
    config, default, known = translate_settings(config), algorithm.get_default_config(), settings_of(algorithm)
    refused = REFUSED.keys() - getattr(default, "alternatives", {}).keys()  # which say it better
    for settings in (config, config.get("evaluation_config")):
        for name in settings if isinstance(settings, dict) else ():
            if name in refused:
                raise UsageError(f"config.{name} means nothing any more. {REFUSED[name]}")
            check_in_place(name, known, "config")
    model = config.pop("model_config", None)
    if isinstance(model, dict) and not is_search_space(model):
        fields = [field.name for field in dataclasses.fields(DefaultModelConfig)]
        for name in model:
            check_name(name, [*fields, *default._model_config_auto_includes], "setting in model_config:")
    return config if model is None else {**config, "_model_config": model}  # RLlib's name of the attribute


def check_configs(algorithm: Any, config: dict[str, Any]) -> None:
    """Builds the configuration and its environment with every value in its search spaces, one at a time."""
    layouts: dict[str, AgentLayout] = {}
    for variant in variants(config):
        with failing_as(UsageError):
            candidate = algorithm.get_default_config().update_from_dict(variant)
            candidate.validate()
            if not (candidate.enable_rl_module_and_learner and candidate.enable_env_runner_and_connector_v2):
                raise UsageError("This command does not support RLlib's old API stack.")
            if isinstance(candidate.env, str) and not is_registered(candidate.env):
                listing = "what ray.tune.register_env() or gymnasium was told (gymnasium.pprint_registry() prints that)"
                check_name(candidate.env, gymnasium.registry, "environment", listing)
            if isinstance(candidate, TeamConfig):
                env = repr((candidate.env, candidate.env_config))
                layouts[env] = layouts.get(env) or _layout(candidate)
                candidate.hyperparameters().check_team(layouts[env])


def _layout(config: TeamConfig) -> AgentLayout:
    """Builds the environment, to see whether it can be built and which agents it has."""
    with failing_as(UsageError, f"The environment {config.env} cannot be built: "):
        env = make_cooperative_env(config, EnvContext(config.env_config, worker_index=0))
        env.close()
    return env.layout
