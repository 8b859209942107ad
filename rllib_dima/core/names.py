"""Refuses unknown names, with the nearest known ones."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

FEW_NAMES = 5  # up to which all are listed


def check_name(name: object, known: Iterable[str], kind: str, listing: str = "") -> None:
    """Does nothing if `name` is known.

    Args:
        name: the name that was given.
        known: every name that would be right.
        kind: what the name is a name of, as in "environment id".
        listing: says which names are known where they are too many to be listed.

    Raises:
        ValueError: otherwise, with the nearest known names, and all of them if they are few or none is near.
    """
    known = list(known)
    if name in known:
        return
    are_few = len(known) <= FEW_NAMES
    # Among a few words, some word is always near, though something else was meant.
    near = near_names(str(name), known, cutoff=0.6 if are_few else 0.5)
    hints = [f"Did you mean {' or '.join(map(repr, near))}?"] if near else []
    if are_few or not near:
        hints.append(f"Known: {listing or ', '.join(sorted(known))}.")
    raise ValueError(f"Unknown {kind} {name!r}. {' '.join(hints)}")


def near_names(name: str, known: Iterable[str], cutoff: float) -> list[str]:
    """The shortest names that hold every word of `name`, at most five; without any, those most alike, at most three.

    Args:
        name: that is not known.
        known: every name that would be right.
        cutoff: how much alike names must be, from 0 to 1.
    """
    known = list(known)
    words = _words(name)
    with_words = sorted((other for other in known if words <= _words(other)), key=lambda other: (len(other), other))
    if words and with_words:
        return with_words[:5]
    by_lower = {other.lower(): other for other in known}
    return [by_lower[match] for match in difflib.get_close_matches(name.lower(), by_lower, n=3, cutoff=cutoff)]


def _words(name: str) -> set[str]:
    """The words of a name, without a plural's s; a learning rate is an lr."""
    words = re.sub("[^a-z0-9]+", " ", name.lower()).replace("learning rate", "lr").split()
    return {word.removesuffix("s") for word in words}
