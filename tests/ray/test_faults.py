"""What goes wrong on the way: runners, environments, learners, disks and impatient users; and what is lost then."""

import contextlib
import math
import os
import pathlib
import resource
import signal
import subprocess
import sys
import threading
import time
from functools import partial

import numpy as np
import pytest
import ray
import torch.distributed as dist
from ray import tune
from support.core import random_trajectory
from support.fragile import ALWAYS, fragile_config
from support.processes import descendants, wait_until
from support.team import Team, team_config, weights

from rllib_dima import DIMA
from rllib_dima.checkpoint import CheckpointError, verify
from rllib_dima.core.replay.buffer import ReplayBuffer
from rllib_dima.envs import SimulationError
from rllib_dima.learning.learner_group import LearnerError

ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # the functions below are run by remote actors


class Faulty(Team):
    """Obeys an order, a file `<worker> <fault>` in the folder `orders`, once, in the third step of ten."""

    def __init__(self, config=None):
        super().__init__(config)
        self.total_steps = 0

    def reset(self, **kwargs):
        self._obey("raise in reset")
        return super().reset(**kwargs)

    def step(self, actions):
        self.total_steps += 1
        observations, *others = super().step(actions)
        if self.total_steps % 10 == 3:
            self._obey("exit")
            self._obey("raise in step")
            self._obey("hang")
            if self._obey("nan"):
                observations["left"][0] = np.nan
        return observations, *others

    def _obey(self, fault):
        order = pathlib.Path(self.config["orders"], f"{self.worker_index} {fault}")
        if not order.exists():
            return False
        while fault == "hang" and order.exists():
            time.sleep(0.02)
        order.unlink(missing_ok=True)
        if fault == "exit":
            os._exit(1)
        if fault.startswith("raise"):
            raise ValueError("the simulator exploded")
        return True


TOO_MUCH = [
    (lambda c: c.env_runners(num_env_runners=5), r"CPU: 5 \(Ray has 4\)"),
    (lambda c: c.env_runners(num_env_runners=2, num_cpus_per_env_runner=3), r"CPU: 6 \(Ray has 4\)"),
    (lambda c: c.env_runners(num_env_runners=3).learners(num_learners=2), r"CPU: 5 \(Ray has 4\)"),
    (lambda c: c.evaluation(evaluation_num_env_runners=5), r"CPU: 5 \(Ray has 4\)"),
    (lambda c: c.learners(num_learners=1, num_gpus_per_learner=99), r"GPU: 99 \(Ray has "),
    (
        lambda c: c.env_runners(num_env_runners=1, custom_resources_per_env_runner={"simulator": 2}),
        r"simulator: 2 \(Ray has 0\)",
    ),
    (lambda c: c.learners(num_gpus_per_learner=1, local_gpu_idx=99), "asks for GPU 99 of this machine, but torch sees"),
]


@pytest.mark.parametrize(("change", "message"), TOO_MUCH)
def test_more_than_ray_has_is_refused_instead_of_waited_for(ray_running, change, message):
    with pytest.raises(ValueError, match=message):
        change(team_config()).build()


def test_evaluation_runners_that_cannot_be_built_say_why(ray_running):
    config = team_config().evaluation(
        evaluation_num_env_runners=1, evaluation_config={"env_config": {"broken": True}}, evaluation_interval=1
    )
    with pytest.raises(ValueError, match="the simulator is not installed"):
        config.build()


def faulty_config(orders):
    return team_config({"orders": str(orders)}).environment(Faulty)


def each_learner(algo, function):
    """What `function` returns for every learner, wherever they are."""
    if algo.learner_group.is_local:
        return [function(algo.learner_group._learner)]
    return [result.get() for result in algo.learner_group.foreach_learner(function)]


FAULTS_OF_A_LOCAL_ENVIRONMENT = [  # fault, message, finished steps that are lost
    ("raise in step", r"Faulty.*failed in step\(\): the simulator exploded", 2),
    ("raise in reset", r"Faulty.*failed in step\(\): the simulator exploded", 1),  # RLlib resets in the next step
    ("nan", r"Faulty.*failed in step\(\): In step \d of the episode.*observation of agent 'left' became NaN", 2),
]


