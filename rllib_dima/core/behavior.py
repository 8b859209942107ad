"""Behaviour learning: actor, critic, lambda-returns and the PPO losses (appendix C).

The actor reads local observations only; the critic reads the global state. The advantage is shared by all agents,
since the value of a global state is.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple, Protocol

import torch
from torch import nn
from torch.distributions import Beta, Categorical, Normal
from torch.nn import functional

from rllib_dima.core.hyperparameters import Hyperparameters
from rllib_dima.core.layout import AgentLayout
from rllib_dima.core.normalization import ValueNormalizer

if TYPE_CHECKING:
    from rllib_dima.core.imagination import Rollout


class PolicyDistribution(Protocol):
    """What an actor returns. Log-probabilities and entropies sum over an agent's real action entries only."""

    def sample(self) -> torch.Tensor:
        """Actions, (..., A) before clipping or (...) int64."""

    def deterministic(self) -> torch.Tensor:
        """The action of the deterministic policy: the mean, or the likeliest choice. Shaped as `sample`'s."""

    def log_prob(self, actions: torch.Tensor) -> torch.Tensor:
        """(...)."""

    def entropy(self) -> torch.Tensor:
        """(...)."""


class MaskedGaussian:
    """Diagonal Gaussian; actions outside [-1, 1] are clipped where they are executed.

    Args:
        mean: (..., A).
        std: (A,) or (..., A).
        mask: (..., A) float, 1 for real entries.
    """

    def __init__(self, mean: torch.Tensor, std: torch.Tensor, mask: torch.Tensor) -> None:
        self._normal, self._mask = Normal(mean, std, validate_args=False), mask

    def sample(self) -> torch.Tensor:
        noise = torch.randn_like(self._normal.loc)  # torch.normal would check the std, which waits for the device
        return (self._normal.loc + self._normal.scale * noise) * self._mask

    def deterministic(self) -> torch.Tensor:
        return self._normal.mean * self._mask

    def log_prob(self, actions: torch.Tensor) -> torch.Tensor:
        return (self._normal.log_prob(actions) * self._mask).sum(-1)

    def entropy(self) -> torch.Tensor:
        return (self._normal.entropy() * self._mask).sum(-1)


class MaskedBeta:
    """Independent Beta distributions on [-1, 1], with alpha and beta of at least 1 (one mode).

    Args:
        alpha: (..., A).
        beta: (..., A).
        mask: (..., A) float, 1 for real entries.
    """

    EDGE = 1e-6  # keeps drawn actions off the ends, where a log-density may be infinite

    def __init__(self, alpha: torch.Tensor, beta: torch.Tensor, mask: torch.Tensor) -> None:
        self._beta, self._mask = Beta(alpha, beta, validate_args=False), mask

    def sample(self) -> torch.Tensor:
        unit = self._beta.sample().clamp(self.EDGE, 1 - self.EDGE)
        return (2 * unit - 1) * self._mask

    def deterministic(self) -> torch.Tensor:
        return (2 * self._beta.mean - 1) * self._mask

    def log_prob(self, actions: torch.Tensor) -> torch.Tensor:
        unit = ((actions + 1) / 2).clamp(self.EDGE, 1 - self.EDGE)
        return ((self._beta.log_prob(unit) - torch.log(torch.tensor(2.0))) * self._mask).sum(-1)

    def entropy(self) -> torch.Tensor:
        return ((self._beta.entropy() + torch.log(torch.tensor(2.0))) * self._mask).sum(-1)


class MaskedCategorical:
    """Categorical over an agent's own choices.

    Args:
        logits: (..., A).
        mask: (..., A) float, 1 for real choices.
    """

    def __init__(self, logits: torch.Tensor, mask: torch.Tensor) -> None:
        logits = logits.masked_fill(mask == 0, torch.finfo(logits.dtype).min)
        self._categorical = Categorical(logits=logits, validate_args=False)

    def sample(self) -> torch.Tensor:
        uniform = torch.rand_like(self._categorical.logits).clamp(min=torch.finfo(torch.float32).tiny)
        return (self._categorical.logits - (-uniform.log()).log()).argmax(-1)  # Gumbel-max: no check, no waiting

    def deterministic(self) -> torch.Tensor:
        return self._categorical.logits.argmax(-1)

    def log_prob(self, actions: torch.Tensor) -> torch.Tensor:
        return self._categorical.log_prob(actions)

    def entropy(self) -> torch.Tensor:
        return self._categorical.entropy()


