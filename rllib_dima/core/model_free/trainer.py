"""What the model-free trainers share: optimisers, metrics, random numbers and counters."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn

from rllib_dima.core.layout import AgentLayout
from rllib_dima.core.trainer import Metrics, OptimizingTrainer
from rllib_dima.core.training.clock import PhaseClock
from rllib_dima.core.training.metrics import RunningMeans


class ModelFreeTrainer(OptimizingTrainer):
    """Has one set of metrics per network; subclasses learn."""

    PARTS: tuple[str, ...]
    """The networks that metrics are reported of."""

    def _set_up_for(self, layout: AgentLayout, device: torch.device | str, seed: int | None, rank: int) -> None:
        self._set_up(device, seed, rank)
        self.layout = layout
        self.clock = PhaseClock(self.device)
        self._means = {part: RunningMeans(self.device) for part in self.PARTS}

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
        return self._report({part: [self._means[part]] for part in self.PARTS})
