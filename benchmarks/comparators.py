"""Does MAPPO here do as well as others' algorithms? Ours beside RLlib's own PPO and BenchMARL's MAPPO.

    python benchmarks/comparators.py --one mappo simple_spread 0          # ours
    python benchmarks/comparators.py --one ppo_shared simple_spread 0     # RLlib's PPO, one module for all agents
    python benchmarks/comparators.py --one ppo_separate simple_spread 0   # RLlib's PPO, one module per agent
    python benchmarks/comparators.py --one ppo_shared halfcheetah_2x3 0
    python benchmarks/comparators.py --table                              # of what has been run

BenchMARL (1.5.2, with torchrl 0.11.1) is no dependency of this package; it needs an environment of its own, in
which this package is not installed:

    python -m venv build/benchmarl
    build/benchmarl/bin/pip install torch==2.13.0 benchmarl==1.5.2 pettingzoo==1.27.0 mpe2==1.1.1
    build/benchmarl/bin/python benchmarks/comparators_benchmarl.py 0      # its MAPPO on simple_spread, seed 0

All have the settings below, one thread, 20 environments that are stepped in turn, the mean of the agents' rewards as
the reward of each, values that bootstrap at time limits, and the same number of optimiser steps. What is not listed is
each library's own. A point of the curve is the mean return of the episodes of sampled actions since the last one;
seconds are CPU time of the process (`time.process_time`), without building. Curves go to
benchmarks/results/comparators_<task>_<library>_<seed>.json.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

RESULTS = Path(__file__).resolve().parent / "results"
LIBRARIES = ("mappo", "ppo_shared", "ppo_separate", "benchmarl")
TASKS = {  # steps of an episode, steps between points of the curve, entropy bonus
    "simple_spread": (25, 10_000, 0.01),
    "halfcheetah_2x3": (1000, 20_000, 0.0),
}
NUM_ENVS, BATCH, EPOCHS, MINIBATCHES, HIDDEN = 20, 2000, 10, 4, 128  # two hidden layers of actor and critic
LR, GAMMA, LAMBDA, CLIP = 5e-4, 0.99, 0.95, 0.2


class Meter:
    """The curve of a run, with CPU seconds of collecting and of everything; every point is written to the run's file.

    Args:
        task: one of `TASKS`.
        library: one of `LIBRARIES`.
        seed: of the run.
        packages: whose versions are noted.
    """

    def __init__(self, task: str, library: str, seed: int, packages: Sequence[str]) -> None:
        self.file = RESULTS / f"comparators_{task}_{library}_{seed}.json"
        versions = {name: version(name) for name in ("torch", *packages)}
        self.curve: list[dict[str, float]] = []
        self.record = {"task": task, "library": library, "seed": seed, "versions": versions, "curve": self.curve}
        self.returns: list[float] = []  # of the episodes since the last point
        self.collecting, self.start = 0.0, time.process_time()

    def timed(self, sample: Callable) -> Callable:
        """The same function, with its time counted as collecting."""

        def timed_sample(*args: Any, **kwargs: Any) -> Any:
            start = time.process_time()
            try:
                return sample(*args, **kwargs)
            finally:
                self.collecting += time.process_time() - start

        return timed_sample

    def add(self, steps: int) -> None:
        """A point of the curve."""
        seconds = time.process_time() - self.start
        point = {"steps": steps, "return": round(statistics.fmean(self.returns), 2), "cpu_seconds": round(seconds, 1)}
        self.returns.clear()
        self.curve.append(point | {"collecting": round(self.collecting, 1)})
        print(self.curve[-1], flush=True)
        RESULTS.mkdir(exist_ok=True)
        self.file.write_text(json.dumps(self.record, indent=1) + "\n")


def team_spread() -> Any:
    """simple_spread, whose agents are all given the mean of their rewards."""
    from mpe2 import simple_spread_v3
    from pettingzoo.utils.wrappers import BaseParallelWrapper

    class TeamRewards(BaseParallelWrapper):
        """The mean reward for everybody."""

        def step(self, actions: dict) -> tuple:
            observations, rewards, *rest = self.env.step(actions)
            mean = float(np.mean(list(rewards.values()))) if rewards else 0.0
            return observations, dict.fromkeys(rewards, mean), *rest

    return TeamRewards(simple_spread_v3.parallel_env())


def environment(task: str) -> Any:
    """A task as a `MultiAgentEnv`."""
    from rllib_dima.envs import PettingZooEnv, make

    return PettingZooEnv(team_spread()) if task == "simple_spread" else make(f"mamujoco_{task}")


def ended_at_once(task: str) -> int:
    """Episodes that end in an iteration, if any do.

    Over so many our algorithms' `episode_return_mean` is that of the iteration, as RLlib's own always is.
    """
    return max(NUM_ENVS, BATCH // TASKS[task][0])


def mappo(task: str, seed: int) -> Any:
    """Our MAPPO."""
    from rllib_dima import MAPPOConfig

    def team(env_config: dict) -> Any:
        return environment(task)

    entropy = TASKS[task][2]
    layers = {f"{net}_{size}": value for net in ("actor", "critic") for size, value in _sizes().items()}
    return (
        MAPPOConfig()
        .environment(team)
        .env_runners(num_envs_per_env_runner=NUM_ENVS)
        .training(env_steps_per_iteration=BATCH, ppo_epochs=EPOCHS, ppo_minibatches=MINIBATCHES)
        .training(actor_lr=LR, critic_lr=LR, gamma=GAMMA, lambda_=LAMBDA, clip_param=CLIP, value_clip_param=CLIP)
        .training(entropy_coeff=entropy, time_limits="bootstrap", **layers)
        .reporting(metrics_num_episodes_for_smoothing=ended_at_once(task))
        .learners(num_gpus_per_learner=0)
        .debugging(seed=seed)
    )


def _sizes() -> dict[str, int]:
    return {"hidden_size": HIDDEN, "num_layers": 2}


def ppo(task: str, seed: int, shared: bool) -> Any:
    """RLlib's PPO as independent learners, on the observations (with the agent's number) and rewards that ours sees."""
    from ray.rllib.algorithms.ppo import PPOConfig
    from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig
    from ray.tune.registry import register_env

    from rllib_dima.envs import CooperativeEnv

    class Team(CooperativeEnv):
        """What RLlib's runners find under `unwrapped`."""

        unwrapped = property(lambda self: self)

    register_env("team", lambda _: Team(environment(task)))
    entropy, agents = TASKS[task][2], Team(environment(task)).agents
    rows = BATCH // MINIBATCHES * (len(agents) if shared else 1)  # RLlib counts the steps of a module
    model = DefaultModelConfig(fcnet_hiddens=[HIDDEN, HIDDEN], fcnet_activation="relu", vf_share_layers=False)
    return (
        PPOConfig()
        .environment("team")
        .env_runners(num_env_runners=0, num_envs_per_env_runner=NUM_ENVS)
        .multi_agent(
            policies={"shared"} if shared else set(agents),
            policy_mapping_fn=lambda agent, *_, **__: "shared" if shared else agent,
        )
        .rl_module(model_config=model)
        .training(train_batch_size_per_learner=BATCH, num_epochs=EPOCHS, minibatch_size=rows, lr=LR, gamma=GAMMA)
        .training(lambda_=LAMBDA, clip_param=CLIP, entropy_coeff=entropy, use_kl_loss=False)
        .training(vf_clip_param=float("inf"), grad_clip=10.0)
        .reporting(metrics_num_episodes_for_smoothing=ended_at_once(task))
        .learners(num_learners=0)
        .debugging(seed=seed)
    )


