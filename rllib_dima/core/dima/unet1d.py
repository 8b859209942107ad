"""The denoising network F_theta: a 1-D U-Net over a few time steps, conditioned by adaptive group norm.

DIAMOND's 2-D U-Net (Alonso et al. 2024) with the L context states and the noisy next state in place of an image:
length L + 1, one channel per state entry. Tensors are (B, length, channels), channels last: on sequences of 4, 2 and
1 positions a convolution is then one matrix product.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import nn
from torch.nn import functional

from rllib_dima.core.hyperparameters import Hyperparameters, knob


@dataclass(frozen=True)
class UNetHyperparameters(Hyperparameters):
    """What the U-Net is made with."""

    context_length: int = knob(3, "States and joint actions t-L+1..t that the dynamics model sees.", symbol="L", low=1)
    dynamics_channels: int = knob(64, "Channels of the U-Net at every level.", low=1)
    dynamics_num_levels: int = knob(3, "Resolution levels of the U-Net; each halves the time axis.", low=1)
    dynamics_blocks_per_level: int = knob(2, "Residual blocks per level (one more on the way up).", low=1)
    dynamics_condition_size: int = knob(256, "Size of the conditioning vector of adaptive group norm.", low=2)
    dynamics_group_size: int = knob(32, "Channels per group of group norm.", low=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        for channels in (self.dynamics_channels, 2 * self.dynamics_channels):
            groups = max(1, channels // self.dynamics_group_size)
            if channels % groups:
                raise ValueError(
                    f"dynamics_channels ({self.dynamics_channels}) must split into equal groups, but {channels} "
                    f"channels (a block's input) do not split into {groups} groups "
                    f"(dynamics_group_size is {self.dynamics_group_size}). "
                    "Choose a multiple of dynamics_group_size, or fewer channels than one group has."
                )
        time_steps, multiple = self.context_length + 1, 2 ** (self.dynamics_num_levels - 1)
        if multiple > 2 * time_steps:
            raise ValueError(
                f"dynamics_num_levels ({self.dynamics_num_levels}) halves the time axis more often than the U-Net's "
                f"{time_steps} time steps (context_length + 1) allow: it would be padded to {multiple}. Use at most "
                f"{(2 * time_steps).bit_length()} levels, or a longer context."
            )


class Conv3(nn.Module):
    """Convolution of kernel 3 and padding 1 over the time axis, as one matrix product.

    Args:
        channels_in: channels of the input.
        channels_out: channels of the output.
        zero: start as the zero map.
    """

    def __init__(self, channels_in: int, channels_out: int, zero: bool = False) -> None:
        super().__init__()
        reference = nn.Conv1d(channels_in, channels_out, 3)  # for its initialisation
        assert reference.bias is not None
        self.weight = nn.Parameter(reference.weight.detach().permute(0, 2, 1).reshape(channels_out, -1))
        self.bias = nn.Parameter(reference.bias.detach())
        if zero:
            nn.init.zeros_(self.weight)
            nn.init.zeros_(self.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, T, channels_in) -> (B, T, channels_out)."""
        channels = x.shape[-1]
        if x.shape[1] == 1:  # only the middle tap meets a position
            return functional.linear(x, self.weight[:, channels : 2 * channels], self.bias)
        padded = functional.pad(x, (0, 0, 1, 1))
        taps = torch.cat([padded[:, :-2], x, padded[:, 2:]], dim=-1)  # (B, T, 3 * channels_in)
        return functional.linear(taps, self.weight, self.bias)


def adaptive_group_norm(x: torch.Tensor, groups: int, modulation: torch.Tensor) -> torch.Tensor:
    """Group norm over (time, channels of a group) with eps 1e-5, then x * (1 + scale) + shift.

    Args:
        x: (B, T, C).
        groups: G.
        modulation: (B, 2 C), scale and shift.
    """
    scale, shift = modulation.unsqueeze(1).chunk(2, dim=-1)  # (B, 1, C) each
    return torch.addcmul(shift, group_norm(x, groups), 1 + scale)


def group_norm(x: torch.Tensor, groups: int) -> torch.Tensor:
    """Group norm of (B, T, C) without learned scale, as one fused layer norm over each group's (time, channels)."""
    grouped = x.unflatten(-1, (groups, -1)).transpose(1, 2)  # (B, G, T, C / G)
    normalized = functional.layer_norm(grouped, grouped.shape[2:], eps=1e-5)
    return normalized.transpose(1, 2).flatten(-2)


