"""What do imagined observations tell? Held-out error of the state decoder, by its network and by how long it learnt.

    python benchmarks/decoders.py                                   # four tasks, nano, three seeds
    python benchmarks/decoders.py --tasks ant_4x2 --seeds 0

Data are those of `world_model_accuracy.py`: smoothed random actions, the last 4,000 of 24,000 steps held out. Printed
is the squared error of the observations decoded from real states over the variance of these observations, both summed
over entries and agents, after each number of updates: 0 is exact, 1 no better than the mean. With it the milliseconds
of an update.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator

import numpy as np
import torch
from world_model_accuracy import collect

from rllib_dima.core.dima.hyperparameters import DIMAHyperparameters
from rllib_dima.core.dima.trainer import DIMATrainer
from rllib_dima.core.dima.world_model import WorldModel
from rllib_dima.core.layout import AgentLayout
from rllib_dima.core.replay.data import Trajectory

TASKS = ("halfcheetah_2x3", "ant_4x2", "walker2d_2x3", "bidexhands_door_open_outward")
AT_A_TIME = 50
OTHERS_ONCE = {f"{part}_updates_per_iteration": 1 for part in ("dynamics", "reward", "policy")}
WAYS = {
    "code, recipe paper": ("paper", {}),
    "code, 512 wide as in the paper": (
        "paper",
        {"decoder_hidden_size": 512, "decoder_lr": 3e-4, "decoder_batch_size": 256},
    ),
    "no code, recipe swift": ("swift", {}),
}


def learn(
    layout: AgentLayout, episodes: list[Trajectory], way: str, args: argparse.Namespace, seed: int
) -> Iterator[tuple[int, WorldModel, float]]:
    """Trains a state decoder; yields updates so far, the model, and seconds per update, every `AT_A_TIME` updates."""
    recipe, settings = WAYS[way]
    settings = {**OTHERS_ONCE, "decoder_updates_per_iteration": AT_A_TIME, **settings}
    hp = DIMAHyperparameters.resolve(settings, args.family, args.model_size, recipe)
    torch.manual_seed(seed)
    networks = {name: network(layout, hp) for name, network in DIMATrainer.NETWORKS.items()}
    trainer = DIMATrainer(layout, hp, networks, seed=seed)
    trainer.add(episodes)
    for updates in range(AT_A_TIME, max(args.updates) + 1, AT_A_TIME):
        trainer.clock.pop()
        with trainer.random_numbers(0):
            trainer.train_world_model()
        trainer.num_iterations += 1  # of random numbers
        yield updates, trainer.world_model, trainer.clock.pop()["state_decoder"] / AT_A_TIME


def main() -> None:
    """Prints a table per task, and a JSON line for the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", default=TASKS, help="MAMuJoCo's short names, or ids of Bi-DexHands")
    parser.add_argument("--model-size", choices=DIMAHyperparameters.MODEL_SIZES, default="nano")
    parser.add_argument("--updates", type=int, nargs="+", default=[100, 500, 3000], help=f"multiples of {AT_A_TIME}")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    for task in args.tasks:
        args.family = "bidexhands" if task.startswith("bidexhands_") else "mamujoco"
        layout, training, held_out = collect(task, seed=0)
        states, observations = (
            torch.as_tensor(np.concatenate(columns))
            for columns in ([one.states[:-1] for one in held_out], [one.observations for one in held_out])
        )
        print(f"\n{task}: {sum(map(len, training))} steps, {states.shape[1]} entries of the state")
        print(f"{'state decoder':<32}" + "".join(f"{f'{n} updates':>20}" for n in args.updates) + f"{'ms':>8}")
        for way in args.ways:
            found, seconds = [], []
            for seed in args.seeds:
                errors = {}
                for updates, model, took in learn(layout, training, way, args, seed):
                    seconds.append(took)
                    if updates in args.updates:
                        unexplained = model.state_decoder.unexplained_variance(model.normalizer(states), observations)
                        errors[updates] = float(unexplained)
                found.append([errors[updates] for updates in args.updates])
                print(f"  {way}, seed {seed}", file=sys.stderr, flush=True)
            means, spreads = np.mean(found, 0), np.std(found, 0, ddof=min(1, len(found) - 1))
            cells = (f"{mean:.4f} +- {spread:.4f}" for mean, spread in zip(means, spreads, strict=True))
            milliseconds = 1000 * float(np.median(seconds))
            print(f"{way:<32}" + "".join(f"{cell:>20}" for cell in cells) + f"{milliseconds:8.2f}", flush=True)
            print(json.dumps({"task": task, "way": way, "seeds": args.seeds, "found": found, "ms": milliseconds}))


if __name__ == "__main__":
    main()
