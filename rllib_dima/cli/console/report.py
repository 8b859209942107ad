"""How the trials of an experiment ended, in words."""

from __future__ import annotations

import math
import sys
from typing import Any

from rllib_dima.cli.errors import FAILED, INTERRUPTED, SUCCEEDED
from rllib_dima.cli.experiment import Experiment, saving


def report(experiment: Experiment, trials: list[Any], end: str | None) -> int:
    """Prints every trial's end and, of the best one, how to evaluate it.

    Args:
        experiment: that ran.
        trials: Tune's.
        end: why they were left before their own ends, in the words of `experiment.saving`.

    Returns:
        The exit code: 130 after Ctrl-C, 1 if a trial failed, else 0.
    """
    for trial in trials:
        print(summary(trial))
    failed = [trial for trial in trials if trial.status == "ERROR"]
    for trial in failed:
        print(f"rllib: {trial} failed: {cause(trial)}\nThe traceback is in {trial.path}/error.txt", file=sys.stderr)
    saved = [trial for trial in trials if trial.checkpoint is not None]
    if saved:
        print(f"To evaluate: rllib evaluate {max(saved, key=_last_return).checkpoint.path}")
    if end is not None:
        how = "To go on, add --resume to the same command." if saved else "No trial has written a checkpoint."
        print(f"{end}. {how} Results so far: {experiment.folder}")
    if end == saving.INTERRUPTED:
        return INTERRUPTED
    return FAILED if failed else SUCCEEDED


def summary(trial: Any) -> str:
    """Name, iterations, steps and return of a trial, in a line."""
    result = trial.last_result or {}
    mean = _last_return(trial)
    parts = [
        f"{trial}: {result.get('training_iteration', 0)} iterations",
        f"{result.get('num_env_steps_sampled_lifetime', 0):.0f} steps",
        f"return {mean:.1f}" if math.isfinite(mean) else "no episode has ended",
    ]
    return ", ".join(parts)


def cause(trial: Any) -> str:
    """Kind and message of the error that ended a trial."""
    error = trial.get_pickled_error()
    while getattr(error, "cause", None) is not None:  # Ray's wrapper around an error in another process
        error = error.cause
    if error is not None:
        return f"{type(error).__name__}: {error}"
    lines = (trial.get_error() or "unknown error").strip().splitlines()
    return lines[-1]


def _last_return(trial: Any) -> float:
    """The last training return of a trial, or minus infinity if it has none."""
    mean = (trial.last_result or {}).get("env_runners", {}).get("episode_return_mean", math.nan)
    return mean if math.isfinite(mean) else -math.inf
