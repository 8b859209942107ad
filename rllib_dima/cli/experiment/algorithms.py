"""Algorithms by name, the settings each of them knows, and whether it accepts those of an experiment."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from rllib_dima.cli.console.spelling import REFUSED_SETTINGS, SPOKEN_SETTINGS, Notify, translate_settings
from rllib_dima.cli.errors import UsageError
from rllib_dima.cli.experiment.search_space import GRID, is_search_space
from rllib_dima.core.names import check_name

if TYPE_CHECKING:
    from rllib_dima.core.layout import AgentLayout


def find_algorithm(run: str | type | None) -> type:
    """The class of an algorithm.

    Args:
        run: registered name, or the class itself.

    Raises:
        UsageError: there is no name, or what it names is no algorithm of RLlib's.
        ValueError: no such name, with the nearest known ones.
    """
    from ray.rllib.algorithms.algorithm import Algorithm
    from ray.rllib.algorithms.registry import ALGORITHMS
    from ray.tune.registry import TRAINABLE_CLASS, _global_registry, get_trainable_cls

    if run is None:
        raise UsageError("The algorithm to train is missing: `run: DIMA` in a file, or --run DIMA.")
    if isinstance(run, str):
        if not _global_registry.contains(TRAINABLE_CLASS, run):
            check_name(run, ["DIMA", *ALGORITHMS], "algorithm")
        run = get_trainable_cls(run)
    if not issubclass(run, Algorithm):
        raise UsageError(f"The algorithm to train must be one of RLlib's, but {run.__name__} is none.")
    return run


def read_settings(config: dict[str, Any], algorithm: type, notify: Notify) -> dict[str, Any]:
    """Settings of an algorithm under their present names, of which it knows every one.

    Args:
        config: as a file or the command line spells them.
        algorithm: whose they are.
        notify: is told about translated names.

    Raises:
        UsageError: a setting that means nothing on RLlib's new API stack, with what to do instead.
        ValueError: an unknown name, with the nearest known ones.
    """
    config = translate_settings(config, notify)
    known = settings_of(algorithm)
    _refuse_unused(config, algorithm)
    nested = config.get("evaluation_config")
    for settings in (config, nested if isinstance(nested, dict) else {}):
        for name, value in settings.items():
            _check_setting(name, value, known)
    _check_model_config(config.get("model_config"), algorithm)
    if "model_config" in config:  # RLlib's name of the attribute
        config["_model_config"] = config.pop("model_config")
    return config


def settings_of(algorithm: type) -> set[str]:
    """Every name that `config` may hold for an algorithm."""
    names = {name for name in vars(algorithm.get_default_config()) if not name.startswith("_")}
    return (names - dropped_settings() - {"algo_class"}) | set(SPOKEN_SETTINGS)


@lru_cache
def dropped_settings() -> frozenset[str]:
    """Settings that RLlib has dropped; it keeps them as attributes that are -1."""
    from ray.rllib.algorithms.algorithm_config import AlgorithmConfig

    return frozenset(name for name, value in vars(AlgorithmConfig()).items() if value == -1)


def check_configs(algorithm: type, config: dict[str, Any]) -> None:
    """Builds and validates the algorithm's configuration for every value in a search space, one at a time.

    Of a distribution, its ends are tried.

    Raises:
        UsageError: the algorithm refuses one of them, or the environment does not exist, or they do not go together.
    """
    layouts: list[tuple[Any, AgentLayout | None]] = []  # of every environment and env_config
    for variant in variants(config):
        try:
            candidate = algorithm.get_default_config().update_from_dict(variant)
            candidate.validate()
            env = (candidate.env, candidate.env_config)
            if env not in [checked for checked, _ in layouts]:
                layouts.append((env, _check_env(candidate)))
            layout = next(layout for checked, layout in layouts if checked == env)
            if layout is not None:
                candidate.hyperparameters().check_team(layout)
        except Exception as error:  # RLlib raises all kinds
            raise UsageError(str(error)) from error


def variants(config: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Configs without search spaces: one with the first value of each space, then one for every other value.

    What a function draws (`ray.tune.sample_from`) cannot be known and is left out.
    """
    spaces = dict(_spaces(config))
    first = {path: values[0] for path, values in spaces.items() if values}
    yield _filled(config, spaces, first)
    for path, values in spaces.items():
        for value in values[1:]:
            yield _filled(config, spaces, {**first, path: value})


