"""Regression as classification: a number is learnt as a histogram of a Gaussian around it (HL-Gauss, Imani 2018)."""

from __future__ import annotations

import math

import torch
from torch import nn

from rllib_dima.core.marie.symlog import bin_centres


class HLGauss(nn.Module):
    """Histograms over equal bins on [-limit, limit].

    Args:
        num_bins: Q.
        limit: of the numbers; those beyond count as the limit.
        sigma_ratio: the Gaussian's standard deviation in bins.
    """

    centres: torch.Tensor
    edges: torch.Tensor

    def __init__(self, num_bins: int, limit: float, sigma_ratio: float) -> None:
        super().__init__()
        self.limit, self.sigma = limit, sigma_ratio * 2 * limit / num_bins
        self.register_buffer("centres", bin_centres(-limit, limit, num_bins), persistent=False)  # (Q,)
        self.register_buffer("edges", torch.linspace(-limit, limit, num_bins + 1), persistent=False)  # (Q + 1,)

    def masses(self, targets: torch.Tensor) -> torch.Tensor:
        """(...) -> (..., Q): what of the Gaussian falls into each bin, of what falls into any."""
        targets = targets.clamp(-self.limit, self.limit).unsqueeze(-1)
        below = torch.erf((self.edges - targets) / (math.sqrt(2) * self.sigma))  # (..., Q + 1)
        return below.diff(dim=-1) / (below[..., -1:] - below[..., :1])

    def loss(self, logits: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Cross-entropy of logits (..., Q) to the histograms of targets (...), and the least that it can be, (...)."""
        masses = self.masses(targets)
        return -(masses * logits.log_softmax(-1)).sum(-1), torch.special.entr(masses).sum(-1)

    def mean(self, logits: torch.Tensor) -> torch.Tensor:
        """(..., Q) -> (...)."""
        return (logits.softmax(-1) * self.centres).sum(-1)
