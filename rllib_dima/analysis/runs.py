"""Returns of finished or running trainings, as Tune's trials and `benchmarks/learning.py` have written them.

A run is one training with one seed; a group is the runs of one experiment and task that differ in nothing but the seed.
"""

from __future__ import annotations

import csv
import json
import logging
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rllib_dima.envs import env_family

STEPS, SECONDS = "num_env_steps_sampled_lifetime", "time_total_s"
KINDS = {  # of returns: the metric of a trial, and the entry of a benchmark's record
    "evaluation": ("evaluation/env_runners/episode_return_mean", "deterministic"),
    "training": ("env_runners/episode_return_mean", "sampled"),
}
RESULT_FILES = ("result.json", "progress.csv")  # the second lacks what was not in the first report
_NO_SETTINGS = (
    "curve", "seconds", "cpu_seconds", "commit", "torch", "ray", "threads", "task", "seed", "env", "hyperparameters",
)  # fmt: skip


logger = logging.getLogger(__name__)


class ResultsError(ValueError):
    """What was to be read does not exist, or holds no returns."""


@dataclass(frozen=True)
class Run:
    """One training.

    Attributes:
        file: where it was read.
        experiment: its name, for people.
        folder: what tells experiments of the same name apart.
        task: id of the environment.
        settings: of the training, by name, without task and seed.
        points: by kind of return, (P, 3): environment steps, seconds, return; without reports that have none.
    """

    file: Path
    experiment: str
    folder: Path
    task: str
    settings: dict[str, Any]
    points: dict[str, np.ndarray]


@dataclass(frozen=True)
class Group:
    """Runs that differ in their seeds alone."""

    name: str
    task: str
    runs: tuple[Run, ...]


def read_runs(place: str | Path) -> list[Run]:
    """All runs of a place that have reported anything.

    Args:
        place: the folder of an experiment or a trial of Tune's, a folder of `learning_*.json`, or one such file.

    Raises:
        ResultsError: there is no such place, it holds no results, or a file lacks steps or seconds.
    """
    path = Path(place).expanduser().resolve()
    if path.is_file():
        return [_read_record(path) if path.name not in RESULT_FILES else _read_trial(path)]
    if not path.is_dir():
        raise ResultsError(f"There is no file or folder {place}.")
    trials = [file for folder in (path, *sorted(path.iterdir())) if (file := _results_of(folder)) is not None]
    records = sorted(path.glob("learning_*.json"))
    if not trials and not records:
        raise ResultsError(
            f"{place} holds no results: neither trials with a filled {RESULT_FILES[0]}, nor learning_*.json. "
            "Give the folder of an experiment or a trial of Tune's, or what benchmarks/learning.py has written."
        )
    return [_read_trial(file) for file in trials] + [_read_record(file) for file in records]


def group_runs(sources: Iterable[tuple[str | None, str | Path]]) -> list[Group]:
    """Runs by experiment and task, in the order given; those whose settings differ are groups of their own.

    Runs without any return yet are left out, and a warning names them.

    Args:
        sources: a name, under which all sources of that name are one experiment, or None for the source's own; and a
            place as for `read_runs`.

    Raises:
        ResultsError: see `read_runs`; or no run has a return.
    """
    found: dict[tuple[str, Path | None, str], dict[Path, Run]] = {}
    for name, place in sources:
        for run in _with_returns(read_runs(place), place):
            key = (run.experiment, run.folder, run.task) if name is None else (name, None, run.task)
            found.setdefault(key, {})[run.file] = run
    folders = {name: {folder for other, folder, _ in found if other == name} for name, _, _ in found}
    groups = []
    for (name, folder, task), runs in found.items():
        shown = name if folder is None else _told_apart(name, folder, folders[name])
        groups += [
            Group(", ".join(filter(None, (shown, variant))), task, tuple(alike))
            for variant, alike in _by_variant(list(runs.values())).items()
        ]
    return groups


def _told_apart(name: str, folder: Path, folders: set[Path | None]) -> str:
    """The name of an experiment, and as much of its folder as tells it from others of this name."""
    common = os.path.commonpath([other.absolute() for other in folders if other is not None])
    return str(folder.absolute().relative_to(common) / name)


