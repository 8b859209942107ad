"""Does it learn, and how fast? Learning curves of several seeds and conditioning modes, or algorithms, through RLlib.

    python benchmarks/learning.py                                         # 3 seeds x 2 modes, two processes at a time
    python benchmarks/learning.py --table                                 # the table of what has been run
    python benchmarks/learning.py --one sequential 0                      # one run in this process
    python benchmarks/learning.py --run MAPPO --model-size paper --steps 300000 --evaluate-every 20000 --seeds 0 1
    python benchmarks/learning.py --run HAPPO --task simple_spread --steps 300000 --evaluate-every 20000 --seeds 0 1

Each run trains HalfCheetah-2x3 with DIMA's nano preset for 30,000 environment steps on one thread, if nothing else is
asked for. Every 2,000 steps the deterministic policy plays 10 episodes. Curves go to
benchmarks/results/learning_<task>_<name>_<seed>.json after every evaluation (the name: a label, or algorithm, recipe,
conditioning and size), with a checkpoint in results/learning, from which an interrupted run goes on. Without that
checkpoint a run begins anew, so that a committed curve is measured again.
"seconds" is wall-clock time, which other work on the machine stretches; "cpu_seconds" is the process's own.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import itertools
import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import ray
import torch

HERE = Path(__file__).resolve().parent
RESULTS, CHECKPOINTS = HERE / "results", HERE.parent / "results" / "learning"
EVALUATION_EPISODES = 10
MOST_SEEDS = 100  # that are looked for


def name_of(args: argparse.Namespace, mode: str) -> str:
    """What tells a run from others of its task: a label, or algorithm, recipe, conditioning and size."""
    size = "" if args.model_size == "nano" else f"{args.model_size}_size"
    parts = (args.label,) if args.label else ("" if args.run == "DIMA" else args.run.lower(), args.recipe, mode)
    return "_".join(part for part in (*parts, size) if part not in ("", "paper", "default"))


def simple_spread(env_config):
    """PettingZoo's discrete task of three agents that cover three landmarks; its rewards are the agents' own."""
    from mpe2 import simple_spread_v3

    return simple_spread_v3.parallel_env()


def environment_of(task: str):
    """What `environment()` is given."""
    if task == "simple_spread":
        return simple_spread
    return task if task.startswith("bidexhands_") else f"mamujoco_{task}"


def build_config(args: argparse.Namespace, mode: str, seed: int):
    """The presets as they are, with the conditioning mode and the seed."""
    import rllib_dima

    conditioning = {} if mode == "default" else {"conditioning": mode}
    return (
        getattr(rllib_dima, f"{args.run}Config")()
        .environment(
            environment_of(args.task), env_config={"team_reward": "mean"} if args.task == "simple_spread" else {}
        )
        .training(model_size=args.model_size, recipe=args.recipe, **conditioning, **json.loads(args.set))
        .evaluation(
            evaluation_duration=EVALUATION_EPISODES,
            evaluation_sample_timeout_s=3600,  # on a machine that does other work, too
            evaluation_config={"num_envs_per_env_runner": EVALUATION_EPISODES},  # the same episodes, side by side
        )
        .reporting(metrics_num_episodes_for_smoothing=3)
        .learners(**({} if args.gpus is None else {"num_gpus_per_learner": args.gpus}))
        .debugging(seed=seed)
    )


def result_file(args: argparse.Namespace, mode: str, seed: int) -> Path:
    """Where a run's curve goes."""
    return RESULTS / f"learning_{args.task}_{name_of(args, mode)}_{seed}.json"


def steps_done(args: argparse.Namespace, mode: str, seed: int) -> int:
    """How far a run has come."""
    file = result_file(args, mode, seed)
    curve = json.loads(file.read_text())["curve"] if file.exists() else []
    return curve[-1]["steps"] if curve else 0


