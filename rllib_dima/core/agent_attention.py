"""Attention over the agents of one step: how world models let agents communicate, and critics see all of them."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional


class AgentAttention(nn.Module):
    """Transformer encoder layers over the agents, which a sinusoidal code tells apart: (..., N, D) -> (..., N, D).

    Without the code, changing the order of the agents changes the order of the outputs and nothing else.

    Args:
        num_agents: N.
        width: D.
        num_heads: heads, which share D.
        num_layers: encoder layers.
        feedforward_width: hidden units of each layer's MLP, with ReLU.
        dropout: of attention weights, hidden units and both residual branches, in training.
        pre_norm: normalise what goes into a branch, instead of the sum of branch and input.

    Raises:
        ValueError: if the heads cannot share D.
    """

    code: torch.Tensor

    def __init__(
        self,
        num_agents: int,
        width: int,
        num_heads: int,
        num_layers: int,
        feedforward_width: int,
        dropout: float = 0.0,
        pre_norm: bool = False,
    ) -> None:
        super().__init__()
        if width % num_heads:
            raise ValueError(f"Attention of width {width} cannot be shared by {num_heads} heads: use a divisor.")
        self.register_buffer("code", sinusoidal_code(num_agents, width), persistent=False)
        self.layers = nn.ModuleList(
            _EncoderLayer(width, num_heads, feedforward_width, dropout, pre_norm) for _ in range(num_layers)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., N, D) -> (..., N, D)."""
        x = x + self.code
        for layer in self.layers:
            x = layer(x)
        return x


class _EncoderLayer(nn.Module):
    """Self-attention and an MLP, each a residual branch (as PyTorch's `TransformerEncoderLayer`)."""

    def __init__(self, width: int, num_heads: int, feedforward_width: int, dropout: float, pre_norm: bool) -> None:
        super().__init__()
        self.num_heads, self.pre_norm = num_heads, pre_norm
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.queries_keys_values, self.output = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.linear1, self.linear2 = nn.Linear(width, feedforward_width), nn.Linear(feedforward_width, width)
        self.dropout = nn.Dropout(dropout)
        for bias in (self.queries_keys_values.bias, self.output.bias):
            nn.init.zeros_(bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.pre_norm:
            x = x + self._attend(self.norm1(x))
            return x + self._think(self.norm2(x))
        x = self.norm1(x + self._attend(x))
        return self.norm2(x + self._think(x))

    def _attend(self, x: torch.Tensor) -> torch.Tensor:
        parts = self.queries_keys_values(x).unflatten(-1, (3, self.num_heads, -1))  # (..., N, 3, heads, size)
        queries, keys, values = parts.transpose(-4, -2).unbind(-3)  # (..., heads, N, size)
        dropout = self.dropout.p if self.training else 0.0
        heads = functional.scaled_dot_product_attention(queries, keys, values, dropout_p=dropout)
        return self.dropout(self.output(heads.transpose(-3, -2).flatten(-2)))

    def _think(self, x: torch.Tensor) -> torch.Tensor:
        return self.dropout(self.linear2(self.dropout(functional.relu(self.linear1(x)))))


def sinusoidal_code(num_agents: int, width: int) -> torch.Tensor:
    """(N, D): sine and cosine in turns, of the agent's number times frequencies from 1 down to 1/10,000."""
    frequencies = torch.exp(-math.log(10_000) * torch.arange(0, width, 2) / width)
    angles = torch.arange(num_agents).unsqueeze(1) * frequencies  # (N, ceil(D / 2))
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)[:, :width].float()
