"""How long does saving and restoring take, and how much memory, with a full replay buffer?

    python benchmarks/checkpoints.py                  # Ant-4x2 at paper size, 250,000 transitions

Each measurement is a process of its own, so that its peak memory is its own: one fills the buffer and saves (once more
over the first checkpoint, as a run does), one restores and trains an iteration with one update of every network.
Transitions are random numbers of the task's sizes: only their amount matters here.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from epoch import EPISODE, random_trajectory

from rllib_dima import DIMA, DIMAConfig

ONE_UPDATE = {
    "decoder_updates_per_iteration": 1,
    "dynamics_updates_per_iteration": 1,
    "reward_updates_per_iteration": 1,
    "policy_updates_per_iteration": 1,
}


def timed(action: Callable[[], object]) -> float:
    """Seconds of wall clock."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def peak_megabytes() -> float:
    """Largest resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def fill(algo: DIMA) -> None:
    """Fills the replay buffer with episodes of random numbers."""
    trainer = algo.learner_group._learner.trainer
    layout = algo.env_runner.env.envs[0].layout
    for number in range(trainer.replay.capacity // EPISODE):
        trainer.add([random_trajectory(layout, EPISODE, number)])


def save(env: str, checkpoint: Path) -> dict[str, float]:
    """Figures of saving."""
    algo = DIMAConfig().environment(env).training(**ONE_UPDATE).debugging(seed=0).build()
    fill(algo)
    algo.train()
    before = peak_megabytes()
    first = timed(lambda: algo.save_to_path(checkpoint))
    second = timed(lambda: algo.save_to_path(checkpoint))
    size = sum(file.stat().st_size for file in checkpoint.rglob("*") if file.is_file()) / 1e6
    return {
        "transitions": len(algo.learner_group._learner.trainer.replay),
        "checkpoint, MB": size,
        "save, s": first,
        "save over it, s": second,
        "peak memory before saving, MB": before,
        "peak memory after saving, MB": peak_megabytes(),
    }


def restore(env: str, checkpoint: Path) -> dict[str, float]:
    """Figures of restoring."""
    restored: list[DIMA] = []
    seconds = timed(lambda: restored.append(DIMA.from_checkpoint(checkpoint)))
    until_trained = seconds + timed(restored[0].train)
    return {
        "restore, s": seconds,
        "restore and an iteration of one update each, s": until_trained,
        "peak memory of restoring and that iteration, MB": peak_megabytes(),
    }


def main() -> None:
    """Runs the two processes and prints what they measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", default="mamujoco_ant_4x2")
    parser.add_argument("--measure", choices=("save", "restore"), help=argparse.SUPPRESS)
    parser.add_argument("--checkpoint", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        figures = {"save": save, "restore": restore}[args.measure](args.env, args.checkpoint)
        print(json.dumps(figures))
        return
    with tempfile.TemporaryDirectory() as folder:
        for measure in ("save", "restore"):
            command = [sys.executable, __file__, "--env", args.env, "--measure", measure]
            output = subprocess.run([*command, "--checkpoint", f"{folder}/run"], capture_output=True, text=True)
            if output.returncode:
                sys.exit(output.stderr)
            for name, value in json.loads(output.stdout.splitlines()[-1]).items():
                print(f"{name:<50} {value:10.1f}")


if __name__ == "__main__":
    main()
