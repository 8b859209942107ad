"""DIMA, a diffusion-inspired multi-agent world model, as an algorithm for Ray RLlib.

    from rllib_dima import DIMAConfig
    algo = DIMAConfig().environment("mamujoco_ant_4x2").build()
    algo.train()

Importing the package registers every algorithm (`ALGORITHMS`) and environment id with Ray: at once where Ray's registry
has been imported, else as soon as it is. It imports neither Ray nor a simulator, so `rllib_dima.core` and `Policy`,
which are pure torch, work alone.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rllib_dima.algorithms.dima import DIMA, DIMAConfig
    from rllib_dima.algorithms.happo import HAPPO, HAPPOConfig
    from rllib_dima.algorithms.hasac import HASAC, HASACConfig
    from rllib_dima.algorithms.mamba import MAMBA, MAMBAConfig
    from rllib_dima.algorithms.mappo import MAPPO, MAPPOConfig
    from rllib_dima.algorithms.marie import MARIE, MARIEConfig
    from rllib_dima.policy import Policy

__all__ = [
    "ALGORITHMS",
    "DIMA",
    "HAPPO",
    "HASAC",
    "MAMBA",
    "MAPPO",
    "MARIE",
    "DIMAConfig",
    "HAPPOConfig",
    "HASACConfig",
    "MAMBAConfig",
    "MAPPOConfig",
    "MARIEConfig",
    "Policy",
    "register",
]

ALGORITHMS = ("DIMA", "MAMBA", "MARIE", "MAPPO", "HAPPO", "HASAC")
"""By the names under which Ray knows them."""

_MODULE_OF = {
    **{name: f"rllib_dima.algorithms.{name.lower()}" for name in ALGORITHMS},
    **{f"{name}Config": f"rllib_dima.algorithms.{name.lower()}" for name in ALGORITHMS},
    "Policy": "rllib_dima.policy",
}
_REGISTRY = "ray.tune.registry"


def register() -> None:
    """Registers algorithms and environment ids with Ray; importing the package does, and again after `ray.init()`.

    Raises:
        ModuleNotFoundError: if Ray is not installed.
    """
    from ray.tune.registry import TRAINABLE_CLASS, _global_registry

    from rllib_dima.envs import register_envs

    for name in ALGORITHMS:
        _global_registry.register(TRAINABLE_CLASS, name, _Reference(name))
    register_envs()


def register_whenever_ray_starts() -> None:
    """Ray forgets what is registered when it shuts down, so this registers again at every start."""
    from ray._private.worker import _post_init_hooks  # pyright: ignore[reportAttributeAccessIssue]: unlisted

    register()
    _post_init_hooks.append(register)


class _Reference:
    """Unpickled, it is the algorithm: Ray's registry keeps pickles, so that RLlib is imported only where it is used."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __reduce__(self) -> tuple:
        return __getattr__, (self._name,)


class _RegisterWithRay:
    """An import hook that registers right after Ray's registry has been imported."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if name != _REGISTRY:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        load = spec.loader.exec_module

        def load_and_register(module: ModuleType) -> None:
            load(module)
            register_whenever_ray_starts()

        spec.loader.exec_module = load_and_register
        return spec


def __getattr__(name: str) -> Any:
    if name in _MODULE_OF:
        return getattr(importlib.import_module(_MODULE_OF[name]), name)
    raise AttributeError(f"module 'rllib_dima' has no attribute {name!r}; it offers {', '.join(__all__)}.")


if _REGISTRY in sys.modules:
    register_whenever_ray_starts()
else:
    sys.meta_path.insert(0, _RegisterWithRay())
