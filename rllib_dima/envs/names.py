"""Error text for a name that is not known: what was given, what it may have been meant to be, what there is."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def unknown_name(kind: str, given: object, known: Iterable[str]) -> str:
    """A message for an unknown name.

    Args:
        kind: what the name is a name of, as in "environment id".
        given: the name that was given.
        known: every name that would have been right.

    Returns:
        One or two sentences with the nearest known names (if any is near) and the list of all of them.
    """
    known = sorted(known)
    near = difflib.get_close_matches(str(given).lower(), known, n=3)
    meant = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
    return f"Unknown {kind} {given!r}.{meant} Known: {', '.join(known)}."
