"""What the hyperparameters of every algorithm here have in common.

The value of a hyperparameter is the first of: what the user set, the recipe's for that model size, for that benchmark
family of the environment and for all, the preset of `model_size`, the benchmark family's, the default.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import numbers
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from typing_extensions import Self

from rllib_dima.core.layout import AgentLayout
from rllib_dima.core.names import check_name


def knob(
    default: Any,
    doc: str,
    *,
    symbol: str = "",
    low: float | None = None,
    high: float | None = None,
    choices: tuple[str, ...] = (),
) -> Any:
    """A dataclass field that documents itself: text, the paper's symbol, the closed range or the allowed words."""
    metadata = {"doc": doc, "symbol": symbol, "low": low, "high": high, "choices": choices}
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Hyperparameters:
    """Hyperparameters of an algorithm: a subclass adds its own as fields made with `knob`, its presets and families.

    Attributes:
        MODEL_SIZES: settings by preset of `model_size`; "paper" is the default.
        RECIPES: by preset of `recipe`, of which "paper" is the default: settings by benchmark family and by model
            size, and for all under "".
        FAMILIES: settings by benchmark family of the environment.

    Raises:
        TypeError: if a value is not of its default's type (whole numbers are accepted where fractions are expected).
        ValueError: if a value lies outside its range or its allowed words.
    """

    MODEL_SIZES: ClassVar[dict[str, dict[str, Any]]] = {"paper": {}}
    RECIPES: ClassVar[dict[str, dict[str, dict[str, Any]]]] = {"paper": {}}
    FAMILIES: ClassVar[dict[str, dict[str, Any]]] = {}

    env_steps_per_iteration: int = knob(200, "Real environment steps collected per iteration.", low=1)

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            _check_value(field, getattr(self, field.name))

    def check_team(self, layout: AgentLayout) -> None:
        """Raises ValueError if these hyperparameters do not go with a team."""

    def _require_multiple(self, name: str, of: str) -> None:
        """Raises ValueError if one is no multiple of the other, as a width has to be of the number of heads."""
        if getattr(self, name) % getattr(self, of):
            raise ValueError(f"{name} ({getattr(self, name)}) must be a multiple of {of} ({getattr(self, of)}).")

    @classmethod
    @functools.cache  # a configuration asks whenever one of its attributes is set
    def names(cls) -> tuple[str, ...]:
        """All of them."""
        return tuple(field.name for field in dataclasses.fields(cls))

    @classmethod
    def resolve(
        cls, user: Mapping[str, Any], family: str | None = None, model_size: str = "paper", recipe: str = "paper"
    ) -> Self:
        """The hyperparameters of a run: user settings over recipe, preset, benchmark family and defaults.

        Args:
            user: settings by name; None means "not set".
            family: a benchmark family, or None for an environment of none. One that the algorithm has no settings for
                changes nothing.
            model_size: key of `MODEL_SIZES`.
            recipe: key of `RECIPES`.

        Raises:
            ValueError: on an unknown name (with the nearest known one), preset or value.
            TypeError: on a value of the wrong type.
        """
        for name in user:
            check_name(name, cls.names(), "hyperparameter")
        check_name(model_size, cls.MODEL_SIZES, "model_size")
        check_name(recipe, cls.RECIPES, "recipe")
        chosen = {name: value for name, value in user.items() if value is not None}
        presets = cls.FAMILIES.get(family or "", {}) | cls.MODEL_SIZES[model_size]
        for key in ("", family, model_size):
            presets |= cls.RECIPES[recipe].get(key or "", {})
        return cls(**presets | chosen)


def _check_value(field: dataclasses.Field, value: Any) -> None:
    """Raises if `value` does not fit the type, range or words of `field`."""
    if isinstance(field.default, tuple):
        if not isinstance(value, (tuple, list)) or not value:
            raise TypeError(f"{field.name} must be a non-empty sequence such as {field.default}, but is {value!r}.")
        for item in value:
            _check_number(field, item, whole=True)
    elif isinstance(field.default, bool):
        if not isinstance(value, bool):
            raise TypeError(f"{field.name} must be True or False, but is {value!r}.")
    elif isinstance(field.default, str):
        check_name(value, field.metadata["choices"], field.name)
    else:
        _check_number(field, value, whole=isinstance(field.default, int))


def _check_number(field: dataclasses.Field, value: Any, whole: bool) -> None:
    """Raises if `value` is not a finite number (whole if asked) within the range of `field`."""
    low, high = field.metadata["low"], field.metadata["high"]
    kind = "a whole number" if whole else "a number"
    if isinstance(value, bool) or not isinstance(value, numbers.Integral if whole else numbers.Real):
        raise TypeError(f"{field.name} must be {kind}, but is {value!r} ({type(value).__name__}).")
    if not math.isfinite(value):
        raise ValueError(f"{field.name} must be finite, but is {value!r}.")
    if (low is not None and value < low) or (high is not None and value > high):
        limits = " and ".join(
            t
            for t in (f"at least {low}" if low is not None else "", f"at most {high}" if high is not None else "")
            if t
        )
        raise ValueError(f"{field.name} must be {limits}, but is {value!r}.")
