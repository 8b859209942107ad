"""Names that are not known: what was given, what it may have been meant to be, what there is."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

FEW_NAMES = 5  # up to which all are listed


def check_name(name: object, known: Iterable[str], kind: str) -> None:
    """Does nothing if `name` is known.

    Args:
        name: the name that was given.
        known: every name that would be right.
        kind: what the name is a name of, as in "environment id".

    Raises:
        ValueError: otherwise, with the nearest known names, and all of them if they are few or none is near.
    """
    known = list(known)
    if name in known:
        return
    are_few = len(known) <= FEW_NAMES
    by_lower = {other.lower(): other for other in known}
    cutoff = 0.6 if are_few else 0.5  # among a few words one is soon the nearest, though something else was meant
    near = [by_lower[match] for match in difflib.get_close_matches(str(name).lower(), by_lower, n=3, cutoff=cutoff)]
    hints = [f"Did you mean {' or '.join(map(repr, near))}?"] if near else []
    if are_few or not near:
        hints.append(f"Known: {', '.join(sorted(known))}.")
    raise ValueError(f"Unknown {kind} {name!r}. {' '.join(hints)}")
