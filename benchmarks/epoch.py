"""Where does the time of an iteration go, and how close is it to the machine's limit?

    python benchmarks/epoch.py                                           # Ant-4x2 at paper size, all cores
    python benchmarks/epoch.py --task halfcheetah_2x3 --model-size nano --threads 1 --recipe paper swift
    python benchmarks/epoch.py --device cuda --acceleration eager cuda_graphs compile
    python benchmarks/epoch.py --device cuda --acceleration compile --profile-steps     # kernels of every step
    python benchmarks/epoch.py --through-ray                             # an iteration of the whole algorithm

Times every phase of one iteration of `core/` alone, without Ray and without an environment: insertion of 200 new
transitions, state decoder, dynamics, reward and termination, imagination, PPO and the metrics' way to the host. A
phase runs `--updates` updates (and as large a part of the imagined batches) per repeat, after a warm-up; the table
shows the median over the repeats, scaled to the updates of a whole iteration, and its range. Several values of
--recipe, --acceleration or --precision take turns in each repeat. Operations are what PyTorch launches in one update,
or in one imagined step, views left out: on a GPU, kernels. Floating-point operations are counted by
`torch.utils.flop_counter`; the rate beside them is compared with that of a large matrix product, measured between the
repeats in the same arithmetic. Transitions are random numbers of the task's sizes.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import itertools
import json
import math
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from rllib_dima.core.dima.hyperparameters import DIMAHyperparameters
from rllib_dima.core.dima.steps import PREFIXES
from rllib_dima.core.dima.trainer import DIMATrainer
from rllib_dima.core.layout import AgentLayout
from rllib_dima.core.replay.data import Trajectory
from rllib_dima.core.training.clock import PhaseClock
from rllib_dima.core.training.compile import matrix_product_precision

PHASES = ("add", "state_decoder", "dynamics", "reward_data", "reward_termination", "imagination", "ppo")
UPDATED = {prefix: (model,) for model, prefix in PREFIXES.items()}
POLICY_PHASES = {"policy": ("imagination", "ppo")}
NEW_STEPS, EPISODE = 200, 1000


def layout_of(num_agents: int, state_size: int, action_size: int) -> AgentLayout:
    """A MAMuJoCo task: every agent observes the state and a one-hot id."""
    agents = tuple(f"agent_{index}" for index in range(num_agents))
    return AgentLayout(agents, state_size, (state_size + num_agents,) * num_agents, (action_size,) * num_agents)


TASKS = {
    "ant_4x2": layout_of(4, 27, 2),
    "ant_2x4": layout_of(2, 27, 4),
    "halfcheetah_2x3": layout_of(2, 17, 3),
    "halfcheetah_3x2": layout_of(3, 17, 2),
    "halfcheetah_6x1": layout_of(6, 17, 1),
    "walker2d_2x3": layout_of(2, 17, 3),
    "bottle_cap": AgentLayout(("agent_0", "agent_1"), 420, (221, 221), (26, 26), appends_agent_id=True),
}


class LaunchCounter(TorchDispatchMode):
    """Counts operations that compute something: all but views and marks for profilers."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += not func.is_view and func.namespace != "profiler"
        return func(*args, **(kwargs or {}))


class CountingClock(PhaseClock):
    """Counts the floating-point operations, and the operations launched, of every phase, too."""

    def __init__(self, device: torch.device) -> None:
        super().__init__(device)
        self.flops: dict[str, int] = {}
        self.launches: dict[str, int] = {}

    @contextmanager
    def timed(self, phase: str) -> Iterator[None]:
        with super().timed(phase), FlopCounterMode(display=False) as counter, LaunchCounter() as launches:
            yield
        self.flops[phase] = self.flops.get(phase, 0) + counter.get_total_flops()
        self.launches[phase] = self.launches.get(phase, 0) + launches.count


def random_trajectory(layout: AgentLayout, length: int, number: int) -> Trajectory:
    """An episode of random numbers."""
    random = np.random.default_rng(number)
    shape = (length, layout.num_agents)
    return Trajectory(
        episode_id=str(number),
        states=random.normal(size=(length + 1, layout.state_size)).astype(np.float32),
        observations=random.normal(size=(*shape, layout.observation_size)).astype(np.float32),
        actions=random.uniform(-1, 1, (*shape, layout.action_size)).astype(np.float32),
        rewards=random.normal(size=length).astype(np.float32),
        truncated=True,
    )


