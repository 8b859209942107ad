"""BenchMARL's MAPPO on simple_spread, for `comparators.py`, which says what to install.

build/benchmarl/bin/python benchmarks/comparators_benchmarl.py 0           # the seed
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from typing import Any

import torch
from benchmarl.algorithms import MappoConfig
from benchmarl.environments.pettingzoo.common import PettingZooClass
from benchmarl.experiment import Callback, Experiment, ExperimentConfig
from benchmarl.models.mlp import MlpConfig
from comparators import (
    BATCH,
    CLIP,
    EPOCHS,
    GAMMA,
    HIDDEN,
    LAMBDA,
    LR,
    MINIBATCHES,
    NUM_ENVS,
    TASKS,
    Meter,
    table,
    team_spread,
)
from torchrl.envs import PettingZooWrapper

LENGTH, POINT_EVERY, ENTROPY = TASKS["simple_spread"]


class Spread(PettingZooClass):
    """BenchMARL's task, whose critic sees the global state, with the environment that the others have."""

    def get_env_fun(self, num_envs: int, continuous_actions: bool, seed: int | None, device: Any) -> Callable:
        """A function that builds one."""
        return lambda: PettingZooWrapper(
            env=team_spread(), categorical_actions=True, return_state=True, device=device, seed=seed
        )


class Record(Callback):
    """The curve; collecting is what happens from the end of an update to the next batch."""

    def __init__(self, meter: Meter) -> None:
        super().__init__()
        self.meter, self.steps, self.since = meter, 0, time.process_time()

    def on_batch_collected(self, batch: Any) -> None:
        """Counts the steps, and the episodes that ended."""
        self.meter.collecting += time.process_time() - self.since
        self.steps += batch.numel()
        ended = batch["next", "done"].squeeze(-1)
        self.meter.returns += batch["next", "agent", "episode_reward"][ended].mean(dim=(1, 2)).tolist()

    def on_train_end(self, training_td: Any, group: str) -> None:
        """Adds a point."""
        if self.steps % POINT_EVERY == 0:
            self.meter.add(self.steps)
        self.since = time.process_time()


def experiment(seed: int, steps: int) -> Experiment:
    """The run with the settings of `comparators.py`."""
    algorithm, config, model = MappoConfig.get_from_yaml(), ExperimentConfig.get_from_yaml(), MlpConfig.get_from_yaml()
    algorithm.clip_epsilon, algorithm.lmbda, algorithm.entropy_coef = CLIP, LAMBDA, ENTROPY
    model.num_cells, model.activation_class = [HIDDEN, HIDDEN], torch.nn.ReLU
    config.max_n_frames, config.prefer_continuous_actions = steps, False
    config.gamma, config.lr, config.adam_eps, config.clip_grad_val = GAMMA, LR, 1e-5, 10.0
    config.on_policy_collected_frames_per_batch, config.on_policy_n_envs_per_worker = BATCH, NUM_ENVS
    config.on_policy_n_minibatch_iters, config.on_policy_minibatch_size = EPOCHS, BATCH // MINIBATCHES
    config.evaluation, config.loggers, config.create_json = False, [], False
    config.save_folder = tempfile.mkdtemp()
    return Experiment(
        task=Spread(name="SIMPLE_SPREAD", config={"max_cycles": LENGTH}),
        algorithm_config=algorithm,
        model_config=model,
        critic_model_config=model,
        seed=seed,
        config=config,
        callbacks=[Record(Meter("simple_spread", "benchmarl", seed, ["benchmarl", "torchrl"]))],
    )


def main() -> None:
    """One run, and the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("seed", type=int)
    parser.add_argument("--steps", type=int, default=100_000)
    args = parser.parse_args()
    torch.set_num_threads(1)
    experiment(args.seed, args.steps).run()
    print(table())


if __name__ == "__main__":
    main()
