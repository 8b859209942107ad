"""All agents' tokens of one step summed up, once for each agent (Perceiver: a few queries attend to many tokens)."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from rllib_dima.core.agent_attention import sinusoidal_code


class Perceiver(nn.Module):
    """(B, N, M, D) tokens of all agents -> (B, N, D), of which the i-th is for agent i.

    Agents are told apart by a sinusoidal code. The M tokens of an agent are not, unless `slot_embedding` is set: then
    changing their order changes nothing.

    Args:
        num_agents: N.
        num_slots: M.
        size: D.
        num_layers: self-attention layers over the N queries, behind the cross-attention.
        num_heads: attention heads.
        head_size: entries of a head, which need not divide D.
        dropout: probability, on attention and hidden units.
        slot_embedding: whether an agent's tokens are told apart.
    """

    code: torch.Tensor

    def __init__(
        self,
        num_agents: int,
        num_slots: int,
        size: int,
        num_layers: int,
        num_heads: int,
        head_size: int,
        dropout: float,
        slot_embedding: bool,
    ) -> None:
        super().__init__()
        self.register_buffer("code", sinusoidal_code(num_agents, size).unsqueeze(1), persistent=False)  # (N, 1, D)
        self.latent_embedding = nn.Parameter(torch.randn(num_agents, size))
        self.slot_embedding = nn.Parameter(torch.randn(num_slots, size)) if slot_embedding else None
        arguments = (size, num_heads, head_size, dropout)
        self.cross = _Layer(*arguments, reads_context=True)
        self.layers = nn.ModuleList(_Layer(*arguments, reads_context=False) for _ in range(num_layers))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """(B, N, M, D) -> (B, N, D)."""
        tokens = tokens + self.code
        if self.slot_embedding is not None:
            tokens = tokens + self.slot_embedding
        queries = self.cross(self.latent_embedding.expand(len(tokens), -1, -1), tokens.flatten(1, 2))
        for layer in self.layers:
            queries = layer(queries, None)
        return queries


class _Layer(nn.Module):
    """Pre-norm attention, to a context or to itself, and a gated MLP of four times the width."""

    def __init__(self, size: int, num_heads: int, head_size: int, dropout: float, reads_context: bool) -> None:
        super().__init__()
        inner = num_heads * head_size
        self.num_heads, self.dropout = num_heads, nn.Dropout(dropout)
        self.norm, self.norm_mlp = nn.LayerNorm(size), nn.LayerNorm(size)
        self.norm_context = nn.LayerNorm(size) if reads_context else None
        self.query, self.key_value = nn.Linear(size, inner), nn.Linear(size, 2 * inner)
        self.attention_out = nn.Linear(inner, size)
        self.mlp_in, self.mlp_out = nn.Linear(size, 2 * 4 * size), nn.Linear(4 * size, size)

    def forward(self, x: torch.Tensor, context: torch.Tensor | None) -> torch.Tensor:
        """(B, N, D), and (B, M', D) that it attends to; None: itself."""
        normed = self.norm(x)
        source = normed if self.norm_context is None else self.norm_context(context)
        query, (key, value) = self._heads(self.query(normed)), map(self._heads, self.key_value(source).chunk(2, -1))
        dropout = self.dropout.p if self.training else 0.0
        attended = functional.scaled_dot_product_attention(query, key, value, dropout_p=dropout)
        x = x + self.attention_out(attended.transpose(1, 2).flatten(2))
        hidden, gate = self.mlp_in(self.norm_mlp(x)).chunk(2, dim=-1)
        return x + self.mlp_out(self.dropout(hidden * functional.gelu(gate)))

    def _heads(self, x: torch.Tensor) -> torch.Tensor:
        """(B, M, heads * size) -> (B, heads, M, size)."""
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
