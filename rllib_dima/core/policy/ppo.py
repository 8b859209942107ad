"""From rollouts to what PPO needs: returns and advantages."""

from __future__ import annotations

import torch

from rllib_dima.core.policy.data import PPOBatch, Rollout
from rllib_dima.core.policy.hyperparameters import PolicyHyperparameters
from rllib_dima.core.policy.networks import Critic
from rllib_dima.core.policy.returns import lambda_returns


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

    Everything but the metrics is in units of `reward_scale`, so that learning does not depend on the reward's. With
    `weigh_by_continuation` a step counts by the probability that the rollout has not ended before it. What is learnt of
    agents is learnt of those that are `alive` (H, B, N); None: all are.
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
    columns = [
        rollout.states[:-1], rollout.observations, rollout.actions, rollout.log_probs, advantages, returns,
        raw_values[:-1],
    ]  # fmt: skip
    if weigh_by_continuation:
        columns.append(reach_probabilities(rollout.continuations))
    if alive is not None:
        columns += [*([] if weigh_by_continuation else [torch.ones_like(returns)]), alive]
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
    of_agents = (len(batch.advantages), 1 if batch.alive is None else batch.alive.shape[1])
    centred = batch.advantages - batch.mean(batch.advantages.unsqueeze(1).expand(of_agents))
    deviation = batch.mean(centred.square().unsqueeze(1).expand(of_agents)).sqrt()
    return batch._replace(advantages=centred / (deviation + 1e-5))
