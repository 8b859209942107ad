"""The environments by id: `mamujoco_<scenario>_<partition>`, as in "mamujoco_ant_4x2".

Ids are what a configuration names; `env_config` accepts the keys in `ENV_CONFIG_KEYS`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, Literal

from ray.rllib.env.multi_agent_env import MultiAgentEnv

from rllib_dima.core.names import check_name
from rllib_dima.envs.base import CooperativeEnv, NonFiniteError
from rllib_dima.envs.mamujoco import SCENARIOS, MAMuJoCo

EnvFamily = Literal["mamujoco", "bidexhands"]

ENV_CONFIG_KEYS = ("partition_kind", "render_mode")
WRAPPER_CONFIG_KEYS = ("team_reward",)  # in the same env_config, but read by the env runner for CooperativeEnv

_TASKS = {
    f"mamujoco_{scenario}_{partition}": (scenario, partition)
    for scenario in SCENARIOS
    for partition in SCENARIOS[scenario].partitions
}

ENV_IDS = tuple(_TASKS)


def make(env_id: str, **env_config: Any) -> MultiAgentEnv:
    """Makes an environment.

    Args:
        env_id: one of `ENV_IDS`.
        env_config: settings of the environment, of `ENV_CONFIG_KEYS`.

    Raises:
        ValueError: unknown id or setting, with the nearest known names.
    """
    check_name(env_id, ENV_IDS, "environment id")
    for key in env_config:
        check_name(key, ENV_CONFIG_KEYS, f"env_config key of {env_id}:")
    scenario, partition = _TASKS[env_id]
    return MAMuJoCo(scenario, partition, **env_config)


def creator(env_id: str) -> Callable[[Mapping[str, Any] | None], MultiAgentEnv]:
    """What `ray.tune.register_env` wants: a function of an `env_config` that makes the environment.

    It is pickled by reference, so it works in every process that can import this package.
    """
    return functools.partial(_create, env_id)


def register_envs() -> None:
    """Registers every id of `ENV_IDS` with Ray. Calling it again does no harm."""
    from ray.tune import register_env

    for env_id in ENV_IDS:
        register_env(env_id, creator(env_id))


def env_family(env_id: object) -> EnvFamily | None:
    """The benchmark that an environment belongs to, by the prefix of its id; None for any other environment."""
    prefix = env_id.split("_")[0] if isinstance(env_id, str) and "_" in env_id else None
    return prefix if prefix in ("mamujoco", "bidexhands") else None


def _create(env_id: str, env_config: Mapping[str, Any] | None = None) -> MultiAgentEnv:
    # An empty EnvContext is falsy but still a dict, so only None may be replaced.
    settings = {} if env_config is None else dict(env_config)
    return make(env_id, **{key: value for key, value in settings.items() if key not in WRAPPER_CONFIG_KEYS})


__all__ = [
    "ENV_CONFIG_KEYS",
    "ENV_IDS",
    "CooperativeEnv",
    "EnvFamily",
    "MAMuJoCo",
    "NonFiniteError",
    "creator",
    "env_family",
    "make",
    "register_envs",
]
