"""Bi-DexHands: two Shadow Hands that handle an object with joints together.

`BiDexHands` is the port to MuJoCo; importing this package does not import MuJoCo until it is asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rllib_dima.envs.bidexhands.tasks import TASKS, Task

if TYPE_CHECKING:
    from rllib_dima.envs.bidexhands.env import BiDexHands

__all__ = ["TASKS", "BiDexHands", "Task"]


def __getattr__(name: str) -> Any:
    if name == "BiDexHands":
        from rllib_dima.envs.bidexhands.env import BiDexHands

        return BiDexHands
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
