"""Search spaces: as a YAML or JSON file writes them, `{loguniform: [1e-5, 1e-3]}`, and the values to check in them."""

from __future__ import annotations

import copy
import functools
import math
import operator
from collections.abc import Iterator
from typing import Any

from ray import tune
from ray.tune.search.sample import Categorical, Float, Integer
from ray.tune.search.variant_generator import assign_value, parse_spec_vars

from rllib_dima.cli.errors import UsageError, failing_as

GRID = "grid_search"
DISTRIBUTIONS = ("choice", "uniform", "quniform", "loguniform", "qloguniform", "randint", "qrandint")
DISTRIBUTIONS += ("lograndint", "qlograndint", "randn", "qrandn")


def is_search_space(value: Any) -> bool:
    """Whether a value is a mapping whose only key is `grid_search` or the name of a distribution."""
    return isinstance(value, dict) and len(value) == 1 and next(iter(value)) in (GRID, *DISTRIBUTIONS)


def with_search_spaces(settings: Any, path: str = "config") -> Any:
    """Replaces every written search space in nested settings by Tune's own object.

    Raises:
        UsageError: a search space has wrong arguments; `path` says where.
    """
    if is_search_space(settings):
        ((name, arguments),) = settings.items()
        return _search_space(name, arguments, path)
    if isinstance(settings, dict):
        return {key: with_search_spaces(value, f"{path}.{key}") for key, value in settings.items()}
    return settings


def _search_space(name: str, arguments: Any, path: str) -> Any:
    if not isinstance(arguments, list) or not arguments:
        raise UsageError(f"{path}: {name} needs a list that is not empty, but has {arguments!r}.")
    if name == GRID:
        return {GRID: arguments}
    make = getattr(tune, name)
    with failing_as(UsageError, f"{path}: {name} does not take {arguments}: ", f". See `ray.tune.{name}`."):
        domain = make(arguments) if name == "choice" else make(*arguments)
        domain.sample()  # Tune checks numbers when it draws
    return domain


def variants(config: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Configs without search spaces: one with the first value of each space, then one for every other value.

    Of a range, its ends are tried. What a function draws (`ray.tune.sample_from`) cannot be known and is left out.
    """
    _, drawn, grids = parse_spec_vars(config)
    spaces = {path: _values_of(space) for path, space in (*drawn, *grids)}
    first = {path: values[0] for path, values in spaces.items() if values}
    yield _filled(config, spaces, first)
    for path, values in spaces.items():
        for value in values[1:]:
            yield _filled(config, spaces, {**first, path: value})


def _values_of(domain: Any) -> list[Any]:
    """All choices, the ends of a range, or a draw where there are no ends; none if a function draws."""
    if isinstance(domain, Categorical):
        return list(domain.categories)
    if not isinstance(domain, (Float, Integer)):
        return []
    if domain.lower in (None, -math.inf) or domain.upper in (None, math.inf):
        return [domain.sample()]
    return [domain.lower, domain.upper - 1 if isinstance(domain, Integer) else domain.upper]


def _filled(config: dict[str, Any], spaces: Any, chosen: dict[tuple, Any]) -> dict[str, Any]:
    """The config with the chosen value, or nothing, in the place of every search space."""
    result = copy.deepcopy(config)
    for path in spaces:
        if path in chosen:
            assign_value(result, path, chosen[path])
        else:
            del functools.reduce(operator.getitem, path[:-1], result)[path[-1]]
    return result
