"""Which checkpoint a folder stands for (a checkpoint, a trial of Tune's, or an experiment), and whose it is."""

from __future__ import annotations

import contextlib
import json
import math
import pickle
from pathlib import Path
from typing import Any

from rllib_dima.algorithms.base import TeamAlgorithm
from rllib_dima.checkpoint import CLASS_FILE_NAME, MANIFEST_FILE_NAME, CheckpointError, locate, verify
from rllib_dima.cli.errors import RunError, UsageError, failing_as

CHECKPOINT_FILE_NAME = "rllib_checkpoint.json"  # in every checkpoint of every algorithm


def find_checkpoint(folder: str | Path) -> Path:
    """Finds a checkpoint, the newest of a trial, or that of an experiment's trial with the highest last return.

    Args:
        folder: of any of these; a path or file:// URI.

    Returns:
        An absolute path.
    """
    if "://" in str(folder) and not str(folder).startswith("file:"):
        raise UsageError(f"{folder} is not on this machine: download the checkpoint first.")
    with failing_as(UsageError, of=CheckpointError):
        path = Path(locate(folder).path)
    if not path.is_dir():
        raise UsageError(f"There is no folder {folder}.")
    if (path / CHECKPOINT_FILE_NAME).is_file():
        return path
    trials = [path, *sorted(path.iterdir())]
    newest = {trial: checkpoint for trial in trials if (checkpoint := _newest_checkpoint(trial)) is not None}
    if not newest:
        raise UsageError(f"{folder} is no checkpoint, and holds none: no checkpoint_000000/{CHECKPOINT_FILE_NAME}.")
    return newest[max(newest, key=last_return)]


def load_config(checkpoint: Path) -> tuple[type, Any]:
    """The class of a checkpoint's algorithm and a copy of its configuration that can be changed.

    Raises:
        RunError: they are damaged, or cannot be unpickled here.
        UsageError: the algorithm runs on RLlib's old API stack.
    """
    verify_part(checkpoint, CLASS_FILE_NAME)
    with failing_as(RunError, f"{checkpoint} cannot be loaded (a module of yours must be named with --import): "):
        record = pickle.loads((checkpoint / CLASS_FILE_NAME).read_bytes())
        algorithm, state = record["class"], record["ctor_args_and_kwargs"][0][0]
        config = algorithm.get_default_config().from_state(state)
    if not config.enable_env_runner_and_connector_v2:
        raise UsageError(f"{checkpoint} is of RLlib's old API stack, which this command does not support.")
    return algorithm, config


def verify_part(checkpoint: Path, part: str) -> None:
    """Refuses a damaged part of a checkpoint of ours before it is unpickled; other algorithms write no checksums."""
    if (checkpoint / MANIFEST_FILE_NAME).is_file():
        with failing_as(RunError, of=CheckpointError):
            verify(checkpoint, only=part)


def require_restorable(checkpoint: Path, algorithm: type) -> None:
    """Refuses to restore an algorithm from a checkpoint of another, or from a damaged one of ours."""
    if issubclass(algorithm, TeamAlgorithm):
        with failing_as(UsageError, "restore: ", of=CheckpointError):
            return verify(checkpoint, algorithm=algorithm.name())
    writer, _ = load_config(checkpoint)
    if writer.__name__ not in [base.__name__ for base in algorithm.__mro__]:
        raise UsageError(f"restore: {checkpoint} is a checkpoint of {writer.__name__}, not of {algorithm.__name__}.")


def _newest_checkpoint(trial: Path) -> Path | None:
    """The checkpoint with the highest number in the folder of a trial, or None."""
    found = sorted(trial.glob(f"checkpoint_*/{CHECKPOINT_FILE_NAME}"))
    return found[-1].parent if found else None


def last_return(trial: Path) -> float:
    """The last training return that a trial reported, or minus infinity if it reported none."""
    results = trial / "result.json"
    for line in reversed(results.read_text(encoding="utf-8").splitlines() if results.is_file() else []):
        with contextlib.suppress(ValueError, KeyError, TypeError):  # no return yet, or cut off while being written
            value = float(json.loads(line)["env_runners"]["episode_return_mean"])
            if math.isfinite(value):
                return value
    return -math.inf