class ResidualBlock(nn.Module):
    """x + conv(silu(norm(conv(silu(norm(x)))))), both norms adaptive, the last convolution zero at the start.

    Attributes:
        modulation_sizes: entries of the modulation of its two norms.
    """

    modulation_sizes: tuple[int, int]

    def __init__(self, channels_in: int, channels_out: int, group_size: int) -> None:
        super().__init__()
        self.groups = max(1, channels_in // group_size), max(1, channels_out // group_size)
        self.modulation_sizes = 2 * channels_in, 2 * channels_out
        self.conv1 = Conv3(channels_in, channels_out)
        self.conv2 = Conv3(channels_out, channels_out, zero=True)
        self.skip = nn.Linear(channels_in, channels_out) if channels_in != channels_out else nn.Identity()

    def forward(self, x: torch.Tensor, modulation: torch.Tensor) -> torch.Tensor:
        """x (B, T, channels_in), modulation (B, sum of modulation_sizes) -> (B, T, channels_out)."""
        first, second = modulation.split(self.modulation_sizes, dim=-1)
        hidden = self.conv1(functional.silu(adaptive_group_norm(x, self.groups[0], first)))
        return self.skip(x) + self.conv2(functional.silu(adaptive_group_norm(hidden, self.groups[1], second)))


class Downsample(nn.Module):
    """Halves the time axis: a convolution of kernel 3 and stride 2."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = Conv3(channels, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, T, C) -> (B, T / 2, C), for even T."""
        padded = functional.pad(x, (0, 0, 1, 0))  # position -1 is zero; the last tap never passes the end
        taps = torch.cat([padded[:, :-1:2], x[:, ::2], x[:, 1::2]], dim=-1)  # (B, T / 2, 3 C)
        return functional.linear(taps, self.conv.weight, self.conv.bias)


class Upsample(nn.Module):
    """Doubles the time axis: nearest neighbour, then a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = Conv3(channels, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, T, C) -> (B, 2 T, C)."""
        return self.conv(x.repeat_interleave(2, dim=1))


class UNet1d(nn.Module):
    """The U-Net between conv_in and conv_out: levels going down, two middle blocks, mirrored levels with skips.

    Each level has `dynamics_blocks_per_level` residual blocks on the way down and one more on the way up, where every
    block reads the concatenation with what the way down kept. The time axis is padded with zeros at its old end to a
    multiple of 2^(levels - 1), and cut again. The scales and shifts of all norms come from the condition in one
    matrix product.

    Args:
        size: channels of input and output, S.
        hp: network sizes.
    """

    def __init__(self, size: int, hp: UNetHyperparameters) -> None:
        super().__init__()
        channels, levels, blocks = hp.dynamics_channels, hp.dynamics_num_levels, hp.dynamics_blocks_per_level
        group = hp.dynamics_group_size
        self.multiple = 2 ** (levels - 1)
        self.groups_out = max(1, channels // group)
        self.conv_in = Conv3(size, channels)
        self.down = _levels(_level(channels, channels, blocks, group) for _ in range(levels))
        self.downsample = nn.ModuleList(Downsample(channels) for _ in range(levels - 1))
        self.middle = cast("Sequence[ResidualBlock]", _level(channels, channels, 2, group))
        self.up = _levels(_level(2 * channels, channels, blocks + 1, group) for _ in range(levels))
        self.upsample = nn.ModuleList(Upsample(channels) for _ in range(levels - 1))
        self.scale_out, self.shift_out = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
        self.conv_out = Conv3(channels, size, zero=True)
        in_order = [block for level in (*self.down, self.middle, *self.up) for block in level]
        self.modulation_sizes = [sum(block.modulation_sizes) for block in in_order]
        self.modulation = nn.Linear(hp.dynamics_condition_size, sum(self.modulation_sizes))

    def forward(self, x: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        """x (B, T, S), condition (B, D) -> (B, T, S)."""
        length = x.shape[1]
        modulations = iter(self.modulation(condition).split(self.modulation_sizes, dim=-1))
        x = functional.pad(x, (0, 0, -length % self.multiple, 0))
        x = self.conv_in(x)
        kept = []
        for level, blocks in enumerate(self.down):
            kept.append(x)  # the level's input, for the extra block on the way up
            for block in blocks:
                x = block(x, next(modulations))
                kept.append(x)
            if level < len(self.downsample):
                x = self.downsample[level](x)
        for block in self.middle:
            x = block(x, next(modulations))
        for level, blocks in enumerate(self.up):
            if level > 0:
                x = self.upsample[level - 1](x)
            for block in blocks:
                x = block(torch.cat([x, kept.pop()], dim=-1), next(modulations))
        x = torch.addcmul(self.shift_out, group_norm(x, self.groups_out), self.scale_out)
        return self.conv_out(functional.silu(x))[:, -length:]


def _levels(levels: Iterable[nn.ModuleList]) -> Sequence[Sequence[ResidualBlock]]:
    return cast("Sequence[Sequence[ResidualBlock]]", nn.ModuleList(levels))


def _level(channels_in: int, channels_out: int, blocks: int, group_size: int) -> nn.ModuleList:
    return nn.ModuleList(ResidualBlock(channels_in, channels_out, group_size) for _ in range(blocks))