def _spaces(config: dict[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], list[Any]]]:
    """Paths of all search spaces in nested mappings, with the values to try."""
    from ray.tune.search.sample import Domain

    for key, value in config.items():
        if isinstance(value, Domain):
            yield (*path, key), _values_of(value)
        elif is_search_space(value):
            yield (*path, key), list(value[GRID])
        elif isinstance(value, dict):
            yield from _spaces(value, (*path, key))


def _values_of(domain: Any) -> list[Any]:
    """All choices, the ends of a range, or a draw where there are no ends; none if a function draws."""
    from ray.tune.search.sample import Categorical, Float, Integer

    if isinstance(domain, Categorical):
        return list(domain.categories)
    if not isinstance(domain, (Float, Integer)):
        return []
    if domain.lower in (None, -math.inf) or domain.upper in (None, math.inf):
        return [domain.sample()]
    return [domain.lower, domain.upper - 1 if isinstance(domain, Integer) else domain.upper]


def _filled(config: dict[str, Any], spaces: Any, chosen: dict[tuple, Any], path: tuple = ()) -> dict[str, Any]:
    """The config with the chosen value, or nothing, in the place of every search space."""
    result = {}
    for key, value in config.items():
        here = (*path, key)
        if here in spaces:
            result |= {key: chosen[here]} if here in chosen else {}
        else:
            result[key] = _filled(value, spaces, chosen, here) if isinstance(value, dict) else value
    return result


def _check_setting(name: str, value: Any, known: set[str]) -> None:
    from rllib_dima.cli.console.places import check_place

    if name in REFUSED_SETTINGS:
        raise UsageError(f"config.{name} means nothing on RLlib's new API stack. {REFUSED_SETTINGS[name]}")
    if name in dropped_settings() - known:
        raise UsageError(f"config.{name} means nothing any more: leave it out.")
    if name not in known:
        check_place(name, "config")
    check_name(name, known, "setting in config:")
    if name in ("enable_rl_module_and_learner", "enable_env_runner_and_connector_v2") and value is False:
        raise UsageError(f"config.{name}: false asks for RLlib's old API stack, which this command does not support.")


def _refuse_unused(config: dict[str, Any], algorithm: type) -> None:
    """Refuses what DIMA ignores also where it is set to RLlib's default, which DIMA itself cannot tell from not set."""
    from rllib_dima.algorithms.base_config import TeamConfig

    default = algorithm.get_default_config()
    if not isinstance(default, TeamConfig):
        return
    advice = {name.removeprefix("_"): text for name, text in default.unused_settings.items()}
    for name, value in config.items():
        if name in advice and value is not None:
            raise UsageError(f"{algorithm.__name__} does not use {name!r}. {advice[name]}")


def _check_model_config(model_config: Any, algorithm: type) -> None:
    from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig

    if isinstance(model_config, dict) and not is_search_space(model_config):
        automatic = algorithm.get_default_config()._model_config_auto_includes
        known = {field.name for field in dataclasses.fields(DefaultModelConfig)} | set(automatic)
        for key in model_config:
            check_name(key, known, "setting in model_config:")


def _check_env(config: Any) -> AgentLayout | None:
    """Refuses environment ids that nobody knows, and for DIMA also settings that the environment refuses.

    Returns:
        The layout of DIMA's agents, or None for another algorithm.
    """
    import gymnasium

    from rllib_dima.algorithms.base_config import TeamConfig
    from rllib_dima.envs import is_registered

    env = config.env
    if isinstance(env, str) and not is_registered(env):
        check_name(env, gymnasium.registry, "environment")
    return _layout_of(config) if isinstance(config, TeamConfig) else None


def _layout_of(config: Any) -> AgentLayout:
    """Builds the environment, to see whether it can be built and which agents it has."""
    from ray.rllib.env.env_context import EnvContext

    from rllib_dima.sampling.env_runner import make_cooperative_env

    try:
        env = make_cooperative_env(config, EnvContext(config.env_config, worker_index=0))
        env.close()
    except Exception as error:  # whatever the environment raises
        raise UsageError(f"The environment {config.env} cannot be built: {error}") from error
    return env.layout
