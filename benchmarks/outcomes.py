"""Does imagination reward and end as reality does? Rewards and endings open loop, by what they are learnt from.

    python benchmarks/outcomes.py                                   # four tasks, nano, three seeds
    python benchmarks/outcomes.py --tasks ant_4x2 --seeds 0

Data and protocol are those of `world_model_accuracy.py`: smoothed random actions, the last 4,000 of 24,000 steps held
out, real states as context, the actions really taken. The whole world model is trained as in DIMA, with the recipe's
settings and those of each row, and imagines 15 steps on its own predictions. Printed are, for the first step and for
later ones, the root mean squared error of rewards in their standard deviations, and how many of a thousand steps end:
by the mean predicted probability, and really; with the cross-entropy of the prediction.
"""

from __future__ import annotations

import argparse
import json
import sys

import numpy as np
import torch
from torch.nn import functional
from world_model_accuracy import collect

from rllib_dima.analysis.replaying import replay
from rllib_dima.analysis.segments import draw_segments
from rllib_dima.core.dima.hyperparameters import DIMAHyperparameters
from rllib_dima.core.dima.trainer import DIMATrainer
from rllib_dima.core.layout import AgentLayout
from rllib_dima.core.replay.data import Trajectory

TASKS = ("halfcheetah_2x3", "ant_4x2", "walker2d_2x3", "bidexhands_door_open_outward")
NUM_SEGMENTS, HORIZON, AT_A_TIME = 4000, 15, 100
SPANS = {"step 1": slice(0, 1), "2 to 5": slice(1, 5), "6 to 15": slice(5, 15)}
WAYS = {
    "present state and action": {"reward_reads_next_state": False, "reward_imagined_fraction": 0.0},
    "and next state": {"reward_reads_next_state": True, "reward_imagined_fraction": 0.0},
    "half on imagined states": {"reward_reads_next_state": False, "reward_imagined_fraction": 0.5},
    "both": {"reward_reads_next_state": True, "reward_imagined_fraction": 0.5},
}


def train(layout: AgentLayout, episodes: list[Trajectory], settings: dict, args: argparse.Namespace, seed: int):
    """A world model after `--updates` updates of dynamics and of rewards."""
    counts = dict.fromkeys(("dynamics_updates_per_iteration", "reward_updates_per_iteration"), AT_A_TIME)
    counts |= {"decoder_updates_per_iteration": 1, "policy_updates_per_iteration": 1}
    hp = DIMAHyperparameters.resolve({**counts, **settings}, "mamujoco", args.model_size, "swift")
    torch.manual_seed(seed)
    networks = {name: network(layout, hp) for name, network in DIMATrainer.NETWORKS.items()}
    trainer = DIMATrainer(layout, hp, networks, seed=seed)
    trainer.add(episodes)
    for _ in range(args.updates // AT_A_TIME):
        with trainer.random_numbers(0):
            trainer.train_world_model()
        trainer.num_iterations += 1  # of random numbers
    return trainer.world_model


def errors(model, held_out: list[Trajectory], seed: int) -> np.ndarray:
    """By span: error of rewards, predicted and real ends of a thousand steps, cross-entropy."""
    segments = draw_segments(held_out, NUM_SEGMENTS, model.hp.context_length, HORIZON, seed=1)
    imagined, rows = replay(model, segments, seed), []
    deviation = segments.rewards[segments.valid].std()
    for span in SPANS.values():
        valid = segments.valid[:, span]
        wrong = (imagined.rewards - segments.rewards)[:, span][valid] / deviation
        ended = segments.terminated[:, span][valid].float()
        predicted = 1 - imagined.continuations[:, span][valid]
        entropy = functional.binary_cross_entropy(predicted.clamp(1e-7, 1 - 1e-7), ended)
        rows.append([wrong.square().mean().sqrt(), 1000 * predicted.mean(), 1000 * ended.mean(), entropy])
    return np.array(rows)


def main() -> None:
    """Prints a table per task, and a JSON line for the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", default=TASKS, help="MAMuJoCo's short names, or ids of Bi-DexHands")
    parser.add_argument("--model-size", choices=DIMAHyperparameters.MODEL_SIZES, default="nano")
    parser.add_argument("--updates", type=int, default=3000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    for task in args.tasks:
        layout, training, held_out = collect(task, seed=0)
        ends = sum(episode.terminated for episode in training)
        print(f"\n{task}: {sum(map(len, training))} steps, {ends} ends")
        print(f"{'rewards and endings from':<26}" + "".join(f"{span:>34}" for span in SPANS))
        for way in args.ways:
            found = []
            for seed in args.seeds:
                found.append(errors(train(layout, training, WAYS[way], args, seed), held_out, seed))
                print(f"  {way}, seed {seed}", file=sys.stderr, flush=True)
            means, spreads = np.mean(found, 0), np.std(found, 0, ddof=min(1, len(found) - 1))
            cells = (
                f"{m[0]:.3f} +- {s[0]:.3f}; {m[1]:.1f} / {m[2]:.1f}; {m[3]:.4f}"
                for m, s in zip(means, spreads, strict=True)
            )
            print(f"{way:<26}" + "".join(f"{cell:>34}" for cell in cells), flush=True)
            print(json.dumps({"task": task, "way": way, "seeds": args.seeds, "found": np.array(found).tolist()}))


if __name__ == "__main__":
    main()
