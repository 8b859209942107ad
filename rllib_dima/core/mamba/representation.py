"""What MAMBA's agents remember: one state each, which a step of communication carries on from action to observation.

    u_i = ReLU(W [a_i, z_i] + b)        c = attention over u_1..u_N, agents told apart by a sinusoidal code
    h'_i = GRU(c_i, h_i)                z'_i ~ q(. given h'_i, encoder(o'_i))

The GRU reads only what was communicated, so h' depends on what all agents did and knew; all else is an agent's own.
Acting needs this as well, and therefore the observations of all agents.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional

from rllib_dima.core.agent_attention import AgentAttention
from rllib_dima.core.layout import AgentLayout
from rllib_dima.core.mamba.hyperparameters import RepresentationHyperparameters
from rllib_dima.core.mamba.latents import likeliest, straight_through
from rllib_dima.core.mlp import mlp
from rllib_dima.core.policy.observation_normalizer import ObservationNormalizer


class Latent(NamedTuple):
    """The states of all agents."""

    h: torch.Tensor  # (..., N, D) deterministic
    z: torch.Tensor  # (..., N, C * K) one-hot

    @property
    def features(self) -> torch.Tensor:
        """(..., N, C * K + D), what heads, actor and critic read."""
        return torch.cat([self.z, self.h], dim=-1)


class Representation(nn.Module):
    """Encoder, transition and posterior: from observations and actions to states.

    Args:
        layout: sizes.
        hp: hyperparameters.
    """

    observation_mask: torch.Tensor

    def __init__(self, layout: AgentLayout, hp: RepresentationHyperparameters) -> None:
        super().__init__()
        self.hp, self.num_agents, width = hp, layout.num_agents, hp.model_hidden_size
        self.register_buffer("observation_mask", layout.observation_mask().float(), persistent=False)  # (N, O)
        self.encoder = mlp([layout.observation_size, *[width] * 4], nn.ReLU)
        self.message = nn.Linear(layout.action_size + hp.stochastic_size, width)
        self.communication = AgentAttention(
            layout.num_agents, width, hp.communication_heads, hp.communication_layers, width, hp.communication_dropout
        )
        self.cell = nn.GRUCell(width, hp.deterministic_size)
        self.posterior = mlp([hp.deterministic_size + width, width, hp.stochastic_size], nn.ReLU)
        xavier(self)
        self.float()  # whatever torch.set_default_dtype says
        self.normalizer = ObservationNormalizer(layout) if hp.normalize_observations else None  # in float64

    def start(self, *shape: int) -> Latent:
        """The states before an episode's first observation, zeros."""
        zeros = self.observation_mask.new_zeros
        agents = (*shape, self.num_agents)
        return Latent(zeros(*agents, self.hp.deterministic_size), zeros(*agents, self.hp.stochastic_size))

    def encode(self, observations: torch.Tensor) -> torch.Tensor:
        """(..., N, O) -> (..., N, E)."""
        return self.encoder(self.normalized(observations) * self.observation_mask)

    def normalized(self, observations: torch.Tensor) -> torch.Tensor:
        """(..., N, O) as they are read and predicted."""
        return observations if self.normalizer is None else self.normalizer(observations)

    def denormalized(self, predicted: torch.Tensor) -> torch.Tensor:
        """(..., N, O) as the environment returns them."""
        return predicted if self.normalizer is None else self.normalizer.denormalize(predicted)

    def advance(self, latent: Latent, actions: torch.Tensor) -> torch.Tensor:
        """The deterministic states after executed actions: (B, N, A) -> (B, N, D)."""
        messages = functional.relu(self.message(torch.cat([actions, latent.z], dim=-1)))
        heard = self.communication(messages)
        return self.cell(heard.flatten(0, -2), latent.h.flatten(0, -2)).view_as(latent.h)

    def observe(
        self, latent: Latent, actions: torch.Tensor, encoded: torch.Tensor, likeliest_alone: bool = False
    ) -> tuple[Latent, torch.Tensor]:
        """The states after actions (B, N, A) and what was seen then (B, N, E); and their logits (B, N, C, K)."""
        h = self.advance(latent, actions)
        logits = self.classes(self.posterior(torch.cat([h, encoded], dim=-1)))
        return Latent(h, self.draw(logits, likeliest_alone)), logits

    def draw(self, logits: torch.Tensor, likeliest_alone: bool = False) -> torch.Tensor:
        """Stochastic states (..., C * K) of logits (..., C, K)."""
        return (likeliest if likeliest_alone else straight_through)(logits).flatten(-2)

    def classes(self, logits: torch.Tensor) -> torch.Tensor:
        """(..., C * K) -> (..., C, K)."""
        return logits.unflatten(-1, (self.hp.num_categoricals, self.hp.num_classes))


def xavier(module: nn.Module) -> None:
    """Initialises every matrix."""
    for parameter in module.parameters():
        if parameter.ndim >= 2:
            nn.init.xavier_uniform_(parameter)
