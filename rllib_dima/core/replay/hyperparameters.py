"""The hyperparameters of replay."""

from __future__ import annotations

from dataclasses import dataclass

from rllib_dima.core.hyperparameters import knob


@dataclass(frozen=True)
class ReplayHyperparameters:  # not of `Hyperparameters`: as one of two bases it would undo what the other overrides
    """What a replay buffer is made with."""

    replay_recency = 1.0  # no field here: not every algorithm can prefer newer transitions

    replay_capacity: int = knob(250_000, "Transitions the replay buffer holds; the oldest are overwritten.", low=1)
    replay_device: str = knob(
        "auto",
        "Where replay lives: on the learner's device, in host memory, or (auto) on the device if it takes at most "
        "half of its free memory.",
        choices=("auto", "learner", "cpu"),
    )