def _with_returns(runs: Sequence[Run], place: str | Path) -> list[Run]:
    """The runs that have a return of some kind."""
    begun = [run for run in runs if any(map(len, run.points.values()))]
    if not begun:
        raise ResultsError(f"No run in {place} holds a return yet: none has ended an episode or been evaluated.")
    for run in runs:
        if run not in begun:
            logger.warning(f"{run.file} is left out: it holds no return yet.")
    return begun


def _by_variant(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """Runs by the settings in which some of them differ, as text."""
    names = dict.fromkeys(name for run in runs for name in run.settings)
    varying = [name for name in names if len({repr(run.settings.get(name)) for run in runs}) > 1]
    variants: dict[str, list[Run]] = {}
    for run in runs:
        parts = (f"{name.split('/')[-1]}={run.settings[name]}" for name in varying if name in run.settings)
        variants.setdefault(", ".join(parts), []).append(run)
    return variants


def _results_of(folder: Path) -> Path | None:
    """The file of a trial's reports that holds any; Tune makes both when the trial starts."""
    files = [folder / name for name in RESULT_FILES]
    return next((file for file in files if file.is_file() and file.stat().st_size), None)


def _read_trial(file: Path) -> Run:
    rows = _rows(file)
    if not rows:
        raise ResultsError(f"{file} holds no whole report.")
    last, experiment = rows[-1], file.parent.parent
    config = {name.removeprefix("config/"): value for name, value in last.items() if name.startswith("config/")}
    points = {kind: _points(file, rows, (STEPS, SECONDS, metric)) for kind, (metric, _) in KINDS.items()}
    settings = {name: value for name, value in config.items() if _tells(name, value)}
    return Run(file, experiment.name, experiment.parent, _env_name(config.get("env")), settings, points)


def _rows(file: Path) -> list[dict[str, Any]]:
    """Every report by the paths of its entries; one that is being written right now is left out."""
    text = file.read_text(encoding="utf-8")
    if file.suffix == ".csv":
        return list(csv.DictReader(text.splitlines()))
    rows = []
    for line in text.splitlines():
        try:
            rows.append(dict(_flat(json.loads(line))))
        except json.JSONDecodeError:
            break
    return rows


def _flat(entries: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for name, value in entries.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}/")
        else:
            yield f"{prefix}{name}", value


def _read_record(file: Path) -> Run:
    """What `benchmarks/learning.py` writes of one run."""
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
        task, seed, rows = record["task"], record["seed"], record["curve"]
    except (ValueError, KeyError, TypeError) as error:
        raise ResultsError(f"{file} is no record of benchmarks/learning.py: {type(error).__name__} {error}.") from None
    points = {kind: _points(file, rows, ("steps", "seconds", entry)) for kind, (_, entry) in KINDS.items()}
    label = file.stem.removeprefix(f"learning_{task}_").removesuffix(f"_{seed}")
    settings = dict(_flat({name: value for name, value in record.items() if name not in _NO_SETTINGS}))
    full = task if env_family(f"mamujoco_{task}") is None else f"mamujoco_{task}"
    return Run(file, label, file.parent, full, settings, points)


def _points(file: Path, rows: Sequence[Mapping[str, Any]], names: tuple[str, str, str]) -> np.ndarray:
    """(P, 3) of the rows that have a return; of steps repeated after a restart the last count."""
    points: list[list[float]] = []
    for row in rows:
        for name in names[:2]:
            if row.get(name) in (None, ""):
                raise ResultsError(f"{file} lacks {name!r}, which environment steps and seconds are read from.")
        point = [math.nan if row.get(name) in (None, "") else float(row[name]) for name in names]
        has_return = math.isfinite(point[2])
        while points and (points[-1][0] > point[0] or (points[-1][0] == point[0] and has_return)):
            points.pop()
        if has_return:
            points.append(point)
    return np.array(points).reshape(-1, 3)


def _tells(name: str, value: Any) -> bool:
    """Whether a setting may tell variants apart: a plain value (others print as addresses), not RLlib's own note."""
    return name not in _NO_SETTINGS and name[0] != "_" and not (isinstance(value, str) and " at 0x" in value)


def _env_name(env: Any) -> str:
    """An id, or the name of the class that a result shows as "<class 'module.Name'>"."""
    text = str(env)
    return text if text[:1] != "<" else text.split("'")[1].split(".")[-1] if "'" in text else text.split()[1]
