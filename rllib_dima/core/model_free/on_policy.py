"""Actor and critic updates on what the present policy did: the ground that MAPPO and HAPPO stand on.

for each iteration:
    values, returns and advantages of all steps, with the critic and the value normaliser as they are
    for each of ppo_epochs:    the actor's, or every agent's, clipped surrogate
    for each of ppo_epochs:    the value normaliser, then the critic
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch
from torch import nn

from rllib_dima.core.layout import AgentLayout
from rllib_dima.core.model_free.advantages import on_policy_batch
from rllib_dima.core.model_free.hyperparameters import OnPolicyHyperparameters
from rllib_dima.core.model_free.trainer import ModelFreeTrainer
from rllib_dima.core.policy.data import PPOBatch
from rllib_dima.core.policy.distributions import PolicyDistribution
from rllib_dima.core.policy.networks import AgentActors, Critic
from rllib_dima.core.policy.value_normalizer import ValueNormalizer
from rllib_dima.core.replay.data import Trajectory, check_trajectory
from rllib_dima.core.trainer import Metrics
from rllib_dima.core.training.random_numbers import own_random_numbers


class OnPolicyCritic(Critic):
    """V(s) of raw global states: the layer norm on the input standardises each of them, as HARL does.

    Args:
        layout: sizes.
        hp: hyperparameters.
    """

    def __init__(self, layout: AgentLayout, hp: OnPolicyHyperparameters) -> None:
        super().__init__(layout, hp)
        self.value_normalizer = ValueNormalizer(hp.value_normalization_beta, hp.normalize_values, hp.initial_value_std)


class OnPolicyTrainer(ModelFreeTrainer):
    """Learns from the steps of one iteration and forgets them; subclasses say how actors are updated.

    With several learners all compute the same: steps, minibatches and orders are those of one.
    """

    ON_POLICY = True

    critic: OnPolicyCritic

    def _set_up(self, networks: dict[str, Any]) -> None:
        super()._set_up(networks)
        self._fresh: list[Trajectory] = []

    def add(self, trajectories: Sequence[Trajectory]) -> None:
        for trajectory in trajectories:
            check_trajectory(trajectory, self.layout)
            if trajectory.log_probs is None or trajectory.drawn_actions is None:
                raise ValueError(
                    "A trajectory lacks the actions as they were drawn, or their log-probabilities, which on-policy "
                    "algorithms learn from: collect it with TeamEnvRunner, exploring."
                )
        self._fresh += [trajectory for trajectory in trajectories if len(trajectory)]
        self.num_env_steps += sum(map(len, trajectories))

    def train_iteration(self) -> Metrics:
        if not self._fresh:
            return {"time": self.clock.pop()}
        super().set_learning_rates(self.hp)
        for optimizer in self.optimizers.values():
            optimizer.lr *= self.hp.learning_rate_factor(self.num_iterations)
        with self._learning(stream=0):
            with self.clock.timed("advantages"):
                batch, metrics = on_policy_batch(self._fresh, self.critic, self.hp, self.device)
            with self.clock.timed("actor"):
                self._update_actors(batch)
            with self.clock.timed("critic"):
                self._update_critic(batch, metrics)
        self._fresh = []
        return self._report_parts()

    def random_numbers(self, stream: int) -> AbstractContextManager:
        """Of all learners alike, also without a seed: they average gradients of the same minibatches."""
        if self._given_seed is not None:
            return super().random_numbers(stream)
        entropy = np.random.SeedSequence(self._shared_entropy(self.actor))
        return own_random_numbers(int(entropy.generate_state(1)[0]), self.device)

    def set_learning_rates(self, hp: OnPolicyHyperparameters) -> None:
        """Those of `hp` from the next iteration on, as far as they have decayed by then."""
        self.hp = hp

    @abstractmethod
    def _update_actors(self, batch: PPOBatch) -> None:
        """All actor updates of an iteration."""

    def _trained(self) -> dict[str, nn.Module]:
        """One actor, or one per agent."""
        actors: dict[str, nn.Module] = {"actor": self.actor}
        if isinstance(self.actor, AgentActors):
            actors = {f"actor_{agent}": actor for agent, actor in enumerate(self.actor.actors)}
        return {**actors, "critic": self.critic}

    def _train_actor(self, name: str, batch: PPOBatch, agents: Sequence[int], factors: torch.Tensor) -> None:
        """PPO epochs of one network over the steps of the agents that it acts for.

        Args:
            name: of the network and its optimiser.
            batch: B steps of all agents.
            agents: n of them.
            factors: (B,) what advantages are multiplied with.
        """
        chosen = torch.tensor(list(agents), device=self.device)
        network = self._trained()[name]
        columns = (batch.observations, batch.actions, batch.log_probs)
        observations, actions, log_probs = (column[:, chosen] for column in columns)  # (B, n, ...)
        alive = None if batch.alive is None else batch.alive[:, chosen]
        for _ in range(self.hp.ppo_epochs):
            self.optimizers[name].begin_update(self.hp.ppo_minibatches)
            for rows in self._minibatches(len(factors), len(agents)):
                index = (rows, torch.arange(len(agents), device=self.device))  # (M, n): every agent's own steps
                policy = network(observations[index], chosen)
                present = None if alive is None else alive[index]
                loss, metrics = surrogate_loss(
                    policy, actions[index], log_probs[index], batch.advantages[rows], factors[rows], self.hp, present
                )
                self._means["actor"].add(metrics | {"actor_grad_norm": self.optimizers[name].step(loss)})

    def _update_critic(self, batch: PPOBatch, metrics: dict[str, torch.Tensor]) -> None:
        """Epochs of the critic; the value normaliser sees every minibatch before its targets are normalised."""
        for _ in range(self.hp.ppo_epochs):
            self.optimizers["critic"].begin_update(self.hp.ppo_minibatches)
            for rows in self._minibatches(len(batch.returns), 1):
                minibatch = PPOBatch(*(column[rows.squeeze(1)] for column in batch.columns()))
                self.critic.value_normalizer.update(minibatch.returns)
                loss, losses = self.critic.loss(minibatch)
                norm = self.optimizers["critic"].step(loss)
                self._means["critic"].add({**losses, "critic_grad_norm": norm, **metrics})

    def _minibatches(self, num_steps: int, num_agents: int) -> Iterator[torch.Tensor]:
        """(M, n) the steps in `ppo_minibatches` parts, in another random order for every agent."""
        if self.hp.ppo_minibatches == 1:
            yield torch.arange(num_steps, device=self.device).unsqueeze(1).expand(-1, num_agents)
            return
        order = torch.rand(num_steps, num_agents, device=self.device, dtype=torch.float64).argsort(0)
        yield from order.tensor_split(self.hp.ppo_minibatches)


def surrogate_loss(
    policy: PolicyDistribution,
    actions: torch.Tensor,
    log_probs: torch.Tensor,
    advantages: torch.Tensor,
    factors: torch.Tensor,
    hp: OnPolicyHyperparameters,
    alive: torch.Tensor | None = None,
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """- mean of M min(r A, clip(r) A), less the entropy bonus, over the agents that are alive.

    Args:
        policy: of M steps of n agents.
        actions: (M, n, A) or (M, n), as drawn.
        log_probs: (M, n) of them when they were drawn.
        advantages: (M, n) A.
        factors: (M, n) M, without gradient.
        hp: clipping and entropy bonus.
        alive: (M, n) 1 for those who are, else 0; None: all are. Others have a log-probability and an entropy of 0.
    """
    log_ratio, epsilon = policy.log_prob(actions) - log_probs, hp.clip_param
    assert log_ratio.shape == advantages.shape == factors.shape, "a product over other shapes would broadcast"
    ratio = log_ratio.exp()
    surrogate = torch.minimum(ratio * advantages, ratio.clamp(1 - epsilon, 1 + epsilon) * advantages)
    entropy = policy.entropy().expand(log_ratio.shape)  # a Gaussian's is that of no state in particular
    bonus = entropy.sum() if hp.entropy_reduction == "sum" else living_mean(entropy, alive)
    loss = -living_mean(factors * surrogate, alive) - hp.entropy_coeff * bonus
    with torch.no_grad():
        metrics = {
            "policy_loss": loss.detach(),
            "entropy": living_mean(entropy, alive),
            "kl": living_mean(ratio - 1 - log_ratio, alive),
            "clip_fraction": living_mean(((ratio - 1).abs() > epsilon).float(), alive),
        }
    return loss, metrics


def living_mean(x: torch.Tensor, alive: torch.Tensor | None) -> torch.Tensor:
    """The mean over those who are alive; 0 without any."""
    return x.mean() if alive is None else (x * alive).sum() / alive.sum().clamp(min=1)
