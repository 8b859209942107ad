"""What do agents that leave and masked actions cost? An iteration with and without their flags.

    python benchmarks/flags.py                        # recipe "swift", nano, three agents with five choices, one thread
    python benchmarks/flags.py --repeats 9 --agents 5

A team of the same sizes without flags, with masks, with agents that leave, and with both, in turns: CPU seconds of one
iteration of `core/` (`time.process_time`), medians over the repeats, and their ratio to the team without. Transitions
are random numbers; half of the choices are unavailable and a third of the agents have left.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from dataclasses import replace

import torch
from epoch import random_trajectory

from rllib_dima.core.dima.hyperparameters import DIMAHyperparameters
from rllib_dima.core.dima.trainer import DIMATrainer
from rllib_dima.core.layout import AgentLayout
from rllib_dima.core.replay.data import Trajectory

STORED, CHOICES, STATE, OBSERVATION = 1000, 5, 60, 20


def team(num_agents: int, masks: bool, leaving: bool) -> AgentLayout:
    """Discrete agents of equal sizes."""
    return AgentLayout(
        agent_ids=tuple(f"agent_{number}" for number in range(num_agents)),
        state_size=STATE,
        observation_sizes=(OBSERVATION,) * num_agents,
        action_sizes=(CHOICES,) * num_agents,
        action_kind="discrete",
        appends_agent_id=True,
        masks_actions=masks,
        agents_leave=leaving,
    )


def flagged_trajectory(layout: AgentLayout, length: int) -> Trajectory:
    """An episode of random numbers and flags."""
    observations = torch.randn(length, layout.num_agents, layout.observation_size)
    if layout.masks_actions:
        available = torch.rand(length, layout.num_agents, CHOICES) < 0.5
        available[..., 0] = True
        observations[..., layout.available_slice] = available.float()
    if layout.agents_leave:
        observations[..., layout.alive_index] = 1
        observations *= torch.rand(length, layout.num_agents, 1) > 1 / 3
    observations[..., -layout.num_agents :] = torch.eye(layout.num_agents)
    has = layout.action_mask().float().expand(length, -1, -1)
    usable, effective = layout.usable(has, observations), layout.effective(has, observations)
    drawn = (torch.rand_like(usable) * usable).argmax(-1)
    actions = layout.executed(drawn, effective)
    plain = random_trajectory(layout, length, 0)
    return replace(plain, observations=observations.numpy(), actions=actions.numpy())


def build(layout: AgentLayout) -> DIMATrainer:
    """A trainer that has seen one episode."""
    torch.manual_seed(0)
    hp = DIMAHyperparameters.resolve(
        {"num_steps_before_learning": 0, "replay_capacity": STORED}, model_size="nano", recipe="swift"
    )
    networks = {name: network(layout, hp) for name, network in DIMATrainer.NETWORKS.items()}
    trainer = DIMATrainer(layout, hp, networks, seed=0)
    trainer.add([flagged_trajectory(layout, STORED)])
    return trainer


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--agents", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    kinds = {
        " and ".join(word for word, on in (("masks", masks), ("leaving", leaving)) if on) or "neither": (masks, leaving)
        for masks, leaving in itertools.product((False, True), repeat=2)
    }
    trainers = {name: build(team(args.agents, *flags)) for name, flags in kinds.items()}
    seconds: dict[str, list[float]] = {name: [] for name in trainers}
    for repeat in range(args.repeats + 1):
        for name, trainer in trainers.items():
            start = time.process_time()
            trainer.train_iteration()
            if repeat:  # the first warms up
                seconds[name].append(time.process_time() - start)
    plain = statistics.median(seconds["neither"])
    for name, values in seconds.items():
        ratios = [value / base for value, base in zip(values, seconds["neither"], strict=True)]
        print(
            f"{name:<20}{statistics.median(values):7.2f} s  {statistics.median(values) / plain:5.2f} times"
            f"  ({min(ratios):.2f} to {max(ratios):.2f} in turns)"
        )


if __name__ == "__main__":
    main()
