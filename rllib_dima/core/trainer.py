"""What every algorithm's trainer promises: everything that learns, without Ray."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import nn

from rllib_dima.core.hyperparameters import Hyperparameters
from rllib_dima.core.layout import AgentLayout
from rllib_dima.core.replay.buffer import ReplayBuffer
from rllib_dima.core.replay.data import Trajectory
from rllib_dima.core.training.optimization import AverageGradients

Metrics = dict[str, dict[str, float]]


class NonFiniteLossError(RuntimeError):
    """A loss, a gradient norm or an imagined quantity became NaN or infinite."""


class Trainer(ABC):
    """Learns from real experience, an iteration a call.

    Args:
        layout: sizes of the team.
        hp: hyperparameters of the algorithm.
        networks: by name, on `device`; "actor" is the policy, which alone is sent to environment runners.
        device: where training happens.
        seed: of all random numbers, also after `load_state_dict`; None draws one, or goes on with the saved one.
        rank: of this learner among several.
        average_gradients: averages gradients over the learners, in place; None for a single one.

    Attributes:
        NETWORKS: what makes its networks, given (layout, hp); "actor" is one of them, a `PolicyNetwork`.
        ON_POLICY: whether it learns from the present policy's steps alone, and from the log-probabilities of their
            actions, which runners then record.
        replay: the replay buffer, which is saved in a file of its own; None if the algorithm has none.
    """

    NETWORKS: ClassVar[dict[str, Callable[..., nn.Module]]]
    ON_POLICY: ClassVar[bool] = False
    replay: ReplayBuffer | None = None

    @abstractmethod
    def __init__(
        self,
        layout: AgentLayout,
        hp: Hyperparameters,
        networks: dict[str, nn.Module],
        device: torch.device | str = "cpu",
        seed: int | None = 0,
        rank: int = 0,
        average_gradients: AverageGradients | None = None,
    ) -> None: ...

    @abstractmethod
    def add(self, trajectories: Sequence[Trajectory]) -> None:
        """Takes in real experience.

        Raises:
            ValueError: if a trajectory does not fit the team, or holds NaN or infinity.
        """

    @abstractmethod
    def train_iteration(self) -> Metrics:
        """Updates everything as often as one iteration does.

        Returns:
            Metrics by network, and seconds by phase under "time".

        Raises:
            NonFiniteLossError: if anything became NaN or infinite, with its name.
        """

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Optimisers and counters; networks and replay are saved by whoever owns them."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores `state_dict`; learning rates stay those of this trainer's hyperparameters."""

    @abstractmethod
    def set_learning_rates(self, hp: Any) -> None:
        """Makes the optimisers use the learning rates of `hp` from the next update on."""
