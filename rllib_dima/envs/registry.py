"""The environments by id: `mamujoco_<scenario>_<agent_conf>`, as in "mamujoco_ant_4x2", and `bidexhands_<task>`.

Ids are what a configuration names. The ids "mamujoco" and "bidexhands" take the scenario, division or task from
`env_config` instead. `env_config` accepts what `env_config_keys` lists, and nothing else.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal

import gymnasium

from rllib_dima import envs
from rllib_dima.core.names import check_name
from rllib_dima.envs.bidexhands.settings import SETTING_NAMES
from rllib_dima.envs.bidexhands.tasks import TASKS
from rllib_dima.envs.mamujoco.scenarios import find_scenario, registered_agent_confs
from rllib_dima.envs.mamujoco.settings import default_settings
from rllib_dima.envs.spaces import ContractError

if TYPE_CHECKING:
    from ray.rllib.env.multi_agent_env import MultiAgentEnv

EnvFamily = Literal["mamujoco", "bidexhands"]
BACKENDS = ("mujoco", "isaacgym")  # of Bi-DexHands
WRAPPER_CONFIG_KEYS = ("team_reward", "state", "agents_leave", "action_masks")  # in the env_config of CooperativeEnv

# Every id: its family, and what the id itself says of the environment.
_TASKS: dict[str, tuple[EnvFamily, dict[str, str]]] = {
    **{
        f"mamujoco_{scenario}_{agent_conf}": ("mamujoco", {"scenario": scenario, "agent_conf": agent_conf})
        for scenario, agent_confs in registered_agent_confs().items()
        for agent_conf in agent_confs
    },
    **{f"bidexhands_{task}": ("bidexhands", {"task": task}) for task in TASKS},
    "mamujoco": ("mamujoco", {}),
    "bidexhands": ("bidexhands", {}),
}

ENV_IDS = tuple(_TASKS)
_LISTING = (
    "mamujoco_<scenario>_<agent_conf>, as in 'mamujoco_ant_4x2', and bidexhands_<task>, as in 'bidexhands_pen' "
    "(rllib_dima.envs.ENV_IDS has them all)"
)


def make(env_id: str, **env_config: Any) -> MultiAgentEnv:
    """Makes an environment.

    Args:
        env_id: one of `ENV_IDS`.
        env_config: settings of the environment, of `env_config_keys(env_id, env_config)`.

    Raises:
        ValueError: unknown id or setting, with the nearest known names; a missing one; or see the environment's class.
    """
    known = _check_keys(env_id, env_config)
    family, named = _TASKS[env_id]
    settings = {**named, **env_config}
    env_class = _env_class(family, settings.pop("backend", "mujoco"))
    for key, parameter in _arguments(env_class).items():
        if parameter.default is parameter.empty and key not in settings:
            raise ValueError(
                f"{env_id} needs {key!r} in env_config, which has {sorted(env_config)} of {sorted(known)}."
            )
    return env_class(**settings)


def env_config_keys(env_id: str, env_config: Mapping[str, Any] | None = None) -> tuple[str, ...]:
    """What `env_config` of an environment may hold, besides `WRAPPER_CONFIG_KEYS`.

    Args:
        env_id: one of `ENV_IDS`.
        env_config: what it holds already; its scenario, version and backend say what more it may.

    Raises:
        ValueError: unknown id, scenario, version or backend.
    """
    check_name(env_id, ENV_IDS, "environment id", _LISTING)
    family, named = _TASKS[env_id]
    given = {**(env_config or {}), **named}
    if family == "mamujoco":
        keys = (*_arguments(_env_class(family)), *_mamujoco_settings(given))
    else:
        backend = given.get("backend", "mujoco")
        check_name(backend, BACKENDS, "backend")
        keys = ("backend", *_arguments(_env_class(family, backend)), *(SETTING_NAMES if backend == "mujoco" else ()))
    return tuple(key for key in keys if key not in named)


def _mamujoco_settings(given: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of the settings of Gymnasium's environment; none without a scenario."""
    if "scenario" not in given:
        return ()
    return tuple(default_settings(find_scenario(given["scenario"]), given.get("version")))


def creator(env_id: str) -> Callable[[Mapping[str, Any] | None], MultiAgentEnv]:
    """A function of an `env_config` that makes the environment, as `ray.tune.register_env` takes it.

    It is pickled by reference, so it works in every process that can import this package.
    """
    return functools.partial(_create, env_id)


def register_envs() -> None:
    """Registers every id of `ENV_IDS` with Ray. Calling it again does no harm."""
    from ray.tune.registry import register_env  # ray.tune may be half imported

    for env_id in ENV_IDS:
        register_env(env_id, creator(env_id))


def is_registered(env_id: str) -> bool:
    """Whether Ray or gymnasium knows an environment of this id; of "module:id" gymnasium imports the module first."""
    from ray.tune.registry import ENV_CREATOR, _global_registry

    return ":" in env_id or env_id in gymnasium.registry or _global_registry.contains(ENV_CREATOR, env_id)


def require_registered(env_id: str) -> None:
    """Refuses an id that RLlib cannot make an environment from.

    Raises:
        ContractError: nobody knows it; with the nearest of `ENV_IDS`.
    """
    if is_registered(env_id):
        return
    if "." in env_id:
        raise ContractError(
            f"Environment {env_id!r} looks like the path of a class, which RLlib's runners cannot resolve.",
            "Pass the class itself, or register it with ray.tune.register_env().",
        )
    try:
        check_name(env_id, ENV_IDS, "environment", _LISTING)
    except ValueError as error:
        advice = "Environments of your own need ray.tune.register_env() first (again after ray.shutdown())."
        raise ContractError(str(error), advice) from None


def env_family(env_id: object) -> EnvFamily | None:
    """The benchmark that an id of `ENV_IDS` belongs to; None for any other environment."""
    return _TASKS[env_id][0] if isinstance(env_id, str) and env_id in _TASKS else None


def _create(env_id: str, env_config: Mapping[str, Any] | None = None) -> MultiAgentEnv:
    # An empty EnvContext is falsy but still a dict, so only None may be replaced.
    settings = {} if env_config is None else dict(env_config)
    _check_keys(env_id, settings, WRAPPER_CONFIG_KEYS)
    return make(env_id, **{key: value for key, value in settings.items() if key not in WRAPPER_CONFIG_KEYS})


def _check_keys(env_id: str, env_config: Mapping[str, Any], more_keys: tuple[str, ...] = ()) -> tuple[str, ...]:
    """Refuses keys that `env_config` of an environment may not hold; returns those it may."""
    known = env_config_keys(env_id, env_config) + more_keys
    for key in env_config:
        check_name(key, known, f"env_config key of {env_id}:")
    return known


def _arguments(env_class: type) -> dict[str, inspect.Parameter]:
    """Arguments of a constructor that `env_config` may give; seeds come from RLlib, at the first reset."""
    parameters = inspect.signature(env_class).parameters.values()
    return {p.name: p for p in parameters if p.name != "seed" and p.kind is not inspect.Parameter.VAR_KEYWORD}


def _env_class(family: EnvFamily, backend: str = "mujoco") -> type[MultiAgentEnv]:
    """Imports a simulator, which registering does not."""
    if family == "mamujoco":
        return envs.MAMuJoCo
    return envs.BiDexHands if backend == "mujoco" else envs.IsaacGymBiDexHands
