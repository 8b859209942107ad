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

    def _require_capacity(self, env_steps_per_iteration: int, window: int, what: str) -> None:
        """Raises ValueError if replay cannot hold an iteration's steps, or a window of so many of them."""
        needed = max(env_steps_per_iteration, window)
        if self.replay_capacity < needed:
            raise ValueError(
                f"replay_capacity ({self.replay_capacity}) must be at least {needed}: replay holds the "
                f"{env_steps_per_iteration} steps of an iteration (env_steps_per_iteration) and windows of {window} "
                f"({what}). Raise it, or lower those."
            )
