"""Generalised advantage estimation over what the environments delivered.

    delta_t = r_t + gamma V(s_{t+1}) - V(s_t)        g_t = delta_t + gamma lambda g_{t+1}        R_t = g_t + V(s_t)

At the end of a trajectory g_{t+1} is 0; V(s_{t+1}) is 0 where the task ended.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from rllib_dima.core.model_free.hyperparameters import OnPolicyHyperparameters
from rllib_dima.core.policy.data import PPOBatch
from rllib_dima.core.policy.networks import Critic
from rllib_dima.core.policy.ppo import standardised
from rllib_dima.core.replay.data import Trajectory


def generalised_returns(
    trajectory: Trajectory, values: np.ndarray, gamma: float, lambda_: float, time_limits: str
) -> np.ndarray:
    """R_t of every step of a trajectory.

    Args:
        trajectory: T steps. If it ended neither by itself nor by a time limit, it is a part of an episode.
        values: (T + 1,) of all its states, in units of the rewards.
        gamma: discount.
        lambda_: decay.
        time_limits: as in `OnPolicyHyperparameters`.

    Returns:
        (T,) float64.
    """
    values = np.array(values, dtype=np.float64)
    if trajectory.terminated or (trajectory.is_at_time_limit and time_limits == "termination"):
        values[-1] = 0.0
    deltas = trajectory.rewards + gamma * values[1:] - values[:-1]
    if trajectory.is_at_time_limit and time_limits == "no_advantage":
        deltas[-1] = 0.0
    advantage, advantages = 0.0, []
    for delta in reversed(deltas.tolist()):
        advantage = delta + gamma * lambda_ * advantage
        advantages.append(advantage)
    return np.array(advantages[::-1]) + values[:-1]


@torch.no_grad()
def on_policy_batch(
    trajectories: Sequence[Trajectory], critic: Critic, hp: OnPolicyHyperparameters, device: torch.device
) -> tuple[PPOBatch, dict[str, torch.Tensor]]:
    """Evaluates what the present policy did: returns and advantages of all B steps, one trajectory after the other."""
    states = [torch.as_tensor(trajectory.states) for trajectory in trajectories]
    raw_values = critic(torch.cat(states).to(device))
    lengths = [len(trajectory_states) for trajectory_states in states]  # T + 1
    values = critic.value_normalizer.denormalize(raw_values).cpu().split(lengths)
    returns = [
        torch.from_numpy(generalised_returns(trajectory, own.numpy(), hp.gamma, hp.lambda_, hp.time_limits))
        for trajectory, own in zip(trajectories, values, strict=True)
    ]
    advantages = torch.cat([own - value[:-1] for own, value in zip(returns, values, strict=True)])
    metrics = {
        "return_mean": torch.cat(returns).mean(),
        "value_mean": torch.cat(values).mean(),
        "advantage_std": advantages.std(correction=0),
    }
    observations = _joined(trajectories, "observations")
    alive = critic.layout.alive(observations)
    batch = PPOBatch(
        states=torch.cat([own[:-1] for own in states]),
        observations=observations,
        actions=_joined(trajectories, "drawn_actions"),
        log_probs=_joined(trajectories, "log_probs"),
        advantages=advantages,  # float64 until they are standardised
        returns=torch.cat(returns).float(),
        values=torch.cat([own[:-1] for own in raw_values.split(lengths)]),
        weights=None if alive is None else torch.ones(len(observations)),
        alive=alive,
    )
    batch = standardised(batch) if hp.normalize_advantages else batch
    batch = batch._replace(advantages=batch.advantages.float())
    return PPOBatch(*(column.to(device) for column in batch.columns())), {k: v.to(device) for k, v in metrics.items()}


def _joined(trajectories: Sequence[Trajectory], name: str) -> torch.Tensor:
    """(B, ...) a column of all trajectories; discrete actions as int64."""
    values = torch.from_numpy(np.concatenate([getattr(trajectory, name) for trajectory in trajectories]))
    return values.float() if values.is_floating_point() else values.long()