class PPOBatch(NamedTuple):
    """M imagined steps with everything the PPO losses need."""

    states: torch.Tensor  # (M, S) normalised
    observations: torch.Tensor  # (M, N, O)
    actions: torch.Tensor  # (M, N, A) or (M, N) int64
    log_probs: torch.Tensor  # (M, N) under the policy that drew the actions
    advantages: torch.Tensor  # (M,)
    returns: torch.Tensor  # (M,) lambda-returns
    values: torch.Tensor  # (M,) the critic's raw outputs before the update


def _network(size_in: int, hidden: int, num_layers: int, size_out: int, output_gain: float) -> nn.Sequential:
    """Hidden layers and an output, linear with ReLU and layer norm (also on the input), orthogonally initialised."""
    sizes = [size_in, *[hidden] * num_layers, size_out]
    layers = [nn.Linear(*pair) for pair in pairwise(sizes)]
    for layer, gain in zip(layers, [nn.init.calculate_gain("relu")] * num_layers + [output_gain], strict=True):
        nn.init.orthogonal_(layer.weight, gain)
        nn.init.zeros_(layer.bias)
    parts = [part for layer in layers for part in (nn.LayerNorm(layer.in_features), layer, nn.ReLU())]
    return nn.Sequential(*parts[:-1])


