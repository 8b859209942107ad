"""Several processes: learners side by side, remote runners, and Ray Tune."""

import os
import sys

import numpy as np
import pytest
import ray
from ray import tune
from ray.rllib.algorithms.algorithm import Algorithm
from support.team import TINY, Team, of_learners, team_config, weights

from rllib_dima import DIMA

pytestmark = pytest.mark.usefixtures("ray_running")

ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # the functions below are run by remote actors


def test_two_learners_stay_equal_count_steps_once_and_share_checkpoints(tmp_path):
    algo = team_config().learners(num_learners=2).env_runners(num_env_runners=2).build()
    results = [algo.train() for _ in range(2)]
    assert [r["num_env_steps_sampled_lifetime"] for r in results] == [20, 40]
    trained = results[-1]["learners"]["__all_modules__"]
    assert (trained["num_env_steps_trained"], trained["num_env_steps_trained_lifetime"]) == (20, 40)
    first, second = of_learners(algo, weights)
    for name, value in first.items():
        np.testing.assert_array_equal(value, second[name], err_msg=name)
    assert of_learners(algo, lambda learner: (learner.trainer.rank, len(learner.trainer.replay))) == [(0, 40), (1, 40)]
    assert of_learners(algo, lambda learner: learner.trainer.replay.sample(8).states.shape) == [(8, 1, 4)] * 2

    path = algo.save_to_path(tmp_path)
    algo.train()
    algo.restore_from_path(path)
    for restored in of_learners(algo, weights):
        assert all(np.array_equal(value, restored[name]) for name, value in first.items())
    runners = algo.env_runner_group.foreach_env_runner(
        lambda runner: runner.module["shared_policy"].get_state(), local_env_runner=False
    )
    for policy in runners:
        assert all(np.array_equal(first[f"shared_policy/{name}"], value) for name, value in policy.items())
    algo.train()

    def fail(learner):
        def save_to_path(*args, **kwargs):
            raise OSError("disk full")

        learner.save_to_path = save_to_path

    of_learners(algo, fail)
    with pytest.raises(RuntimeError, match=r"could not be saved to .*: Learner 1 of 2 failed: disk full\.$"):
        algo.save_to_path(tmp_path / "other")
    algo.stop()


def test_remote_runner_collects_exactly_evaluates_and_comes_back_after_a_crash():
    config = team_config().env_runners(num_env_runners=1, num_envs_per_env_runner=2)
    algo = config.evaluation(evaluation_num_env_runners=1, evaluation_interval=1, evaluation_duration=2).build()
    results = [algo.train() for _ in range(2)]
    assert [r["num_env_steps_sampled_lifetime"] for r in results] == [20, 40]
    assert results[-1]["env_runners"]["episode_return_mean"] == 7.0
    assert results[-1]["evaluation"]["env_runners"]["episode_return_mean"] == 7.0
    algo.env_runner_group.foreach_env_runner(lambda runner: os._exit(1), local_env_runner=False)
    steps = [algo.train()["num_env_steps_sampled_lifetime"] for _ in range(15)]
    assert max(steps) > 40 and all(step % 20 == 0 for step in steps)
    (modules,) = algo.env_runner_group.foreach_env_runner(lambda r: list(r.module.keys()), local_env_runner=False)
    assert modules == ["shared_policy"]
    algo.stop()


def test_environment_that_fails_in_a_remote_runner_is_explained():
    with pytest.raises(ValueError, match="simulator is not installed"):
        team_config({"broken": True}).env_runners(num_env_runners=1).build()


def test_tune_runs_the_trainable_by_name_and_by_class(tmp_path):
    space = {"env": Team, "actor_lr": tune.loguniform(1e-4, 1e-3), "checkpoint_replay": False, **TINY}
    run_config = tune.RunConfig(
        stop={"training_iteration": 2},
        storage_path=str(tmp_path),
        verbose=0,
        checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=True),
    )
    (result,) = tune.Tuner("DIMA", param_space=space, run_config=run_config).fit()
    assert result.error is None and result.metrics["num_env_steps_sampled_lifetime"] == 40
    assert 1e-4 <= result.config["actor_lr"] <= 1e-3 and "policy_loss" in result.metrics["learners"]["shared_policy"]
    restored = Algorithm.from_checkpoint(result.checkpoint.path)
    assert restored.iteration == 2 and restored.config.actor_lr == result.config["actor_lr"]
    restored.stop()
    config = team_config(critic_lr=tune.choice([2e-4]))
    (result,) = tune.Tuner(DIMA, param_space=config, run_config=run_config).fit()
    assert result.error is None and result.config["critic_lr"] == 2e-4
