"""The stochastic part of MAMBA's states: C independent categoricals of K classes each."""

from __future__ import annotations

import torch
from torch.nn import functional

from rllib_dima.core.policy.distributions import gumbel_max

SMALLEST = 1e-7  # added to probabilities before their logarithm is taken


def straight_through(logits: torch.Tensor) -> torch.Tensor:
    """One-hot draws of (..., C, K), exactly so, with the gradient of the probabilities."""
    probabilities = logits.softmax(-1)
    drawn = functional.one_hot(gumbel_max(logits), logits.shape[-1]).to(logits.dtype)
    return drawn + (probabilities - probabilities.detach())


def likeliest(logits: torch.Tensor) -> torch.Tensor:
    """The likeliest classes of (..., C, K), one-hot."""
    return functional.one_hot(logits.argmax(-1), logits.shape[-1]).to(logits.dtype)


def kl_divergence(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """KL(first, second) of probabilities (..., C, K): summed over classes, averaged over categoricals, (...)."""
    return (first * ((first + SMALLEST).log() - (second + SMALLEST).log())).sum(-1).mean(-1)


def balanced_kl(posterior: torch.Tensor, prior: torch.Tensor, balance: float) -> torch.Tensor:
    """(...) KL(posterior, prior) of logits (..., C, K), whose gradient reaches the prior with weight `balance`.

    The posterior gets the rest, so that it is drawn towards the prior less than the prior towards it.
    """
    of_posterior, of_prior = posterior.softmax(-1), prior.softmax(-1)
    towards_prior = kl_divergence(of_posterior, of_prior.detach())
    return (1 - balance) * towards_prior + balance * kl_divergence(of_posterior.detach(), of_prior)