class Actor(nn.Module):
    """The policy pi_psi(a^i | o^i), one for all agents.

    Args:
        layout: sizes.
        hp: hyperparameters.
    """

    OUTPUT_GAIN = 0.01  # near-zero mean actions at the start

    def __init__(self, layout: AgentLayout, hp: Hyperparameters) -> None:
        super().__init__()
        self.layout, self.hp = layout, hp
        self.kind = "categorical" if layout.is_discrete else hp.policy_distribution
        outputs = layout.action_size * (2 if self.kind == "beta" else 1)
        self.network = _network(
            layout.observation_size, hp.actor_hidden_size, hp.actor_num_layers, outputs, self.OUTPUT_GAIN
        )
        if self.kind == "gaussian":
            self.log_std = nn.Parameter(torch.full((layout.action_size,), float(hp.initial_log_std)))
        self.register_buffer("observation_mask", layout.observation_mask().float(), persistent=False)  # (N, O)
        self.register_buffer("action_mask", layout.action_mask().float(), persistent=False)  # (N, A)
        self.float()  # whatever torch.set_default_dtype says

    def forward(self, observations: torch.Tensor, agents: torch.Tensor | None = None) -> PolicyDistribution:
        """The policy of every agent.

        Args:
            observations: (..., N, O), or (B, O) together with `agents`.
            agents: (B,) which agent each row of (B, O) belongs to.
        """
        observation_mask = self.observation_mask if agents is None else self.observation_mask[agents]
        action_mask = self.action_mask if agents is None else self.action_mask[agents]
        outputs = self.network(observations * observation_mask)
        if self.kind == "categorical":
            return MaskedCategorical(outputs, action_mask)
        if self.kind == "beta":
            alpha, beta = (functional.softplus(outputs) + 1).chunk(2, dim=-1)
            return MaskedBeta(alpha, beta, action_mask)
        return MaskedGaussian(outputs, 0.5 * self.log_std.sigmoid(), action_mask)

    @torch.no_grad()
    def act(self, observations: torch.Tensor, deterministic: bool) -> torch.Tensor:
        """Actions for a mixed batch of agents, as a runner needs them: each observation tells whose it is.

        Args:
            observations: (B, O) padded.
            deterministic: the mean, or the likeliest choice, instead of a draw.

        Returns:
            (B, A) before clipping, or (B,) int64.
        """
        policy = self(observations, self.layout.agent_index(observations))
        return policy.deterministic() if deterministic else policy.sample()

    def executed(self, actions: torch.Tensor) -> torch.Tensor:
        """Drawn actions as the environment executes and the world model sees them: clipped to [-1, 1], or one-hot."""
        if self.layout.is_discrete:
            return functional.one_hot(actions, self.layout.action_size).to(self.action_mask.dtype)
        return actions.clamp(-1, 1)

    def loss(self, batch: PPOBatch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Eq. 21: clipped surrogate with one advantage for all agents, and the entropy bonus; mean over agents."""
        policy = self(batch.observations)
        log_ratio = policy.log_prob(batch.actions) - batch.log_probs  # (M, N)
        ratio, advantage, epsilon = log_ratio.exp(), batch.advantages.unsqueeze(1), self.hp.clip_param
        surrogate = torch.minimum(ratio * advantage, ratio.clamp(1 - epsilon, 1 + epsilon) * advantage)
        entropy = policy.entropy().mean()
        loss = -surrogate.mean() - self.hp.entropy_coeff * entropy
        with torch.no_grad():
            metrics = {
                "policy_loss": loss.detach(),
                "entropy": entropy.detach(),
                "kl": (ratio - 1 - log_ratio).mean(),
                "clip_fraction": ((ratio - 1).abs() > epsilon).float().mean(),
            }
        return loss, metrics


class Critic(nn.Module):
    """The centralised value V_xi(s) on normalised global states, with its value normaliser.

    Args:
        layout: sizes.
        hp: hyperparameters.
    """

    def __init__(self, layout: AgentLayout, hp: Hyperparameters) -> None:
        super().__init__()
        self.hp = hp
        self.network = _network(layout.state_size, hp.critic_hidden_size, hp.critic_num_layers, 1, 1.0).float()
        self.value_normalizer = ValueNormalizer(hp.value_normalization_beta, hp.normalize_values)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """Raw outputs, on the normaliser's scale: (..., S) -> (...)."""
        return self.network(states).squeeze(-1)

    def loss(self, batch: PPOBatch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Eq. 20 with the released code's Huber error and value clipping, each switchable."""
        targets = self.value_normalizer.normalize(batch.returns)
        values = self(batch.states)
        error = self._error(values, targets)
        if self.hp.value_clip_param > 0:
            limit = self.hp.value_clip_param
            clipped = batch.values + (values - batch.values).clamp(-limit, limit)
            error = torch.maximum(error, self._error(clipped, targets))
        loss = error.mean()
        with torch.no_grad():
            unexplained = (targets - values).var(correction=0) / targets.var(correction=0).clamp(min=1e-8)
        return loss, {"value_loss": loss.detach(), "explained_variance": 1 - unexplained}

    def _error(self, values: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        if self.hp.value_loss == "huber":
            return functional.huber_loss(values, targets, reduction="none", delta=self.hp.value_huber_delta)
        return (values - targets).square()


def lambda_returns(
    rewards: torch.Tensor, continuations: torch.Tensor, values: torch.Tensor, gamma: float, lambda_: float
) -> torch.Tensor:
    """Eq. 19 with DreamerV1's index: V_l(t) = r_t + g_t [(1 - l) V(s_{t+1}) + l V_l(t+1)], V_l(H) = V(s_H).

    Args:
        rewards: (H, B).
        continuations: (H, B) probability of going on after step t; g_t = gamma * continuations[t].
        values: (H + 1, B) of states 0..H.
        gamma: discount.
        lambda_: weight of longer returns.

    Returns:
        (H, B) returns of steps 0..H-1.
    """
    horizon = len(rewards)
    assert values.shape[0] == horizon + 1, "values are those of states 0..H"
    tail, returns = values[-1], []
    for t in reversed(range(horizon)):
        tail = rewards[t] + gamma * continuations[t] * ((1 - lambda_) * values[t + 1] + lambda_ * tail)
        returns.append(tail)
    return torch.stack(returns[::-1])


@torch.no_grad()
def ppo_batch(
    rollout: Rollout, critic: Critic, hp: Hyperparameters, reward_scale: torch.Tensor | float = 1.0
) -> tuple[PPOBatch, dict[str, torch.Tensor]]:
    """Evaluates a rollout with the critic: returns, advantages, and the flattened batch of M = H * B steps.

    Everything but the metrics is in units of `reward_scale`, so that learning does not depend on the reward's.
    """
    raw_values = critic(rollout.states)  # (H + 1, B)
    values = critic.value_normalizer.denormalize(raw_values)
    returns = lambda_returns(rollout.rewards / reward_scale, rollout.continuations, values, hp.gamma, hp.lambda_)
    critic.value_normalizer.update(returns)
    advantages = returns - values[:-1]
    metrics = {
        "imagined_reward_mean": rollout.rewards.mean(),
        "imagined_return_mean": returns.mean() * reward_scale,
        "imagined_continuation_mean": rollout.continuations.mean(),
        "advantage_std": advantages.std(correction=0) * reward_scale,
    }
    if hp.normalize_advantages:
        advantages = (advantages - advantages.mean()) / (advantages.std(correction=0) + 1e-5)
    columns = (
        rollout.states[:-1], rollout.observations, rollout.actions, rollout.log_probs, advantages, returns,
        raw_values[:-1],
    )  # fmt: skip
    return PPOBatch(*(column.flatten(0, 1) for column in columns)), metrics
