"""`Collector`: gets exact numbers of steps from environment runners, now or ahead of their use."""

from __future__ import annotations

import copy
import logging
import time
from collections import deque
from functools import partial
from typing import Any

from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.env.env_runner_group import EnvRunnerGroup
from ray.rllib.env.multi_agent_episode import MultiAgentEpisode

from rllib_dima.sampling.broken_episodes import BreakdownLimit, num_good_steps

Share = tuple[list[MultiAgentEpisode], dict[str, Any]]
"""What a runner returns: episodes and chunks of episodes, and its metrics."""

_TAG = "sample"

GIVE_UP_AFTER = 6
"""Collecting fails after so many times `sample_timeout_s` without a step; hanging runners are restarted earlier."""

logger = logging.getLogger("ray.rllib")


class Collector:
    """Collects the steps of one iteration after the other and keeps them until they are taken.

    Runners share the steps evenly, those of a runner that fails are collected by the others, and those of a runner
    that takes longer than `config.sample_timeout_s` count for a later iteration (see `RunnerManager`). Environments of
    one runner step together, except while one is being reset. So where episodes end at different times, a few more
    steps may come than were asked for, and the next iteration has as many fewer. Steps in which a simulator broke down
    do not count; others are collected in their place.

    Args:
        group: the runners, remote ones or the local one alone.
        config: of the algorithm.
    """

    def __init__(self, group: EnvRunnerGroup, config: AlgorithmConfig) -> None:
        self._group, self._config = group, config
        self._shares: deque[Share] = deque()  # collected, not yet taken
        self._breakdowns = BreakdownLimit(config.env)
        self._num_surplus_steps = 0  # taken beyond what the iterations so far should have
        self._busy: dict[int, int] = {}  # steps asked of runners that collect; 0 for late ones
        self._overtaken: set[int] = set()  # late runners whose share is of before `set_state`
        self._waited_in_vain_s = 0.0  # since steps came

    def begin(self) -> None:
        """Asks remote runners for the steps that an iteration still lacks, and returns at once."""
        runners = self._idle_runners()
        missing = self._num_missing() - sum(self._busy.values())
        parts = _split(missing, len(runners), self._config.num_envs_per_env_runner)
        asked = {runner: steps for runner, steps in zip(runners, parts, strict=True) if steps}
        if asked:
            calls = [partial(_sample, num_timesteps=steps) for steps in asked.values()]
            self._group.foreach_env_runner_async(calls, tag=_TAG, remote_worker_ids=list(asked))
            self._busy |= asked

    def finish(self) -> bool:
        """Waits for the steps of a whole iteration; returns whether they came.

        Raises:
            RuntimeError: if the environment failed and is in this process; or if all runners hang.
            rllib_dima.envs.SimulationError: if simulators broke down too often, see `broken_episodes.py`.
        """
        while (missing := self._num_missing()) > 0:
            if self._group.num_remote_env_runners() == 0:
                self._add(_sample(self._group.local_env_runner, missing))
                continue
            self.begin()
            if not self._receive():
                logger.warning(
                    "No environment runner returned steps: all of them failed, or took longer than sample_timeout_s "
                    f"({self._config.sample_timeout_s})."
                )
                self._give_up_in_time()
                return False
        return True

    def take(self) -> tuple[list[MultiAgentEpisode], list[dict[str, Any]]]:
        """The episodes of an iteration, once `finish()` returned True, and the runners' metrics."""
        due, taken = self._num_due(), []
        while self._shares and sum(map(_num_steps, taken)) < max(1, due):
            taken.append(self._shares.popleft())
        self._num_surplus_steps = max(0, sum(map(_num_steps, taken)) - due)
        return [episode for episodes, _ in taken for episode in episodes], [metrics for _, metrics in taken]

    def get_state(self) -> dict[str, Any]:
        """Copies of what was collected but not taken. Waits for runners that collect, but not for late ones."""
        self._receive(wait=any(self._busy.values()))
        return {
            "shares": copy.deepcopy(list(self._shares)),
            "num_surplus_steps": self._num_surplus_steps,
            "breakdowns": list(self._breakdowns.recent),
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes back to what `get_state()` returned; drops what was collected since."""
        self._receive(wait=any(self._busy.values()))
        self._overtaken = set(self._busy)
        self._shares = deque(copy.deepcopy(state["shares"]))
        self._num_surplus_steps = state["num_surplus_steps"]
        self._breakdowns.recent.clear()
        self._breakdowns.recent.extend(state["breakdowns"])

    def _num_due(self) -> int:
        return self._config.total_train_batch_size - self._num_surplus_steps

    def _num_missing(self) -> int:
        return max(1, self._num_due()) - sum(map(_num_steps, self._shares))

    def _idle_runners(self) -> list[int]:
        """Healthy remote runners that are not collecting."""
        healthy = self._group.healthy_env_runner_ids()
        if not self._group.num_in_flight_async_reqs(_TAG):
            self._busy = {}  # a runner that failed and was restarted will not answer
        self._busy = {runner: steps for runner, steps in self._busy.items() if runner in healthy}
        return [runner for runner in healthy if runner not in self._busy]

    def _receive(self, wait: bool = True) -> bool:
        """Takes what runners have collected, late shares last; returns whether anything came."""
        start, timeout = time.monotonic(), self._config.sample_timeout_s if wait else 0.0
        results = self._group.fetch_ready_async_reqs(tags=_TAG, timeout_seconds=timeout)
        order = {runner: (not self._busy.pop(runner, 0), runner) for runner, _ in results}
        healthy = self._group.healthy_env_runner_ids()  # one that failed will not answer, restarted or not
        self._busy = {runner: 0 for runner in self._busy if runner in healthy}
        self._waited_in_vain_s = 0.0 if results else self._waited_in_vain_s + time.monotonic() - start
        for runner, share in sorted(results, key=lambda result: order[result[0]]):
            if runner not in self._overtaken:
                self._add(share)
        self._overtaken &= set(self._busy)
        return bool(results)

    def _add(self, share: Share) -> None:
        self._shares.append(share)
        self._breakdowns.check(share[0])

    def _give_up_in_time(self) -> None:
        manager: Any = self._group._worker_manager  # RunnerManager has put itself there
        late, timeout = manager.late(), self._config.sample_timeout_s
        if late and self._waited_in_vain_s >= GIVE_UP_AFTER * timeout:
            raise RuntimeError(
                f"No environment runner returned a step for {GIVE_UP_AFTER} times sample_timeout_s ({timeout:g}), "
                f"although those that hung were restarted. Without an answer: {late}. Environments that hang must be "
                "mended; those that are merely slow need a larger sample_timeout_s."
            )


def _sample(runner: Any, num_timesteps: int) -> Share:
    return runner.sample(num_timesteps=num_timesteps), runner.get_metrics()


def _num_steps(share: Share) -> int:
    return sum(num_good_steps(episode) for episode in share[0])


def _split(num_steps: int, num_runners: int, num_envs: int) -> list[int]:
    """Falling shares of `num_steps`, rounded up to whole steps of `num_envs` environments at once."""
    rounds = -(-max(0, num_steps) // num_envs)
    return [num_envs * (rounds // num_runners + (index < rounds % num_runners)) for index in range(num_runners)]
