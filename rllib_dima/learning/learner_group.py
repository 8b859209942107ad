"""`TeamLearnerGroup`: RLlib's group of learners, which reports every failure and waits for no dead learner."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import ray
from ray.exceptions import RayActorError
from ray.rllib.core.learner.learner_group import LearnerGroup
from ray.rllib.utils.actor_manager import FaultTolerantActorManager, RemoteCallResults

from rllib_dima.learning.learner import BroadcastTrainingData

if TYPE_CHECKING:
    from rllib_dima.algorithms.base_config import TeamConfig

OTHERS_GRACE_S = 5.0
"""How long to wait for further errors after the first: a death is noticed later than the errors it causes."""


class LearnerError(RuntimeError):
    """A remote learner raised an error or died."""


class TeamLearnerGroup(LearnerGroup):
    """RLlib's group, but errors of remote learners are raised by name, also while saving and restoring.

    Learners wait for each other at every optimiser step, so when one fails in an update, all are stopped.
    """

    config: TeamConfig

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if self._workers is not None:
            self._worker_manager = _StrictActorManager(
                self._workers, max_remote_requests_in_flight_per_actor=self.config.max_requests_in_flight_per_learner
            )

    def update(self, *, training_data: BroadcastTrainingData, **kwargs: Any) -> list[dict[str, Any]]:
        """One iteration of learning, by all learners at once.

        Args:
            training_data: the new episodes.
            **kwargs: as `TeamLearner.update()` takes them.

        Returns:
            The metrics of every learner.

        Raises:
            LearnerError: a remote learner failed; none of them is left.
        """
        if self._workers is None:
            return super().update(training_data=training_data, **kwargs)
        shards = training_data.shard(num_shards=len(self))
        calls = [
            learner.update.remote(training_data=shard, **more, **kwargs)
            for learner, (shard, more) in zip(self._workers, shards, strict=True)
        ]
        failures = _wait_for(calls)
        if failures:
            for learner in self._workers:
                ray.kill(learner)
            number = next((n for n, error in failures.items() if isinstance(error, RayActorError)), min(failures))
            raise _named(number, len(calls), failures[number], "All learners were stopped: go on from a checkpoint.")
        return ray.get(calls)

    def foreach_learner(self, func: Callable[..., Any], **kwargs: Any) -> RemoteCallResults:
        """As in RLlib, which declares an argument of `func` that it does not pass."""
        return super().foreach_learner(func, **kwargs)

    def __del__(self) -> None:
        """RLlib's shutdown, but not after Ray's own: it would start Ray once more."""
        if self.is_local or ray.is_initialized():
            super().__del__()


class _StrictActorManager(FaultTolerantActorManager):
    """Raises what an actor raised, where RLlib's callers often go on as if nothing had happened.

    RLlib also retires an actor that raised for good. Here only a death retires it: a full disk while saving is no
    reason to stop training.
    """

    def foreach_actor(self, *args: Any, **kwargs: Any) -> RemoteCallResults:
        results = super().foreach_actor(*args, **kwargs)
        failures = {result.actor_id: result.get() for result in results.result_or_errors if not result.ok}
        for actor_id, error in failures.items():
            self.set_actor_state(actor_id, healthy=not isinstance(error, RayActorError))
        for actor_id, error in failures.items():
            raise _named(actor_id + 1, self.num_actors(), error)
        return results


def _wait_for(calls: list[ray.ObjectRef]) -> dict[int, Exception]:
    """Waits for all calls, or for the first that fails. Returns the failures, by number from 1."""
    pending = list(calls)
    while pending:
        done, pending = ray.wait(pending)
        if _failure(done[0]) is not None:
            finished, _ = ray.wait(calls, num_returns=len(calls), timeout=OTHERS_GRACE_S)
            failures = {calls.index(call) + 1: _failure(call) for call in (*done, *finished)}
            return {number: error for number, error in failures.items() if error is not None}
    return {}


def _failure(call: ray.ObjectRef) -> Exception | None:
    try:
        ray.get(call)
    except Exception as error:  # whatever a learner raises
        return error
    return None


def _named(number: int, count: int, error: Exception, consequence: str = "") -> LearnerError:
    """An error that says which learner failed, and why, without Ray's remote traceback around the reason."""
    cause = getattr(error, "cause", None) or error
    what = "died" if isinstance(error, RayActorError) else "failed"
    named = LearnerError(f"Learner {number} of {count} {what}: {cause} {consequence}".rstrip())
    named.__cause__ = error
    return named
