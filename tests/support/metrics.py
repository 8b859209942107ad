"""The tables of docs/metrics.md beside what a result holds."""

import math
import re
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"
ROW = re.compile(r"\| `(?P<path>[^`]+)` \|[^|]*\|[^|]*\| (?P<when>[a-z ]+) \|")
PLACEHOLDER = re.compile(r"<[a-z]+>")


def documented():
    """Path, which may hold placeholders -> in which reports it is."""
    rows = [row.groupdict() for row in map(ROW.fullmatch, PAGE.read_text().splitlines()) if row]
    paths = [row["path"] for row in rows]
    assert len(paths) == len(set(paths)), sorted(path for path in paths if paths.count(path) > 1)
    return {row["path"]: row["when"] for row in rows}


def reported(result, prefix=""):
    """Paths of all entries. NaN is RLlib's word for "nothing to report"; settings of the run are one entry."""
    paths = set()
    for key, value in result.items():
        if key == "config":
            paths.add("config/<setting>")
        elif isinstance(value, dict):
            paths |= reported(value, f"{prefix}{key}/")
        elif not (isinstance(value, float) and math.isnan(value)):
            paths.add(f"{prefix}{key}")
    return paths


def matches(pattern, path):
    between = [re.escape(part) for part in PLACEHOLDER.split(pattern)]
    return pattern == path or re.fullmatch("[^/]+".join(between), path) is not None


def undocumented(result, patterns=None):
    """Entries of a result that no table names."""
    patterns = documented() if patterns is None else patterns
    return sorted(path for path in reported(result) if not any(matches(pattern, path) for pattern in patterns))


def missing(result, patterns):
    """Table rows that no entry of a result matches."""
    paths = reported(result)
    return sorted(pattern for pattern in patterns if not any(matches(pattern, path) for path in paths))
