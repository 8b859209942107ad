"""Where does the time of a model-free iteration go? CPU seconds per 1,000 steps, and RLlib's share of them.

    python benchmarks/collecting.py                                  # MAPPO, HAPPO and HASAC on HalfCheetah-2x3
    python benchmarks/collecting.py --run MAPPO --env mamujoco_ant_4x2 --iterations 10

One process and one thread, 20 environments that are stepped in turn, settings as published. All parts are timed in the
same iterations (`time.process_time`), so other work on the machine stretches all alike: trust shares more than seconds.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from ray.rllib.connectors.connector_pipeline_v2 import ConnectorPipelineV2

import rllib_dima
from rllib_dima.learning import learner as learner_module

COLLECTING = ("environments", "policy", "connectors", "episodes")
LEARNING = ("trajectories", "trainer", "learner")
OURS = ("environments", "policy", "trajectories", "trainer")


class Stopwatch:
    """CPU seconds by part, without those of the parts that are called within."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._inner = [0.0]

    def watch(self, owner: Any, name: str, part: str) -> None:
        """Counts a method's, or a module's function's, time as a part's."""
        setattr(owner, name, self._timed(getattr(owner, name), part))

    def _timed(self, function: Callable, part: str) -> Callable:
        def timed(*args: Any, **kwargs: Any) -> Any:
            self._inner.append(0.0)
            start = time.process_time()
            try:
                return function(*args, **kwargs)
            finally:
                seconds = time.process_time() - start
                self.seconds[part] += seconds - self._inner.pop()
                self._inner[-1] += seconds

        return timed


def watched(algo: Any) -> Stopwatch:
    """A stopwatch on everything that an iteration calls. Pipelines are watched in their class, as runners save them."""
    watch, learner = Stopwatch(), algo.learner_group._learner
    runner = algo.env_runner_group.local_env_runner
    watch.watch(runner.env, "step", "environments")
    watch.watch(runner.module, "forward_exploration", "policy")
    watch.watch(runner, "sample", "episodes")
    watch.watch(learner, "update", "learner")
    watch.watch(learner.trainer, "add", "trainer")
    watch.watch(learner.trainer, "train_iteration", "trainer")
    watch.watch(algo, "train", "everything else")
    watch.watch(ConnectorPipelineV2, "__call__", "connectors")
    watch.watch(learner_module, "to_trajectory", "trajectories")
    return watch


def measure(name: str, env: str, iterations: int) -> dict[str, float]:
    """CPU seconds per 1,000 steps by part, after one iteration that is not counted."""
    config = getattr(rllib_dima, f"{name}Config")().environment(env).learners(num_gpus_per_learner=0)
    if name == "HASAC":
        config.training(warmup_steps=0)
    algo = config.debugging(seed=0).build()
    algo.train()
    call, convert = ConnectorPipelineV2.__call__, learner_module.to_trajectory
    watch = watched(algo)
    for _ in range(iterations):
        algo.train()
    ConnectorPipelineV2.__call__, learner_module.to_trajectory = call, convert
    steps = iterations * config.total_train_batch_size
    algo.stop()
    return {part: 1000 * seconds / steps for part, seconds in watch.seconds.items()}


def table(name: str, seconds: dict[str, float]) -> str:
    """The parts, and what they add up to."""
    total, collecting = sum(seconds.values()), sum(seconds[part] for part in COLLECTING)
    rllib = total - sum(seconds[part] for part in OURS)
    lines = [f"{part:<16} {seconds[part]:8.4f} {seconds[part] / total:7.1%}" for part in (*COLLECTING, *LEARNING)]
    return "\n".join(
        [
            f"{name}: CPU seconds per 1,000 steps",
            *lines,
            f"{'everything else':<16} {seconds['everything else']:8.4f} {seconds['everything else'] / total:7.1%}",
            f"collecting {collecting:.3f} ({1000 / collecting:.0f} steps per second; of the simulator and its wrappers "
            f"alone {1000 / seconds['environments']:.0f}), everything {total:.3f}",
            f"RLlib's connectors, episodes, metrics and learner: {rllib / total:.1%} of everything; of collecting "
            f"{(seconds['connectors'] + seconds['episodes']) / collecting:.1%}\n",
        ]
    )


def main() -> None:
    """One table per algorithm."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", nargs="+", default=["MAPPO", "HAPPO", "HASAC"])
    parser.add_argument("--env", default="mamujoco_halfcheetah_2x3")
    parser.add_argument("--iterations", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    for name in args.run:
        print(table(name, measure(name, args.env, args.iterations)), flush=True)


if __name__ == "__main__":
    main()
