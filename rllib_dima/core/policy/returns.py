"""Lambda-returns."""

from __future__ import annotations

import torch


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
