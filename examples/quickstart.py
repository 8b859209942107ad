"""Does it learn? Train DIMA on the real MAMuJoCo HalfCheetah with two agents, in about five minutes on one CPU core.

How to run:

    make quickstart                                              # or: python examples/quickstart.py
    python examples/quickstart.py --restore results/quickstart --minutes 20       # go on from where it stopped

What to expect: 3,000 steps of the untrained policy (return about -200), then one line per iteration of 200 real steps.
The return starts to rise within two minutes. At the end the deterministic policy's return is printed beside the
untrained one's and that of random actions, and a checkpoint and the learning curve are written (learning_curve.csv, and
learning_curve.png where matplotlib is installed).
"""

from __future__ import annotations

import argparse
import csv
import json
import time
from pathlib import Path

import numpy as np
import torch

from rllib_dima import DIMA, DIMAConfig
from rllib_dima.envs import make
from rllib_dima.reporting.progress_line import progress_line

ENV = "mamujoco_halfcheetah_2x3"
EVALUATION_EPISODES = 10


def build_config(seed: int) -> DIMAConfig:
    """Small networks, the recipe for a CPU, and a shorter random start."""
    return (
        DIMAConfig()
        .environment(ENV)
        .training(model_size="nano", recipe="swift", num_steps_before_learning=3000)
        .evaluation(evaluation_duration=EVALUATION_EPISODES)
        .reporting(metrics_num_episodes_for_smoothing=3)
        .debugging(seed=seed)
    )


def random_return(episodes: int, seed: int) -> float:
    """Mean return of uniformly random joint actions."""
    env = make(ENV)
    returns = []
    for episode in range(episodes):
        env.reset(seed=seed + episode)
        for agent, space in env.action_spaces.items():
            space.seed(seed + 100 * episode + env.possible_agents.index(agent))
        total, done = 0.0, False
        while not done:
            actions = {agent: space.sample() for agent, space in env.action_spaces.items()}
            _, rewards, terminateds, truncateds, _ = env.step(actions)
            total += rewards[env.possible_agents[0]]
            done = terminateds["__all__"] or truncateds["__all__"]
        returns.append(total)
    return float(np.mean(returns))


def plot(curve: Path, picture: Path, before: dict[str, float], final: float) -> None:
    """The learning curve from its CSV file, unless matplotlib is missing."""
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        print(f"No picture of {curve.name}: pip install matplotlib")
        return
    with curve.open() as file:
        steps, returns = np.array([(float(row["steps"]), float(row["return"])) for row in csv.DictReader(file)]).T
    figure = Figure(figsize=(7, 4))
    axes = figure.subplots()
    axes.plot(steps, returns, label="training (sampled actions, mean of the last episodes)")  # NaN: no episode yet
    for (policy, value), line in zip(before.items(), (":", "--"), strict=True):
        axes.axhline(value, color="gray", linestyle=line, label=f"{policy}: {value:.0f}")
    axes.plot(steps[-1], final, "o", color="C1", label=f"deterministic policy: {final:.0f}")
    axes.set(xlabel="environment steps", ylabel="return", title=f"DIMA (nano) on {ENV}")
    axes.legend()
    figure.savefig(picture, dpi=120, bbox_inches="tight")
    print(f"Learning curve: {picture}")


def deterministic_return(algo: DIMA) -> float:
    """Mean return of the policy without exploration."""
    return float(algo.evaluate()["env_runners"]["episode_return_mean"])


def positive(text: str) -> float:
    """A number above 0 from the command line."""
    if (number := float(text)) <= 0:
        raise argparse.ArgumentTypeError(f"must be above 0, but is {text}")
    return number


def main() -> None:
    """Trains for the given time, evaluates, saves."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=positive, default=4.5, help="training time")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("results/quickstart"), help="where to save")
    parser.add_argument("--restore", type=Path, help="an earlier --out to go on from")
    args = parser.parse_args()
    out = (args.restore or args.out).resolve()
    curve, checkpoint, before_file = out / "learning_curve.csv", out / "checkpoint", out / "before_training.json"

    torch.set_num_threads(1)  # networks this small gain little from more, and lose much where the cores are busy
    algo = DIMA.from_checkpoint(str(checkpoint)) if args.restore else build_config(args.seed).build()
    out.mkdir(parents=True, exist_ok=True)
    if args.restore:
        before = json.loads(before_file.read_text())
    else:
        before = {"random": random_return(EVALUATION_EPISODES, args.seed), "untrained": deterministic_return(algo)}
        before_file.write_text(json.dumps(before) + "\n")
        curve.write_text("steps,return\n")
    end = time.monotonic() + 60 * args.minutes
    while time.monotonic() < end:
        result = algo.train()
        minutes_left = max(0.0, end - time.monotonic()) / 60
        print(f"{progress_line(result)}   {minutes_left:4.1f} min left", flush=True)
        episodes = result["env_runners"]
        with curve.open("a") as file:
            steps = episodes["num_env_steps_sampled_lifetime"]
            file.write(f"{steps:.0f},{episodes.get('episode_return_mean', float('nan')):.2f}\n")

    algo.save_to_path(str(checkpoint))
    final = deterministic_return(algo)
    algo.stop()
    print(
        f"\nMean return over {EVALUATION_EPISODES} episodes: {final:.1f} with DIMA's policy, "
        f"{before['untrained']:.1f} before training, {before['random']:.1f} at random."
    )
    plot(curve, out / "learning_curve.png", before, final)
    print(f"Checkpoint: {checkpoint}")
    print(f"To go on: python examples/quickstart.py --restore {args.restore or args.out} --minutes 20")


if __name__ == "__main__":
    main()
