"""The environments by id (see `registry.py`), and the form in which every algorithm here is given them.

Names are imported when they are first used, so that a simulator is loaded only where it is needed.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rllib_dima.envs.bidexhands.env import BiDexHands
    from rllib_dima.envs.check.experiments import check_env
    from rllib_dima.envs.cooperative import CooperativeEnv
    from rllib_dima.envs.creation import as_multi_agent_env, create_team
    from rllib_dima.envs.isaacgym.env import IsaacGymBiDexHands
    from rllib_dima.envs.mamujoco.env import MAMuJoCo
    from rllib_dima.envs.outcomes import NonFiniteError, SimulationError
    from rllib_dima.envs.pettingzoo import PettingZooEnv, to_pettingzoo
    from rllib_dima.envs.registry import (
        BACKENDS,
        ENV_IDS,
        WRAPPER_CONFIG_KEYS,
        EnvFamily,
        creator,
        env_config_keys,
        env_family,
        is_registered,
        make,
        register_envs,
        require_registered,
    )

_MODULE_OF = {
    "BiDexHands": "bidexhands.env",
    "check_env": "check.experiments",
    "CooperativeEnv": "cooperative",
    **dict.fromkeys(("NonFiniteError", "SimulationError"), "outcomes"),
    **dict.fromkeys(("as_multi_agent_env", "create_team"), "creation"),
    "IsaacGymBiDexHands": "isaacgym.env",
    "MAMuJoCo": "mamujoco.env",
    **dict.fromkeys(("PettingZooEnv", "to_pettingzoo"), "pettingzoo"),
    **dict.fromkeys(("BACKENDS", "ENV_IDS", "WRAPPER_CONFIG_KEYS", "EnvFamily", "creator"), "registry"),
    **dict.fromkeys(("env_config_keys", "env_family", "is_registered", "make"), "registry"),
    **dict.fromkeys(("register_envs", "require_registered"), "registry"),
}

__all__ = [
    "BACKENDS",
    "ENV_IDS",
    "WRAPPER_CONFIG_KEYS",
    "BiDexHands",
    "CooperativeEnv",
    "EnvFamily",
    "IsaacGymBiDexHands",
    "MAMuJoCo",
    "NonFiniteError",
    "PettingZooEnv",
    "SimulationError",
    "as_multi_agent_env",
    "check_env",
    "create_team",
    "creator",
    "env_config_keys",
    "env_family",
    "is_registered",
    "make",
    "register_envs",
    "require_registered",
    "to_pettingzoo",
]


def __getattr__(name: str) -> Any:
    if name in _MODULE_OF:
        return getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it offers {', '.join(__all__)}.")
