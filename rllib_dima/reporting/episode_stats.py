"""Statistics over episodes, in which every episode that ended counts once.

RLlib's means are means of the runners' means, and means of those over the iterations of a report: they weigh a runner
with one episode as much as another one with ten. These statistics keep the numbers of the single episodes until they
are reported.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from typing import Any, ClassVar

from ray.rllib.utils.metrics.metrics_logger import DEFAULT_STATS_CLS_LOOKUP
from ray.rllib.utils.metrics.stats import ItemSeriesStats


class EpisodeStats(ItemSeriesStats):
    """One number per episode.

    A runner holds those of the episodes that ended since it was last asked. The algorithm holds those of this report,
    filled up to `window` with earlier ones: an iteration of DIMA is shorter than an episode of most tasks, so most
    reports would otherwise have none.
    """

    items: list[float]
    reduce_episodes: ClassVar[Callable[[list[float]], float]]

    def __init__(self, window: int, **kwargs: Any) -> None:
        self._num_reported = 0  # at the head of `items`
        super().__init__(window, **kwargs)

    def push(self, item: float) -> None:
        """Adds an episode."""
        self.items.append(item)

    def peek(self, compile: bool = True, latest_merged_only: bool = False) -> Any:
        """The statistic (NaN without an episode), or the numbers themselves if not `compile`."""
        items = (self.latest_merged or []) if latest_merged_only else self._counted()
        if not compile:
            return items
        return type(self).reduce_episodes(items) if items else math.nan

    def reduce(self, compile: bool = True) -> Any:
        """What `peek` returns, or a copy that holds all numbers if not `compile`; then begins a new report."""
        if not compile:
            return super().reduce(compile=False)
        value = self.peek()
        self.items = self.items[-self._window :]
        self._num_reported = len(self.items)
        return value

    def get_state(self) -> dict[str, Any]:
        """RLlib's state, as copies."""
        return {**super().get_state(), "items": list(self.items), "num_reported": self._num_reported}

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes on where `get_state` was called."""
        super().set_state(state)
        self._num_reported = state["num_reported"]

    def _counted(self) -> list[float]:
        num_new = len(self.items) - self._num_reported
        return self.items[-max(num_new, self._window) :]

    def _set_items(self, new_items: list[float]) -> None:
        self.items = new_items  # RLlib would keep the last `window` only, also of a runner


class EpisodeMean(EpisodeStats):
    """Their mean."""

    stats_cls_identifier = "episode_mean"
    reduce_episodes = statistics.fmean


class EpisodeMin(EpisodeStats):
    """The smallest."""

    stats_cls_identifier = "episode_min"
    reduce_episodes = min


class EpisodeMax(EpisodeStats):
    """The largest."""

    stats_cls_identifier = "episode_max"
    reduce_episodes = max


STATS_CLASSES = {
    **DEFAULT_STATS_CLS_LOOKUP,
    **{stats.stats_cls_identifier: stats for stats in (EpisodeMean, EpisodeMin, EpisodeMax)},
}
"""Statistics by the name that `MetricsLogger.log_value` takes as `reduce`."""
