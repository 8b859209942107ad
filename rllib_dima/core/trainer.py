"""What every algorithm's trainer promises: everything that learns, without Ray."""

from __future__ import annotations

import logging
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn

from rllib_dima.core.hyperparameters import Hyperparameters
from rllib_dima.core.layout import AgentLayout
from rllib_dima.core.replay.buffer import ReplayBuffer, replay_device
from rllib_dima.core.replay.data import Trajectory
from rllib_dima.core.training.clock import PhaseClock
from rllib_dima.core.training.memory import keep_freed_memory
from rllib_dima.core.training.metrics import RunningMeans, read_together
from rllib_dima.core.training.optimization import AverageGradients, ModelOptimizer
from rllib_dima.core.training.random_numbers import own_random_numbers

logger = logging.getLogger(__name__)

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


class OptimizingTrainer(Trainer):
    """Counts, optimises, reports, saves and draws random numbers; subclasses learn.

    Every iteration draws its random numbers from a generator seeded by (seed, stream, iteration), so that a run that
    is resumed continues as if it had never stopped. The caller's random state is left as it was.

    Attributes:
        PREFIXES: what a network's hyperparameters begin with, where that is not the first word of its name.
        ADAMW: the networks that are trained by AdamW; the others are by Adam, with the epsilon of the hyperparameters.
        optimizers: by name of what they train.
        clock: the seconds of every phase.
    """

    PREFIXES: ClassVar[dict[str, str]] = {}
    ADAMW: ClassVar[tuple[str, ...]] = ()

    optimizers: dict[str, ModelOptimizer]

    def __init__(
        self,
        layout: AgentLayout,
        hp: Any,
        networks: dict[str, nn.Module],
        device: torch.device | str = "cpu",
        seed: int | None = 0,
        rank: int = 0,
        average_gradients: AverageGradients | None = None,
    ) -> None:
        self.layout, self.hp, self._average_gradients = layout, hp, average_gradients
        self.device, self.rank = torch.device(device), rank
        if self.device.type == "cpu":
            keep_freed_memory()
        self.clock = PhaseClock(self.device)
        self._given_seed, self.seed = seed, int.from_bytes(os.urandom(4), "little") if seed is None else seed
        self.num_env_steps = 0
        self.num_iterations = 0  # iterations that trained
        self._set_up(networks)

    @abstractmethod
    def _set_up(self, networks: dict[str, Any]) -> None:
        """Takes over the networks, and makes the optimisers and whatever else training needs."""

    def _new_replay(self, keeps_next_observations: bool = False) -> ReplayBuffer:
        """An empty buffer, where the hyperparameters want it."""
        capacity = self.hp.replay_capacity
        needed = ReplayBuffer.bytes_needed(self.layout, capacity, keeps_next_observations)
        where = replay_device(self.hp.replay_device, needed, self.device)
        return ReplayBuffer(self.layout, capacity, where, self.device, self.hp.replay_recency, keeps_next_observations)

    def _new_optimizers(self, networks: Mapping[str, nn.Module]) -> dict[str, ModelOptimizer]:
        """One for each, set by the hyperparameters with its prefix; weight decay and warm-up are 0 without one."""
        hp, optimizers = self.hp, {}
        for name, network in networks.items():
            part, adamw = self._prefix(name), name in self.ADAMW
            optimizers[name] = ModelOptimizer(
                name, network, torch.optim.AdamW if adamw else torch.optim.Adam,
                getattr(hp, f"{part}_lr"), getattr(hp, f"{part}_grad_clip"), getattr(hp, f"{part}_weight_decay", 0.0),
                1e-8 if adamw else hp.adam_epsilon, getattr(hp, f"{part}_lr_warmup_updates", 0),
                self._average_gradients,
            )  # fmt: skip
        return optimizers

    def _prefix(self, name: str) -> str:
        return self.PREFIXES.get(name) or name.partition("_")[0]

    def set_learning_rates(self, hp: Any) -> None:
        for name, optimizer in self.optimizers.items():
            optimizer.lr = getattr(hp, f"{self._prefix(name)}_lr")

    @property
    def _is_alone(self) -> bool:
        """Whether no other learner averages its gradients with this one's."""
        return self._average_gradients is None

    def state_dict(self) -> dict[str, Any]:
        return {
            "optimizers": {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()},
            "num_env_steps": self.num_env_steps,
            "num_iterations": self.num_iterations,
            "seed": self.seed,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores `state_dict`; learning rates and the seed, if one was given, stay those of this trainer."""
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(state["optimizers"][name])
        self.num_env_steps, self.num_iterations = state["num_env_steps"], state["num_iterations"]
        if self._given_seed in (None, state["seed"]):
            self.seed = state["seed"]
        elif self.rank == 0:
            logger.warning(
                f"The restored run has drawn its random numbers with seed {state['seed']}; it goes on with seed "
                f"{self.seed}, which is configured now. Without a seed, or with that one, it would go on as it was."
            )

    def random_numbers(self, stream: int) -> AbstractContextManager:
        """Random numbers that depend on (seed, stream, iteration) alone."""
        entropy = np.random.SeedSequence([self.seed, stream, self.num_iterations])
        return own_random_numbers(int(entropy.generate_state(1, np.uint64)[0] >> 1), self.device)

    def _on_device(self) -> AbstractContextManager:
        """Makes streams, events and graphs those of this trainer's GPU, if there are several."""
        return torch.cuda.device(self.device) if self.device.type == "cuda" else nullcontext()

    def _report(self, sources: Mapping[str, Sequence[RunningMeans]]) -> Metrics:
        """Moves the means that belong to each network to the host at once and checks them."""
        means = {(part, number): m for part, group in sources.items() for number, m in enumerate(group)}
        numbers, norms = read_together(means, {name: o.parameter_norm() for name, o in self.optimizers.items()})
        report: Metrics = {part: {} for part in sources}
        for (part, _), metrics in numbers.items():
            report[part] |= metrics
        for part, metrics in report.items():
            for name, number in metrics.items():
                self._check_finite(f"{part}/{name}", number)
        for name, norm in norms.items():  # the last update may have spoilt what no loss has seen yet
            self._check_finite(f"the norm of the parameters of {name}", norm)
        return {**report, "time": self.clock.pop()}

    def _check_finite(self, name: str, number: float) -> None:
        if not np.isfinite(number):
            stored = f": the largest in replay are {self.replay.largest()}" if self.replay is not None else ""
            raise NonFiniteLossError(
                f"{name} became {number} in training iteration {self.num_iterations} (after {self.num_env_steps} "
                "environment steps). Go on from the last checkpoint with a lower learning rate of that network, or "
                f"look for extreme values from the environment{stored}."
            )
