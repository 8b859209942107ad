"""World models of different algorithms in one table: open-loop errors of observations, at equal updates and seconds.

Called by `world_model_accuracy.py --run DIMA MARIE MAMBA`, whose data it uses. What all of these models predict is
observations, rewards and endings; so the errors are of these, in the environment's units. An update is one of each part
of a model (MARIE's tokeniser, if trained, and its transformer; DIMA's three), seconds are a thread's CPU seconds.
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

import numpy as np
import torch

import rllib_dima
from rllib_dima.analysis.observations import unchanged
from rllib_dima.analysis.replaying import ObservationErrors, longest_rollout, observation_errors, replay
from rllib_dima.analysis.segments import draw_segments
from rllib_dima.core.layout import AgentLayout
from rllib_dima.core.replay.data import Trajectory

STEPS_SHOWN = (1, 5, 14)  # as far as all models reach
NUM_SEGMENTS = 500
AT_A_TIME = 10  # updates between looks at the clock
UPDATES = {
    "DIMA": ("decoder_updates_per_iteration", "dynamics_updates_per_iteration", "reward_updates_per_iteration"),
    "MARIE": ("tokenizer_updates_per_iteration", "model_updates_per_iteration"),
    "MAMBA": ("model_updates_per_iteration",),
}
"""What makes an iteration's updates of a world model, by algorithm."""


class Contestant:
    """A world model in training.

    Args:
        algorithm: its name.
        layout: of the team.
        episodes: to train on.
        args: of the command line.
        seed: of networks and batches.
    """

    def __init__(
        self, algorithm: str, layout: AgentLayout, episodes: list[Trajectory], args: argparse.Namespace, seed: int
    ) -> None:
        config = getattr(rllib_dima, f"{algorithm}Config")
        counts = dict.fromkeys(UPDATES[algorithm], AT_A_TIME)
        hp = hyperparameters(algorithm, args, counts)
        torch.manual_seed(seed)
        networks = {name: network(layout, hp) for name, network in config.trainer_class.NETWORKS.items()}
        self.trainer: Any = config.trainer_class(layout, hp, networks, seed=seed)
        self.trainer.add(episodes)
        self.seconds, self.num_updates, self.seed = 0.0, 0, seed
        self.size = sum(p.numel() for p in self.trainer.world_model.parameters() if p.requires_grad)

    def train(self) -> None:
        """`AT_A_TIME` updates."""
        start = time.thread_time()
        with self.trainer.random_numbers(0):
            self.trainer.train_world_model()
        self.trainer.num_iterations += 1  # of random numbers
        self.seconds += time.thread_time() - start
        self.num_updates += AT_A_TIME

    def errors(self, layout: AgentLayout, held_out: list[Trajectory], horizon: int) -> ObservationErrors:
        """On held-out segments, the same for every model."""
        model = self.trainer.world_model
        segments = draw_segments(held_out, NUM_SEGMENTS, model.hp.context_length, horizon, seed=1)
        return observation_errors(segments, replay(model, segments, self.seed), layout.own_observation_mask())


def hyperparameters(algorithm: str, args: argparse.Namespace, changes: dict[str, int]) -> Any:
    """Those that the command line asks for, with changes; the parts of MARIE's model are trained together at once."""
    recipe = args.recipe if algorithm == "DIMA" else "paper"
    at_once = {"num_tokenizer_warmup_iterations": 0} if algorithm == "MARIE" else {}
    settings = {**at_once, **json.loads(args.set).get(algorithm, {}), **changes}
    config = getattr(rllib_dima, f"{algorithm}Config")
    return config.hyperparameter_class.resolve(settings, "mamujoco", args.model_size, recipe)


def steps_reached(args: argparse.Namespace) -> list[int]:
    """Those of `STEPS_SHOWN` that all models can imagine."""
    limits = [longest_rollout(hyperparameters(algorithm, args, {})) for algorithm in args.run]
    return [step for step in STEPS_SHOWN if all(limit is None or step <= limit for limit in limits)]


def summary(errors: ObservationErrors, steps: list[int]) -> list[float]:
    """Observations after each of these steps, and the mean error of rewards."""
    return [*(float(errors.observation_by_step[step - 1]) for step in steps), float(errors.rewards.mean())]


def measure(algorithm: str, layout: AgentLayout, data: Any, args: argparse.Namespace, seed: int) -> dict[str, Any]:
    """Trains one model to both budgets; what it errs at each."""
    contestant, steps = Contestant(algorithm, layout, data[0], args, seed), steps_reached(args)
    found: dict[str, Any] = {"parameters": contestant.size}
    while len(found) < 3:
        contestant.train()
        reached = {"updates": contestant.num_updates >= args.updates, "seconds": contestant.seconds >= args.seconds}
        for budget in (name for name, is_reached in reached.items() if is_reached and name not in found):
            errors = summary(contestant.errors(layout, data[1], steps[-1]), steps)
            found[budget] = {
                "errors": errors, "updates": contestant.num_updates, "seconds": round(contestant.seconds, 1)
            }  # fmt: skip
            print(f"  {algorithm} {seed}: {contestant.num_updates} updates, {contestant.seconds:.0f} s", flush=True)
    return found


def compare(task: str, layout: AgentLayout, data: Any, args: argparse.Namespace) -> list[dict[str, Any]]:
    """Trains and prints everything; the rows, for a JSON line."""
    steps = steps_reached(args)
    segments = draw_segments(data[1], NUM_SEGMENTS, 1, steps[-1], seed=1)
    mean_reward = float(np.concatenate([episode.rewards for episode in data[0]]).mean())
    held = summary(observation_errors(segments, unchanged(segments, mean_reward), layout.own_observation_mask()), steps)
    found = {name: [measure(name, layout, data, args, seed) for seed in args.seeds] for name in args.run}
    columns = [*(f"{step} steps" for step in steps), "reward"]
    for budget in ("updates", "seconds"):
        print(f"\n{task}, {getattr(args, budget)} {budget}: mean absolute error of observations and rewards")
        print(f"{'model':<18} {'parameters':>10} {'updates':>8} {'seconds':>8}", *(f"{name:>15}" for name in columns))
        print(f"{'nothing changes':<18} {'':>10} {'':>8} {'':>8}", *(f"{value:>15.3f}" for value in held))
        for name, results in found.items():
            errors = np.array([result[budget]["errors"] for result in results])
            spread = errors.std(0, ddof=1) if len(errors) > 1 else np.zeros(len(columns))
            cells = (f"{f'{m:.3f} +- {d:.3f}':>15}" for m, d in zip(errors.mean(0), spread, strict=True))
            updates, seconds = (np.mean([result[budget][key] for result in results]) for key in ("updates", "seconds"))
            print(f"{name:<18} {results[0]['parameters']:>10} {updates:>8.0f} {seconds:>8.0f}", *cells, flush=True)
    return [{"task": task, "held": held, "model": name, "results": results} for name, results in found.items()]
