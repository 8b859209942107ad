"""Episode statistics over the last episodes, across iterations.

RLlib averages over the episodes that ended within one iteration. An iteration of DIMA is shorter than an episode of
most tasks, so most iterations would report NaN, and the others one single episode.
"""

from __future__ import annotations

import math
from collections import deque
from typing import Any

MEANS = ("episode_return_mean", "episode_len_mean", "episode_duration_sec_mean")
MINIMA, MAXIMA = ("episode_return_min", "episode_len_min"), ("episode_return_max", "episode_len_max")
MEANS_BY_NAME = ("agent_episode_returns_mean", "module_episode_returns_mean", "agent_steps")
COUNT = "num_episodes"


class EpisodeWindow:
    """The results of the last iterations in which episodes ended, up to a number of episodes.

    Args:
        max_episodes: how many of the last episodes count; a single iteration with more of them counts whole.
    """

    def __init__(self, max_episodes: int) -> None:
        self.max_episodes = max_episodes
        self.iterations: deque[dict[str, Any]] = deque()

    def smooth(self, results: dict[str, Any]) -> dict[str, Any]:
        """Adds one iteration's `env_runners` results; returns them with statistics over the whole window.

        Episodes in which the simulator broke down end, but are in no statistics.

        Before the first episode has ended, the statistics are absent, as in RLlib. `num_episodes` stays the number of
        episodes that ended in this iteration.
        """
        count = _whole_number(results.get(COUNT))
        good = count - _whole_number(results.get("num_broken_episodes"))
        if good:
            names = (*MEANS, *MINIMA, *MAXIMA, *MEANS_BY_NAME)
            self.iterations.append({COUNT: good, **{name: results[name] for name in names if name in results}})
            self._trim()
        return {**results, COUNT: count, **self._statistics()}

    def _trim(self) -> None:
        while len(self.iterations) > 1 and sum(i[COUNT] for i in self.iterations) > self.max_episodes:
            self.iterations.popleft()

    def _statistics(self) -> dict[str, Any]:
        if not self.iterations:
            return {}
        newest = self.iterations[-1]
        statistics: dict[str, Any] = {name: self._mean([name]) for name in MEANS if name in newest}
        for name in MEANS_BY_NAME:
            if name in newest:
                statistics[name] = {key: self._mean([name, key]) for key in newest[name]}
        statistics |= {name: min(float(i[name]) for i in self.iterations) for name in MINIMA if name in newest}
        return statistics | {name: max(float(i[name]) for i in self.iterations) for name in MAXIMA if name in newest}

    def _mean(self, path: list[str]) -> float:
        """Mean over episodes of the entry at `path`."""
        total, episodes = 0.0, 0
        for iteration in self.iterations:
            value = iteration
            for key in path:
                value = value[key]
            total, episodes = total + iteration[COUNT] * float(value), episodes + iteration[COUNT]
        return total / episodes


def _whole_number(count: float | None) -> int:
    """A count of RLlib's, which is missing or NaN where nothing was counted."""
    return 0 if count is None or math.isnan(count) else int(count)
