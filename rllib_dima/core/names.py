"""Names that are not known: what was given, what it may have been meant to be, what there is."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def check_name(name: object, known: Iterable[str], kind: str) -> None:
    """Does nothing if `name` is known.

    Args:
        name: the name that was given.
        known: every name that would be right.
        kind: what the name is a name of, as in "environment id".

    Raises:
        ValueError: otherwise, with the nearest known names, or all of them if none is near.
    """
    known = list(known)
    if name in known:
        return
    by_lower = {other.lower(): other for other in known}
    near = [by_lower[match] for match in difflib.get_close_matches(str(name).lower(), by_lower, n=3, cutoff=0.5)]
    hint = f"Did you mean {' or '.join(map(repr, near))}?" if near else f"Known: {', '.join(sorted(known))}."
    raise ValueError(f"Unknown {kind} {name!r}. {hint}")
