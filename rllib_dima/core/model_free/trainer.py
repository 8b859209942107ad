"""What the model-free trainers share: optimisers, metrics, random numbers and counters."""

from __future__ import annotations

import logging
import os
import zlib
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import nn

from rllib_dima.core.layout import AgentLayout
from rllib_dima.core.trainer import Metrics, NonFiniteLossError, Trainer
from rllib_dima.core.training.clock import PhaseClock
from rllib_dima.core.training.metrics import RunningMeans
from rllib_dima.core.training.optimization import ModelOptimizer
from rllib_dima.core.training.random_numbers import own_random_numbers

logger = logging.getLogger(__name__)


class ModelFreeTrainer(Trainer):
    """Counts, reports and draws random numbers; subclasses learn.

    Every iteration draws its random numbers from a generator seeded by (seed, stream, iteration), so that a run that is
    resumed continues as if it had never stopped. The caller's random state is left as it was.
    """

    optimizers: dict[str, ModelOptimizer]
    PARTS: tuple[str, ...]
    """The networks that metrics are reported of."""

    def _set_up(self, layout: AgentLayout, device: torch.device | str, seed: int | None, rank: int) -> None:
        self.layout, self.device, self.rank = layout, torch.device(device), rank
        self._given_seed, self.seed = seed, int.from_bytes(os.urandom(4), "little") if seed is None else seed
        self.num_env_steps = 0
        self.num_iterations = 0  # iterations that trained
        self.clock = PhaseClock(self.device)
        self._means = {part: RunningMeans(self.device) for part in self.PARTS}

    def state_dict(self) -> dict[str, Any]:
        return {
            "optimizers": {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()},
            "num_env_steps": self.num_env_steps,
            "num_iterations": self.num_iterations,
            "seed": self.seed,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
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

    @contextmanager
    def _learning(self, stream: int) -> Iterator[None]:
        """An iteration of learning: on the device, with clean means and random numbers of the stream's own."""
        for means in self._means.values():
            means.clear()
        sequence = np.random.SeedSequence([self.seed, stream, self.num_iterations])
        entropy = int(sequence.generate_state(1, np.uint64)[0] >> 1)
        with self._on_device(), own_random_numbers(entropy, self.device):
            yield
        self.num_iterations += 1

    def _agent_orders(self, actor: nn.Module) -> np.random.Generator:
        """Draws the orders in which agents are updated: of all learners alike, as they average their gradients.

        Their seeds may differ, if none was given; but their networks never do.
        """
        weights = nn.utils.parameters_to_vector(actor.parameters()).detach().cpu().numpy()
        return np.random.default_rng([zlib.crc32(weights.tobytes()), self.num_iterations])

    def _on_device(self) -> AbstractContextManager:
        return torch.cuda.device(self.device) if self.device.type == "cuda" else nullcontext()

    def _report(self) -> Metrics:
        """Moves the means of all metrics to the host at once and checks them."""
        means = {part: self._means[part].read() for part in self.PARTS}
        norms = self._parameter_norms()
        numbers = iter(torch.cat([mean for _, mean in means.values()] + list(norms.values())).tolist())
        report: Metrics = {part: {name: next(numbers) for name in names} for part, (names, _) in means.items()}
        for part, values in report.items():
            for name, number in values.items():
                self._check_finite(f"{part}/{name}", number)
        for name in norms:
            self._check_finite(f"the norm of the parameters of {name}", next(numbers))
        return {**report, "time": self.clock.pop()}

    @torch.no_grad()
    def _parameter_norms(self) -> dict[str, torch.Tensor]:
        """(1,) by optimiser: the last update of an iteration may have spoilt what no loss has seen yet."""
        norm = nn.utils.get_total_norm
        return {name: norm(optimizer.parameters).double().view(1) for name, optimizer in self.optimizers.items()}

    def _check_finite(self, name: str, number: float) -> None:
        if not np.isfinite(number):
            raise NonFiniteLossError(
                f"{name} became {number} in training iteration {self.num_iterations} (after {self.num_env_steps} "
                "environment steps). Go on from the last checkpoint with a lower learning rate of that network, or "
                "look for extreme values from the environment."
            )