@pytest.mark.parametrize(("fault", "message", "lost"), FAULTS_OF_A_LOCAL_ENVIRONMENT)
def test_environment_that_fails_in_this_process_costs_the_iteration_and_not_the_run(
    ray_running, fault, message, lost, tmp_path
):
    algo = faulty_config(tmp_path).build()
    algo.train()
    before, replay = weights(algo.learner_group._learner), algo.learner_group._learner.trainer.replay
    (tmp_path / f"0 {fault}").touch()
    with pytest.raises(RuntimeError, match=message):
        algo.train()
    assert len(replay) == 20  # what the iteration had collected so far is lost
    np.testing.assert_equal(weights(algo.learner_group._learner), before)
    path = algo.save_to_path(tmp_path / "run")
    results = [algo.train() for _ in range(2)]
    assert [result["training_iteration"] for result in results] == [2, 3]
    assert [result["num_env_steps_sampled_lifetime"] for result in results] == [40 + lost, 60 + lost]
    assert results[-1]["learners"]["__all_modules__"]["num_env_steps_trained_lifetime"] == 60
    assert len(replay) == 60 == algo.learner_group._learner.trainer.num_env_steps
    algo.restore_from_path(path)
    assert algo.iteration == 1 and len(replay) == 20
    np.testing.assert_equal(weights(algo.learner_group._learner), before)
    algo.stop()


def test_breakdowns_of_the_simulator_cost_their_step_and_iterations_stay_exact_also_after_a_restart(
    ray_running, tmp_path
):
    algo = fragile_config({1: 3, 4: 1, 7: 6, 9: 3}).build()
    results = [algo.train() for _ in range(2)]
    algo.save_to_path(tmp_path / "run")
    restored = DIMA.from_checkpoint(tmp_path / "run")
    assert list(restored._collector._breakdowns.recent) == [False, True, False, False, True, False, False]
    results += [algo.train() for _ in range(2)]
    replay = algo.learner_group._learner.trainer.replay
    for number, result in enumerate(results, start=1):
        assert result["num_env_steps_sampled_lifetime"] == 20 * number
        assert result["learners"]["__all_modules__"]["num_env_steps_trained_lifetime"] == 20 * number
        assert result["env_runners"]["episode_return_min"] == result["env_runners"]["episode_return_max"] == 7
    assert len(replay) == 80 and (replay.rewards[:80] == 1).all()
    assert [result["env_runners"]["num_broken_episodes"] for result in results] == [1, 1, 2, 0]
    assert results[-1]["env_runners"]["num_broken_episodes_lifetime"] == 4
    for _ in range(2):
        last = restored.train()
    assert last["env_runners"]["num_broken_episodes_lifetime"] == 4
    np.testing.assert_equal(weights(restored.learner_group._learner), weights(algo.learner_group._learner))
    algo.stop(), restored.stop()


