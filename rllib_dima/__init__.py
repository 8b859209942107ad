"""DIMA, a diffusion-inspired multi-agent world model, as an algorithm for Ray RLlib.

    from rllib_dima import DIMAConfig
    algo = DIMAConfig().environment("mamujoco_ant_4x2").build()
    algo.train()

Importing the package registers the trainable "DIMA" and every environment id with Ray. Where Ray is not installed
nothing is registered and `rllib_dima.core`, which is pure torch, works alone.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rllib_dima.algorithms.dima import DIMA
    from rllib_dima.algorithms.dima_config import DIMAConfig
    from rllib_dima.policy import Policy

__all__ = ["DIMA", "DIMAConfig", "Policy", "register"]

_MODULE_OF = {
    "DIMA": "rllib_dima.algorithms.dima",
    "DIMAConfig": "rllib_dima.algorithms.dima_config",
    "Policy": "rllib_dima.policy",
}


def register() -> None:
    """Registers "DIMA" and the environment ids with Ray; importing the package does, and again after `ray.init()`.

    Raises:
        ModuleNotFoundError: if Ray is not installed.
    """
    from ray.tune.registry import register_trainable

    from rllib_dima.algorithms.dima import DIMA
    from rllib_dima.envs import register_envs

    register_trainable("DIMA", DIMA)
    register_envs()


def register_whenever_ray_starts() -> None:
    """Ray forgets what is registered when it shuts down, so this registers again at every start."""
    import ray

    register()
    ray._private.worker._post_init_hooks.append(register)  # pyright: ignore[reportAttributeAccessIssue]: unlisted


def __getattr__(name: str) -> Any:
    if name in _MODULE_OF:
        return getattr(importlib.import_module(_MODULE_OF[name]), name)
    raise AttributeError(f"module 'rllib_dima' has no attribute {name!r}; it offers {', '.join(__all__)}.")


def _is_command_line() -> bool:
    """Whether this process is the `rllib` command, which imports Ray, and then registers, only where it needs it."""
    is_module = ("-m", "rllib_dima") in zip(sys.orig_argv, sys.orig_argv[1:], strict=False)
    return is_module or Path(sys.argv[0]).name == "rllib"


if importlib.util.find_spec("ray") is not None and not _is_command_line():
    register_whenever_ray_starts()
