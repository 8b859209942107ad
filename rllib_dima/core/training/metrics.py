"""Means of metrics that stay on the device until an iteration ends."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import TypeVar

import torch

Key = TypeVar("Key", bound=Hashable)


class RunningMeans:
    """Means of named scalars, summed in place on their device, in float64.

    Nothing here waits for the device, and `add` can be recorded in a CUDA graph.

    Args:
        device: where the scalars are.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._names: tuple[str, ...] = ()
        self._sums = torch.zeros(0)  # the last entry counts
        self._one = torch.ones((), device=device)

    @property
    def is_filled(self) -> bool:
        """Whether anything was added since the last `clear`. Waits for the device."""
        return bool(self._names) and bool(self._sums[-1] > 0)

    def add(self, metrics: dict[str, torch.Tensor]) -> None:
        """Counts in a set of scalars; it has the same names each time."""
        if not self._names:
            self._names = tuple(metrics)
            self._sums = torch.zeros(len(metrics) + 1, dtype=torch.float64, device=self._device)
        assert self._names == tuple(metrics), "a set of metrics keeps its names"
        self._sums += torch.stack([*(value.detach() for value in metrics.values()), self._one])

    def clear(self) -> None:
        """Starts anew."""
        self._sums.zero_()

    def read(self) -> tuple[tuple[str, ...], torch.Tensor]:
        """The names and their means (M,) since the last `clear`; NaN if nothing was added."""
        return self._names, self._sums[:-1] / self._sums[-1:]


def read_together(
    means: Mapping[Key, RunningMeans], numbers: Mapping[str, torch.Tensor]
) -> tuple[dict[Key, dict[str, float]], dict[str, float]]:
    """All means, and numbers of shape (), in one transfer to the host."""
    read = {name: running.read() for name, running in means.items()}
    columns = [values for _, values in read.values()] + [number.double().view(1) for number in numbers.values()]
    flat = iter(torch.cat(columns).tolist())
    return {name: {metric: next(flat) for metric in metrics} for name, (metrics, _) in read.items()}, {
        name: next(flat) for name in numbers
    }
