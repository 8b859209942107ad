"""The shell knows nothing of DIMA: an algorithm that only counts trains, resumes, is exported and runs under Tune."""

import sys
from dataclasses import dataclass

import numpy as np
import pytest
import ray
import torch
from ray import tune
from support.team import Team
from torch import nn

from rllib_dima import DIMA, Policy
from rllib_dima.algorithms.base import TeamAlgorithm
from rllib_dima.algorithms.base_config import TeamConfig
from rllib_dima.checkpoint import CheckpointError
from rllib_dima.core.hyperparameters import knob
from rllib_dima.core.policy.hyperparameters import PolicyHyperparameters
from rllib_dima.core.policy.networks import Actor
from rllib_dima.core.trainer import Trainer

pytestmark = pytest.mark.usefixtures("ray_running")

ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])


@dataclass(frozen=True)
class CountingHyperparameters(PolicyHyperparameters):
    MODEL_SIZES = {"paper": {}, "large": {"stride": 10}}  # noqa: RUF012

    stride: int = knob(1, "What an iteration adds.", low=1)


class Counter(nn.Module):
    def __init__(self, layout, hp):
        super().__init__()
        self.register_buffer("count", torch.zeros(()))


class CountingTrainer(Trainer):
    NETWORKS = {"actor": Actor, "counter": Counter}  # noqa: RUF012

    def __init__(self, layout, hp, networks, device="cpu", seed=0, rank=0, average_gradients=None):
        self.hp, self.counter, self.num_steps = hp, networks["counter"], 0

    def add(self, trajectories):
        self.num_steps += sum(map(len, trajectories))

    def train_iteration(self):
        self.counter.count += self.hp.stride
        return {"counter": {"count": float(self.counter.count), "steps": self.num_steps}, "time": {"count": 0.5}}

    def state_dict(self):
        return {"num_steps": self.num_steps}

    def load_state_dict(self, state):
        self.num_steps = state["num_steps"]

    def set_learning_rates(self, hp):
        self.hp = hp


class CountingConfig(TeamConfig):
    hyperparameter_class, trainer_class = CountingHyperparameters, CountingTrainer

    def __init__(self, algo_class=None):
        super().__init__(algo_class or Counting)


class Counting(TeamAlgorithm):
    @classmethod
    def get_default_config(cls):
        return CountingConfig()


def counting_config():
    return (
        CountingConfig().environment(Team).training(model_size="large", env_steps_per_iteration=20, actor_hidden_size=8)
    )


def test_an_algorithm_that_only_counts_trains_is_saved_resumes_and_is_exported(tmp_path):
    algo = counting_config().build()
    first, second = algo.train(), algo.train()
    assert [result["learners"]["counter"]["count"] for result in (first, second)] == [10, 20]
    assert second["learners"]["counter"]["steps"] == second["num_env_steps_sampled_lifetime"] == 40
    assert second["learners"]["__all_modules__"]["time_count_s"] == 0.5
    assert second["episode_return_mean"] == 7.0 and "dynamics_loss" not in second
    assert set(second["learners"]) == {"__all_modules__", "shared_policy", "counter"}
    checkpoint = algo.save_to_path(tmp_path / "run")
    algo.stop()

    resumed = Counting.from_checkpoint(checkpoint)
    result = resumed.train()["learners"]["counter"]
    assert (result["count"], result["steps"]) == (30, 60)
    with pytest.raises(CheckpointError, match="a checkpoint of Counting, not of DIMA"):
        DIMA.from_checkpoint(checkpoint)

    policy = Policy.from_checkpoint(checkpoint)
    observations = {"left": np.ones(3, np.float32), "right": np.ones(2, np.float32)}
    expected = Policy(resumed.get_module().net).act(observations)
    np.testing.assert_array_equal(policy.act(observations)["left"], expected["left"])
    policy.export(tmp_path / "policy.pt2")
    assert (tmp_path / "policy.pt2").is_file()
    resumed.stop()


def test_it_runs_under_tune(tmp_path):
    results = tune.Tuner(
        Counting,
        param_space={**counting_config().to_dict(), "stride": tune.grid_search([2, 3])},
        run_config=tune.RunConfig(stop={"training_iteration": 2}, storage_path=str(tmp_path), verbose=0),
    ).fit()
    assert sorted(result.metrics["learners"]["counter"]["count"] for result in results) == [4, 6]


def test_settings_and_words_are_its_own():
    with pytest.raises(ValueError, match=r"Unknown hyperparameter 'strid'\. Did you mean 'stride'"):
        counting_config().training(strid=2)
    with pytest.raises(ValueError, match="Counting does not use 'lr', which was set"):
        counting_config().update_from_dict({"lr": 1e-3})
    with pytest.raises(ValueError, match="setting of CountingConfig"):
        counting_config().dynamics_lr = 1e-3
    assert "stride = 1: What an iteration adds." in CountingConfig.training.__doc__
