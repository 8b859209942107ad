"""How long the phases of an iteration take."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


class PhaseClock:
    """Seconds spent in each phase; on a GPU between events in its queue, so that nothing waits for anything.

    Args:
        device: where the work is done.
    """

    def __init__(self, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"
        self._spans: list[tuple[str, Any, Any]] = []

    @contextmanager
    def timed(self, phase: str) -> Iterator[None]:
        """Adds the time inside to `phase`."""
        start = self._now()
        yield
        self._spans.append((phase, start, self._now()))

    def pop(self) -> dict[str, float]:
        """Seconds by phase since the last call; on a GPU this waits for the end of the last phase."""
        spans, self._spans, seconds = self._spans, [], {}
        if self._on_gpu and spans:
            spans[-1][2].synchronize()
        for phase, start, end in spans:
            elapsed = start.elapsed_time(end) / 1e3 if self._on_gpu else end - start
            seconds[phase] = seconds.get(phase, 0.0) + elapsed
        return seconds

    def _now(self) -> Any:
        if not self._on_gpu:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event
