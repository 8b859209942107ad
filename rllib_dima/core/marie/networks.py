"""Actor and critic of MARIE, both of which read observations as their tokens tell them."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import nn

from rllib_dima.core.agent_attention import AgentAttention
from rllib_dima.core.hyperparameters import Hyperparameters
from rllib_dima.core.layout import AgentLayout
from rllib_dima.core.marie.hyperparameters import MARIEActorHyperparameters, MARIEHyperparameters
from rllib_dima.core.marie.tokenizers import make_tokenizer
from rllib_dima.core.policy.distributions import PolicyDistribution
from rllib_dima.core.policy.networks import Actor, Critic, _network


class MARIEActor(Actor):
    """The policy pi(a^i | o^i) of reconstructed observations, one for all agents.

    It is trained on what is imagined. Where it acts, in the environment, it reconstructs observations first, with its
    own copy of the world model's tokeniser; flags and ids it takes as they are.

    Args:
        layout: sizes.
        hp: hyperparameters.
    """

    HYPERPARAMETERS: ClassVar[type[Hyperparameters]] = MARIEActorHyperparameters

    def __init__(self, layout: AgentLayout, hp: MARIEActorHyperparameters) -> None:
        super().__init__(layout, hp)
        self.tokenizer = make_tokenizer(layout, hp).requires_grad_(False).eval()

    def acting(self, observations: torch.Tensor, agents: torch.Tensor | None = None) -> PolicyDistribution:
        """The policy of real observations; arguments as of `forward`."""
        return self(self.seen(observations, agents), agents)

    def seen(self, observations: torch.Tensor, agents: torch.Tensor | None = None) -> torch.Tensor:
        """Real observations as the policy was trained to read them; arguments and shape as of `forward`."""
        first = max(self.layout.observation_sizes)
        return torch.cat([self.tokenizer(observations, agents)[..., :first], observations[..., first:]], dim=-1)


class MARIECritic(Critic):
    """V^i of all agents' reconstructed observations: (..., N, O) -> (..., N).

    Args:
        layout: sizes.
        hp: hyperparameters.
    """

    hp: MARIEHyperparameters

    def _new_network(self) -> nn.Module:
        hp, size, width = self.hp, self.layout.observation_size, self.hp.critic_hidden_size
        attention = AgentAttention(self.layout.num_agents, width, hp.critic_num_heads, 1, width, pre_norm=True)
        together = nn.Sequential(nn.LayerNorm(size), nn.Linear(size, width), nn.ReLU(), attention, nn.ReLU())
        for module in together.modules():
            if isinstance(module, nn.Linear):
                nn.init.orthogonal_(module.weight)
                nn.init.zeros_(module.bias)
        return nn.Sequential(together, _network(width, width, hp.critic_num_layers, 1, 1.0))
