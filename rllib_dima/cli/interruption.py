"""Ctrl-C while Tune runs: Tune saves, stops and returns as if all was well, and this remembers that it was not."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ray.tune import Callback


class Interruption(Callback):
    """Notices the first Ctrl-C.

    Attributes:
        happened: whether it was pressed.
    """

    def __init__(self) -> None:
        self.happened = False

    def setup(self, **info: Any) -> None:
        """Puts itself before Tune's own handler, which is in place by now."""
        if threading.current_thread() is threading.main_thread():
            self._handle_as_tune = signal.getsignal(signal.SIGINT)
            signal.signal(signal.SIGINT, self._handle)

    def _handle(self, number: int, frame: Any) -> None:
        self.happened = True
        print("\nSaving the state of the experiment; Ctrl-C again to leave at once.", flush=True)
        self._handle_as_tune(number, frame)


@contextmanager
def noticed_interruption() -> Iterator[Interruption]:
    """A callback for Tune that notices Ctrl-C; afterwards the handler is what it was before."""
    is_main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGINT)
    try:
        yield Interruption()
    finally:
        if is_main:
            signal.signal(signal.SIGINT, before)
