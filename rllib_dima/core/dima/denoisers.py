"""The denoising networks F_theta to choose from: the paper's U-Net over time, or a residual MLP.

Both have an `action_encoder`, which turns the visible actions into a vector, and are called with

    noisy (B, S), c_noise (B,) or (1,), context (B, L, S), encoded actions (B, E) -> (B, S)
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn

from rllib_dima.core.dima.action_encoder import ActionSetEncoder, FlatActionEncoder, SumActionEncoder
from rllib_dima.core.dima.unet1d import UNet1d, UNetHyperparameters
from rllib_dima.core.hyperparameters import knob
from rllib_dima.core.layout import AgentLayout
from rllib_dima.core.residual_mlp import ResidualMLP


@dataclass(frozen=True)
class DenoiserHyperparameters(UNetHyperparameters):
    """What the denoising network is made with."""

    dynamics_network: str = knob(
        "unet",
        "Denoising network: the paper's U-Net over time (unet), or a residual MLP over all context states at once, "
        "which is cheaper and more accurate (mlp).",
        choices=("unet", "mlp"),
    )
    dynamics_action_size: int = knob(256, "Width of the action-set encoder's tokens (unet).", low=1)
    dynamics_width: int = knob(512, "Width of the residual MLP (mlp).", low=1)
    dynamics_num_blocks: int = knob(2, "Residual blocks of the MLP (mlp).", low=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.dynamics_condition_size % 2:
            raise ValueError(f"dynamics_condition_size must be even, but is {self.dynamics_condition_size}.")


class FourierFeatures(nn.Module):
    """Fixed random features of a scalar: cos and sin of 2 pi f c with normal frequencies f.

    Args:
        size: number of features, half of them cosines.
    """

    frequencies: torch.Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.register_buffer("frequencies", torch.randn(size // 2))

    def forward(self, c: torch.Tensor) -> torch.Tensor:
        """(B,) -> (B, size)."""
        angles = 2 * math.pi * c.unsqueeze(-1) * self.frequencies
        return torch.cat([angles.cos(), angles.sin()], dim=-1)


class UNetDenoiser(nn.Module):
    """The paper's: noise level and actions condition a U-Net over the context states and the noisy one.

    Args:
        layout: sizes.
        hp: hyperparameters.
    """

    def __init__(self, layout: AgentLayout, hp: DenoiserHyperparameters) -> None:
        super().__init__()
        size = hp.dynamics_condition_size
        self.action_encoder: ActionSetEncoder = SumActionEncoder(
            hp.context_length, layout.num_agents, layout.action_mask(), hp.dynamics_action_size, size
        )
        self.noise_features = FourierFeatures(size)
        self.condition = nn.Sequential(nn.Linear(size, size), nn.SiLU(), nn.Linear(size, size))
        self.unet = UNet1d(layout.state_size, hp)

    def forward(
        self, noisy: torch.Tensor, c_noise: torch.Tensor, context: torch.Tensor, actions: torch.Tensor
    ) -> torch.Tensor:
        """See the head of this file."""
        condition = self.condition(self.noise_features(c_noise) + actions)  # (B, E)
        sequence = torch.cat([context, noisy.unsqueeze(1)], dim=1)  # (B, L + 1, S)
        return self.unet(sequence, condition)[:, -1].to(noisy.dtype)


class MLPDenoiser(nn.Module):
    """A residual MLP of everything at once: context states, noisy state, visible actions and noise level.

    Args:
        layout: sizes.
        hp: hyperparameters.
    """

    def __init__(self, layout: AgentLayout, hp: DenoiserHyperparameters) -> None:
        super().__init__()
        self.action_encoder = FlatActionEncoder(hp.context_length, layout.num_agents, layout.action_mask())
        size_in = (hp.context_length + 1) * layout.state_size + self.action_encoder.output_size + 1
        self.mlp = ResidualMLP(size_in, hp.dynamics_width, hp.dynamics_num_blocks, layout.state_size)

    def forward(
        self, noisy: torch.Tensor, c_noise: torch.Tensor, context: torch.Tensor, actions: torch.Tensor
    ) -> torch.Tensor:
        """See the head of this file."""
        level = c_noise.unsqueeze(1).expand(len(noisy), 1)
        return self.mlp(torch.cat([noisy, context.flatten(1), actions, level], dim=1)).to(noisy.dtype)


DENOISERS: dict[str, type[UNetDenoiser | MLPDenoiser]] = {"unet": UNetDenoiser, "mlp": MLPDenoiser}