@pytest.mark.parametrize("num_env_runners", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_a_simulator_that_always_breaks_down_stops_the_run_with_its_name(ray_running, num_env_runners):
    algo = fragile_config(ALWAYS).env_runners(num_env_runners=num_env_runners).build()
    with pytest.raises(SimulationError, match=r"Fragile'> broke down in 11 of the last 11 .*the door exploded"):
        algo.train()
    algo.stop()


def steps_by_worker(algo):
    replay = algo.learner_group._learner.trainer.replay
    workers, counts = np.unique(replay.states[: len(replay), 3].numpy(), return_counts=True)
    return {int(worker): int(count) for worker, count in zip(workers, counts, strict=True)}


@pytest.mark.slow
def test_runner_that_dies_or_fails_in_mid_iteration_loses_its_own_steps_of_that_iteration(ray_running, tmp_path, capfd):
    algo = faulty_config(tmp_path).training(replay_capacity=5000).env_runners(num_env_runners=2).build()
    said, results = [], [algo.train()]
    for worker, other, fault in ((1, 2, "exit"), (2, 1, "nan")):
        before = steps_by_worker(algo)
        (tmp_path / f"{worker} {fault}").touch()
        results.append(algo.train())
        assert results[-1]["fault_tolerance"]["num_healthy_workers"] == 1
        # The failing one loses the two steps it had finished and the third; the other collects for both.
        assert steps_by_worker(algo) == {worker: before[worker], other: before[other] + 20}
        while results[-1]["fault_tolerance"]["num_healthy_workers"] < 2:
            results.append(algo.train())
            assert len(results) < 100
        said.append(capfd.readouterr())
    results.append(algo.train())
    steps = [result["num_env_steps_sampled_lifetime"] for result in results]
    assert steps == [20 * (i + 1) for i in range(len(results))] and sum(steps_by_worker(algo).values()) == steps[-1]
    assert results[-1]["fault_tolerance"]["num_remote_worker_restarts"] == 2
    assert "the observation of agent 'left' became NaN or infinite" in str(said).replace("\\", "")
    algo.stop()


@pytest.mark.slow
def test_three_runners_of_which_one_dies_still_collect_exactly(ray_running, tmp_path):
    algo = faulty_config(tmp_path).training(env_steps_per_iteration=30).env_runners(num_env_runners=3).build()
    algo.train()
    (tmp_path / "1 exit").touch()
    results = [algo.train() for _ in range(2)]
    assert results[0]["fault_tolerance"]["num_healthy_workers"] == 2
    assert [result["num_env_steps_sampled_lifetime"] for result in results] == [60, 90]
    algo.stop()


def hanging_config(orders, num_runners, timeout):
    config = faulty_config(orders).training(replay_capacity=5000)
    config.sync_filters_on_rollout_workers_timeout_s = 0.5
    return config.env_runners(num_env_runners=num_runners, sample_timeout_s=timeout)


def train_until(algo, condition):
    results = [algo.train()]
    while not condition(results[-1]["fault_tolerance"]):
        results.append(algo.train())
        assert len(results) < 100
    return results


def test_runner_that_hangs_is_named_replaced_and_restarted_and_keeps_nobody_waiting(ray_running, tmp_path, caplog):
    algo = hanging_config(tmp_path, num_runners=2, timeout=2.0).build()
    algo.train()
    (tmp_path / "1 hang").touch()
    algo.train()
    assert sum("Environment runner 1 (process" in text for text in caplog.messages) == 1
    assert within(60, partial(algo.save_to_path, tmp_path / "run")) is None
    assert sum("the state lacks the episodes that are running there" in text for text in caplog.messages) == 1
    results = train_until(algo, lambda health: health["num_healthy_workers"] == 1)
    assert sum("Environment runner 1" in text and "hangs: no answer" in text for text in caplog.messages) == 1
    (tmp_path / "1 hang").unlink()
    results += train_until(algo, lambda health: health["num_healthy_workers"] == 2)
    steps = [result["num_env_steps_sampled_lifetime"] for result in results]
    assert steps == [20 * (i + 3) for i in range(len(results))] and sum(steps_by_worker(algo).values()) == steps[-1]
    algo.restore_from_path(tmp_path / "run")
    assert algo.train()["num_env_steps_sampled_lifetime"] == 60
    (tmp_path / "2 hang").touch()
    algo.train()
    assert within(60, algo.stop) is None


@pytest.mark.slow
def test_only_runner_hangs_is_restarted_in_vain_and_then_ends_the_run(ray_running, tmp_path, caplog):
    algo = hanging_config(tmp_path, num_runners=1, timeout=0.5).build()
    algo.train()
    (tmp_path / "1 hang").touch()
    errors = []
    for _ in range(20):
        try:
            algo.train()
        except RuntimeError as error:
            errors.append(str(error))
            break
    assert "Without an answer: Environment runner 1 (process" in errors[0] and "sample_timeout_s" in errors[0]
    assert algo.env_runner_group.num_remote_worker_restarts() > 0
    assert within(60, partial(algo.save_to_path, tmp_path / "run")) is None
    assert within(60, algo.stop) is None


@pytest.mark.parametrize("num_runners", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_evaluation_whose_episodes_never_end_returns_without_result_and_says_why(
    ray_running, caplog, num_runners, tmp_path
):
    algo = (
        faulty_config(tmp_path)
        .evaluation(
            evaluation_num_env_runners=num_runners,
            evaluation_interval=1,
            evaluation_sample_timeout_s=0.5,
            evaluation_config={"env_config": {"length": 10**9}},
        )
        .build()
    )
    for _ in range(2):
        result = algo.train()
        assert math.isnan(result["evaluation"]["env_runners"]["episode_return_mean"])  # Tune ends where it is missing
        assert sum("evaluation_sample_timeout_s" in text for text in caplog.messages) > 0
        caplog.clear()
    assert within(60, algo.stop) is None


def sabotage(marker, how, rank, iteration, learner):
    """Makes the learner of this rank fail once, while it trains the policy in this iteration (from 0)."""
    actor = learner.trainer.optimizers["actor"]
    step = actor.step

    def fail(loss):
        if learner.trainer.num_iterations == iteration and not marker.exists():
            marker.touch()
            if how == "die":
                os._exit(1)
            raise RuntimeError("CUDA out of memory")
        return step(loss)

    if (dist.get_rank() if learner.distributed else 0) == rank:
        actor.step = fail


def within(seconds, function):
    """The exception that `function` raises, if any. It must end in this time instead of waiting for ever."""
    raised = []

    def run():
        try:
            function()
        except Exception as error:
            raised.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    assert not thread.is_alive(), f"Still waiting after {seconds} seconds."
    return raised[0] if raised else None


@pytest.mark.parametrize("how", ["raise", pytest.param("die", marks=pytest.mark.slow)])
def test_learner_that_fails_stops_the_others_and_is_named(ray_running, tmp_path, how):
    algo = team_config().learners(num_learners=2).build()
    algo.train()
    algo.learner_group.foreach_learner(partial(sabotage, tmp_path / "failed", how, 1, 1))
    error = within(120, algo.train)
    assert ("Learner 2 of 2 failed: CUDA out of memory" if how == "raise" else "Learner 2 of 2 died") in str(error)
    assert isinstance(within(60, algo.train), LearnerError)
    assert within(60, partial(algo.save_to_path, tmp_path / "run")) and not (tmp_path / "run").exists()
    algo.stop()


@pytest.mark.slow
def test_tune_brings_a_dead_learner_back_from_the_last_checkpoint(ray_running, tmp_path):
    marker = tmp_path / "failed"
    config = team_config().learners(num_learners=1)
    config.callbacks(
        on_algorithm_init=lambda algorithm, **kwargs: algorithm.learner_group.foreach_learner(
            partial(sabotage, marker, "die", 0, 3)
        )
    )
    run_config = tune.RunConfig(
        stop={"training_iteration": 5},
        storage_path=str(tmp_path / "results"),
        verbose=0,
        failure_config=tune.FailureConfig(max_failures=1),
        checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=2),
    )
    (result,) = tune.Tuner(DIMA, param_space=config, run_config=run_config).fit()
    assert marker.exists() and result.error is None
    rows = result.metrics_dataframe
    error = next(pathlib.Path(result.path).glob("error.txt")).read_text()
    # The third is done again, the fourth was in flight.
    assert rows["training_iteration"].tolist() == [1, 2, 3, 3, 4, 5], f"{rows['iterations_since_restore']}, {error}"
    for counter in ("num_env_steps_sampled_lifetime", "learners/__all_modules__/num_env_steps_trained_lifetime"):
        assert rows[counter].tolist() == [20, 40, 60, 60, 80, 100]
    assert "died" in error


def fill(learner):
    learner.trainer.replay.add(random_trajectory(learner._layout, 3000))


def limit_files(size, _):
    """Makes writing fail in this process as on a full disk, beyond `size` bytes in a file."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


@contextlib.contextmanager
def full_disk(algo, size):
    each_learner(algo, partial(limit_files, size))
    try:
        yield
    finally:
        each_learner(algo, partial(limit_files, resource.RLIM_INFINITY))


@pytest.mark.parametrize(
    ("num_learners", "size", "reason"),
    [
        (0, 1_000, "File too large"),
        (0, 300_000, "torch could not write a whole file, as happens when a disk or a quota is full"),
        (1, 300_000, r"as happens when a disk or a quota is full \(Learner 1 of 1 failed"),
    ],
)
def test_full_disk_costs_the_new_checkpoint_only(ray_running, tmp_path, num_learners, size, reason):
    """1,000 bytes are not enough for anything, 300,000 for everything but the replay buffer."""
    algo = team_config(replay_capacity=4000).learners(num_learners=num_learners).build()
    algo.train()
    each_learner(algo, fill)
    path = algo.save_to_path(tmp_path / "run")
    algo.train()
    with full_disk(algo, size), pytest.raises(CheckpointError, match=rf"could not be saved to {path}: .*{reason}"):
        algo.save_to_path(path)
    assert os.listdir(tmp_path) == ["run"]
    restored = team_config(replay_capacity=4000).build()
    restored.restore_from_path(path)
    assert restored.iteration == 1 and len(restored.learner_group._learner.trainer.replay) == 3020
    restored.stop()
    assert algo.train()["training_iteration"] == 3
    algo.save_to_path(path)
    verify(path)
    algo.stop()


def train_for_ever(folder):
    """What Ctrl-C ends: training with processes of its own, some iterations after a checkpoint."""
    algo = team_config().env_runners(num_env_runners=1).learners(num_learners=1).build()
    algo.train()
    algo.save_to_path(folder / "run")
    while True:
        algo.train()
        (folder / "trains").touch()


def die_while_saving(folder):
    """Saves, and is killed while it saves again to the same place, with half of the files written."""
    algo = team_config().build()
    algo.train()
    algo.save_to_path(folder / "run")
    algo.train()
    ReplayBuffer.save = lambda self, path: os.kill(os.getpid(), signal.SIGKILL)
    algo.save_to_path(folder / "run")


def start(function, folder):
    """Runs a function of this file in a process of its own."""
    command = [sys.executable, __file__, function.__name__, str(folder)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def runs(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.slow
def test_interrupt_ends_the_run_and_all_its_processes_and_keeps_the_checkpoint(tmp_path):
    process = start(train_for_ever, tmp_path)
    wait_until(lambda: (tmp_path / "trains").exists() or process.poll() is not None)
    children = descendants(process.pid)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=180)
    assert process.returncode != 0 and len(children) > 4
    assert output.count("Traceback") == 1 and "KeyboardInterrupt" in output.splitlines()[-2:], output
    wait_until(lambda: not any(runs(child) for child in children))
    verify(tmp_path / "run")


def test_kill_9_while_saving_keeps_the_checkpoint_that_was_to_be_replaced(ray_running, tmp_path):
    process = start(die_while_saving, tmp_path)
    output, _ = process.communicate(timeout=180)
    assert process.returncode == -signal.SIGKILL, output
    assert sorted(os.listdir(tmp_path)) == ["run", "run.incoming"]
    algo = DIMA.from_checkpoint(tmp_path / "run")
    assert algo.iteration == 1 and len(algo.learner_group._learner.trainer.replay) == 20
    assert algo.train()["num_env_steps_sampled_lifetime"] == 40
    algo.save_to_path(tmp_path / "run")
    assert os.listdir(tmp_path) == ["run"]
    algo.stop()


if __name__ == "__main__":
    globals()[sys.argv[1]](pathlib.Path(sys.argv[2]))
