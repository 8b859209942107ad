"""Actor and critic with their PPO losses (appendix C).

The actor reads local observations only; the critic reads the global state. The advantage is shared by all agents,
since the value of a global state is.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar, cast

import torch
from torch import nn
from torch.nn import functional

from rllib_dima.core.hyperparameters import Hyperparameters, knob
from rllib_dima.core.layout import AgentLayout
from rllib_dima.core.policy.data import PPOBatch
from rllib_dima.core.policy.distributions import (
    ActionDistribution,
    MaskedBeta,
    MaskedGaussian,
    PolicyDistribution,
    categorical,
)
from rllib_dima.core.policy.hyperparameters import PolicyHyperparameters
from rllib_dima.core.policy.observation_normalizer import ObservationNormalizer
from rllib_dima.core.policy.value_normalizer import ValueNormalizer


def _network(size_in: int, hidden: int, num_layers: int, size_out: int, output_gain: float) -> nn.Sequential:
    """Hidden layers and an output, linear with ReLU and layer norm, orthogonally initialised.

    Inputs are normed, too, unless they are one or two entries: of one, layer norm leaves nothing, of two which is
    larger.
    """
    sizes = [size_in, *[hidden] * num_layers, size_out]
    layers = [nn.Linear(*pair) for pair in pairwise(sizes)]
    for layer, gain in zip(layers, [nn.init.calculate_gain("relu")] * num_layers + [output_gain], strict=True):
        nn.init.orthogonal_(layer.weight, gain)
        nn.init.zeros_(layer.bias)
    parts = [part for layer in layers for part in (nn.LayerNorm(layer.in_features), layer, nn.ReLU())]
    return nn.Sequential(*parts[int(size_in < 3) : -1])


@dataclass(frozen=True)
class ActorHyperparameters(PolicyHyperparameters):
    """What an actor is built from, whichever algorithm trains it."""

    normalize_observations: bool = knob(False, "Whether the actor has running statistics of observations.")


class ActingNetwork(nn.Module):
    """What acts, for every agent.

    Args:
        layout: sizes.
        hp: hyperparameters.

    Attributes:
        HYPERPARAMETERS: the class whose fields are all that the network is built from; saved policies hold them.
    """

    HYPERPARAMETERS: ClassVar[type[Hyperparameters]] = ActorHyperparameters

    observation_mask: torch.Tensor
    action_mask: torch.Tensor

    def __init__(self, layout: AgentLayout, hp: Hyperparameters) -> None:
        super().__init__()
        self.layout, self.hp = layout, hp
        self.register_buffer("observation_mask", layout.observation_mask().float(), persistent=False)  # (N, O)
        self.register_buffer("action_mask", layout.action_mask().float(), persistent=False)  # (N, A)

    def executed(self, actions: torch.Tensor, observations: torch.Tensor) -> torch.Tensor:
        """Drawn actions (..., N, *drawn_shape) as the environment executes and the world model sees them (..., N, A).

        Args:
            actions: as drawn.
            observations: (..., N, O) for which they were drawn.
        """
        return self.layout.executed(actions, self.layout.effective(self.action_mask, observations))


class JointPolicyNetwork(ActingNetwork):
    """A policy of all agents together, which remembers something of every agent from step to step.

    Attributes:
        memory_size: M, numbers per agent; zeros when an episode begins.
    """

    memory_size: int

    @abstractmethod
    def act_jointly(
        self, observations: torch.Tensor, memory: torch.Tensor, deterministic: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Actions of B teams, and what they remember then.

        Args:
            observations: (B, N, O) padded.
            memory: (B, N, M) as the last step of the same episode returned it.
            deterministic: the mean, or the likeliest choice, instead of a draw.

        Returns:
            (B, N, A) before clipping, or (B, N) or (B, N, F) int64; and (B, N, M).
        """


