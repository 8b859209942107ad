"""How do the time of an iteration and its memory grow with agents, state, rollouts, stored transitions and learners?

    python benchmarks/scaling.py                                         # nano preset, on the CPU, minutes
    python benchmarks/scaling.py --axis agents --model-size paper --updates 2
    python benchmarks/scaling.py --device cuda --model-size paper        # needs a GPU; several for more learners

Every axis changes one number and leaves the others as Ant-4x2 has them: 4 agents, 27 entries of the state, 10,000
transitions in a buffer for 250,000, and the preset's imagined rollouts (600 at paper size, else 300). All but the last
are `core/` alone, as in epoch.py, without Ray and without an environment. Every point is a process of its own, so that
its peak memory is its own; the points of an axis take turns, so that other work disturbs them alike.

agents     2 to 32. The denoising steps of imagination follow them: twice their number for two, else their number
agents_k4  the same with 4 denoising steps for any number of agents (conditioning="cumulative")
state      17 to 420 entries of the state; observations stay as they are
rollouts   75 to 2,400 imagined rollouts
buffer     10,000 to 1,000,000 transitions in a full buffer of that capacity
learners   1 and 2, through RLlib, on HalfCheetah-2x3 with the batch sizes of each learner as they are, so each has the
           work of one; on GPUs up to as many as there are. "exchange" is the averaging of gradients by itself, and a
           part of the other phases

A repeat runs `--updates` updates and their share of imagined batches; seconds are those of the fastest repeat, the one
least disturbed by other work, scaled to a whole iteration. Memory is what the process took at most beyond what it had
after its imports (on a GPU what torch allocated at most; with learners all that one of them has). Exponents are slopes
of least squares between the logarithms, with their standard error: over the whole axis, and between its last two
points, where constant costs matter least. Times grow as value ** exponent.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from epoch import PHASES, build, layout_of, run_once, shortened

from rllib_dima.core.dima.hyperparameters import DIMAHyperparameters
from rllib_dima.core.dima.steps import PREFIXES
from rllib_dima.core.layout import AgentLayout

VALUES = {
    "agents": (2, 4, 8, 16, 32),
    "agents_k4": (2, 4, 8, 16, 32),
    "state": (17, 54, 111, 220, 420),
    "rollouts": (75, 150, 300, 600, 1200, 2400),
    "buffer": (10_000, 50_000, 250_000, 1_000_000),
    "learners": (1, 2, 4, 8),
}
LABELS = {"state_decoder": "decoder", "reward_termination": "reward", "world_model": "world model", "memory_mb": "MB"}
STORED = 10_000
Repeat = dict[str, Any]
FOUR_STEPS = {"conditioning": "cumulative", "num_denoising_steps": 4}


def problem(axis: str, value: int) -> tuple[AgentLayout, dict[str, Any], int]:
    """Sizes, settings and stored transitions of one point."""
    layout = layout_of(4, 27, 2)
    if axis.startswith("agents"):
        return layout_of(value, 27, 2), FOUR_STEPS if axis == "agents_k4" else {}, STORED
    if axis == "state":
        return dataclasses.replace(layout, state_size=value), {}, STORED
    if axis == "rollouts":
        return layout, {"num_imagined_rollouts": value}, STORED
    return layout, {"replay_capacity": value}, value


def repeats_of_core(args: argparse.Namespace, axis: str, value: int) -> Iterator[Repeat]:
    """Seconds of every phase of an iteration, and memory so far, at one point of an axis; once more at each call."""
    before = _peak_memory(args.device)
    layout, settings, stored = problem(axis, value)
    hp, factors = shortened(DIMAHyperparameters.resolve(settings, "mamujoco", args.model_size), args.updates)
    trainer = build(layout, hp, args.device, stored)
    for number in itertools.count():
        run = run_once(trainer, number)
        seconds = {phase: run[phase] * factors.get(phase, 1.0) for phase in PHASES if phase in run}
        yield {"seconds": seconds, "memory_mb": _peak_memory(args.device) - before}


def repeats_of_learners(args: argparse.Namespace, num_learners: int) -> Iterator[Repeat]:
    """The same through RLlib, with the exchange of gradients by itself."""
    from rllib_dima import DIMAConfig

    config = DIMAConfig().environment("mamujoco_halfcheetah_2x3").training(model_size=args.model_size)
    full = config.hyperparameters()
    hp, factors = shortened(full, args.updates)
    config.training(**{part: getattr(hp, part) for part in vars(hp) if part.endswith("_updates_per_iteration")})
    config.training(num_steps_before_learning=0, num_world_model_warmup_iterations=0)
    config.learners(num_learners=num_learners, num_gpus_per_learner=int(args.device == "cuda"))
    algo = config.debugging(seed=0).build()
    while True:
        seconds = phases_of_learner(algo.train()["learners"]["__all_modules__"], factors)
        of_learners = algo.learner_group.foreach_learner(partial(exchange_and_memory, num_updates=num_updates(full)))
        exchange, memory = zip(*(result.get() for result in of_learners), strict=True)
        yield {"seconds": {**seconds, "exchange": max(exchange)}, "memory_mb": max(memory)}


def phases_of_learner(times: dict[str, float], factors: dict[str, float]) -> dict[str, float]:
    """Seconds of every phase of an iteration; the world model's three parts as one, as a GPU does them side by side."""
    factors = {"world_model": factors["dynamics"], **factors}
    phases = {name.removeprefix("time_").removesuffix("_s"): s for name, s in times.items() if name.startswith("time_")}
    seconds = {phase: s * factors.get(phase, 1.0) for phase, s in phases.items()}
    parts = [seconds.pop(phase) for phase in (*PREFIXES, "world_model") if phase in seconds]
    return {"add": seconds.pop("add"), "world_model": sum(parts), **seconds}