def hyperparameters(args: argparse.Namespace, mode: str) -> dict:
    """Those a run has that are not the class's defaults, as they are read back from a file."""
    values = build_config(args, mode, seed=0).hyperparameters()
    given = {field.name: getattr(values, field.name) for field in dataclasses.fields(values)}
    defaults = {field.name: field.default for field in dataclasses.fields(values)}
    return json.loads(json.dumps({name: value for name, value in given.items() if value != defaults[name]}))


def new_record(args: argparse.Namespace, mode: str, seed: int) -> dict:
    """What a run's file says before the first evaluation."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=HERE, capture_output=True, text=True)
    return {
        "run": args.run,
        "task": args.task,
        "recipe": args.recipe,
        "conditioning": mode,
        "seed": seed,
        "model_size": args.model_size,
        "settings": json.loads(args.set),
        "hyperparameters": hyperparameters(args, mode),
        "commit": commit.stdout.strip(),
        "torch": torch.__version__,
        "ray": ray.__version__,
        "threads": 1,
        "curve": [],
        "seconds": 0.0,
        "cpu_seconds": 0.0,
    }


def require_same(found: dict, wanted: dict, file: Path) -> None:
    """Ends the program rather than going on with, or replacing, what was measured with other settings."""
    if "hyperparameters" not in found:  # a file of an older version, whose recipes are today's
        args = argparse.Namespace(**{"run": "DIMA", "recipe": "paper", "gpus": None} | found)
        args.set = json.dumps(found.get("settings", {}))
        found = found | {"hyperparameters": hyperparameters(args, found["conditioning"])}
    names = ("run", "task", "seed", "model_size", "hyperparameters")
    if other := {name: found[name] for name in names if name in found and found[name] != wanted[name]}:
        raise SystemExit(f"{file} was run with {other}: give --label, for a file of its own, or remove that one.")


def run(args: argparse.Namespace, mode: str, seed: int) -> None:
    """One run to the end, from its checkpoint if there is one."""
    import rllib_dima

    torch.set_num_threads(1)
    file = result_file(args, mode, seed)
    checkpoint = CHECKPOINTS / file.stem.removeprefix("learning_")
    record, steps = new_record(args, mode, seed), 0
    if file.exists():
        require_same(json.loads(file.read_text()), record, file)
    if checkpoint.exists() and file.exists():
        algo, record = getattr(rllib_dima, args.run).from_checkpoint(str(checkpoint)), json.loads(file.read_text())
        steps = steps_done(args, mode, seed)
    else:
        algo = build_config(args, mode, seed).build()
    start, cpu_start = time.monotonic() - record["seconds"], time.process_time() - record["cpu_seconds"]
    while steps < args.steps:
        result = algo.train()
        before, steps = steps, int(result["env_runners"]["num_env_steps_sampled_lifetime"])
        if steps // args.evaluate_every > before // args.evaluate_every or steps >= args.steps:
            sampled = result["env_runners"].get("episode_return_mean", math.nan)
            evaluation = algo.evaluate()["env_runners"]
            record["seconds"] = round(time.monotonic() - start, 1)
            record["cpu_seconds"] = round(time.process_time() - cpu_start, 1)
            point = {"steps": steps, "deterministic": round(float(evaluation["episode_return_mean"]), 1)}
            point["sampled"] = None if math.isnan(sampled) else round(float(sampled), 1)  # no episode has ended yet
            point["seconds"] = record["seconds"]
            record["curve"].append(point)
            print(mode, seed, point, flush=True)
            algo.save_to_path(str(checkpoint))
            RESULTS.mkdir(exist_ok=True)
            file.write_text(json.dumps(record, indent=1, allow_nan=False) + "\n")
    algo.stop()


def run_all(args: argparse.Namespace) -> None:
    """All runs, `--processes` at a time, one thread each."""
    if args.label and len(args.conditioning) > 1:
        raise SystemExit(
            f"--label {args.label} names the files of one mode of conditioning, but there are {len(args.conditioning)} "
            f"({', '.join(args.conditioning)}): give one --conditioning, or a command with its own label for each."
        )
    waiting = list(itertools.product(args.seeds, args.conditioning))
    running: list[subprocess.Popen] = []
    common = ["--task", args.task, "--steps", str(args.steps), "--model-size", args.model_size, "--set", args.set]
    common += ["--recipe", args.recipe, "--label", args.label, "--run", args.run]
    common += ["--evaluate-every", str(args.evaluate_every)]
    common += [] if args.gpus is None else ["--gpus", str(args.gpus)]
    while waiting or running:
        running = [process for process in running if process.poll() is None]
        while waiting and len(running) < args.processes:
            seed, mode = waiting.pop(0)
            command = [sys.executable, __file__, "--one", mode, str(seed), *common]
            running.append(subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}))
        time.sleep(1)
    table(args)


def returns_of(point: dict | None) -> str:
    """Both returns of an evaluation; of sampled actions there is none before an episode has ended."""
    if point is None:
        return ""
    return f"{point['deterministic']:.0f} /" + ("     -" if point["sampled"] is None else f"{point['sampled']:>6.0f}")


def table(args: argparse.Namespace) -> None:
    """Prints the curves of all runs of the task, and the mean over seeds of the last evaluation of each mode."""
    for mode in args.conditioning:
        name = name_of(args, mode)
        found = (RESULTS / f"learning_{args.task}_{name}_{seed}.json" for seed in range(MOST_SEEDS))
        records = [json.loads(file.read_text()) for file in found if file.exists()]
        if not records:
            continue
        print(f"\n{args.task}, {name}: return of the deterministic policy / of the sampled actions of training")
        print(f"{'steps':>7}", *(f"{'seed ' + str(r['seed']):>15}" for r in records))
        curves = [{p["steps"] // args.evaluate_every: p for p in reversed(record["curve"])} for record in records]
        for number in sorted(set().union(*curves)):
            points = [curve.get(number) for curve in curves]
            print(f"{number * args.evaluate_every:>7}", *(f"{returns_of(point):>15}" for point in points))
        last = [r["curve"][-1]["deterministic"] for r in records if r["curve"][-1]["steps"] >= args.steps] or [math.nan]
        minutes = ", ".join(f"{r['seconds'] / 60:.1f}" for r in records)
        spread = np.std(last, ddof=1) if len(last) > 1 else float("nan")
        print(f"last evaluation: {np.mean(last):.0f} +- {spread:.0f} over {len(last)} seeds; minutes: {minutes}")


@functools.cache
def command_line() -> argparse.ArgumentParser:
    """What the command takes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", default="DIMA", help="the algorithm")
    parser.add_argument("--task", default="halfcheetah_2x3", help="of MAMuJoCo, an id of Bi-DexHands, or simple_spread")
    parser.add_argument("--recipe", default="paper")
    parser.add_argument("--conditioning", nargs="+", help="DIMA's modes, or default: the recipe's")
    parser.add_argument("--label", default="", help="name of the results' files (default: recipe and conditioning)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=30_000)
    parser.add_argument("--evaluate-every", type=int, default=2000, metavar="STEPS")
    parser.add_argument("--model-size", default="nano")
    parser.add_argument("--set", default="{}", help="further hyperparameters as JSON")
    parser.add_argument("--gpus", type=float, help="that a run learns on (default: one if there is one)")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--one", nargs=2, metavar=("MODE", "SEED"), help="one run in this process")
    parser.add_argument("--table", action="store_true", help="only print the table")
    return parser


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Those of the command line."""
    args = command_line().parse_args(argv)
    args.conditioning = args.conditioning or (["sequential", "cumulative"] if args.run == "DIMA" else ["default"])
    return args


def main() -> None:
    """Runs everything, one run, or prints the table."""
    args = arguments()
    if args.table:
        table(args)
    elif args.one:
        run(args, args.one[0], int(args.one[1]))
    else:
        run_all(args)


if __name__ == "__main__":
    main()
