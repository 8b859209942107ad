"""Search spaces as a YAML or JSON file writes them: `{loguniform: [1e-5, 1e-3]}`."""

from __future__ import annotations

from typing import Any

from rllib_dima.cli.errors import UsageError

GRID = "grid_search"
DISTRIBUTIONS = ("choice", "uniform", "quniform", "loguniform", "qloguniform", "randint", "qrandint")
DISTRIBUTIONS += ("lograndint", "qlograndint", "randn", "qrandn")


def is_search_space(value: Any) -> bool:
    """Whether a value is a mapping whose only key is `grid_search` or the name of a distribution."""
    return isinstance(value, dict) and len(value) == 1 and next(iter(value)) in (GRID, *DISTRIBUTIONS)


def with_search_spaces(settings: Any, path: str = "config") -> Any:
    """The same settings with every written search space replaced by Tune's own object for it.

    Args:
        settings: nested mappings and lists of plain values.
        path: where they are, for messages.

    Raises:
        UsageError: a search space has wrong arguments.
    """
    if is_search_space(settings):
        return _search_space(*next(iter(settings.items())), path)
    if isinstance(settings, dict):
        return {key: with_search_spaces(value, f"{path}.{key}") for key, value in settings.items()}
    return settings


def _search_space(name: str, arguments: Any, path: str) -> Any:
    if not isinstance(arguments, list) or not arguments:
        raise UsageError(f"{path}: {name} needs a list that is not empty, but has {arguments!r}.")
    if name == GRID:
        return {GRID: arguments}
    from ray import tune

    make = getattr(tune, name)
    try:
        domain = make(arguments) if name == "choice" else make(*arguments)
        domain.sample()
    except Exception as error:  # Tune checks numbers when it draws, with whatever errors numpy raises
        raise UsageError(f"{path}: {name} does not take {arguments}: {error}. See `ray.tune.{name}`.") from None
    return domain