def num_updates(hp: DIMAHyperparameters) -> dict[str, int]:
    """Optimiser steps of every network in an iteration."""
    counts = {model: getattr(hp, f"{prefix}_updates_per_iteration") for model, prefix in PREFIXES.items()}
    return counts | dict.fromkeys(
        ("actor", "critic"), hp.policy_updates_per_iteration * hp.ppo_epochs * hp.ppo_minibatches
    )


def exchange_and_memory(learner: Any, num_updates: dict[str, int]) -> tuple[float, float]:
    """Run by a learner: seconds in which an iteration's gradients are averaged, and its peak memory in MB."""
    device, seconds, calls = learner.trainer.device, 0.0, 20
    for part, count in num_updates.items():
        optimizer = learner.trainer.optimizers[part]
        if optimizer._average_gradients is None:
            return 0.0, _peak_memory(device.type)
        for call in range(calls + 2):  # two to warm up
            if call == 2:
                _wait(device)
                start = time.perf_counter()
            optimizer._average_gradients(optimizer.parameters)
        _wait(device)
        seconds += (time.perf_counter() - start) / calls * count
    return seconds, _peak_memory(device.type)


class Point:
    """A process that measures one point of an axis, one repeat at a time.

    Args:
        axis: see the head of this file.
        value: of the number that the axis changes.
    """

    def __init__(self, axis: str, value: int) -> None:
        command = [sys.executable, __file__, *sys.argv[1:], "--point", axis, str(value)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def repeat(self) -> Repeat:
        """Has it measure once more."""
        self._process.stdin.write("again\n")
        self._process.stdin.flush()
        for line in self._process.stdout:
            if line.startswith("{"):  # and not something that Ray says
                return json.loads(line)
        raise RuntimeError(f"The process ended with exit code {self._process.wait()}; its error is above.")

    def end(self) -> None:
        """Lets it end and waits for that."""
        self._process.communicate()


def answer(repeats: Iterator[Repeat]) -> None:
    """What the process of a point does."""
    for _ in sys.stdin:
        print(json.dumps(next(repeats)), flush=True)


def measure(args: argparse.Namespace, axis: str, values: Sequence[int]) -> dict[str, Any]:
    """An axis: its points take turns, so that other work on the machine disturbs all of them alike."""
    points = [Point(axis, value) for value in values]
    repeats = [[point.repeat() for point in points] for _ in range(args.warmup + args.repeats)]
    for point in points:
        point.end()
    return summarise(
        values, [fastest(repeats_of_point[args.warmup :]) for repeats_of_point in zip(*repeats, strict=True)]
    )


def fastest(repeats: Sequence[Repeat]) -> Repeat:
    """Every phase's fastest repeat, and the memory at the end."""
    names = repeats[0]["seconds"]
    seconds = {name: min(repeat["seconds"][name] for repeat in repeats) for name in names}
    return {"seconds": seconds, "memory_mb": repeats[-1]["memory_mb"]}


def fit(values: Sequence[float], measured: Sequence[float]) -> tuple[float, float | None]:
    """Slope of log(measured) over log(value), and its standard error, which two points do not tell."""
    x, y = np.log(values), np.log(measured)
    slope, offset = np.polyfit(x, y, 1)
    if len(x) == 2:
        return float(slope), None
    errors = y - slope * x - offset
    return float(slope), float(np.sqrt(errors @ errors / (len(x) - 2) / ((x - x.mean()) ** 2).sum()))


def summarise(values: Sequence[int], points: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The points of an axis as columns, with exponents where everything measured is positive."""
    columns = {name: [point["seconds"][name] for point in points] for name in points[0]["seconds"]}
    phases = [name for name in columns if name != "exchange"]  # which is a part of the others
    columns["iteration"] = [sum(point["seconds"][phase] for phase in phases) for point in points]
    columns["memory_mb"] = [point["memory_mb"] for point in points]
    fitted = {name: column for name, column in columns.items() if len(column) > 1 and min(column) > 0}
    return {
        "values": list(values),
        "columns": columns,
        "exponents": {name: fit(values, column) for name, column in fitted.items()},
        "last_exponents": {name: fit(values[-2:], column[-2:]) for name, column in fitted.items()},
    }


def table(axis: str, result: dict[str, Any]) -> str:
    """An axis as text."""
    values, columns = result["values"], result["columns"]
    lines = [f"{axis:<18}" + "".join(f"{LABELS.get(name, name):>12}" for name in columns)]
    for row, value in enumerate(values):
        cells = [f"{column[row]:.{1 if name == 'memory_mb' else 4}f}" for name, column in columns.items()]
        lines.append(f"{value:<18}" + "".join(f"{cell:>12}" for cell in cells))
    if len(values) > 1:
        slopes = {name: slope for name, (slope, _) in result["exponents"].items()}
        lines.append(_row(f"exponent {_short(values[0])}-{_short(values[-1])}", columns, slopes))
    if len(values) > 2:
        lines.append(_row("  +-", columns, {name: error for name, (_, error) in result["exponents"].items()}))
        slopes = {name: slope for name, (slope, _) in result["last_exponents"].items()}
        lines.append(_row(f"exponent {_short(values[-2])}-{_short(values[-1])}", columns, slopes))
    if axis == "buffer":
        low, high = values.index(10_000), values.index(250_000)
        lines.append(
            _row("250k / 10k", columns, {name: column[high] / column[low] for name, column in columns.items()})
        )
    return "\n".join(lines)


def main() -> None:
    """Prints a table per axis, and a JSON line for the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--axis", choices=VALUES, nargs="+", default=list(VALUES), help="default: all")
    parser.add_argument("--model-size", choices=DIMAHyperparameters.MODEL_SIZES, default="nano")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="torch's threads on the CPU")
    parser.add_argument("--updates", type=int, help="updates per repeat (default: 10 on a CPU, all on a GPU)")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--warmup", type=int, help="runs before the first repeat (default: 1; 8 on a GPU)")
    parser.add_argument("--point", nargs=2, metavar=("AXIS", "VALUE"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.updates = args.updates or (10**6 if args.device == "cuda" else 10)
    args.warmup = args.warmup if args.warmup is not None else (8 if args.device == "cuda" else 1)
    torch.set_num_threads(args.threads)
    if args.point:
        axis, value = args.point[0], int(args.point[1])
        answer(repeats_of_learners(args, value) if axis == "learners" else repeats_of_core(args, axis, value))
        return
    settings = {name: getattr(args, name) for name in ("model_size", "device", "threads", "updates", "repeats")}
    settings |= {"torch": torch.__version__, "load": os.getloadavg()[0]}
    print(", ".join(f"{name} {value}" for name, value in settings.items()), end="\n\n")
    record = {}
    for axis in args.axis:
        values = VALUES[axis] if axis != "learners" else VALUES[axis][: _num_learner_points(args.device)]
        record[axis] = measure(args, axis, values)
        print(table(axis, record[axis]), end="\n\n", flush=True)
    settings["load_at_the_end"] = os.getloadavg()[0]
    print(json.dumps({**settings, "axes": _rounded(record)}))


def _num_learner_points(device: str) -> int:
    available = torch.cuda.device_count() if device == "cuda" else 2
    return sum(value <= available for value in VALUES["learners"])


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _peak_memory(device: str) -> float:
    """MB on the GPU, or resident."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def _short(value: int) -> str:
    for unit, size in (("M", 10**6), ("k", 1000)):
        if value >= size and value % size == 0:
            return f"{value // size}{unit}"
    return str(value)


def _rounded(value: Any) -> Any:
    """The same with four significant digits."""
    if isinstance(value, dict):
        return {key: _rounded(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(part) for part in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value


def _row(name: str, columns: dict[str, Any], numbers: dict[str, float]) -> str:
    cells = [f"{numbers[column]:.2f}" if column in numbers else "" for column in columns]
    return f"{name:<18}" + "".join(f"{cell:>12}" for cell in cells)


if __name__ == "__main__":
    main()