def build(
    layout: AgentLayout, hp: DIMAHyperparameters, device: str, stored: int, twin: DIMATrainer | None = None
) -> DIMATrainer:
    """A trainer with `stored` transitions. The world model's parts take turns, so that each can be timed.

    Given a `twin`, which shares its networks, the new one updates them side by side where it can.
    """
    torch.manual_seed(0)
    if twin is None:
        networks = {name: network(layout, hp).to(device) for name, network in DIMATrainer.NETWORKS.items()}
    else:
        networks = {name: getattr(twin, name) for name in DIMATrainer.NETWORKS}
    trainer = DIMATrainer(layout, hp, networks, device=device, seed=0, side_by_side=twin is not None)
    trainer.add([random_trajectory(layout, min(EPISODE, stored), number) for number in range(-(-stored // EPISODE))])
    return trainer


def count(layout: AgentLayout, full: DIMAHyperparameters, device: str) -> tuple[dict[str, float], dict[str, int]]:
    """Floating-point operations of every phase of an iteration, and operations launched per update or imagined step.

    All updates of a kind have equally many.
    """
    hp, factors = shortened(dataclasses.replace(full, acceleration="eager", replay_capacity=2 * EPISODE), 1)
    trainer = build(layout, hp, device, EPISODE)
    run_once(trainer, 0)  # the optimisers allocate their moments
    trainer.clock = trainer.steps.clock = CountingClock(trainer.device)
    run_once(trainer, 1)
    clock, num_batches = trainer.steps.clock, hp.policy_updates_per_iteration
    parts = {"imagination": num_batches * hp.imagination_horizon, "ppo": num_batches}
    parts |= {model: getattr(hp, f"{prefix}_updates_per_iteration") for model, prefix in PREFIXES.items()}
    flops = {phase: number * factors.get(phase, 1.0) for phase, number in clock.flops.items()}
    return flops, {phase: round(clock.launches[phase] / number) for phase, number in parts.items()}


def matmul_rate(device: str, size: int, precision: str) -> float:
    """Floating-point operations per second of a large matrix product of random numbers, the best of five."""
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))

    def once() -> float:
        clock = PhaseClock(torch.device(device))
        with matrix_product_precision(precision, torch.device(device)), clock.timed("product"):
            torch.mm(left, right)
        return clock.pop()["product"]

    once()
    return 2 * size**3 / min(once() for _ in range(5))


def run_once(trainer: DIMATrainer, number: int) -> dict[str, float]:
    """Seconds of every phase, and what the whole iteration took besides them."""
    start = time.perf_counter()
    trainer.add([random_trajectory(trainer.replay.layout, NEW_STEPS, 10**6 + number)])
    seconds = trainer.train_iteration()["time"]
    seconds["metrics"] = max(0.0, time.perf_counter() - start - sum(seconds.values()))
    return seconds


def shortened(full: DIMAHyperparameters, updates: int) -> tuple[DIMAHyperparameters, dict[str, float]]:
    """An iteration with `updates` of the most frequent updates and its share of the others; factors back to all."""
    share = min(1.0, updates / max(getattr(full, f"{part}_updates_per_iteration") for part in (*UPDATED, "policy")))
    names = {f"{part}_updates_per_iteration": phases for part, phases in (UPDATED | POLICY_PHASES).items()}
    fewer = {name: math.ceil(share * getattr(full, name)) for name in names}
    factors = {p: getattr(full, name) / fewer[name] for name, phases in names.items() for p in phases}
    return dataclasses.replace(full, **fewer, num_steps_before_learning=0), factors


class Variant:
    """One way to execute an iteration, and what was measured of it.

    Args:
        args: the command line's.
        recipe: preset of hyperparameters.
        acceleration: see `DIMAHyperparameters`.
        precision: likewise.
    """

    def __init__(self, args: argparse.Namespace, recipe: str, acceleration: str, precision: str) -> None:
        self.name = f"{recipe}, {acceleration}, {precision}"
        self.recipe = recipe
        settings = {**json.loads(args.set), "acceleration": acceleration, "precision": precision}
        self.args, self.precision, self.acceleration = args, precision, acceleration
        self.full = DIMAHyperparameters.resolve(settings, "mamujoco", args.model_size, recipe)
        self.hp, self.factors = shortened(self.full, args.updates)
        self.trainer = build(TASKS[args.task], self.hp, args.device, args.stored)
        self.together = None
        if self.trainer.steps.accelerator.records:
            self.together = build(TASKS[args.task], self.hp, args.device, args.stored, twin=self.trainer)
        self.runs: list[dict[str, float]] = []
        self.runs_together: list[float] = []
        self.rates: list[float] = []
        self.memory = 0.0

    def run(self, number: int) -> None:
        """One repeat, or part of the warm-up."""
        if self.args.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        seconds = run_once(self.trainer, number)
        memory = _peak_memory(self.args.device)
        factors = {"world_model": self.factors["dynamics"], **self.factors}
        together = run_once(self.together, number) if self.together else {}
        if number == 0:
            self.first_run = sum(seconds.values())
        if number >= self.args.warmup:
            self.runs.append({p: seconds.get(p, 0.0) * self.factors.get(p, 1.0) for p in (*PHASES, "metrics")})
            if together:
                self.runs_together.append(sum(value * factors.get(p, 1.0) for p, value in together.items()))
            self.memory = max(self.memory, memory)
            self.rates.append(matmul_rate(self.args.device, self.args.matmul_size, self.precision))

    def result(self) -> dict[str, Any]:
        """What the table shows."""
        args, phases = self.args, (*PHASES, "metrics")
        flops, launches = count(TASKS[args.task], self.full, args.device)
        return {
            "recipe": self.recipe,
            "launches": launches,
            "task": args.task,
            "model_size": args.model_size,
            "acceleration": self.acceleration,
            "precision": self.precision,
            "settings": json.loads(args.set),
            "device": torch.cuda.get_device_name() if args.device == "cuda" else "cpu",
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "stored": args.stored,
            "updates_per_repeat": args.updates,
            "first_run_seconds": self.first_run,
            "matmul_gflops": statistics.median(self.rates) / 1e9,
            "seconds": {p: statistics.median(run[p] for run in self.runs) for p in phases},
            "range": {p: [min(run[p] for run in self.runs), max(run[p] for run in self.runs)] for p in phases},
            "iteration": statistics.median(sum(run.values()) for run in self.runs),
            "iteration_side_by_side": statistics.median(self.runs_together) if self.runs_together else None,
            "gflop": {phase: count / 1e9 for phase, count in flops.items()},
            "peak_memory_mb": self.memory,
        }


def measure(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Everything the tables show, for each combination of acceleration and precision."""
    combinations = itertools.product(args.recipe, args.acceleration, args.precision)
    variants = [Variant(args, *combination) for combination in combinations]
    for number in range(args.warmup + args.repeats):
        for variant in variants:
            start = time.perf_counter()
            variant.run(number)
            kind = "warm-up" if number < args.warmup else "repeat"
            took = f"{time.perf_counter() - start:.1f} s"
            print(f"{kind} {number + 1}: {variant.name}: {took}", file=sys.stderr, flush=True)
    return [variant.result() for variant in variants]


def table(result: dict[str, Any]) -> str:
    """The result as text."""
    where = f"{result['device']}, {result['threads']} threads, torch {result['torch']}, {result['stored']} transitions"
    how = f"{result['recipe']}, {result['acceleration']}, {result['precision']}"
    lines = [f"{result['task']}, {result['model_size']}, {how}: {where}"]
    lines.append(
        f"{'phase':<20} {'seconds':>9} {'range':>17} {'GFLOP':>10} {'GFLOP/s':>9} {'of matmul':>9} {'operations':>10}"
    )
    for phase, seconds in result["seconds"].items():
        low, high = result["range"][phase]
        line = f"{phase:<20} {seconds:9.4f} {low:8.4f}-{high:8.4f}"
        if (gflop := result["gflop"].get(phase, 0.0)) > 0:
            rate = gflop / seconds
            line += f" {gflop:10.1f} {rate:9.1f} {rate / result['matmul_gflops']:9.0%}"
            line += f" {result['launches'].get(phase, 0):10d}"
        lines.append(line)
    lines.append(f"{'iteration':<20} {result['iteration']:9.4f}")
    if (together := result["iteration_side_by_side"]) is not None:
        lines.append(f"{'... side by side':<20} {together:9.4f}")
    lines.append(
        f"large matrix product {result['matmul_gflops']:.1f} GFLOP/s; peak memory of the process so far "
        f"{result['peak_memory_mb']:.0f} MB; first run of the warm-up "
        f"{result['first_run_seconds']:.1f} s"
    )
    return "\n".join(lines)


def comparison(results: list[dict[str, Any]]) -> str:
    """How many times faster than the first result the others are, phase by phase."""
    first, *others = results
    names = [f"{other['recipe']}, {other['acceleration']}, {other['precision']}" for other in others]
    lines = [f"times faster than {first['recipe']}, {first['acceleration']}, {first['precision']}:"]
    lines.append(f"{'':<20}" + "".join(f"{name:>26}" for name in names))
    for phase in (*PHASES, "iteration"):
        values = [result["iteration"] if phase == "iteration" else result["seconds"][phase] for result in results]
        cells = (f"{values[0] / value:26.2f}" if min(values[0], value) > 0 else f"{'-':>26}" for value in values[1:])
        lines.append(f"{phase:<20}" + "".join(cells))
    together = [other["iteration_side_by_side"] for other in others]
    cells = (f"{first['iteration'] / seconds:26.2f}" if seconds else f"{'-':>26}" for seconds in together)
    lines.append(f"{'... side by side':<20}" + "".join(cells))
    return "\n".join(lines)


def profile_steps(args: argparse.Namespace) -> str:
    """Of each step on a GPU: kernels, their time, and the time from one call to the next, in milliseconds."""
    settings = {**json.loads(args.set), "acceleration": args.acceleration[0], "precision": args.precision[0]}
    trainer = build(
        TASKS[args.task],
        DIMAHyperparameters.resolve(settings, "mamujoco", args.model_size, args.recipe[0]),
        args.device,
        args.stored,
    )
    trainer.train_iteration()
    rollout = trainer.steps.policy["imagine"]()
    inputs = {"evaluate": rollout, "ppo_epoch": trainer.steps.policy["evaluate"](*rollout)}
    steps = {model: trainer.steps.prepared_update((model,)) for model in PREFIXES} | trainer.steps.policy
    lines = [f"{'step':<12} {'kernels':>8} {'their time':>12} {'each call':>12}"]
    for name, step in steps.items():
        trainer.world_model.train(name in PREFIXES)
        call = functools.partial(step, *inputs.get(name, ()))
        with matrix_product_precision(settings["precision"], trainer.device):
            kernels, kernel_seconds, seconds = _profile(call)
        lines.append(f"{name:<12} {kernels:8d} {1e3 * kernel_seconds:12.3f} {1e3 * seconds:12.3f}")
    return "\n".join(lines)


def _profile(call: Callable[[], Any]) -> tuple[int, float, float]:
    """Kernels of one call, seconds inside them, and median seconds of ten calls."""
    clock, seconds = PhaseClock(torch.device("cuda")), []
    for _ in range(3 + 10):
        with clock.timed("call"):
            call()
        seconds.append(clock.pop()["call"])
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        call()
        torch.cuda.synchronize()
    kernels = [event for event in profiler.events() if event.device_type == torch.autograd.DeviceType.CUDA]
    return len(kernels), sum(kernel.device_time for kernel in kernels) / 1e6, statistics.median(seconds[3:])


def through_ray(args: argparse.Namespace) -> dict[str, float]:
    """Seconds of an iteration of the whole algorithm, medians: what the core does, and what is around it."""
    from rllib_dima import DIMAConfig

    settings = {**json.loads(args.set), "acceleration": args.acceleration[0], "precision": args.precision[0]}
    config = (
        DIMAConfig()
        .environment(f"mamujoco_{args.task}")
        .training(model_size=args.model_size, recipe=args.recipe[0], **settings)
    )
    config.training(num_steps_before_learning=0).debugging(seed=0)
    if args.sample_async:
        config.env_runners(num_env_runners=1, sample_async=True)
    algo = config.learners(num_gpus_per_learner=int(args.device == "cuda")).build()
    runs = []
    for number in range(args.warmup + args.repeats):
        start = time.perf_counter()
        result = algo.train()
        seconds = {"iteration": time.perf_counter() - start}
        if number >= args.warmup:
            learner = result["learners"]["__all_modules__"]
            phases = [name for name in learner if name.startswith("time_")]
            seconds |= {"core": sum(learner[name] for name in phases)}
            seconds |= {name: result["timers"][f"{name}_s"] for name in ("collect", "learn", "send_policy")}
            runs.append(seconds)
    algo.stop()
    return {name: statistics.median(run[name] for run in runs) for name in runs[0]}


def ray_table(seconds: dict[str, float]) -> str:
    """The result of `through_ray` as text."""
    core = seconds["core"]
    rows = {
        "core": core,
        "learner around core": seconds["learn"] - core,
        "collecting": seconds["collect"],
        "sending the policy": seconds["send_policy"],
        "everything else": seconds["iteration"] - seconds["learn"] - seconds["collect"] - seconds["send_policy"],
    }
    lines = [f"{name:<20} {value:9.4f} {value / seconds['iteration']:8.1%}" for name, value in rows.items()]
    around = seconds["iteration"] - core - seconds["collect"]
    lines.append(f"{'iteration':<20} {seconds['iteration']:9.4f}; Ray's layer adds {around / core:.1%} to the core")
    return "\n".join(lines)


def main() -> None:
    """Prints the tables, and a JSON line each for the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", choices=TASKS, default="ant_4x2")
    parser.add_argument("--model-size", choices=DIMAHyperparameters.MODEL_SIZES, default="paper")
    parser.add_argument("--recipe", nargs="+", default=["paper"], help="one or more, to be compared")
    parser.add_argument("--set", default="{}", help="further hyperparameters, as JSON")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--acceleration", nargs="+", default=["auto"], help="one or more, to be compared")
    parser.add_argument("--precision", nargs="+", default=["tf32"], help="one or more, to be compared")
    parser.add_argument("--threads", type=int, help="torch's threads on the CPU")
    parser.add_argument("--stored", type=int, default=10_000, help="transitions in the buffer")
    parser.add_argument("--updates", type=int, help="updates per repeat (default: 5 on a CPU, all on a GPU)")
    parser.add_argument(
        "--warmup", type=int, help="runs before the first repeat (default: 1; on a GPU 4, or 30 for auto)"
    )
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--matmul-size", type=int, help="of the large matrix product (default: 2048; 8192 on a GPU)")
    parser.add_argument("--through-ray", action="store_true", help="time iterations of the whole algorithm")
    parser.add_argument("--sample-async", action="store_true", help="through Ray, collect while the learner learns")
    parser.add_argument("--profile-steps", action="store_true", help="count the kernels of each step on a GPU")
    args = parser.parse_args()
    on_gpu = args.device == "cuda"
    args.updates = args.updates or (10**6 if on_gpu else 5)
    args.matmul_size = args.matmul_size or (8192 if on_gpu else 2048)
    if args.warmup is None:  # a step is recorded in its third call; auto decides within 30
        args.warmup = (30 if "auto" in args.acceleration else 4) if on_gpu else 1
    if args.threads:
        torch.set_num_threads(args.threads)
    if args.profile_steps:
        print(profile_steps(args))
        return
    if args.through_ray:
        seconds = through_ray(args)
        print(ray_table(seconds), json.dumps(seconds), sep="\n")
        return
    results = measure(args)
    for result in results:
        print(table(result), end="\n\n")
    if len(results) > 1:
        print(comparison(results), end="\n\n")
    for result in results:
        print(json.dumps(result))


def _peak_memory(device: str) -> float:
    """MB on the GPU, or resident."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


if __name__ == "__main__":
    main()
