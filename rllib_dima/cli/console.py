"""What `rllib train` prints: a line per training iteration of every trial, and how the trials ended."""

from __future__ import annotations

import math
import shlex
import sys
from datetime import timedelta
from typing import Any

from ray.tune.utils import flatten_dict

from rllib_dima.cli.errors import FAILED, INTERRUPTED, SUCCEEDED, RunError, failing_as
from rllib_dima.cli.experiment import saving
from rllib_dima.cli.vocabulary import KNOWN_METRICS, OTHER_STOPS
from rllib_dima.core.names import check_name
from rllib_dima.reporting.progress_line import Progress, progress_line

# Metrics that appear only when the first episode or evaluation has ended, or not always.
_LATE = ("env_runners/", "evaluation/", "learners/", "perf/")
_COUNTERS = ("training_iteration", "iterations_since_restore", "time_total_s", "time_since_restore")


class ProgressLines(Progress):
    """Prints a line for whatever a trial reports, with the time that is left until it meets `stop`."""

    def __init__(self, stop: Any) -> None:
        self._stop = stop if isinstance(stop, dict) else {}

    def on_trial_start(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        """A trial starts, or goes on after an interruption, a pause or a failure."""
        start = trial.latest_checkpoint_result
        if start is not None:
            number = start.metrics.get("training_iteration")  # unknown of a checkpoint from elsewhere
            after = "" if number is None else f" after iteration {number}"
            print(f"{self.name(trial, trials)}goes on{after} from {start.checkpoint.path}", flush=True)
        elif (trial.last_result or {}).get("training_iteration"):
            print(f"{self.name(trial, trials)}has no checkpoint and starts again at iteration 1", flush=True)

    def on_trial_result(self, iteration: int, trials: list, trial: Any, result: dict[str, Any], **info: Any) -> None:
        """A trial has trained for one iteration."""
        check_criteria(self._stop, result)
        super().on_trial_result(iteration, trials, trial, result, **info)

    def describe(self, result: dict[str, Any]) -> str:
        """`progress_line`, how long the trial has taken, and how long it will probably take until it ends."""
        seconds, share = result["time_total_s"], share_done(result, self._stop)
        line = f"{progress_line(result)}   total {timedelta(seconds=round(seconds))}"
        left = f"   left {timedelta(seconds=round(seconds / share - seconds))}" if 0 < share < 1 else ""
        return f"{line}{left}"

    def on_checkpoint(self, iteration: int, trials: list, trial: Any, checkpoint: Any, **info: Any) -> None:
        """A trial has written a checkpoint."""
        print(f"checkpoint: {checkpoint.path}", flush=True)


def share_done(result: dict[str, Any], stop: dict[str, float]) -> float:
    """The share of a trial that is done, from 0 to 1, by the counter nearest to its end.

    Ignores returns and other metrics that do not grow steadily.
    """
    values = flatten_dict(result)
    counters = [name for name in stop if name in values and ("lifetime" in name or name in _COUNTERS)]
    return min(1.0, max((values[name] / stop[name] for name in counters if stop[name] > 0), default=0.0))


def check_criteria(stop: dict[str, float], result: dict[str, Any]) -> None:
    """Stops a run whose second result lacks a metric of `stop`, for which it would train for ever."""
    for name in stop:
        if result["iterations_since_restore"] > 1 and name not in KNOWN_METRICS and not name.startswith(_LATE):
            with failing_as(RunError, "stop: ", f" {OTHER_STOPS}"):
                check_name(name, flatten_dict(result), "metric")


def report(folder: str, trials: list[Any], end: str | None) -> int:
    """Prints how the trials ended and how to evaluate the best one; returns the exit code.

    Args:
        folder: of the experiment.
        trials: Tune's.
        end: why Tune was left early (`saving.INTERRUPTED` or `saving.OUT_OF_TIME`), if it was.
    """
    for trial in trials:
        result, mean = trial.last_result or {}, _last_return(trial)
        iterations, steps = result.get("training_iteration", 0), result.get("num_env_steps_sampled_lifetime", 0)
        outcome = f"return {mean:.1f}" if math.isfinite(mean) else "no episode has ended"
        print(f"{trial}: {iterations} iterations, {steps:.0f} steps, {outcome}")
    failed = [trial for trial in trials if trial.status == "ERROR"]
    for trial in failed:
        print(f"rllib: {trial} failed: {_cause(trial)}\nThe traceback is in {trial.path}/error.txt", file=sys.stderr)
    saved = [trial for trial in trials if trial.checkpoint is not None]
    if saved:
        print(f"To evaluate: rllib evaluate {shlex.quote(max(saved, key=_last_return).checkpoint.path)}")
    if end is not None:
        how = "To go on, add --resume to the same command." if saved else "No trial has written a checkpoint."
        print(f"{end}. {how} Results so far: {folder}")
    if end == saving.INTERRUPTED:
        return INTERRUPTED
    return FAILED if failed else SUCCEEDED


def _cause(trial: Any) -> str:
    """Kind and message of the error that ended a trial."""
    error = trial.get_pickled_error()
    while getattr(error, "cause", None) is not None:  # Ray's wrapper around an error in another process
        error = error.cause
    if error is not None:
        return f"{type(error).__name__}: {error}"
    return (trial.get_error() or "unknown error").strip().splitlines()[-1]


def _last_return(trial: Any) -> float:
    """The last training return of a trial, or minus infinity if it has none."""
    mean = (trial.last_result or {}).get("env_runners", {}).get("episode_return_mean", math.nan)
    return mean if math.isfinite(mean) else -math.inf
