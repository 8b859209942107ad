"""`sample_async`: runners collect the next iteration's steps while the learners learn, and nothing else changes."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import ray
import torch
from support.processes import descendants, output_of, wait_until
from support.team import Team, team_config, weights

from rllib_dima import DIMA
from rllib_dima.core.trainer import NonFiniteLossError

STEPS = 20  # per iteration

ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])


class Recording(Team):
    """Writes a line per step to the file `events`; dies or lasts as the files beside it say; can be saved."""

    def step(self, actions):
        result = super().step(actions)
        folder = pathlib.Path(self.config["folder"])
        with (folder / f"events {self.worker_index}").open("a") as file:
            file.write("step\n")
        order = folder / f"{self.worker_index} exit"
        if order.exists() and self.steps == 3:
            order.unlink()
            os._exit(1)
        while (folder / f"{self.worker_index} hang").exists():
            time.sleep(0.02)
        return result

    def get_state(self):
        return {"steps": self.steps, "number": self.number, "random": self.random.bit_generator.state}

    def set_state(self, state):
        self.steps, self.number = state["steps"], state["number"]
        self.random.bit_generator.state = state["random"]


def async_config(folder, num_runners=1, **changes):
    config = team_config({"folder": str(folder)}, **changes).environment(Recording)
    return config.env_runners(num_env_runners=num_runners, sample_async=True)


def trainer(algo):
    return algo.learner_group._learner.trainer


def num_steps_taken(folder):
    return sum(len(file.read_text().splitlines()) for file in pathlib.Path(folder).glob("events *"))


def check_counts(result, iteration):
    assert result["env_runners"]["num_env_steps_sampled"] == STEPS
    assert result["num_env_steps_sampled_lifetime"] == STEPS * iteration
    assert result["learners"]["__all_modules__"]["num_env_steps_trained_lifetime"] == STEPS * iteration


def check_replay(algo, num_envs=1):
    """Every stored step is stored once and linked to the next one of its episode."""
    replay = trainer(algo).replay
    size = len(replay)
    states, following = replay.states[:size].numpy(), replay.following[:size].numpy()
    assert len({(worker, number, step) for step, number, _, worker in states.tolist()}) == size
    linked = np.flatnonzero(following >= 0)
    np.testing.assert_array_equal(states[following[linked], 0], states[linked, 0] + 1)
    np.testing.assert_array_equal(states[following[linked], 1], states[linked, 1])
    last = following < 0
    unfinished = last & (replay.next_states[:size, 0].numpy() < 7)
    assert unfinished.sum() <= num_envs * len(np.unique(states[:, 3]))


@pytest.mark.parametrize(
    ("num_runners", "num_envs"),
    [pytest.param(1, 1, marks=pytest.mark.slow), (2, 1), pytest.param(2, 2, marks=pytest.mark.slow)],
)
def test_every_iteration_learns_from_exactly_its_steps_by_the_policy_of_one_iteration_before(
    ray_running, tmp_path, num_runners, num_envs
):
    algo = async_config(tmp_path, num_runners).env_runners(num_envs_per_env_runner=num_envs).build()
    for iteration in range(1, 6):
        result = algo.train()
        check_counts(result, iteration)
        assert len(trainer(algo).replay) == STEPS * iteration
        # As many updates as lie behind the policy that acted: none in the first two iterations, then one less than
        # without overlap.
        assert result["env_runners"]["weights_seq_no"] == max(0, iteration - 2)
        assert num_steps_taken(tmp_path) == STEPS * (iteration + 1)
    check_replay(algo, num_envs)
    algo.stop()


def test_runners_collect_while_the_learner_learns(ray_running, tmp_path):
    """The update waits for steps of the next iteration: without overlap it would wait for ever."""
    algo = async_config(tmp_path).build()
    learn, taken_meanwhile = trainer(algo).train_iteration, []

    def wait_for_steps():
        wait_until(lambda: num_steps_taken(tmp_path) > STEPS * algo.training_iteration + STEPS)
        taken_meanwhile.append(algo.training_iteration)
        return learn()

    trainer(algo).train_iteration = wait_for_steps
    for _ in range(3):
        algo.train()
    assert taken_meanwhile == [0, 1, 2]
    algo.stop()


@pytest.mark.slow
def test_without_overlap_nothing_is_collected_while_the_learner_learns(ray_running, tmp_path):
    algo = async_config(tmp_path).env_runners(sample_async=False).build()
    for iteration in range(1, 4):
        assert algo.train()["env_runners"]["weights_seq_no"] == iteration - 1
        assert num_steps_taken(tmp_path) == STEPS * iteration
    algo.stop()


def column(algo, name):
    replay = trainer(algo).replay
    return getattr(replay, name)[: len(replay)].numpy()


def check_equal(left, right):
    np.testing.assert_equal(*(weights(algo.learner_group._learner) for algo in (right, left)))
    for name in ("states", "observations", "actions", "rewards", "previous", "following"):
        np.testing.assert_array_equal(column(right, name), column(left, name), err_msg=name)


@pytest.mark.parametrize("num_runners", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_restored_run_goes_on_with_the_steps_that_were_collected_ahead(ray_running, tmp_path, num_runners):
    config = async_config(tmp_path, num_runners)
    straight = config.copy(copy_frozen=False).build()
    for _ in range(2):
        straight.train()
    path = straight.save_to_path(tmp_path / "run")
    expected = [straight.train() for _ in range(3)]
    taken = num_steps_taken(tmp_path)
    resumed = DIMA.from_checkpoint(path)
    results = [resumed.train() for _ in range(3)]
    assert num_steps_taken(tmp_path) == taken + 3 * STEPS  # and not those that the checkpoint holds
    for iteration, (result, other) in enumerate(zip(results, expected, strict=True), start=3):
        check_counts(result, iteration)
        for name in ("weights_seq_no", "episode_return_mean", "num_episodes_lifetime"):
            assert result["env_runners"][name] == other["env_runners"][name], name
    check_equal(straight, resumed)
    check_replay(resumed)

    straight.restore_from_path(path)  # back in the same processes, which have collected ahead
    for _ in range(3):
        straight.train()
    check_equal(resumed, straight)
    straight.stop()
    resumed.stop()


@pytest.mark.slow
def test_checkpoints_of_both_modes_fit_each_other(ray_running, tmp_path):
    ahead, plain = async_config(tmp_path), async_config(tmp_path).env_runners(sample_async=False)
    for first, second in ((ahead, plain), (plain, ahead)):
        algo = first.copy(copy_frozen=False).build()
        algo.train()
        path = algo.save_to_path(tmp_path / "run")
        algo.stop()
        other = second.copy(copy_frozen=False).build()
        other.restore_from_path(path)
        for iteration in range(2, 5):
            check_counts(other.train(), iteration)
        check_replay(other)
        other.stop()


@pytest.mark.slow
def test_state_in_memory_holds_the_collected_steps_and_does_not_change(ray_running, tmp_path):
    algo = async_config(tmp_path).build()
    algo.train()
    state = algo.get_state()
    for _ in range(2):
        algo.set_state(state)
        for iteration in (2, 3):
            check_counts(algo.train(), iteration)
    for name in ("states", "observations", "actions", "rewards"):  # the replay buffer is no part of the state
        steps = column(algo, name)
        np.testing.assert_array_equal(steps[3 * STEPS :], steps[STEPS : 3 * STEPS])
    algo.stop()


@pytest.mark.slow
def test_runner_that_dies_while_the_learner_learns_is_replaced_by_the_other(ray_running, tmp_path):
    algo = async_config(tmp_path, num_runners=2).build()
    algo.train()
    learn = trainer(algo).train_iteration

    def order_death():
        (tmp_path / "1 hang").unlink()
        return learn()

    trainer(algo).train_iteration = order_death
    (tmp_path / "1 hang").touch()  # so that it is in mid-flight when the learner has begun
    (tmp_path / "1 exit").touch()
    results = [algo.train()]
    trainer(algo).train_iteration = learn
    assert not (tmp_path / "1 exit").exists() and results[0]["fault_tolerance"]["num_healthy_workers"] == 1
    while results[-1]["fault_tolerance"]["num_healthy_workers"] < 2:
        results.append(algo.train())
        assert len(results) < 100
    results += [algo.train() for _ in range(2)]
    for iteration, result in enumerate(results, start=2):
        check_counts(result, iteration)
    assert set(column(algo, "states")[-STEPS:, 3]) == {1.0, 2.0}
    algo.stop()


@pytest.mark.slow
def test_steps_of_a_runner_that_is_late_count_for_the_next_iteration(ray_running, tmp_path):
    algo = async_config(tmp_path, num_runners=2).env_runners(sample_timeout_s=1.0).build()
    algo.train()
    (tmp_path / "1 hang").touch()
    check_counts(algo.train(), 2)  # the other one collects all of the next iteration's steps
    (tmp_path / "1 hang").unlink()
    for iteration in range(3, 7):
        check_counts(algo.train(), iteration)
    check_replay(algo)
    assert len(column(algo, "states")) == 6 * STEPS
    algo.stop()


@pytest.mark.slow
def test_failure_of_the_learner_loses_nothing_that_was_collected_ahead(ray_running, tmp_path):
    algo = async_config(tmp_path).build()
    algo.train()
    path = algo.save_to_path(tmp_path / "run")
    weights = next(iter(algo.learner_group._learner.module["world_model"].net.dynamics.parameters()))
    with torch.no_grad():
        weights.fill_(float("nan"))
    with pytest.raises(NonFiniteLossError):
        algo.train()
    assert sum(len(episode) for share in algo.get_state()["collected"]["shares"] for episode in share[0]) == STEPS
    algo.restore_from_path(path)
    for iteration in (2, 3):
        check_counts(algo.train(), iteration)
    check_replay(algo)
    algo.stop()


@pytest.mark.slow
def test_evaluation_does_not_disturb_what_is_collected_ahead(ray_running, tmp_path):
    def run(**evaluation):
        algo = async_config(tmp_path).evaluation(**evaluation).build()
        results = [algo.train() for _ in range(3)]
        algo.evaluate()
        results.append(algo.train())
        algo.stop()
        return results, weights(algo.learner_group._learner)

    plain, expected = run()
    for parallel in (False, True):
        results, found = run(
            evaluation_interval=1,
            evaluation_duration=2,
            evaluation_num_env_runners=1,
            evaluation_parallel_to_training=parallel,
        )
        assert all("evaluation" in result for result in results)
        for iteration, (result, other) in enumerate(zip(results, plain, strict=True), start=1):
            check_counts(result, iteration)
            assert result["env_runners"]["weights_seq_no"] == other["env_runners"]["weights_seq_no"]
        np.testing.assert_equal(found, expected)


def test_needs_runners_that_can_overlap(tmp_path):
    with pytest.raises(ValueError, match="num_env_runners=1 or more"):
        async_config(tmp_path, num_runners=0).validate()
    with pytest.raises(TypeError, match="sample_async must be True or False"):
        async_config(tmp_path).update_from_dict({"sample_async": 1}).validate()
    config = async_config(tmp_path).evaluation(evaluation_interval=1)
    config.validate()
    config.get_evaluation_config_object().validate()


def learn_for_ever(folder):
    """Training whose runner hangs in mid-flight while the learner learns for ever."""
    folder = pathlib.Path(folder)
    algo = async_config(folder).build()
    algo.train()
    (folder / "1 hang").touch()

    def learn():
        (folder / "learning").write_text(json.dumps(os.getpid()))
        time.sleep(1000)

    trainer(algo).train_iteration = learn
    algo.train()


@pytest.mark.slow
def test_interrupt_ends_a_run_whose_runner_is_in_mid_flight(tmp_path):
    command = [sys.executable, __file__, str(tmp_path)]
    stacks = {**os.environ, "PYTHONFAULTHANDLER": "1"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=stacks)
    wait_until(lambda: (tmp_path / "learning").exists() or process.poll() is not None)
    children = descendants(process.pid)
    process.send_signal(signal.SIGINT)
    output = output_of(process, 50)  # less than the minute that a late runner is waited for
    assert process.returncode != 0 and len(children) > 3
    assert output.count("Traceback") == 1 and "KeyboardInterrupt" in output.splitlines()[-1], output
    wait_until(lambda: not any(pathlib.Path(f"/proc/{child}/cmdline").exists() for child in children))


if __name__ == "__main__":
    learn_for_ever(sys.argv[1])
