"""MAMBA's actor and critic, which read the world model's states, and the policy that acts with them."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import torch
from torch import nn

from rllib_dima.core.agent_attention import AgentAttention
from rllib_dima.core.hyperparameters import Hyperparameters
from rllib_dima.core.layout import AgentLayout
from rllib_dima.core.mamba.hyperparameters import MAMBAHyperparameters, RepresentationHyperparameters
from rllib_dima.core.mamba.representation import Latent, Representation, xavier
from rllib_dima.core.mamba.world_model import actor_inputs
from rllib_dima.core.mlp import mlp
from rllib_dima.core.policy.networks import Actor, Critic, JointPolicyNetwork


class LatentActor(Actor):
    """The policy of an agent's state (`actor_inputs`), one for all agents.

    Args:
        layout: sizes of the team, with real observations.
        hp: hyperparameters.

    Attributes:
        entropy_decay: () what the weight of the entropy bonus has been multiplied with so far.
    """

    entropy_decay: torch.Tensor

    def __init__(self, layout: AgentLayout, hp: RepresentationHyperparameters) -> None:
        sizes = (hp.feature_size,) * layout.num_agents
        super().__init__(replace(layout, observation_sizes=sizes, appends_agent_id=layout.num_flags > 0), hp)
        self.normalizer = None  # observations may have one, states have none
        self.register_buffer("entropy_decay", torch.ones(()), persistent=False)

    @property
    def entropy_coeff(self) -> torch.Tensor:
        """The present weight of the entropy bonus."""
        return self.hp.entropy_coeff * self.entropy_decay

    def _new_network(self, size_out: int) -> nn.Module:
        """Without norms, orthogonal; a Gaussian's means are near zero at the start."""
        hidden = [self.hp.actor_hidden_size] * self.hp.actor_num_layers
        network = mlp([self.layout.observation_size, *hidden, size_out], nn.ReLU)
        linear = [layer for layer in network if isinstance(layer, nn.Linear)]
        for layer in linear:
            nn.init.orthogonal_(layer.weight)
        if not self.layout.is_discrete:
            linear[-1].weight.data.mul_(self.OUTPUT_GAIN)
            nn.init.zeros_(linear[-1].bias)
        return network


class LatentCritic(Critic):
    """One value per agent, from the states of all: (..., N, F) -> (..., N).

    Args:
        layout: sizes.
        hp: hyperparameters.
    """

    hp: MAMBAHyperparameters

    def _new_network(self) -> nn.Module:
        hp, width = self.hp, self.hp.critic_hidden_size
        network = nn.Sequential(
            nn.Linear(hp.feature_size, width),
            nn.ReLU(),
            AgentAttention(self.layout.num_agents, width, hp.critic_num_heads, 1, width),
            nn.ReLU(),
            mlp([*[width] * (1 + hp.critic_num_layers), 1], nn.ReLU),
        )
        xavier(network)
        return network


class MAMBAPolicy(JointPolicyNetwork):
    """Representation and actor: what acting in the environment needs.

    An agent's memory is [h | z | its executed action]. The representation is a copy of the world model's.

    Args:
        layout: sizes.
        hp: hyperparameters.
    """

    HYPERPARAMETERS: ClassVar[type[Hyperparameters]] = RepresentationHyperparameters

    def __init__(self, layout: AgentLayout, hp: RepresentationHyperparameters) -> None:
        super().__init__(layout, hp)
        self.representation = Representation(layout, hp).requires_grad_(False).eval()
        self.actor = LatentActor(layout, hp)
        self.memory_size = hp.feature_size + layout.action_size
        self._sizes = [hp.deterministic_size, hp.stochastic_size, layout.action_size]
        self._samples = hp.sample_latents_in_evaluation

    @torch.no_grad()
    def act_jointly(
        self, observations: torch.Tensor, memory: torch.Tensor, deterministic: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        h, z, before = memory.split(self._sizes, -1)
        representation, is_likeliest = self.representation, deterministic and not self._samples
        encoded = representation.encode(observations)
        latent, _ = representation.observe(Latent(h, z), before, encoded, is_likeliest)
        policy = self.actor(actor_inputs(latent.features, observations, self.layout))
        actions = policy.deterministic() if deterministic else policy.sample()
        return actions, torch.cat([*latent, self.executed(actions, observations)], dim=-1)

    @torch.no_grad()
    def follow(self, representation: Representation) -> None:
        """Takes over the world model's representation."""
        self.representation.load_state_dict(representation.state_dict())

    def train(self, mode: bool = True) -> MAMBAPolicy:
        """As in torch, but for the representation, which has no dropout where it acts."""
        super().train(mode)
        self.representation.eval()
        return self
