"""What the model-free trainers share: optimisers, metrics, random numbers and counters."""

from __future__ import annotations

import zlib
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from torch import nn

from rllib_dima.core.trainer import Metrics, OptimizingTrainer
from rllib_dima.core.training.metrics import RunningMeans


class ModelFreeTrainer(OptimizingTrainer):
    """Has one set of metrics per network; subclasses learn."""

    def _set_up(self, networks: dict[str, Any]) -> None:
        self.actor, self.critic = networks["actor"], networks["critic"]
        self.optimizers = self._new_optimizers(self._trained())
        self._means = {part: RunningMeans(self.device) for part in networks}

    @abstractmethod
    def _trained(self) -> dict[str, nn.Module]:
        """Networks by the name of their optimiser."""

    @contextmanager
    def _learning(self, stream: int) -> Iterator[None]:
        """An iteration of learning: on the device, with clean means and random numbers of the stream's own."""
        for means in self._means.values():
            means.clear()
        with self._on_device(), self.random_numbers(stream):
            yield
        self.num_iterations += 1

    def _agent_orders(self, actor: nn.Module) -> np.random.Generator:
        """Draws the orders in which agents are updated: of all learners alike, as they average their gradients.

        Their seeds may differ, if none was given; but their networks never do.
        """
        return np.random.default_rng(self._shared_entropy(actor))

    def _shared_entropy(self, network: nn.Module) -> list[int]:
        """Equal in all learners, new in every iteration."""
        weights = nn.utils.parameters_to_vector(network.parameters()).detach().cpu().numpy()
        return [zlib.crc32(weights.tobytes()), self.num_iterations]

    def _report_parts(self) -> Metrics:
        """The means of every network's metrics, checked."""
        return self._report({part: [means] for part, means in self._means.items()})
