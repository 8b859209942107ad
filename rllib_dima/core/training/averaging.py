"""Averages of a network's weights."""

from __future__ import annotations

import copy
from typing import Generic, TypeVar

import torch
from torch import nn

Module = TypeVar("Module", bound=nn.Module)


class AveragedCopy(nn.Module, Generic[Module]):
    """A copy of a network with the exponential moving averages of its weights.

    Early on the average is over all updates so far: the decay is at most (1 + n) / (10 + n) after n of them.

    Args:
        network: the one that is trained.
        decay: share of the average that an update keeps.

    Attributes:
        network: the copy, which is never trained.
    """

    num_updates: torch.Tensor

    def __init__(self, network: Module, decay: float) -> None:
        super().__init__()
        self.network: Module = copy.deepcopy(network).requires_grad_(False)
        self.decay = decay
        self.register_buffer("num_updates", torch.zeros(()))

    @torch.no_grad()
    def update(self, network: Module) -> None:
        """Moves the averages towards the present weights. Tensor operations alone."""
        self.num_updates += 1
        weight = (9 / (10 + self.num_updates)).clamp(min=1 - self.decay)
        averages: list[torch.Tensor] = list(self.network.parameters())
        present: list[torch.Tensor] = list(network.parameters())
        steps = list(torch._foreach_sub(present, averages))
        torch._foreach_mul_(steps, weight)
        torch._foreach_add_(averages, steps)
