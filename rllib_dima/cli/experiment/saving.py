"""Checkpoints that Tune does not write by itself: by time, and when an experiment ends before its trials do."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ray.tune import Callback
from ray.tune.experiment import Trial
from ray.tune.result import SHOULD_CHECKPOINT

PERIOD_S = 600.0  # between the checkpoints of a trial
INTERRUPTED, OUT_OF_TIME = "Interrupted", "The time budget is over"
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Saving(Callback):
    """Asks trials for checkpoints, and ends the experiment on Ctrl-C, SIGTERM or when its time is over.

    Waits until every running trial has finished its iteration and written a checkpoint, then leaves Tune in a way that
    lets the trials be resumed. `end` is the reason, `INTERRUPTED` or `OUT_OF_TIME`, or None.

    Args:
        by_time: whether trials write checkpoints every `PERIOD_S`.
        time_budget_s: seconds until the end, if there is one.
    """

    def __init__(self, by_time: bool, time_budget_s: float | None = None) -> None:
        self.end: str | None = None
        self._by_time, self._time_budget_s = by_time, time_budget_s
        self._saved_at: dict[str, float] = {}  # by trial
        self._unsaved: set[Trial] | None = None  # trials that an end waits for

    def setup(self, **info: Any) -> None:
        """Replaces Tune's own signal handler, which is in place by now."""
        self._deadline = math.inf if self._time_budget_s is None else time.monotonic() + self._time_budget_s
        self._leave_tune: Any = signal.getsignal(signal.SIGINT)
        for number in _SIGNALS:
            signal.signal(number, self._interrupt)

    def on_trial_result(self, iteration: int, trials: list, trial: Trial, result: dict[str, Any], **info: Any) -> None:
        """Tune saves a trial after a result that asks for it."""
        now = time.monotonic()
        is_due = self._by_time and now - self._saved_at.setdefault(trial.trial_id, now) >= PERIOD_S
        if is_due or (self.end is not None and (self._unsaved is None or trial in self._unsaved)):
            result[SHOULD_CHECKPOINT] = True

    def on_trial_save(self, iteration: int, trials: list, trial: Trial, **info: Any) -> None:
        """A trial has written a checkpoint."""
        self._saved_at[trial.trial_id] = time.monotonic()
        if self._unsaved is not None:
            self._unsaved.discard(trial)

    def on_step_end(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        """Starts to end the experiment, and leaves Tune through its own handler of Ctrl-C once nothing is unsaved."""
        if self.end is None and time.monotonic() > self._deadline:
            self.end = OUT_OF_TIME
        if self.end is None:
            return
        if self._unsaved is None:
            self._unsaved = set(trials)
            print(f"\n{self.end}. Running trials end an iteration and are saved; Ctrl-C to leave at once.", flush=True)
        self._unsaved = {trial for trial in self._unsaved if trial.status == Trial.RUNNING}
        if not self._unsaved:
            self._leave_tune(signal.SIGINT, None)

    def _interrupt(self, number: int, frame: Any) -> None:
        if self.end is not None:
            raise KeyboardInterrupt
        self.end = INTERRUPTED


@contextmanager
def kept_signal_handlers() -> Iterator[None]:
    """Restores the signal handlers on exit."""
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
