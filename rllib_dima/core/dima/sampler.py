"""How a next state is sampled: the noise levels, and whose actions each denoising step sees."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from rllib_dima.core.hyperparameters import Hyperparameters, knob
from rllib_dima.core.layout import AgentLayout


@dataclass(frozen=True)
class SamplerHyperparameters(Hyperparameters):
    """How a next state is sampled."""

    conditioning: str = knob(
        "sequential",
        "What a denoising step sees of the present joint action: one agent (sequential, the paper), all agents "
        "(joint, the paper's ablation), or all agents revealed so far (cumulative).",
        choices=("sequential", "joint", "cumulative"),
    )
    conditioning_order: str = knob(
        "descending",
        "Order in which agents are revealed while denoising; random draws anew for every imagined step.",
        choices=("descending", "ascending", "random"),
    )
    num_denoising_steps: int = knob(0, "Denoising steps; 0 means 2N for N <= 2 agents, else N.", symbol="K", low=0)
    sampler_solver: str = knob(
        "euler",
        "ODE solver of the sampler. Heun is of second order, but only without offset noise: with it, slopes at the "
        "smallest noise levels are far too steep.",
        choices=("euler", "heun"),
    )
    sampler_rho: float = knob(7.0, "Curvature of the Karras noise schedule.", symbol="rho", low=1e-6)
    sampler_sigma_min: float = knob(2e-3, "Last noise level before 0.", low=1e-9)
    sampler_sigma_max: float = knob(5.0, "First noise level.", low=1e-9)
    sampler_start_noise: float = knob(
        1.0, "Scale of the noise that sampling starts with; 0 starts at the mean, without chance.", low=0.0
    )
    sampler_churn: float = knob(
        0.0, "Stochasticity of the sampler (Karras et al. 2022); 0 is off.", symbol="S_churn", low=0
    )
    sampler_churn_noise: float = knob(1.0, "Scale of the churn noise.", symbol="S_noise", low=0.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.sampler_sigma_min > self.sampler_sigma_max:
            raise ValueError(
                f"sampler_sigma_min ({self.sampler_sigma_min}) exceeds sampler_sigma_max ({self.sampler_sigma_max})."
            )

    def check_team(self, layout: AgentLayout) -> None:
        """As `denoising_steps` does."""
        super().check_team(layout)
        self.denoising_steps(layout.num_agents)

    def denoising_steps(self, num_agents: int) -> int:
        """K, the number of denoising steps for a team of `num_agents` (Table 4 of the appendix).

        Raises:
            ValueError: if sequential conditioning would never show some agent's action.
        """
        steps = self.num_denoising_steps or (2 * num_agents if num_agents <= 2 else num_agents)
        if self.conditioning == "sequential" and steps < num_agents:
            raise ValueError(
                f"num_denoising_steps ({steps}) is smaller than the number of agents ({num_agents}): with sequential "
                "conditioning some agents' actions would never be seen. Use at least one step per agent, or "
                "conditioning='cumulative' or 'joint'."
            )
        return steps


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
