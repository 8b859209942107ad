"""One line per training iteration of every trial."""

from __future__ import annotations

import datetime
from typing import Any

from rllib_dima.cli.console.spelling import KNOWN_METRICS, OTHER_STOPS
from rllib_dima.cli.errors import RunError
from rllib_dima.cli.experiment.spec import flat
from rllib_dima.core.names import check_name
from rllib_dima.reporting.progress_line import Progress, progress_line

# Metrics that appear only when the first episode or evaluation has ended, or not always.
_LATE = ("env_runners/", "evaluation/", "learners/", "perf/")


class ProgressLines(Progress):
    """Prints what Tune hears from trials.

    Args:
        stop: metrics and values at which trials end, for the time that is left.
    """

    def __init__(self, stop: Any) -> None:
        self._stop = stop if isinstance(stop, dict) else {}

    def on_trial_start(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        """A trial starts, or goes on after an interruption, a pause or a failure."""
        start = trial.latest_checkpoint_result
        if start is not None:
            iteration = start.metrics.get("training_iteration")  # unknown of a checkpoint from elsewhere
            after = "" if iteration is None else f" after iteration {iteration}"
            print(f"{self.name(trial, trials)}goes on{after} from {start.checkpoint.path}", flush=True)
        elif (trial.last_result or {}).get("training_iteration"):
            print(f"{self.name(trial, trials)}has no checkpoint and starts again at iteration 1", flush=True)

    def on_trial_result(self, iteration: int, trials: list, trial: Any, result: dict[str, Any], **info: Any) -> None:
        """A trial has trained for one iteration."""
        check_criteria(self._stop, result)
        super().on_trial_result(iteration, trials, trial, result, **info)

    def describe(self, result: dict[str, Any]) -> str:
        """The line about a report."""
        return describe(result, self._stop)

    def on_checkpoint(self, iteration: int, trials: list, trial: Any, checkpoint: Any, **info: Any) -> None:
        """A trial has written a checkpoint."""
        print(f"checkpoint: {checkpoint.path}", flush=True)


def describe(result: dict[str, Any], stop: dict[str, float]) -> str:
    """One line about one iteration.

    Args:
        result: what `Algorithm.train()` returned, as Tune passes it on.
        stop: metrics and values at which the trial ends.

    Returns:
        `progress_line`, and how long the trial has taken and will probably take.
    """
    seconds = result["time_total_s"]
    parts = [progress_line(result), f"total {_duration(seconds)}"]
    share = share_done(result, stop)
    if 0 < share < 1:
        parts.append(f"left {_duration(seconds / share - seconds)}")
    return "   ".join(parts)


def share_done(result: dict[str, Any], stop: dict[str, float]) -> float:
    """How much of a trial is over, from 0 to 1, by the counter that is nearest to its end.

    Returns and other metrics that do not grow steadily say nothing about it and are left out.
    """
    values = dict(flat(result))
    counters = [name for name in stop if name in values and ("lifetime" in name or name in _COUNTERS)]
    return min(1.0, max((values[name] / stop[name] for name in counters if stop[name] > 0), default=0.0))


_COUNTERS = ("training_iteration", "iterations_since_restore", "time_total_s", "time_since_restore")


def check_criteria(stop: dict[str, float], result: dict[str, Any]) -> None:
    """Refuses to train for ever with a metric of `stop` that the second result has not, if it should be there by then.

    Raises:
        RunError: there is one, with the nearest metrics.
    """
    values = dict(flat(result))
    for name in stop:
        if result["iterations_since_restore"] > 1 and name not in KNOWN_METRICS and not name.startswith(_LATE):
            try:
                check_name(name, values, "metric")
            except ValueError as error:
                raise RunError(f"stop: {error} {OTHER_STOPS}") from None


def _duration(seconds: float) -> str:
    """Hours, minutes and seconds, as in 1:02:03."""
    return str(datetime.timedelta(seconds=round(seconds)))
