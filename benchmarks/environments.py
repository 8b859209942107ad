"""What do the wrappers cost? Steps per CPU second of each environment, bare and wrapped, side by side in one run.

    python benchmarks/environments.py                       # every family
    python benchmarks/environments.py --only halfcheetah    # rows whose name contains this

"bare" is the simulation as its own package offers it, "env" this package's environment, "trained on" the same inside
`CooperativeEnv`, which is what DIMA's runners step. All forms are given the same kind of random actions, drawn before
the clock starts, and take turns, `--repeats` times; medians of CPU time (`time.process_time`), with the range of the
ratio. Bi-DexHands' bare row is the physics alone: 4 substeps, without observations and rewards.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np

from rllib_dima.envs import CooperativeEnv, PettingZooEnv, make

Advance = Callable[[int], None]  # steps number 0, 1, ..., resetting where needed

MAMUJOCO = {
    "mamujoco_ant_4x2": "Ant-v4",
    "mamujoco_halfcheetah_2x3": "HalfCheetah-v4",
    "mamujoco_hopper_3x1": "Hopper-v4",
    "mamujoco_humanoid_9|8": "Humanoid-v4",
    "mamujoco_humanoidstandup_9|8": "HumanoidStandup-v4",
    "mamujoco_pusher_3p": "Pusher-v5",
    "mamujoco_reacher_2x1": "Reacher-v4",
    "mamujoco_swimmer_2x1": "Swimmer-v4",
    "mamujoco_walker2d_2x3": "Walker2d-v4",
}
BIDEXHANDS = (
    "bidexhands_bottle_cap",
    "bidexhands_door_open_inward",
    "bidexhands_door_open_outward",
    "bidexhands_pen",
)
MPE = ("mpe_simple_spread_continuous", "mpe_simple_spread_discrete")


@dataclass
class Row:
    """One environment in its forms."""

    name: str
    bare: Advance
    env: Advance
    wrapped: Advance


def gymnasium_advance(env: gymnasium.Env, count: int, seed: int) -> Advance:
    """Steps of a single-agent environment."""
    env.action_space.seed(seed)
    actions = [env.action_space.sample() for _ in range(count)]
    env.reset(seed=seed)

    def advance(index: int) -> None:
        *_, terminated, truncated, _ = env.step(actions[index])
        if terminated or truncated:
            env.reset()

    return advance


def team_advance(env: Any, count: int, seed: int, scale: float | None = None) -> Advance:
    """Steps of a `MultiAgentEnv`; actions drawn from its spaces, or normal with standard deviation `scale`."""
    random = np.random.default_rng(seed)
    for index, agent in enumerate(env.possible_agents):
        env.get_action_space(agent).seed(seed + index)

    def draw(agent: Any) -> Any:
        space = env.get_action_space(agent)
        return space.sample() if scale is None else random.normal(0, scale, space.shape).astype(np.float32)

    actions = [{agent: draw(agent) for agent in env.possible_agents} for _ in range(count)]
    env.reset(seed=seed)

    def advance(index: int) -> None:
        _, _, terminateds, truncateds, _ = env.step(actions[index])
        if terminateds["__all__"] or truncateds["__all__"]:
            env.reset()

    return advance


def parallel_advance(env: Any, count: int, seed: int) -> Advance:
    """Steps of a PettingZoo parallel environment."""
    for index, agent in enumerate(env.possible_agents):
        env.action_space(agent).seed(seed + index)
    actions = [{agent: env.action_space(agent).sample() for agent in env.possible_agents} for _ in range(count)]
    env.reset(seed=seed)

    def advance(index: int) -> None:
        env.step(actions[index])
        if not env.agents:
            env.reset()

    return advance


def physics_advance(env: Any, count: int, seed: int, scale: float) -> Advance:
    """Steps of the physics of Bi-DexHands; put back as often as the time limit would."""
    actions = np.random.default_rng(seed).normal(0, scale, (count, 2, 26)).clip(-1, 1)
    env.reset()

    def advance(index: int) -> None:
        env.simulate(actions[index])
        if (index + 1) % env.task.episode_steps == 0:
            env.simulation.reset()

    return advance


def mamujoco_row(name: str, count: int) -> Row:
    """MAMuJoCo beside Gymnasium's environment with its usual wrappers but the checker."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        bare = gymnasium.make(MAMUJOCO[name], disable_env_checker=True)
    return Row(
        name,
        gymnasium_advance(bare, count, 0),
        team_advance(make(name), count, 0),
        team_advance(CooperativeEnv(make(name)), count, 0),
    )


def bidexhands_row(name: str, count: int) -> Row:
    """Bi-DexHands beside its physics, with normal actions of standard deviation 0.5."""
    return Row(
        name,
        physics_advance(make(name), count, 0, 0.5),
        team_advance(make(name), count, 0, 0.5),
        team_advance(CooperativeEnv(make(name)), count, 0, 0.5),
    )


def mpe_row(name: str, count: int) -> Row:
    """simple_spread beside the package's own parallel environment."""
    from mpe2 import simple_spread_v3

    def build() -> Any:
        return simple_spread_v3.parallel_env(continuous_actions=name.endswith("continuous"))

    return Row(
        name,
        parallel_advance(build(), count, 0),
        team_advance(PettingZooEnv(build()), count, 0),
        team_advance(CooperativeEnv(PettingZooEnv(build()), team_reward="mean"), count, 0),
    )


def rate(advance: Advance, first: int, count: int) -> float:
    """Steps per CPU second."""
    start = time.process_time()
    for index in range(first, first + count):
        advance(index)
    return count / (time.process_time() - start)


def measure(row: Row, steps: int, repeats: int) -> str:
    """A line of the table."""
    forms = (row.bare, row.env, row.wrapped)
    rates = [[rate(form, repeat * steps, steps) for form in forms] for repeat in range(repeats)]
    bare, env, wrapped = (statistics.median(column) for column in zip(*rates, strict=True))
    ratios = sorted(own / simulation for simulation, own, _ in rates)
    share = f"{statistics.median(ratios):6.0%} ({ratios[0]:.0%} to {ratios[-1]:.0%})"
    return f"{row.name:<32} {bare:>9.0f} {env:>9.0f} {share:>22} {wrapped:>11.0f} {wrapped / bare:>6.0%}"


def main() -> None:
    """One row per environment."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="only rows whose name contains this")
    parser.add_argument("--steps", type=int, default=1000, help="per form and repeat")
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    count = args.steps * args.repeats
    print(f"{'steps per CPU second':<32} {'bare':>9} {'env':>9} {'env / bare':>22} {'trained on':>11} {'/ bare':>6}")
    for names, build in ((MAMUJOCO, mamujoco_row), (MPE, mpe_row), (BIDEXHANDS, bidexhands_row)):
        for name in names:
            if args.only in name:
                print(measure(build(name, count), args.steps, args.repeats), flush=True)


if __name__ == "__main__":
    main()
