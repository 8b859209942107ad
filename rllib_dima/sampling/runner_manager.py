"""`RunnerManager`: RLlib's manager of remote environment runners, but with a time-out on every call."""

from __future__ import annotations

import logging
import time
from typing import Any

import ray
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.env.env_runner_group import EnvRunnerGroup
from ray.rllib.utils.actor_manager import FaultTolerantActorManager, RemoteCallResults

RESTART_AFTER = 3
"""A runner that does not answer for so many times its time-out counts as hanging, and is restarted."""

logger = logging.getLogger("ray.rllib")


class RunnerManager(FaultTolerantActorManager):
    """RLlib's, but every call has a time-out, and runners that do not answer are named, and restarted if they hang.

    A runner that has not answered a call in time is *late* until it has. Calls made meanwhile wait in its queue,
    and nobody waits for their results. RLlib itself waits for ever where it gives no time-out, and takes a runner that
    does not answer for healthy.

    Args:
        group: whose manager this becomes.
        config: of the algorithm or of evaluation. Calls without a time-out have `sample_timeout_s`; for evaluation the
            larger of this and `evaluation_sample_timeout_s` tells when a runner hangs.
    """

    def __init__(self, group: EnvRunnerGroup, config: AlgorithmConfig) -> None:
        replaced = group._worker_manager
        super().__init__(
            list(replaced.actors().values()),
            max_remote_requests_in_flight_per_actor=config.max_requests_in_flight_per_env_runner,
            init_id=1,
        )
        for runner in set(replaced.actor_ids()) - set(replaced.healthy_actor_ids()):
            self.set_actor_state(runner, healthy=False)
        self._timeout_s = config.sample_timeout_s
        is_longer = config.in_evaluation and config.evaluation_sample_timeout_s > config.sample_timeout_s
        self._setting = "evaluation_sample_timeout_s" if is_longer else "sample_timeout_s"
        self._patience_s = getattr(config, self._setting)
        self._may_lose_runners = config.restart_failed_env_runners or config.ignore_env_runner_failures
        self._kind = "Evaluation" if config.in_evaluation else "Environment"
        self._late: dict[int, tuple[ray.ObjectRef, float]] = {}  # the unanswered call, and since when it is awaited
        group._worker_manager = self

    def name(self, runner: int) -> str:
        """The runner's number, process and machine."""
        # Ray's own table, because a runner that hangs cannot be asked.
        known = ray._private.state.actors(self._actors[runner]._actor_id.hex())  # pyright: ignore[reportAttributeAccessIssue]
        return f"{self._kind} runner {runner} (process {known['Pid']} on {known['Address']['IPAddress']})"

    def late(self) -> str:
        """The names of runners that have left a call unanswered."""
        return ", ".join(map(self.name, self._late))

    def _fetch_result(
        self,
        *,
        remote_actor_ids: list[int],
        remote_calls: list[ray.ObjectRef],
        timeout_seconds: float | None = None,
        **kwargs: Any,
    ) -> tuple[list[ray.ObjectRef], RemoteCallResults]:
        """RLlib's, which all calls go through. Waits for runners that are late only where there are no others."""
        self._look_after_late_runners()
        runners = dict(zip(remote_calls, remote_actor_ids, strict=True))
        awaited = [call for call, runner in runners.items() if runner not in self._late]
        if not awaited:
            awaited = [call for call, _ in self._late.values() if call in runners]
        timeout = self._timeout_s if timeout_seconds is None else timeout_seconds
        if awaited and timeout > 0:
            since = time.monotonic()
            _, pending = ray.wait(awaited, num_returns=len(awaited), timeout=timeout)
            for call in pending:
                self._miss(runners[call], call, since, timeout)
        return super()._fetch_result(
            remote_actor_ids=remote_actor_ids, remote_calls=remote_calls, timeout_seconds=0, **kwargs
        )

    def _miss(self, runner: int, call: ray.ObjectRef, since: float, timeout: float) -> None:
        """Notes that a runner did not answer. (Unhealthy ones are being restarted, which may take a while.)"""
        if self.is_actor_healthy(runner):
            self._late.setdefault(runner, (call, since))
            then = f"It is restarted after {RESTART_AFTER} times {self._setting} ({self._patience_s:g})."
        else:
            then = "It is being restarted; if it never comes back, its environment hangs while it is built."
        logger.warning(f"{self.name(runner)} did not answer within {timeout:g} s. {then}")

    def _look_after_late_runners(self) -> None:
        for runner, (call, since) in list(self._late.items()):
            if ray.wait([call], timeout=0)[0]:
                del self._late[runner]
            elif time.monotonic() - since >= RESTART_AFTER * self._patience_s:
                self._restart(runner)

    def _restart(self, runner: int) -> None:
        """Kills the process of a runner that hangs. Ray starts a new one if the configuration allows it.

        Raises:
            RuntimeError: it does not allow it.
        """
        del self._late[runner]
        hangs = (
            f"{self.name(runner)} hangs: no answer for {RESTART_AFTER} times {self._setting} ({self._patience_s:g})."
        )
        if not self._may_lose_runners:
            raise RuntimeError(f"{hangs} With restart_failed_env_runners=False it is not restarted.")
        logger.warning(f"{hangs} Its process is killed; its running episode is lost.")
        ray.kill(self._actors[runner], no_restart=False)
        self.set_actor_state(runner, healthy=False)
