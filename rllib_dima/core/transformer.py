"""A causal transformer's blocks, and the memory with which they take a sequence token by token."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional


class KeyValueCache:
    """Keys and values of the tokens seen so far, in tensors of fixed size that are written in place.

    Args:
        num_layers: transformer blocks.
        batch_size: B.
        num_heads: attention heads.
        max_tokens: that it holds.
        head_size: entries of a key.
        dtype: of the keys and values.
        device: where they are.
    """

    def __init__(
        self,
        num_layers: int,
        batch_size: int,
        num_heads: int,
        max_tokens: int,
        head_size: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        shape = (num_layers, 2, batch_size, num_heads, max_tokens, head_size)
        self.memory = torch.zeros(shape, dtype=dtype, device=device)
        self.length = 0

    def append(self, layer: int, key: torch.Tensor, value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Writes (B, heads, new, size) behind the tokens so far; returns all keys and values up to them."""
        end = self.length + key.shape[2]
        self.memory[layer, 0, :, :, self.length : end] = key
        self.memory[layer, 1, :, :, self.length : end] = value
        return self.memory[layer, 0, :, :, :end], self.memory[layer, 1, :, :, :end]


class Block(nn.Module):
    """Pre-norm transformer block: causal self-attention and an MLP of four times the width.

    Args:
        layer: its number, by which it finds its keys and values in a cache.
        size: D, width of a token.
        num_heads: attention heads.
        dropout: probability, on attention and residuals.
    """

    def __init__(self, layer: int, size: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.layer, self.num_heads, self.dropout = layer, num_heads, dropout
        self.norm1, self.norm2 = nn.LayerNorm(size), nn.LayerNorm(size)
        self.query_key_value = nn.Linear(size, 3 * size)
        self.attention_out = nn.Linear(size, size)
        self.mlp = nn.Sequential(nn.Linear(size, 4 * size), nn.GELU(), nn.Linear(4 * size, size))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """A whole sequence: (B, M, D) -> (B, M, D)."""
        query, key, value = self._heads(x)
        dropout = self.dropout if self.training else 0.0
        attended = functional.scaled_dot_product_attention(query, key, value, dropout_p=dropout, is_causal=True)
        return self._add(x, attended)

    def extend(self, x: torch.Tensor, cache: KeyValueCache, unseen: torch.Tensor) -> torch.Tensor:
        """M tokens (B, M, D) after the M' in the cache, to which they are added; unseen as from `unseen_tokens`."""
        query, key, value = self._heads(x)
        key, value = cache.append(self.layer, key, value)
        return self._add(x, self._attend(query, key, value, unseen))

    def _attend(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, unseen: torch.Tensor
    ) -> torch.Tensor:
        """Attention written out: for one step's few queries the fused kernels take longer than these products.

        query (B, heads, M, size), key and value (B, heads, M', size), unseen (M, M') bool -> (B, heads, M, size).
        """
        scores = (query / math.sqrt(query.shape[-1])) @ key.transpose(-1, -2)  # (B, heads, M, M')
        weights = scores.masked_fill(unseen, float("-inf")).softmax(-1)
        return self._drop(weights).to(value.dtype) @ value

    def _heads(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Queries, keys and values of (B, M, D): (B, heads, M, size) each."""
        heads = self.query_key_value(self.norm1(x)).unflatten(-1, (3, self.num_heads, -1))  # (B, M, 3, heads, size)
        return heads.permute(2, 0, 3, 1, 4).unbind(0)

    def _add(self, x: torch.Tensor, attended: torch.Tensor) -> torch.Tensor:
        """x (B, M, D) plus what its heads attended to (B, heads, M, size), and then plus the MLP's output."""
        x = x + self._drop(self.attention_out(attended.transpose(1, 2).flatten(2)))
        return x + self._drop(self.mlp(self.norm2(x)))

    def _drop(self, x: torch.Tensor) -> torch.Tensor:
        return dropout(x, self.dropout) if self.training else x


def dropout(x: torch.Tensor, probability: float) -> torch.Tensor:
    """Zeroes entries of `x` with the given probability and scales the others by 1 / (1 - probability).

    On a GPU PyTorch's own. On a CPU PyTorch draws a number per entry, on one core, which takes a tenth of an update (a
    sixth in bfloat16); here one draw of 64 bits decides on four entries, so the probability is a multiple of 2^-16.
    """
    if probability == 0:
        return x
    if x.device.type != "cpu" or torch.compiler.is_compiling():  # the compiler does not know random_
        return functional.dropout(x, probability)
    bits = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
    numbers = bits.view(torch.int16)[: x.numel()].view(x.shape)  # uniform in [-2^15, 2^15)
    threshold = round(probability * 2**16)
    kept = (numbers >= threshold - 2**15).to(x.dtype)
    return x * kept.mul_(2**16 / (2**16 - threshold))


def unseen_tokens(new: int, before: int, device: torch.device) -> torch.Tensor:
    """(new, before + new) bool: what new token i must not see, which is everything after itself."""
    return torch.ones(new, before + new, dtype=torch.bool, device=device).triu(before + 1)
