"""A residual MLP: the network of vectors here that need no structure of their own."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional


class ResidualBlock(nn.Module):
    """h + linear(silu(linear(silu(layer_norm(h))))), the identity at the start.

    Args:
        width: entries of h.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.linear1, self.linear2 = nn.LayerNorm(width), nn.Linear(width, width), nn.Linear(width, width)
        nn.init.zeros_(self.linear2.weight)
        nn.init.zeros_(self.linear2.bias)

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        """(..., width) -> (..., width)."""
        return h + self.linear2(functional.silu(self.linear1(functional.silu(self.norm(h)))))


class ResidualMLP(nn.Module):
    """Linear in, residual blocks, layer norm, SiLU, linear out (zero at the start): (..., I) -> (..., O).

    Args:
        size_in: I.
        width: of the blocks.
        num_blocks: residual blocks.
        size_out: O.
    """

    def __init__(self, size_in: int, width: int, num_blocks: int, size_out: int) -> None:
        super().__init__()
        self.linear_in = nn.Linear(size_in, width)
        self.blocks = nn.Sequential(*(ResidualBlock(width) for _ in range(num_blocks)))
        self.norm_out, self.linear_out = nn.LayerNorm(width), nn.Linear(width, size_out)
        nn.init.zeros_(self.linear_out.weight)
        nn.init.zeros_(self.linear_out.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., I) -> (..., O)."""
        return self.linear_out(functional.silu(self.norm_out(self.blocks(self.linear_in(x)))))
