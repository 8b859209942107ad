"""Settings of Gymnasium's MuJoCo environments: reward weights, ends, starts, what the state contains.

They are the keywords of the environment's class, so a version has those that it had when it was published, and their
kinds are those of their defaults: a flag, a number, or a range (low, high).
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from numbers import Integral, Real
from typing import Any

import gymnasium
import numpy as np
from gymnasium.envs.registration import load_env_creator

from rllib_dima.core.names import check_name
from rllib_dima.envs.mamujoco.scenarios import Scenario, find_version

# Those of the model, whose joints are divided among the agents, and of Gymnasium's camera.
_NOT_OFFERED = ("xml_file", "main_body", "default_camera_config")


def default_settings(scenario: Scenario, version: str | None) -> dict[str, Any]:
    """What can be set of the environment of a robot, with its defaults.

    Args:
        scenario: the robot.
        version: as for `find_version`.

    Raises:
        ValueError: a version that the scenario does not have.
    """
    version = find_version(scenario, version)
    if version is None:
        return {}
    env_class = load_env_creator(gymnasium.spec(f"{scenario.model}-{version}").entry_point)  # pyright: ignore[reportArgumentType]: these have one
    parameters = inspect.signature(env_class).parameters.values()
    offered = [p for p in parameters if p.kind is not p.VAR_KEYWORD and p.name not in _NOT_OFFERED]
    return {parameter.name: parameter.default for parameter in offered}


def check_settings(scenario: Scenario, version: str | None, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that differ from the defaults, as plain values.

    Args:
        scenario: the robot.
        version: of it, as `find_version` returns it.
        settings: some of `default_settings`.

    Raises:
        ValueError: an unknown setting, or an impossible value.
    """
    defaults = default_settings(scenario, version)
    robot = scenario.name if version is None else f"{scenario.name}-{version}"
    checked = {}
    for name, value in settings.items():
        check_name(name, [*defaults, "max_episode_steps"], f"setting of {robot}:")
        checked[name] = _plain_value(name, value, defaults[name])
    return {name: value for name, value in checked.items() if value != defaults[name]}


def _plain_value(name: str, value: Any, default: Any) -> Any:
    if isinstance(default, bool):
        return flag(name, value)
    if isinstance(default, tuple):
        return _range(name, value, default)
    if name == "frame_skip":
        return whole_number(name, value)
    low = 0.0 if name == "reset_noise_scale" else -math.inf
    if not _is_number(value) or not math.isfinite(value) or value < low:
        bounds = " of at least 0" if low == 0.0 else ""
        raise ValueError(f"{name} is {value!r}, but it must be a finite number{bounds}, such as {default}.")
    return float(value)


def _range(name: str, value: Any, default: tuple[float, float]) -> tuple[float, float]:
    is_pair = isinstance(value, (tuple, list, np.ndarray)) and len(value) == 2 and all(map(_is_number, value))
    if not is_pair or not value[0] <= value[1]:
        raise ValueError(f"{name} is {value!r}, but it must be a range (low, high), such as {default}.")
    return float(value[0]), float(value[1])


def flag(name: str, value: object) -> bool:
    """True or False; raises ValueError for anything else."""
    if not isinstance(value, (bool, np.bool_)):
        raise ValueError(f"{name} is {value!r}, but it must be True or False.")
    return bool(value)


def whole_number(name: str, value: object, low: int = 1) -> int:
    """A number of steps or entries as an int.

    Raises:
        ValueError: it is no whole number of at least `low`.
    """
    if isinstance(value, bool) or not isinstance(value, Integral) or value < low:
        raise ValueError(f"{name} is {value!r}, but it must be a whole number of at least {low}.")
    return int(value)


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)
