"""Appendix E.2: does it matter in which order agents are revealed? Ant-2x4, 10 episodes, 100 segments, K = 2N = 4.

    python benchmarks/conditioning_order.py                         # trains 3 modes x 3 seeds, then measures
    python benchmarks/conditioning_order.py --checkpoints FOLDER... # measures runs that exist

Trained is the paper's recipe at size "nano" (small networks, on a CPU), as `benchmarks/learning.py` does it, from whose
checkpoints a run that was interrupted goes on. The policy of each run plays 10 episodes; 100 segments of imagination's
horizon are replayed, revealing agents in ascending, descending and random order with sequential and with cumulative
conditioning, and all at once. Printed is the L1 error per observation entry, averaged over agents and accumulated over
the horizon, as mean and sample standard deviation over a mode's runs. A mark says that a model was not trained to be
sampled like that. The curves go to results/conditioning_order.json, which `benchmarks/pictures.py` draws.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rllib_dima import DIMAConfig
from rllib_dima.analysis import compare, draw_segments
from rllib_dima.analysis.checkpoint import load_world_model
from rllib_dima.analysis.collecting import play_episode
from rllib_dima.analysis.comparison import ORDERS, order_of
from rllib_dima.analysis.figures import STYLE
from rllib_dima.analysis.replaying import require_horizon
from rllib_dima.envs import CooperativeEnv, make
from rllib_dima.policy import Policy

TRAINED = Path(__file__).parent.parent / "results" / "learning"
RESULT = Path(__file__).parent / "results" / "conditioning_order.json"
LABEL = "order"  # keeps these short runs apart from those of the same task and mode that go on for longer


def train(args: argparse.Namespace) -> list[Path]:
    """Trains every mode and seed, or goes on with it; where their checkpoints are."""
    hp = DIMAConfig().training(model_size="nano", recipe=args.recipe).hyperparameters()
    require_horizon(hp, args.horizon or 1)  # not after hours
    folders = []
    for mode in args.conditioning:
        label = "_".join(part for part in (LABEL, args.recipe, mode) if part != "paper")
        command = [sys.executable, Path(__file__).with_name("learning.py"), "--task", args.task, "--label", label]
        command += ["--steps", args.steps, "--recipe", args.recipe, "--processes", args.processes]
        subprocess.run([*map(str, command), "--conditioning", mode, "--seeds", *map(str, args.seeds)], check=True)
        folders += [TRAINED / f"{args.task}_{label}_{seed}" for seed in args.seeds]
    return folders


def ways(num_agents: int) -> dict[str, dict]:
    """Orders and modes to be sampled."""
    steps = 2 * num_agents
    ordered = {
        f"{mode} {order}": order_of(order, steps, mode) for mode in ("sequential", "cumulative") for order in ORDERS
    }
    return {**ordered, "joint": {"conditioning": "joint", "num_denoising_steps": steps}}


def measure(checkpoint: Path, args: argparse.Namespace) -> dict:
    """Accumulated errors of one run by way of sampling."""
    world_model, policy = load_world_model(checkpoint), Policy.from_checkpoint(checkpoint)
    env = CooperativeEnv(make(f"mamujoco_{args.task}"))
    played = [play_episode(env, policy.act, seed).trajectory for seed in range(args.episodes)]
    horizon = args.horizon or world_model.hp.imagination_horizon
    require_horizon(world_model.hp, horizon)
    segments = draw_segments(played, args.segments, world_model.hp.context_length, horizon)
    found = compare(world_model, segments, env.layout.own_observation_mask(), ways(env.layout.num_agents))
    return {
        "checkpoint": checkpoint.name,
        "trained": world_model.hp.conditioning,
        "training": world_model.hp.dynamics_training,
        "return": float(np.mean([episode.rewards.sum() for episode in played])),
        "errors": {name: way.errors.cumulative_observation.round(4).tolist() for name, way in found.items()},
        "caveats": {name: way.caveats for name, way in found.items() if way.caveats},
    }


def show(records: list[dict]) -> None:
    """The table: rows are what was trained, columns how it was sampled."""
    names = list(records[0]["errors"])
    for mode in dict.fromkeys(record["trained"] for record in records):
        runs = [record for record in records if record["trained"] == mode]
        print(f"\ntrained {mode} ({len(runs)} runs, return {np.mean([run['return'] for run in runs]):.0f})")
        for name in names:
            last = [run["errors"][name][-1] for run in runs]
            mark = "  *" if any(name in run["caveats"] for run in runs) else ""
            print(f"  sampled {name:<24}{np.mean(last):9.3f} +- {_deviation(np.array(last)):.3f}{mark}")
    for reason in sorted(_reasons(records)):
        print(f"* {reason}")


def draw(records: list[dict], file: Path) -> None:
    """The picture: a panel for every mode trained, a line for every way sampled, bands of one deviation over runs."""
    modes = list(dict.fromkeys(record["trained"] for record in records))
    with rc_context(STYLE):
        figure = Figure(figsize=(1.5 + 3.5 * len(modes), 3.6), layout="constrained")
        panels = figure.subplots(1, len(modes), sharey=True, squeeze=False)[0]
        for panel, mode in zip(panels, modes, strict=True):
            _draw_mode(panel, [record for record in records if record["trained"] == mode])
        panels[0].set(ylabel="accumulated error per observation entry", ylim=(0, None))
        panels[-1].legend(loc="upper left", bbox_to_anchor=(1, 1), title="sampled")
        figure.savefig(file, dpi=150)


def _draw_mode(panel: Axes, runs: list[dict]) -> None:
    for name in runs[0]["errors"]:
        length = min(len(run["errors"][name]) for run in runs)
        values, steps = np.array([run["errors"][name][:length] for run in runs]), np.arange(1, length + 1)
        mean, deviation = values.mean(axis=0), _deviation(values)
        (line,) = panel.plot(steps, mean, label=name)
        panel.fill_between(steps, mean - deviation, mean + deviation, color=line.get_color(), alpha=0.06, linewidth=0)
    panel.set(title=f"trained {runs[0]['trained']} ({len(runs)} runs)", xlabel="imagined step")


def _deviation(values: np.ndarray) -> np.ndarray:
    """Sample standard deviation over runs; 0 of a single one."""
    return values.std(axis=0, ddof=min(1, len(values) - 1))


def _reasons(records: list[dict]) -> set[str]:
    return {reason for record in records for reasons in record["caveats"].values() for reason in reasons}


def main() -> None:
    """Trains unless told where runs are, measures, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoints", type=Path, nargs="+", help="runs that exist; nothing is trained")
    parser.add_argument("--task", default="ant_2x4", help="of MAMuJoCo")
    parser.add_argument("--conditioning", nargs="+", default=["sequential", "cumulative", "joint"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--recipe", default="paper")
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--episodes", type=int, default=10)
    parser.add_argument("--segments", type=int, default=100)
    parser.add_argument("--horizon", type=int, help="default: that of imagination")
    parser.add_argument("--out", type=Path, default=RESULT, help="the curves, which benchmarks/pictures.py draws")
    args = parser.parse_args()
    records = []
    for checkpoint in args.checkpoints or train(args):
        records.append(measure(checkpoint, args))
        print(json.dumps({name: curve[-1] for name, curve in records[-1]["errors"].items()}), flush=True)
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(records, indent=1) + "\n")
    show(records)


if __name__ == "__main__":
    main()
