"""`TeamAlgorithm`: what all algorithms here are to RLlib: collect, learn, send the policy; evaluation; checkpoints."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import logging
import math
import os
import pathlib
import pickle
import tempfile
import threading
from collections.abc import Iterator
from functools import partial, partialmethod
from typing import Any

import numpy as np
import pyarrow.fs
import tree
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.core import COMPONENT_LEARNER, COMPONENT_LEARNER_GROUP
from ray.rllib.env.env_context import EnvContext
from ray.rllib.env.env_runner_group import EnvRunnerGroup
from ray.rllib.env.multi_agent_episode import MultiAgentEpisode
from ray.rllib.utils.metrics import (
    ENV_RUNNER_RESULTS,
    EPISODE_RETURN_MEAN,
    EVALUATION_RESULTS,
    LEARNER_RESULTS,
    NUM_ENV_STEPS_SAMPLED_LIFETIME,
    TIMERS,
)
from ray.train._internal.checkpoint_manager import _TrainingResult
from ray.tune import Checkpoint
from ray.util import log_once
from typing_extensions import Self

from rllib_dima.algorithms.base_config import TeamConfig
from rllib_dima.algorithms.resources import check_resources
from rllib_dima.checkpoint import (
    MANIFEST_FILE_NAME,
    CheckpointError,
    locate,
    on_local_disk,
    opened,
    replacing,
    verify,
    write_manifest,
)
from rllib_dima.checkpoint.manifest import CLASS_FILE_NAME
from rllib_dima.core.hyperparameters import Hyperparameters
from rllib_dima.learning.learner import REPLAY_FILE_NAME, BroadcastTrainingData, TeamLearner
from rllib_dima.learning.learner_group import TeamLearnerGroup
from rllib_dima.learning.rl_modules import POLICY_ID
from rllib_dima.reporting.progress_line import progress_line
from rllib_dima.sampling.collector import Collector
from rllib_dima.sampling.env_runner import EndlessEpisodeError, make_cooperative_env
from rllib_dima.sampling.runner_manager import RunnerManager

logger = logging.getLogger("ray.rllib")

LOCAL = pyarrow.fs.LocalFileSystem()
_TRAINABLE_COUNTERS = (
    "_time_total",
    "_time_since_restore",
    "_iterations_since_restore",
    "_timesteps_total",
    "_timesteps_since_restore",
    "_episodes_total",
    "_iteration",
)


class TeamAlgorithm(Algorithm):
    """An algorithm that trains a team. The configuration's trainer decides what is learnt, and how."""

    config: TeamConfig
    evaluation_config: TeamConfig
    env_runner_group: EnvRunnerGroup
    learner_group: TeamLearnerGroup

    @classmethod
    def name(cls) -> str:
        """What checkpoints call it; the same for classes that a user derives from it."""
        return next(
            c for c in reversed(cls.__mro__) if issubclass(c, TeamAlgorithm) and c is not TeamAlgorithm
        ).__name__

    def training_step(self) -> None:
        """One iteration.

        1. Collect `env_steps_per_iteration` real steps with the current policy (with the one before it, during the
           last iteration's second step, if `sample_async`).
        2. Give them to the trainer, and have it learn for one iteration. This is one call of `TeamLearner.update()`;
           the trainer's `train_iteration()` spells it out.
        3. Send the new policy, and only the policy, to the environment runners.
        """
        with self._timed("collect"):
            episodes = self._collect()
        if not episodes:
            return self._count_empty_iteration()
        self._num_empty_iterations = 0

        with self._collecting_ahead(), self._timed("learn"):
            results = self.learner_group.update(
                training_data=BroadcastTrainingData(episodes=episodes),
                timesteps={
                    NUM_ENV_STEPS_SAMPLED_LIFETIME: self.metrics.peek(
                        (ENV_RUNNER_RESULTS, NUM_ENV_STEPS_SAMPLED_LIFETIME)
                    )
                },
            )
            self.metrics.aggregate(results, key=LEARNER_RESULTS)

        with self._timed("send_policy"):
            self._send_policy()

    def setup(self, config: AlgorithmConfig) -> None:
        """Builds runners and learners.

        Raises:
            ValueError: if the environment cannot be trained on (also if it was built in a remote runner), or if Ray has
                too few CPUs or GPUs.
            RuntimeError: if the remote runners failed for a reason that does not show in this process.
        """
        self._num_empty_iterations = 0
        self._num_evaluations = 0
        evaluation_config = self.config.get_evaluation_config_object()
        assert evaluation_config is not None, "only that of evaluation itself has none"
        check_resources(self.config, evaluation_config)
        try:
            with _said_if_slow(self.config.sample_timeout_s):
                super().setup(config)
        except IndexError as error:
            failed = self.config if self.env_runner_group is None else self.evaluation_config
            if failed.num_env_runners == 0:
                raise
            _explain_dead_runners(failed, error)

    def _set_up_metrics(self) -> None:
        """RLlib's last step before `on_algorithm_init`, whose callbacks may save, restore and evaluate."""
        super()._set_up_metrics()
        RunnerManager(self.env_runner_group, self.config)
        if self.eval_env_runner_group is not None:
            RunnerManager(self.eval_env_runner_group, self.evaluation_config)
        self._collector = Collector(self.env_runner_group, self.config)
        seed = self.evaluation_config.seed
        self._evaluation_seed = int.from_bytes(os.urandom(4), "little") if seed is None else seed

    @staticmethod
    def _get_env_id_and_creator(env_specifier: Any, config: AlgorithmConfig) -> tuple[Any, Any]:
        """As in RLlib, which refuses functions here; our runners make teams of them (`create_team`)."""
        if callable(env_specifier) and not isinstance(env_specifier, type):
            return env_specifier, env_specifier
        return Algorithm._get_env_id_and_creator(env_specifier, config)

    def get_module(self, module_id: str = POLICY_ID) -> Any:
        """The policy's module as runners have it. Only learners hold the others.

        Raises:
            ValueError: on another id.
        """
        if module_id != POLICY_ID:
            raise ValueError(
                f"Runners hold {POLICY_ID!r} only, not {module_id!r}. Learners hold all networks: algo.get_weights(), "
                "or algo.learner_group.foreach_learner(lambda learner: learner.module)."
            )
        return super().get_module(module_id)

    def train(self) -> dict[str, Any]:
        """One iteration, with a line of progress if the configuration asks for it."""
        result = super().train()
        if self.config.progress:
            print(progress_line(result), flush=True)
        return result

    def evaluate(self, parallel_train_future: Any = None) -> dict[str, Any]:
        """Plays the deterministic policy in separate environments, which the first call builds if need be.

        Every evaluation plays different episodes. Those of the n-th depend only on the seed and n, not on how many
        runners and environments share them. Without a result, for want of time or runners, the mean return is NaN.
        """
        if self.eval_env_runner_group is None:
            self.eval_env_runner_group = self._make_evaluation_runners()
        self._num_evaluations += 1
        for stats in tree.flatten(self.metrics.stats.get(EVALUATION_RESULTS, {})):
            stats.latest_merged = None  # where no runner answers, RLlib would report the last evaluation again
        results = super().evaluate(parallel_train_future)
        played = {EPISODE_RETURN_MEAN: math.nan, **results.get(ENV_RUNNER_RESULTS, {})}  # a missing metric ends Tune
        return _plain({**results, ENV_RUNNER_RESULTS: played})

    def get_state(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """RLlib's state, hyperparameters, steps collected ahead, running episodes, and evaluations so far."""
        return {
            **super().get_state(*args, **kwargs),
            "hyperparameters": self._hyperparameters(),
            "collected": self._collector.get_state(),
            "sampling": self._get_sampling(self.env_runner_group),
            "evaluations": {"number": self._num_evaluations, "seed": self._evaluation_seed},
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Sets the state, which may be older than the present one; warns if its run had other presets."""
        self._forget_weights_versions()
        self._compare_presets(state.get("hyperparameters", {}))
        super().set_state(state)
        if COMPONENT_LEARNER_GROUP in state:
            self._replace_policy()
        if "collected" in state:
            self._collector.set_state(state["collected"])
        _set_sampling(self.env_runner_group, state.get("sampling", []))
        if "evaluations" in state:
            self._num_evaluations = state["evaluations"]["number"]
            if self.evaluation_config.seed is None:
                self._evaluation_seed = state["evaluations"]["seed"]

    def save_to_path(
        self,
        path: Any = None,
        *,
        state: dict[str, Any] | None = None,
        filesystem: pyarrow.fs.FileSystem | None = None,
        use_msgpack: bool = False,
    ) -> str:
        """Saves a checkpoint; one that is at `path` already is replaced only when the new one is whole.

        Args:
            path: a path, a URI, or a `Checkpoint` of Tune's to replace; a new temporary folder by default.
            state: what to save instead of the present state, as `get_state` returns it.
            filesystem: of pyarrow, on which `path` is a path.
            use_msgpack: as in RLlib.

        Returns:
            The path on its file system, absolute if that is the local disk.

        Raises:
            rllib_dima.checkpoint.CheckpointError: saving failed. On the local disk, what was at `path` before is
                still there.
        """
        place = locate(tempfile.mkdtemp() if path is None else path, filesystem)
        with replacing(place) as folder:
            super().save_to_path(folder.as_posix(), state=state, filesystem=LOCAL, use_msgpack=use_msgpack)
            if state is None or COMPONENT_LEARNER_GROUP in state:
                self._check_learner_was_saved(folder)
            write_manifest(folder, self.name())
        return place.path

    def save(self, checkpoint_dir: Any = None) -> Any:
        """Saves a checkpoint to a local folder as Tune does; `save_to_path` also saves elsewhere.

        Raises:
            rllib_dima.checkpoint.CheckpointError: saving failed, or the folder is on another file system.
        """
        if checkpoint_dir is None:
            return super().save()
        place = locate(checkpoint_dir)
        if not place.is_local:
            raise CheckpointError(f"save() writes to the local disk alone: use save_to_path({checkpoint_dir!r}).")
        return super().save(place.path)

    def restore(self, checkpoint_path: Any) -> None:
        """Restores a checkpoint as Tune does, with callbacks; places and errors as in `restore_from_path`."""
        verify(checkpoint_path, only=MANIFEST_FILE_NAME, algorithm=self.name())
        if not isinstance(checkpoint_path, _TrainingResult):
            place = locate(checkpoint_path)
            checkpoint_path = Checkpoint(place.path, place.filesystem)
        counters = {name: getattr(self, name) for name in _TRAINABLE_COUNTERS}
        try:
            super().restore(checkpoint_path)
        except BaseException:
            vars(self).update(counters)  # Tune has changed them already
            raise

    def restore_from_path(
        self,
        path: Any,
        *,
        component: str | None = None,
        filesystem: pyarrow.fs.FileSystem | None = None,
        **kwargs: Any,
    ) -> None:
        """Restores a checkpoint, even one older than the present state. A restore that fails changes nothing.

        Restoring unpickles what is in the checkpoint, and pickles can run any code: restore only those that you trust.
        Meanwhile every learner holds a second copy of its networks and replay buffer, in host memory.

        Args:
            path: the checkpoint: a path, a URI, or a `Checkpoint` of Tune's.
            component: restores this part alone, as in "learner_group/learner"; `path` is then the part's folder.
            filesystem: of pyarrow, on which `path` is a path.
            **kwargs: as in RLlib.

        Raises:
            rllib_dima.checkpoint.CheckpointError: it is missing, damaged, incomplete or of another algorithm.
            ValueError: it is of other agents, or its networks have other sizes than this algorithm's.
            rllib_dima.learning.learner_group.LearnerError: a remote learner failed to load it.
        """
        if component is None:
            opening = opened(path, filesystem, algorithm=self.name())
        else:
            opening, kwargs = on_local_disk(locate(path, filesystem)), {**kwargs, "component": component}
        with opening as folder, self._undone_on_failure():
            self._forget_weights_versions()
            super().restore_from_path(folder.as_posix(), filesystem=LOCAL, **kwargs)
            self._replace_policy()

    def _collect(self) -> list[MultiAgentEpisode]:
        """`env_steps_per_iteration` steps, summed over all runners, as episodes and chunks of episodes."""
        if not self._collector.finish():
            return []
        episodes, results = self._collector.take()
        self.metrics.aggregate(results, key=ENV_RUNNER_RESULTS)
        return episodes

    @contextlib.contextmanager
    def _collecting_ahead(self) -> Iterator[None]:
        """With `sample_async` the runners collect the next iteration's steps meanwhile."""
        if not self.config.sample_async:
            yield
            return
        self._collector.begin()
        yield
        with self._timed("collect"):
            self._collector.finish()  # before the new policy is sent

    def _send_policy(self) -> None:
        self.env_runner_group.sync_weights(
            from_worker_or_learner_group=self.learner_group, policies=[POLICY_ID], inference_only=True
        )

    def _replace_policy(self) -> None:
        """Sends runners the policy of a restored state, also one older than theirs.

        RLlib sends it too, but drops the message if a runner has not yet read an earlier one.
        """
        self._forget_weights_versions()  # which waits until the runners have read everything
        self._send_policy()

    def _hyperparameters(self) -> dict[str, Any]:
        """Those of this run."""
        return _saveable(self.config.hyperparameters())

    def _compare_presets(self, saved: dict[str, Any]) -> None:
        """Warns of hyperparameters that are not set here and were others in the run that is restored."""
        present = self._hyperparameters()
        if other := _other_presets(self.config, saved):
            logger.warning(
                f"The restored run had {other}, where model_size, recipe and environment now stand for "
                f"{ {name: present[name] for name in other} }. To go on as it was, set them: .training(**{other})."
            )

    @contextlib.contextmanager
    def _undone_on_failure(self) -> Iterator[None]:
        """Undoes a restore that fails half-way.

        Running episodes need no copy: a restore replaces them last.
        """
        before = self.get_state(not_components=COMPONENT_LEARNER_GROUP)
        before = copy.deepcopy({name: part for name, part in before.items() if name != "sampling"})
        self.learner_group.foreach_learner(TeamLearner.keep_state)
        try:
            yield
        except BaseException:
            self.learner_group.foreach_learner(TeamLearner.return_to_kept_state)
            self.set_state(before)
            self._replace_policy()
            raise
        finally:
            self.learner_group.foreach_learner(TeamLearner.drop_kept_state)

    def _timed(self, phase: str) -> Any:
        """Adds seconds to timers/<phase>_s. (RLlib's own timers are slow averages that stay near their first value.)"""
        return self.metrics.log_time((TIMERS, f"{phase}_s"), reduce="sum")

    def _count_empty_iteration(self) -> None:
        """Tolerates iterations without steps while runners restart, up to a limit."""
        self._num_empty_iterations += 1
        tolerated = self.config.num_consecutive_env_runner_failures_tolerance
        if self._num_empty_iterations > tolerated:
            raise RuntimeError(
                f"No environment runner returned a step in {self._num_empty_iterations} iterations in a row. Their "
                "errors are in Ray's log above; slow environments need a larger sample_timeout_s."
            )

    def _compile_iteration_results(
        self, *, train_results: dict[str, Any], eval_results: dict[str, Any]
    ) -> dict[str, Any]:
        """RLlib's results as plain numbers, return and loss on top, hyperparameters, and no evaluation repeated."""
        train_results = {key: value for key, value in train_results.items() if key != EVALUATION_RESULTS}
        results = super()._compile_iteration_results(train_results=train_results, eval_results=eval_results)
        # First, as Ray Tune's table shows the first numbers; and NaN where there is none yet, which schedulers and stop
        # criteria pass over, while a metric that is missing ends the experiment.
        learners = results.get(LEARNER_RESULTS, {})
        results[ENV_RUNNER_RESULTS] = {EPISODE_RETURN_MEAN: math.nan, **results.get(ENV_RUNNER_RESULTS, {})}
        shown = {
            EPISODE_RETURN_MEAN: results[ENV_RUNNER_RESULTS][EPISODE_RETURN_MEAN],
            **{name: learners.get(module, {}).get(name, math.nan) for name, module in self.config.shown_losses.items()},
        }
        used = {"hyperparameters": self._hyperparameters()}  # in "config", None is "not set"
        return _plain({**shown, **results, **used})

    def _evaluate_on_local_env_runner(self, env_runner: Any) -> tuple[None, int, int, list]:
        metrics = []
        try:
            metrics = [_play(env_runner, self.config.evaluation_duration_unit, self._new_seeds())]
        except EndlessEpisodeError as error:  # as with remote runners, this is no reason to end training
            logger.warning(f"This evaluation has no result. {error}")
        return self._report_evaluation(metrics)

    def _evaluate_with_fixed_duration(self) -> tuple[None, int, int, list]:
        """Shares the episodes (or steps) among remote runners; others take over what a runner does not deliver."""
        waiting, metrics = self._new_seeds(), []
        runners = self.eval_env_runner_group.healthy_env_runner_ids()
        while waiting and runners:
            shares = {runner: waiting[index :: len(runners)] for index, runner in enumerate(runners[: len(waiting)])}
            answers = dict(
                self.eval_env_runner_group.foreach_env_runner(
                    partial(_play_share, unit=self.config.evaluation_duration_unit, shares=shares),
                    local_env_runner=False,
                    remote_worker_ids=list(shares),
                    timeout_seconds=self.config.evaluation_sample_timeout_s,
                )
            )
            metrics += answers.values()
            waiting = [seed for runner, seeds in shares.items() if runner not in answers for seed in seeds]
            runners = list(answers)
        if waiting:
            logger.warning(
                f"Evaluation {self._num_evaluations} lacks {len(waiting)} of its {self.config.evaluation_duration} "
                f"{self.config.evaluation_duration_unit}: its runners failed, or took longer than "
                f"evaluation_sample_timeout_s ({self.config.evaluation_sample_timeout_s})."
            )
        return self._report_evaluation(metrics)

    def _new_seeds(self) -> list[int]:
        """Seeds for this evaluation: one per episode, or per step if its duration is in steps."""
        sequence = np.random.SeedSequence(self._evaluation_seed, spawn_key=(self._num_evaluations,))
        duration = self.config.evaluation_duration
        assert isinstance(duration, int), "RLlib itself evaluates for as long as 'auto' takes"
        return sequence.generate_state(duration).tolist()

    def _report_evaluation(self, metrics: list[dict[str, Any]]) -> tuple[None, int, int, list]:
        """Logs the runners' metrics where RLlib looks for them; it ignores what this returns."""
        self.metrics.aggregate(metrics, key=(EVALUATION_RESULTS, ENV_RUNNER_RESULTS))
        return None, 0, 0, []

    def _get_sampling(self, group: EnvRunnerGroup) -> list[dict[str, Any] | None]:
        """Every runner's episodes in flight, the local runner's first, without runners that do not answer."""
        states, manager = group.foreach_env_runner(_get_sampling_state), group._worker_manager
        assert isinstance(manager, RunnerManager)
        told = {state["worker_index"] for state in states if state is not None}
        if silent := [runner for runner in manager.actor_ids() if runner not in told]:
            names = ", ".join(map(manager.name, silent))
            if log_once(f"{names} not in the state of iteration {self.iteration}"):  # RLlib asks more than once
                logger.warning(f"No answer from {names}: the state lacks the episodes that are running there.")
        return states

    def _make_evaluation_runners(self) -> EnvRunnerGroup:
        _, env_creator = self._get_env_id_and_creator(self.evaluation_config.env, self.evaluation_config)
        group = EnvRunnerGroup(
            env_creator=env_creator,
            config=self.evaluation_config,
            logdir=self.logdir,
            tune_trial_id=self.trial_id,
            pg_offset=self.config.num_env_runners,
        )
        RunnerManager(group, self.evaluation_config)
        return group

    def _forget_weights_versions(self) -> None:
        """Runners refuse weights older than theirs; after this they take those of a restored checkpoint."""
        for group in (self.env_runner_group, self.eval_env_runner_group):
            if group is not None:
                group.foreach_env_runner(_forget_weights_version)

    @classmethod
    def from_checkpoint(cls, path: Any, filesystem: pyarrow.fs.FileSystem | None = None, **kwargs: Any) -> Self:
        """Builds the algorithm that a checkpoint describes and restores it; `path` as in `restore_from_path`.

        Where presets have changed since it was saved, the algorithm keeps what they stood for then, and says so.

        This unpickles what is in the checkpoint, and pickles can run any code: load only those that you trust.

        Raises:
            rllib_dima.checkpoint.CheckpointError: the checkpoint is missing, damaged, incomplete or of another
                algorithm.
        """
        with opened(path, filesystem, algorithm=cls.name()) as folder:
            if "config" not in kwargs:
                kwargs["config"] = _config_as_trained(folder)
            algorithm = super().from_checkpoint(folder.as_posix(), LOCAL, **kwargs)
        assert isinstance(algorithm, cls), "RLlib refuses other classes"
        return algorithm

    def _check_learner_was_saved(self, saved: pathlib.Path) -> None:
        """Checks that the learner's files are there, before the manifest declares the checkpoint whole.

        Raises:
            RuntimeError: if the learner's files are missing.
        """
        folder = saved / COMPONENT_LEARNER_GROUP / COMPONENT_LEARNER
        answers = self.learner_group.foreach_learner(lambda learner: learner.has_replay_to_save)
        last_written = REPLAY_FILE_NAME if any(answer.get() for answer in answers) else "class_and_ctor_args.pkl"
        if not (folder / last_written).is_file():
            raise RuntimeError(
                f"the learner did not write {folder.name}/{last_written}; check the disk space, and the error of the "
                "learner in Ray's log above"
            )


def _saveable(hyperparameters: Hyperparameters) -> dict[str, Any]:
    """Their values, in types that every format of checkpoints keeps."""
    values = dataclasses.asdict(hyperparameters)
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def _other_presets(config: TeamConfig, saved: dict[str, Any]) -> dict[str, Any]:
    """Hyperparameters of a saved run which presets have other values for by now, with those of the run.

    One that the run did not know yet had its default in it, which is what was done before it could be chosen.
    """
    if not saved:
        return {}
    present, then = _saveable(config.hyperparameters()), {**_saveable(config.hyperparameter_class()), **saved}
    return {name: then[name] for name in present if getattr(config, name) is None and then[name] != present[name]}


def _config_as_trained(folder: pathlib.Path) -> dict[str, Any]:
    """The configuration in a checkpoint, with the values that presets stood for when it was saved."""
    (config,), _ = pickle.loads((folder / CLASS_FILE_NAME).read_bytes())["ctor_args_and_kwargs"]
    state = pickle.loads((folder / "algorithm_state.pkl").read_bytes())
    other = _other_presets(config["class"].from_state(config), state.get("hyperparameters", {}))
    if other:
        logger.warning(f"Presets have changed since this checkpoint was saved. The run goes on with its own: {other}.")
    return {**config, **other}


def _explain_dead_runners(config: AlgorithmConfig, error: Exception) -> None:
    """Raises the error that kept remote runners from being built; RLlib reports only that there are none."""
    make_cooperative_env(config, EnvContext(config.env_config, worker_index=0)).close()
    raise RuntimeError(
        f"The {'evaluation' if config.in_evaluation else 'environment'} runners could not be built, although "
        f"{config.env!r} can be built in this process. Their errors are in Ray's log above. rllib_dima and the "
        "environment's packages must be installed on every node."
    ) from error


@contextlib.contextmanager
def _said_if_slow(seconds: float) -> Iterator[None]:
    """Warns when building takes long: it waits even for runners that never come."""
    message = (
        f"Building the algorithm has taken {seconds:g} s so far: an environment is slow or hangs while it is built, or "
        "other programs use Ray's CPUs or GPUs (`ray status`)."
    )
    timer = threading.Timer(seconds, logger.warning, [message])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _forget_weights_version(runner: Any) -> None:
    runner.forget_weights_version()


def _play(runner: Any, unit: str, seeds: list[int]) -> dict[str, Any]:
    """Plays an evaluation's episodes, or as many steps as there are seeds; returns the runner's metrics."""
    runner.metrics.reset()  # nothing of earlier evaluations, moving averages included
    runner.sample(**{f"num_{unit}": len(seeds)}, seeds=seeds)
    return runner.get_metrics()


def _play_share(runner: Any, unit: str, shares: dict[int, list[int]]) -> tuple[int, dict[str, Any]]:
    return runner.worker_index, _play(runner, unit, shares[runner.worker_index])


def _plain(results: Any) -> Any:
    """Results with Python's numbers instead of NumPy's, which JSON refuses."""
    if isinstance(results, dict):
        return {key: _plain(value) for key, value in results.items()}
    return results.item() if isinstance(results, np.generic) else results


def _get_sampling_state(runner: Any) -> dict[str, Any] | None:
    return runner.get_sampling_state()


def _set_sampling(group: EnvRunnerGroup, states: list[dict[str, Any] | None]) -> None:
    """Lets each runner continue the episodes of the saved one with its number; others start new episodes."""
    if states:
        group.foreach_env_runner(partial(_set_sampling_state, states=states))


def _set_sampling_state(runner: Any, states: list[dict[str, Any] | None]) -> None:
    for state in states:
        if state is not None and state["worker_index"] == runner.worker_index:
            runner.set_sampling_state(state)


def _refuse_what_cannot_work() -> None:
    """Replaces methods that would fail deep inside RLlib, or harm the networks, by errors with advice."""
    act = (
        "To act: rllib_dima.Policy(algo.get_module().net).act(observations by agent), or without the algorithm "
        "rllib_dima.Policy.from_checkpoint(path).act(...)."
    )
    export = "To export: rllib_dima.Policy.from_checkpoint(algo.save_to_path(path)).export(file)."
    fixed = "All agents share one policy, and the networks are fixed."
    advice = {
        **dict.fromkeys(("get_policy", "compute_single_action", "compute_actions"), act),
        **dict.fromkeys(("export_policy_model", "export_policy_checkpoint", "export_model"), export),
        **dict.fromkeys(("add_policy", "remove_policy", "add_module", "remove_module"), fixed),
        "evaluate_offline": "To evaluate: algo.evaluate().",
    }
    for name, instead in advice.items():
        setattr(TeamAlgorithm, name, partialmethod(_refuse, name, instead))


def _refuse(algorithm: TeamAlgorithm, name: str, instead: str, *args: Any, **kwargs: Any) -> None:
    raise NotImplementedError(f"{type(algorithm).__name__} has no {name}(). {instead}")


_refuse_what_cannot_work()
