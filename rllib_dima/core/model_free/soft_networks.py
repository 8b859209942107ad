"""HASAC's networks: one squashed policy per agent, twin critics of the joint action, temperatures."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar

import torch
from torch import nn
from torch.nn import functional

from rllib_dima.core.hyperparameters import Hyperparameters
from rllib_dima.core.layout import AgentLayout
from rllib_dima.core.mlp import mlp
from rllib_dima.core.model_free.hyperparameters import HASACHyperparameters, SoftActorHyperparameters
from rllib_dima.core.policy.distributions import (
    MaskedCategorical,
    MaskedMultiCategorical,
    MaskedSquashedGaussian,
    categorical,
)
from rllib_dima.core.policy.networks import PolicyNetwork, own_outputs

SoftDistribution = MaskedSquashedGaussian | MaskedCategorical | MaskedMultiCategorical


def _mlp(sizes: list[int], last_activation: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    """Linear layers as torch initialises them, with ReLU between, and `last_activation` after the last hidden one."""
    network = mlp(sizes, nn.ReLU)
    network[-2] = last_activation()
    return network.float()


class SquashedActors(PolicyNetwork):
    """A policy of its own for every agent: tanh of a Gaussian, or a choice among numbered actions.

    As long as `explores_uniformly` is set, draws are uniform, whatever the networks say.

    Args:
        layout: sizes.
        hp: hyperparameters.
    """

    HYPERPARAMETERS: ClassVar[type[Hyperparameters]] = SoftActorHyperparameters
    LOG_STD_RANGE = (-20.0, 2.0)

    explores_uniformly: torch.Tensor

    def __init__(self, layout: AgentLayout, hp: SoftActorHyperparameters) -> None:
        super().__init__(layout, hp)
        outputs = layout.action_size if layout.is_discrete else 2 * layout.action_size
        sizes = [layout.observation_size, *[hp.actor_hidden_size] * hp.actor_num_layers, outputs]
        self.actors = nn.ModuleList(_mlp(sizes, nn.Tanh) for _ in layout.agent_ids)
        self.register_buffer("explores_uniformly", torch.tensor(hp.warmup_steps > 0))

    def forward(self, observations: torch.Tensor, agents: torch.Tensor | None = None) -> SoftDistribution:
        if agents is None:
            masked = (observations * self.observation_mask).unbind(-2)
            outputs = torch.stack([actor(own) for actor, own in zip(self.actors, masked, strict=True)], dim=-2)
            return self._distribution(outputs, self.usable(observations))
        outputs = own_outputs(list(self.actors), observations * self.observation_mask[agents], agents)
        return self._distribution(outputs, self.usable(observations, agents))

    def of_agent(self, agent: int, observations: torch.Tensor) -> SoftDistribution:
        """One agent's policy, from its observations (B, O)."""
        outputs = self.actors[agent](observations * self.observation_mask[agent])
        return self._distribution(outputs, self.layout.usable(self.action_mask[agent], observations))

    def draw_executed(self, observations: torch.Tensor, agent: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Draws that gradients pass through, zero where an agent has left, and their log-probabilities.

        Args:
            observations: (B, N, O); or (B, O) of one agent.
            agent: which one.

        Returns:
            (B, N, A) and (B, N), or (B, A) and (B,).
        """
        policy = self(observations) if agent is None else self.of_agent(agent, observations)
        actions, log_probs = policy.reparameterised()
        action_mask = self.action_mask if agent is None else self.action_mask[agent]
        effective = self.layout.effective(action_mask, observations)
        return actions * effective if self.layout.agents_leave or self.layout.is_factored else actions, log_probs

    @torch.no_grad()
    def act(self, observations: torch.Tensor, deterministic: bool) -> torch.Tensor:
        if deterministic or not self.explores_uniformly:
            return super().act(observations, deterministic)
        usable = self.usable(observations, self.layout.agent_index(observations))  # (B, A)
        if self.layout.is_discrete:
            return categorical(torch.zeros_like(usable), usable, self.layout).sample()
        return (2 * torch.rand_like(usable) - 1) * usable

    def _distribution(self, outputs: torch.Tensor, usable: torch.Tensor) -> SoftDistribution:
        if self.layout.is_discrete:
            return categorical(outputs, usable, self.layout)
        mean, log_std = outputs.chunk(2, dim=-1)
        return MaskedSquashedGaussian(mean, log_std.clamp(*self.LOG_STD_RANGE), usable)


class TwinCritic(nn.Module):
    """Q1 and Q2 of the global state and all agents' actions, and slowly following copies of them as targets.

    Args:
        layout: sizes.
        hp: hyperparameters.
    """

    real_entries: torch.Tensor

    def __init__(self, layout: AgentLayout, hp: HASACHyperparameters) -> None:
        super().__init__()
        self.hp, self.state_size = hp, layout.state_size
        sizes = [layout.state_size + sum(layout.action_sizes), *[hp.critic_hidden_size] * hp.critic_num_layers, 1]
        self.trained = nn.ModuleList(_mlp(sizes) for _ in range(2))
        self.targets = copy.deepcopy(self.trained).requires_grad_(False)
        self.register_buffer("real_entries", layout.action_mask().flatten().nonzero().squeeze(1), persistent=False)

    def forward(self, states: torch.Tensor, actions: torch.Tensor, targets: bool = False) -> torch.Tensor:
        """(2, B): Q1 and Q2, or their targets, of raw states (B, S) and joint actions (B, N, A)."""
        if self.hp.standardize_states:
            states = functional.layer_norm(states, (self.state_size,))
        inputs = torch.cat([states, actions.flatten(1)[:, self.real_entries]], dim=1)
        return torch.stack([network(inputs).squeeze(1) for network in (self.targets if targets else self.trained)])

    @torch.no_grad()
    def follow(self, polyak: float) -> None:
        """Moves the targets: Q' <- (1 - polyak) Q' + polyak Q."""
        for target, trained in zip(self.targets.parameters(), self.trained.parameters(), strict=True):
            target.lerp_(trained, polyak)

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Inside, gradients pass through the critics, but are not computed for them."""
        self.trained.requires_grad_(False)
        try:
            yield
        finally:
            self.trained.requires_grad_(True)


class Temperatures(nn.Module):
    """ln alpha of every agent, and the critic's as the last of them.

    Args:
        layout: sizes.
        hp: hyperparameters.
    """

    def __init__(self, layout: AgentLayout, hp: HASACHyperparameters) -> None:
        super().__init__()
        start = 0.0 if hp.auto_alpha else math.log(max(hp.alpha, 1e-38))
        scalars = (torch.tensor(start, dtype=torch.float32) for _ in range(layout.num_agents + 1))
        self.log_alphas = nn.ParameterList(nn.Parameter(s, requires_grad=hp.auto_alpha) for s in scalars)

    def forward(self, index: int) -> torch.Tensor:
        """() alpha of an agent, or the critic's (-1), without gradient."""
        return self.log_alphas[index].detach().exp()
