"""The scale on which MARIE bins numbers: logarithmic far from 0, linear near it."""

from __future__ import annotations

import torch


def symlog(x: torch.Tensor) -> torch.Tensor:
    """sign(x) ln(1 + |x|)."""
    return x.sign() * x.abs().log1p()


def symexp(x: torch.Tensor) -> torch.Tensor:
    """The inverse of `symlog`."""
    return x.sign() * x.abs().expm1()


def bin_centres(low: float, high: float, num_bins: int) -> torch.Tensor:
    """(num_bins,) the middles of bins of equal width."""
    width = (high - low) / num_bins
    return low + width * (torch.arange(num_bins, dtype=torch.float64) + 0.5).float()


def bin_numbers(x: torch.Tensor, low: float, high: float, num_bins: int) -> torch.Tensor:
    """int64 of the same shape: the bin of each number; a number on an edge is in the lower bin.

    Numbers outside count as the nearest inside.
    """
    scaled = (x.clamp(low, high) - low) / (high - low) * num_bins
    return (scaled.ceil() - 1).clamp(0, num_bins - 1).long()
