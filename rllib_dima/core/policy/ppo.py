"""From rollouts to what PPO needs: returns and advantages; and its passes over them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch

from rllib_dima.core.policy.data import PPOBatch, Rollout
from rllib_dima.core.policy.hyperparameters import PolicyHyperparameters
from rllib_dima.core.policy.networks import Actor, Critic
from rllib_dima.core.policy.returns import lambda_returns
from rllib_dima.core.training.metrics import RunningMeans
from rllib_dima.core.training.optimization import ModelOptimizer


@torch.no_grad()
def ppo_batch(
    rollout: Rollout,
    critic: Critic,
    hp: PolicyHyperparameters,
    reward_scale: torch.Tensor | float = 1.0,
    weigh_by_continuation: bool = False,
    alive: torch.Tensor | None = None,
) -> tuple[PPOBatch, dict[str, torch.Tensor]]:
    """Evaluates a rollout with the critic: returns, advantages, and the flattened batch of M = H * B steps.

    Returns and advantages are of the team, (M,), or of every agent, (M, N), as the critic's values are; agents may
    share rewards (H, B, 1) then. Everything but the metrics is in units of `reward_scale`, so that learning does not
    depend on the reward's. With `weigh_by_continuation` a step counts by the probability that the rollout has not ended
    before it. What is learnt of agents is learnt of those that are `alive` (H, B, N); None: all are.
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
    one_per_step = torch.ones_like(rollout.log_probs[..., 0])  # (H, B)
    columns = [
        rollout.states[:-1], rollout.observations, rollout.actions, rollout.log_probs, advantages, returns,
        raw_values[:-1],
    ]  # fmt: skip
    if weigh_by_continuation:
        columns.append(reach_probabilities(rollout.continuations))
    if alive is not None:
        columns += [*([] if weigh_by_continuation else [one_per_step]), alive]
    batch = PPOBatch(*(column.flatten(0, 1) for column in columns))
    return (standardised(batch) if hp.normalize_advantages else batch), metrics


def reach_probabilities(continuations: torch.Tensor) -> torch.Tensor:
    """The probability that a rollout goes on until each step, (H, B) -> (H, B): 1, c_0, c_0 c_1, ..."""
    return torch.cat([torch.ones_like(continuations[:1]), continuations[:-1]]).cumprod(dim=0)


def standardised(batch: PPOBatch) -> PPOBatch:
    """The batch with advantages of (weighted) mean 0 and standard deviation 1 over what actors learn from.

    That is a mean over living agents, for each of which a step's advantage counts.
    """
    if batch.weights is None:
        centred = batch.advantages - batch.advantages.mean()
        return batch._replace(advantages=centred / (batch.advantages.std(correction=0) + 1e-5))
    num_steps = len(batch.advantages)
    by_agent = (num_steps, 1 if batch.alive is None else batch.alive.shape[1])
    centred = batch.advantages - batch.mean(batch.advantages.view(num_steps, -1).expand(by_agent))
    deviation = batch.mean(centred.square().view(num_steps, -1).expand(by_agent)).sqrt()
    return batch._replace(advantages=centred / (deviation + 1e-5))


class PPOEpochs:
    """Passes of actor and critic over a batch, in minibatches.

    Args:
        hp: hyperparameters.
        actor: the policy.
        critic: the value function.
        optimizers: with those of "actor" and "critic".
        means: of metrics, with those of "actor" and "critic".
        side_by_side: runs updates that do not depend on each other.
    """

    def __init__(
        self,
        hp: PolicyHyperparameters,
        actor: Actor,
        critic: Critic,
        optimizers: Mapping[str, ModelOptimizer],
        means: Mapping[str, RunningMeans],
        side_by_side: Callable[[Sequence[Callable[[], None]]], None],
    ) -> None:
        self.hp, self.actor, self.critic = hp, actor, critic
        self._optimizers, self._means, self._side_by_side = optimizers, means, side_by_side

    def begin(self) -> None:
        """Counts the updates of the next pass; to be called before it."""
        for name in ("actor", "critic"):
            self._optimizers[name].begin_update(self.hp.ppo_minibatches)

    def run(self, *columns: torch.Tensor) -> None:
        """One pass; tensor operations alone.

        Args:
            *columns: of a `PPOBatch`.
        """
        for minibatch in PPOBatch(*columns).minibatches(self.hp.ppo_minibatches):
            self._side_by_side([partial(self._update, network, minibatch) for network in (self.actor, self.critic)])

    def _update(self, network: Actor | Critic, minibatch: PPOBatch) -> None:
        loss, metrics = network.loss(minibatch)
        name = "actor" if network is self.actor else "critic"
        self._means[name].add(metrics | {f"{name}_grad_norm": self._optimizers[name].step(loss)})
