"""The state decoder: all agents' observations from the global state, through a finite code (FSQ autoencoder).

Appendix G.1: the code's few discrete values regularise the decoder, which is trained on a drifting data distribution
without any auxiliary loss.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import nn
from vector_quantize_pytorch import FSQ

from rllib_dima.core.dima.hyperparameters import DIMAHyperparameters
from rllib_dima.core.layout import AgentLayout


def mlp(sizes: list[int], activation: Callable[[], nn.Module]) -> nn.Sequential:
    """Linear layers of the given sizes with the activation between them."""
    layers: list[nn.Module] = []
    for size_in, size_out in pairwise(sizes):
        layers += [nn.Linear(size_in, size_out), activation()]
    return nn.Sequential(*layers[:-1])


class StateDecoder(nn.Module):
    """g_phi(s) = D(FSQ(E(s))): normalised states (..., S) -> observations (..., N, O).

    The quantiser is `vector_quantize_pytorch.FSQ`. Its gradient passes straight through the rounding, but not around
    the bounding function f, which eq. 22 skips as well.
    """

    def __init__(self, layout: AgentLayout, hp: DIMAHyperparameters) -> None:
        super().__init__()
        levels, hidden = list(hp.decoder_fsq_levels), [hp.decoder_hidden_size] * (hp.decoder_num_layers - 1)
        code_size = hp.decoder_num_tokens * len(levels)
        self.token_shape = (hp.decoder_num_tokens, len(levels))
        self.output_shape = (layout.num_agents, layout.observation_size)
        self.squared = hp.decoder_loss == "squared"
        self.encoder = mlp([layout.state_size, *hidden, code_size], nn.GELU)
        self.quantizer = FSQ(levels=levels, return_indices=False)
        self.decoder = mlp([code_size, *hidden, layout.num_agents * layout.observation_size], nn.GELU)
        self.register_buffer("observation_mask", layout.observation_mask().float(), persistent=False)  # (N, O)

    def encode(self, states: torch.Tensor) -> torch.Tensor:
        """Quantised tokens of normalised states: (..., S) -> (..., tokens, channels), values in [-1, 1]."""
        tokens = self.encoder(states).to(states.dtype).reshape(-1, *self.token_shape)  # (prod(...), tokens, channels)
        codes, _ = self.quantizer(tokens)
        return codes.reshape(*states.shape[:-1], *self.token_shape)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """Observations of all agents; padded entries are 0. (..., S) -> (..., N, O)."""
        flat = self.decoder(self.encode(states).flatten(-2))
        return flat.to(states.dtype).unflatten(-1, self.output_shape) * self.observation_mask

    def loss(self, states: torch.Tensor, observations: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Reconstruction error of the joint observation, eq. 22, as a mean over real entries.

        Args:
            states: (B, S) normalised.
            observations: (B, N, O) padded.
        """
        error = (self(states) - observations) * self.observation_mask
        error = error.square() if self.squared else error.abs()
        loss = error.sum() / (self.observation_mask.sum() * len(states))
        return loss, {"decoder_loss": loss.detach()}
