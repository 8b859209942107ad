"""How a next state is sampled: the noise levels, and whose actions each denoising step sees."""

from __future__ import annotations

import torch


def karras_schedule(steps: int, sigma_min: float, sigma_max: float, rho: float) -> list[float]:
    """`steps` decreasing noise levels and a final 0 (Karras et al. 2022, eq. 5)."""
    low, high = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
    fractions = [i / (steps - 1) if steps > 1 else 0.0 for i in range(steps)]
    return [(high + fraction * (low - high)) ** rho for fraction in fractions] + [0.0]


def visible_in_sampling(
    conditioning: str, order: str, steps: int, batch_size: int, num_agents: int, device: torch.device
) -> torch.Tensor:
    """Which of the present actions each denoising step sees, (K, B, N) bool.

    sequential: one agent per step, each for K / N consecutive steps (for example 2,2,1,1 in descending order); random
    shuffles that sequence anew for every sample. cumulative: step j sees the first ceil((j + 1) N / K) agents of the
    order. joint: all.
    """
    if conditioning == "joint":
        return torch.ones(steps, batch_size, num_agents, dtype=torch.bool, device=device)
    if conditioning == "sequential":
        agents = torch.arange(steps, device=device) * num_agents // steps  # (K,) ascending
        agents = _arrange(agents, order, batch_size)  # (B, K)
        return torch.nn.functional.one_hot(agents, num_agents).bool().transpose(0, 1)
    agents = _arrange(torch.arange(num_agents, device=device), order, batch_size)  # (B, N)
    place = agents.argsort(dim=1)  # (B, N): when an agent is revealed
    step = torch.arange(steps, device=device).view(-1, 1, 1)
    num_revealed = ((step + 1) * num_agents + steps - 1) // steps  # (K, 1, 1), the ceiling
    return place < num_revealed


def _arrange(sequence: torch.Tensor, order: str, batch_size: int) -> torch.Tensor:
    """(M,) -> (B, M): as it is, reversed, or shuffled for every sample."""
    if order == "random":
        return sequence[
            torch.rand(batch_size, len(sequence), dtype=torch.float32, device=sequence.device).argsort(dim=1)
        ]
    return (sequence if order == "ascending" else sequence.flip(0)).expand(batch_size, -1)
