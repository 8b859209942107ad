"""Where does the time of an iteration go, and how close is it to the machine's limit?

    python benchmarks/epoch.py                                           # Ant-4x2 at paper size, all cores
    python benchmarks/epoch.py --task halfcheetah_2x3 --model-size nano --threads 1
    python benchmarks/epoch.py --device cuda

Times every phase of one iteration of `core/` alone, without Ray and without an environment: insertion of 200 new
transitions, state decoder, dynamics, reward and termination, imagination, PPO and the metrics' way to the host. A
phase runs `--updates` updates (one imagined batch) per repeat, after a warm-up; the table shows the median over the
repeats, scaled to the updates of a whole iteration, and its range. Floating-point operations are counted by
`torch.utils.flop_counter`; the rate beside them is compared with that of a large matrix product, measured between the
repeats. Transitions are random numbers of the task's sizes.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from rllib_dima.core.behavior import Actor, Critic
from rllib_dima.core.hyperparameters import MODEL_SIZES, Hyperparameters, resolve
from rllib_dima.core.layout import AgentLayout
from rllib_dima.core.replay_buffer import Trajectory
from rllib_dima.core.trainer import Trainer
from rllib_dima.core.world_model import WorldModel

PHASES = ("add", "state_decoder", "dynamics", "reward_termination", "imagination", "ppo")
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


class CountingTrainer(Trainer):
    """A trainer that can also count the floating-point operations of every phase."""

    counting = False

    @contextmanager
    def _timed(self, phase: str) -> Iterator[None]:
        counter = FlopCounterMode(display=False) if self.counting else None
        with super()._timed(phase), counter or nullcontext():
            yield
        if counter is not None:
            self.flops[phase] = self.flops.get(phase, 0) + counter.get_total_flops()


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
        terminated=False,
        truncated=True,
        is_start=True,
    )


def build(layout: AgentLayout, hp: Hyperparameters, device: str, stored: int) -> CountingTrainer:
    """A trainer with `stored` transitions."""
    torch.manual_seed(0)
    networks = [network(layout, hp).to(device) for network in (Actor, Critic, WorldModel)]
    trainer = CountingTrainer(layout, hp, *networks, device=device, seed=0)
    trainer.add([random_trajectory(layout, min(EPISODE, stored), number) for number in range(-(-stored // EPISODE))])
    return trainer


def matmul_rate(device: str, size: int) -> float:
    """Floating-point operations per second of a large float32 matrix product, the best of three."""
    left, right = torch.randn(size, size, device=device), torch.randn(size, size, device=device)

    def once() -> float:
        _wait(device)
        start = time.perf_counter()
        torch.mm(left, right)
        _wait(device)
        return time.perf_counter() - start

    once()
    return 2 * size**3 / min(once() for _ in range(3))


def run_once(trainer: CountingTrainer, number: int) -> dict[str, float]:
    """Seconds of every phase, and what the whole iteration took besides them."""
    start = time.perf_counter()
    trainer.add([random_trajectory(trainer.replay.layout, NEW_STEPS, 10**6 + number)])
    seconds = trainer.train_iteration()["time"]
    seconds["metrics"] = max(0.0, time.perf_counter() - start - sum(seconds.values()))
    return seconds


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Everything the table shows."""
    full = resolve(json.loads(args.set), "mamujoco", args.model_size)
    counts = {"decoder": "state_decoder", "dynamics": "dynamics", "reward": "reward_termination"}
    fewer = {f"{name}_updates_per_iteration": args.updates for name in counts}
    short = {**json.loads(args.set), **fewer, "policy_updates_per_iteration": 1, "num_steps_before_learning": 0}
    hp = resolve(short, "mamujoco", args.model_size)
    scale = {phase: getattr(full, f"{name}_updates_per_iteration") / args.updates for name, phase in counts.items()}
    scale |= dict.fromkeys(("imagination", "ppo"), full.policy_updates_per_iteration)
    trainer = build(TASKS[args.task], hp, args.device, args.stored)
    trainer.flops, trainer.counting = {}, True
    run_once(trainer, 0)  # a warm-up, too
    flops = {phase: count * scale.get(phase, 1.0) for phase, count in trainer.flops.items()}
    trainer.counting = False
    runs, rates = [], []
    for number in range(1, args.repeats + 1):
        rates.append(matmul_rate(args.device, args.matmul_size))
        runs.append(run_once(trainer, number))
    seconds = {p: [run.get(p, 0.0) * scale.get(p, 1.0) for run in runs] for p in (*PHASES, "metrics")}
    return {
        "task": args.task,
        "model_size": args.model_size,
        "settings": json.loads(args.set),
        "device": torch.cuda.get_device_name() if args.device == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "stored": len(trainer.replay),
        "matmul_gflops": statistics.median(rates) / 1e9,
        "seconds": {phase: statistics.median(values) for phase, values in seconds.items()},
        "range": {phase: [min(values), max(values)] for phase, values in seconds.items()},
        "gflop": {phase: count / 1e9 for phase, count in flops.items()},
        "peak_memory_mb": _peak_memory(args.device),
    }


def table(result: dict[str, Any]) -> str:
    """The result as text."""
    where = f"{result['device']}, {result['threads']} threads, torch {result['torch']}, {result['stored']} transitions"
    lines = [f"{result['task']}, {result['model_size']}: {where}"]
    lines.append(f"{'phase':<20} {'seconds':>9} {'range':>17} {'GFLOP':>10} {'GFLOP/s':>9} {'of matmul':>9}")
    for phase, seconds in result["seconds"].items():
        low, high = result["range"][phase]
        line = f"{phase:<20} {seconds:9.3f} {low:8.3f}-{high:8.3f}"
        if (gflop := result["gflop"].get(phase, 0.0)) > 0:
            rate = gflop / seconds
            line += f" {gflop:10.1f} {rate:9.1f} {rate / result['matmul_gflops']:8.0%}"
        lines.append(line)
    lines.append(f"{'iteration':<20} {sum(result['seconds'].values()):9.3f}")
    lines.append(
        f"large matrix product {result['matmul_gflops']:.1f} GFLOP/s; peak memory {result['peak_memory_mb']:.0f} MB"
    )
    return "\n".join(lines)


def main() -> None:
    """Prints the table, and a JSON line for the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", choices=TASKS, default="ant_4x2")
    parser.add_argument("--model-size", choices=MODEL_SIZES, default="paper")
    parser.add_argument("--set", default="{}", help="further hyperparameters, as JSON")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, help="torch's threads on the CPU")
    parser.add_argument("--stored", type=int, default=10_000, help="transitions in the buffer")
    parser.add_argument("--updates", type=int, default=5, help="updates of each model per repeat")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--matmul-size", type=int, default=2048)
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    result = measure(args)
    print(table(result))
    print(json.dumps(result))


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def _peak_memory(device: str) -> float:
    """MB on the GPU, or resident."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


if __name__ == "__main__":
    main()