class PolicyNetwork(ActingNetwork):
    """Local observations to a distribution of actions, for every agent on its own."""

    @abstractmethod
    def forward(self, observations: torch.Tensor, agents: torch.Tensor | None = None) -> ActionDistribution:
        """The policy of every agent.

        Args:
            observations: (..., N, O), or (B, O) together with `agents`.
            agents: (B,) which agent each row of (B, O) belongs to.
        """

    def acting(self, observations: torch.Tensor, agents: torch.Tensor | None = None) -> ActionDistribution:
        """The policy that acts in the environment, on what it observes there. Arguments as above."""
        return self(observations, agents)

    @torch.no_grad()
    def act(self, observations: torch.Tensor, deterministic: bool) -> torch.Tensor:
        """Actions for a mixed batch of agents, as a runner needs them: each observation tells whose it is.

        Args:
            observations: (B, O) padded.
            deterministic: the mean, or the likeliest choice, instead of a draw.

        Returns:
            (B, A) before clipping, or (B,) or (B, F) int64.
        """
        policy = self.acting(observations, self.layout.agent_index(observations))
        return policy.deterministic() if deterministic else policy.sample()

    @torch.no_grad()
    def draw(self, observations: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Draws of the policy that is trained, and their log-probabilities (B,)."""
        policy = self(observations, self.layout.agent_index(observations))
        actions = policy.sample()
        return actions, policy.log_prob(actions)

    def usable(self, observations: torch.Tensor, agents: torch.Tensor | None = None) -> torch.Tensor:
        """(..., A) float: which action entries each agent has and can use now. Arguments as of `forward`."""
        return self.layout.usable(self.action_mask if agents is None else self.action_mask[agents], observations)


class Actor(PolicyNetwork):
    """The policy pi_psi(a^i | o^i), one for all agents.

    Args:
        layout: sizes.
        hp: hyperparameters.
    """

    OUTPUT_GAIN = 0.01  # near-zero mean actions at the start

    hp: PolicyHyperparameters

    def __init__(self, layout: AgentLayout, hp: PolicyHyperparameters) -> None:
        super().__init__(layout, hp)
        self.kind = "categorical" if layout.is_discrete else hp.policy_distribution
        outputs = layout.action_size * (2 if self.kind == "beta" else 1)
        self.network = self._new_network(outputs)
        if self.kind == "beta":
            nn.init.constant_(cast(nn.Linear, list(self.network.children())[-1]).bias, _beta_output(hp.initial_log_std))
        if self.kind == "gaussian":
            self.log_std = nn.Parameter(torch.full((layout.action_size,), float(hp.initial_log_std)))
        self.float()  # whatever torch.set_default_dtype says
        self.normalizer = ObservationNormalizer(layout) if hp.normalize_observations else None  # in float64

    def forward(self, observations: torch.Tensor, agents: torch.Tensor | None = None) -> PolicyDistribution:
        observation_mask = self.observation_mask if agents is None else self.observation_mask[agents]
        usable = self.usable(observations, agents)
        if self.normalizer is not None:
            observations = self.normalizer(observations, agents)
        log_std = self.log_std if self.kind == "gaussian" else None
        return _distribution(self.kind, self.network(observations * observation_mask), log_std, usable, self.layout)

    @property
    def entropy_coeff(self) -> torch.Tensor | float:
        """The present weight of the entropy bonus."""
        return self.hp.entropy_coeff

    def _new_network(self, size_out: int) -> nn.Module:
        """From an observation to the distribution's parameters."""
        hp = self.hp
        return _network(
            self.layout.observation_size, hp.actor_hidden_size, hp.actor_num_layers, size_out, self.OUTPUT_GAIN
        )

    def loss(self, batch: PPOBatch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Eq. 21: clipped surrogate, with one advantage for all agents unless each has its own, and entropy bonus; mean
        over living agents.
        """
        policy = self(batch.observations)
        log_ratio = policy.log_prob(batch.actions) - batch.log_probs  # (M, N)
        advantage = batch.advantages.view(len(log_ratio), -1)  # (M, 1) of the team, or (M, N)
        ratio, epsilon = log_ratio.exp(), self.hp.clip_param
        surrogate = torch.minimum(ratio * advantage, ratio.clamp(1 - epsilon, 1 + epsilon) * advantage)
        entropy = policy.entropy()
        entropy = entropy.mean() if batch.weights is None else batch.mean(entropy.expand_as(log_ratio))
        loss = -batch.mean(surrogate) - self.entropy_coeff * entropy
        with torch.no_grad():
            metrics = {
                "policy_loss": loss.detach(),
                "entropy": entropy.detach(),
                "kl": batch.agent_mean(ratio - 1 - log_ratio),
                "clip_fraction": batch.agent_mean(((ratio - 1).abs() > epsilon).float()),
            }
        return loss, metrics


class AgentActors(PolicyNetwork):
    """A policy pi^i(a^i | o^i) of its own for every agent: `actors`, in order, which share no parameter.

    Args:
        layout: sizes.
        hp: hyperparameters, of every agent's `Actor`.
    """

    def __init__(self, layout: AgentLayout, hp: PolicyHyperparameters) -> None:
        super().__init__(layout, hp)
        self.actors = nn.ModuleList(Actor(layout, hp) for _ in layout.agent_ids)
        self.kind = self.of_agent(0).kind

    def of_agent(self, agent: int) -> Actor:
        """One agent's own."""
        return cast(Actor, self.actors[agent])

    def forward(self, observations: torch.Tensor, agents: torch.Tensor | None = None) -> PolicyDistribution:
        actors = [self.of_agent(agent) for agent in range(self.layout.num_agents)]
        networks = [actor.network for actor in actors]
        log_std = torch.stack([actor.log_std for actor in actors]) if self.kind == "gaussian" else None  # (N, A)
        usable = self.usable(observations, agents)
        if agents is None:
            masked = (observations * self.observation_mask).unbind(-2)
            outputs = torch.stack([network(own) for network, own in zip(networks, masked, strict=True)], dim=-2)
            return _distribution(self.kind, outputs, log_std, usable, self.layout)
        outputs = own_outputs(networks, observations * self.observation_mask[agents], agents)
        log_std = None if log_std is None else log_std[agents]
        return _distribution(self.kind, outputs, log_std, usable, self.layout)


def own_outputs(networks: Sequence[nn.Module], observations: torch.Tensor, agents: torch.Tensor) -> torch.Tensor:
    """(B, X) each row's output of its own agent's network.

    All networks see all rows, so that shapes do not depend on whose rows they are; acting costs little.

    Args:
        networks: one per agent.
        observations: (B, O), masked.
        agents: (B,) whose each row is.
    """
    outputs = torch.stack([network(observations) for network in networks], dim=1)  # (B, N, X)
    is_own = agents.unsqueeze(1) == torch.arange(len(networks), device=agents.device)  # (B, N)
    return (outputs * is_own.unsqueeze(2)).sum(1)  # indexing would fix the number of rows in an exported policy


def _distribution(
    kind: str, outputs: torch.Tensor, log_std: torch.Tensor | None, usable: torch.Tensor, layout: AgentLayout
) -> PolicyDistribution:
    """What the outputs of an actor's network mean."""
    if kind == "categorical":
        return categorical(outputs, usable, layout)
    if kind == "beta":
        alpha, beta = (functional.softplus(outputs) + 1).chunk(2, dim=-1)
        return MaskedBeta(alpha, beta, usable)
    assert log_std is not None, "Gaussians have one"
    return MaskedGaussian(outputs, 0.5 * log_std.sigmoid(), usable)


def _beta_output(log_std: float) -> float:
    """The output with which Beta(a, a) on [-1, 1], of variance 1 / (2 a + 1), starts with the Gaussian's deviation."""
    excess = (4 * (1 + math.exp(-log_std)) ** 2 - 1) / 2 - 1  # a - 1, with std = 0.5 sigmoid(log_std)
    return excess + math.log(-math.expm1(-excess))  # softplus of which is a - 1; never overflows


class Critic(nn.Module):
    """The centralised value V_xi(s) on normalised global states, with its value normaliser.

    Args:
        layout: sizes.
        hp: hyperparameters.
    """

    def __init__(self, layout: AgentLayout, hp: PolicyHyperparameters) -> None:
        super().__init__()
        self.hp, self.layout = hp, layout
        self.network = self._new_network().float()
        self.value_normalizer = ValueNormalizer(hp.value_normalization_beta, hp.normalize_values)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """Raw outputs, on the normaliser's scale: (..., S) -> (...)."""
        return self.network(states).squeeze(-1)

    @torch.no_grad()
    def rescale(self, factor: torch.Tensor) -> None:
        """Makes all values `factor` times as large, by the normaliser's averages or, without one, the last layer."""
        self.value_normalizer.rescale(factor)
        if not self.value_normalizer.enabled:
            last = cast(nn.Linear, list(cast(nn.Sequential, self.network).children())[-1])
            last.weight.mul_(factor)
            last.bias.mul_(factor)

    def _new_network(self) -> nn.Module:
        """(..., S) -> (..., 1)."""
        hp = self.hp
        return _network(self.layout.state_size, hp.critic_hidden_size, hp.critic_num_layers, 1, 1.0)

    def loss(self, batch: PPOBatch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Eq. 20 with the released code's Huber error and value clipping, each switchable."""
        targets = self.value_normalizer.normalize(batch.returns)
        values = self(batch.states)
        error = self._error(values, targets)
        if self.hp.value_clip_param > 0:
            limit = self.hp.value_clip_param
            clipped = batch.values + (values - batch.values).clamp(-limit, limit)
            error = torch.maximum(error, self._error(clipped, targets))
        if batch.alive is not None and error.ndim == 2:
            error = error.mean(1)  # of those who left, too: returns of the steps before hold what they are worth then
        loss = batch.mean(error)
        with torch.no_grad():
            unexplained = (targets - values).var(correction=0) / targets.var(correction=0).clamp(min=1e-8)
        return loss, {"value_loss": loss.detach(), "explained_variance": 1 - unexplained}

    def _error(self, values: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        if self.hp.value_loss == "huber":
            return functional.huber_loss(values, targets, reduction="none", delta=self.hp.value_huber_delta)
        return (values - targets).square()