def run(task: str, library: str, seed: int, steps: int) -> None:
    """Trains ours or RLlib's own."""
    torch.set_num_threads(1)
    config = mappo(task, seed) if library == "mappo" else ppo(task, seed, library == "ppo_shared")
    algo = config.build_algo()
    runner = algo.env_runner_group.local_env_runner
    agents = (
        1 if library == "mappo" else len(runner.env.envs[0].unwrapped.agents)
    )  # RLlib adds up the returns of agents
    meter, done = Meter(task, library, seed, ["ray"]), 0
    runner.sample = meter.timed(runner.sample)
    while done < steps:
        result = algo.train()
        sampled = result["env_runners"]
        ended = sampled.get("num_episodes", 0)
        if ended > 0:  # NaN where none did
            meter.returns += [float(sampled["episode_return_mean"]) / agents] * int(ended)
        before, done = done, int(sampled["num_env_steps_sampled_lifetime"])
        if done // TASKS[task][1] > before // TASKS[task][1]:
            meter.add(done)
    algo.stop()


def table() -> str:
    """Returns of every seed, and CPU seconds per 1,000 steps, of what has been run."""
    lines = []
    for task in TASKS:
        for library in LIBRARIES:
            records = [json.loads(f.read_text()) for f in sorted(RESULTS.glob(f"comparators_{task}_{library}_*.json"))]
            lines += [f"{task:<16} {library:<13} {_row(record)}" for record in records]
    return "\n".join(lines)


def _row(record: dict[str, Any]) -> str:
    curve = record["curve"]
    thousands = curve[-1]["steps"] / 1000
    collecting, total = curve[-1]["collecting"] / thousands, curve[-1]["cpu_seconds"] / thousands
    returns = " ".join(f"{point['steps'] // 1000}k: {point['return']:.1f}" for point in curve)
    return f"seed {record['seed']}  {returns}; s per 1,000: {collecting:.2f} + {total - collecting:.2f}"


def main() -> None:
    """One run, or the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--one", nargs=3, metavar=("LIBRARY", "TASK", "SEED"), help="one run of ours or RLlib's")
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--table", action="store_true", help="only print the table")
    args = parser.parse_args()
    if args.one:
        library, task, seed = args.one
        run(task, library, int(seed), args.steps)
    print(table())


if __name__ == "__main__":
    main()
