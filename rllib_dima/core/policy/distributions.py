"""The distributions of actions. Log-probabilities and entropies never see what an agent cannot use.

An agent that can use nothing, as it has left, does so with certainty: its action is 0, with a log-probability and an
entropy of exactly 0, without gradients.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch.distributions import Beta, Categorical, Normal
from torch.nn import functional

from rllib_dima.core.layout import AgentLayout


class ActionDistribution(Protocol):
    """What can act. Padded entries of actions are 0."""

    def sample(self) -> torch.Tensor:
        """Actions, (..., A) before clipping, or (...) or (..., F) int64."""
        ...

    def deterministic(self) -> torch.Tensor:
        """The action of the deterministic policy: the mean, or the likeliest choice. Shaped as `sample`'s."""
        ...


class PolicyDistribution(ActionDistribution, Protocol):
    """What an actor returns. Log-probabilities and entropies sum over an agent's real action entries only."""

    def log_prob(self, actions: torch.Tensor) -> torch.Tensor:
        """(...)."""
        ...

    def entropy(self) -> torch.Tensor:
        """(...)."""
        ...


class MaskedGaussian:
    """Diagonal Gaussian; actions outside [-1, 1] are clipped where they are executed.

    Args:
        mean: (..., A).
        std: (A,) or (..., A).
        mask: (..., A) float, 1 for real entries.
    """

    def __init__(self, mean: torch.Tensor, std: torch.Tensor, mask: torch.Tensor) -> None:
        self._normal, self._mask = Normal(mean, std, validate_args=False), mask

    def sample(self) -> torch.Tensor:
        noise = torch.randn_like(self._normal.loc)  # torch.normal would check the std, which waits for the device
        return (self._normal.loc + self._normal.scale * noise) * self._mask

    def deterministic(self) -> torch.Tensor:
        return self._normal.mean * self._mask

    def log_prob(self, actions: torch.Tensor) -> torch.Tensor:
        return (self._normal.log_prob(actions) * self._mask).sum(-1)

    def entropy(self) -> torch.Tensor:
        return (self._normal.entropy() * self._mask).sum(-1)


class MaskedSquashedGaussian:
    """tanh of a diagonal Gaussian: actions within (-1, 1).

    Args:
        mean: (..., A) of the Gaussian.
        log_std: (..., A) of it.
        mask: (..., A) float, 1 for real entries.
    """

    def __init__(self, mean: torch.Tensor, log_std: torch.Tensor, mask: torch.Tensor) -> None:
        self._normal, self._mask = Normal(mean, log_std.exp(), validate_args=False), mask

    def sample(self) -> torch.Tensor:
        return self.reparameterised()[0].detach()

    def deterministic(self) -> torch.Tensor:
        return self._normal.mean.tanh() * self._mask

    def reparameterised(self) -> tuple[torch.Tensor, torch.Tensor]:
        """A draw (..., A) that gradients pass through, and its log-probability (...)."""
        drawn = self._normal.loc + self._normal.scale * torch.randn_like(self._normal.loc)
        return drawn.tanh() * self._mask, self.log_prob_before_tanh(drawn)

    def log_prob_before_tanh(self, drawn: torch.Tensor) -> torch.Tensor:
        """(...) of tanh(drawn); ln(1 - tanh(u)^2) = 2 (ln 2 - u - softplus(-2u)) is finite for every u."""
        squeeze = 2 * (math.log(2) - drawn - functional.softplus(-2 * drawn))
        return ((self._normal.log_prob(drawn) - squeeze) * self._mask).sum(-1)


class LogGamma(torch.autograd.Function):
    """ln Gamma(x), whose gradient is a digamma(x) that is known already; PyTorch's own would compute it once more."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, digamma: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(digamma)
        return torch.lgamma(x)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        return gradients[0] * ctx.saved_tensors[0], None


class MaskedBeta:
    """Independent Beta distributions on [-1, 1], with alpha and beta of at least 1 (one mode).

    torch.distributions.Beta has the same log-probabilities and entropies, but computes the gamma functions, which take
    most of the time, anew for each and once more for their gradients.

    Args:
        alpha: (..., A).
        beta: (..., A).
        mask: (..., A) float, 1 for real entries.
    """

    EDGE = 1e-6  # keeps drawn actions off the ends, where a log-density may be infinite

    def __init__(self, alpha: torch.Tensor, beta: torch.Tensor, mask: torch.Tensor) -> None:
        self._alpha, self._beta, self._mask = alpha, beta, mask
        self._arguments = torch.stack([alpha, beta, alpha + beta])  # of the gamma functions, (3, ..., A)
        self._digamma = torch.digamma(self._arguments) if alpha.requires_grad else None
        if self._digamma is None:
            logs = torch.lgamma(self._arguments)
        else:
            logs = LogGamma.apply(self._arguments, self._digamma.detach())
        self._log_normalizer = logs[0] + logs[1] - logs[2] + math.log(2)  # ln 2 B(alpha, beta)

    def sample(self) -> torch.Tensor:
        unit = Beta(self._alpha, self._beta, validate_args=False).sample().clamp(self.EDGE, 1 - self.EDGE)
        return (2 * unit - 1) * self._mask

    def deterministic(self) -> torch.Tensor:
        return (2 * self._alpha / self._arguments[2] - 1) * self._mask

    def log_prob(self, actions: torch.Tensor) -> torch.Tensor:
        unit = ((actions + 1) / 2).clamp(self.EDGE, 1 - self.EDGE)
        density = (self._alpha - 1) * unit.log() + (self._beta - 1) * (1 - unit).log() - self._log_normalizer
        return (density * self._mask).sum(-1)

    def entropy(self) -> torch.Tensor:
        of_alpha, of_beta, of_sum = torch.digamma(self._arguments) if self._digamma is None else self._digamma
        weighted = (self._alpha - 1) * of_alpha + (self._beta - 1) * of_beta - (self._arguments[2] - 2) * of_sum
        return ((self._log_normalizer - weighted) * self._mask).sum(-1)


class MaskedCategorical:
    """Categorical over the choices an agent has; if it has none, the first.

    Args:
        logits: (..., A).
        mask: (..., A) float, 1 for choices it has.
    """

    def __init__(self, logits: torch.Tensor, mask: torch.Tensor) -> None:
        has = mask > 0
        is_first = torch.arange(mask.shape[-1], device=mask.device) == 0
        has = has | (is_first & ~has.any(-1, keepdim=True))
        logits = logits.masked_fill(~has, torch.finfo(logits.dtype).min)
        self._categorical = Categorical(logits=logits, validate_args=False)

    def sample(self) -> torch.Tensor:
        return gumbel_max(self._categorical.logits)

    def deterministic(self) -> torch.Tensor:
        return self._categorical.logits.argmax(-1)

    def reparameterised(self) -> tuple[torch.Tensor, torch.Tensor]:
        """A one-hot draw (..., A) with the gradient of its Gumbel-softmax, and the entropy's negative E[ln p] (...).

        (HARL has the draw's own log-probability instead, whose gradient says nothing of the entropy.)
        """
        logits = self._categorical.logits
        uniform = torch.rand_like(logits).clamp(min=torch.finfo(torch.float32).tiny)
        soft = (logits - (-uniform.log()).log()).softmax(-1)
        hard = functional.one_hot(soft.argmax(-1), soft.shape[-1]).to(soft.dtype)
        return hard + soft - soft.detach(), -self._categorical.entropy()

    def log_prob(self, actions: torch.Tensor) -> torch.Tensor:
        return self._categorical.log_prob(actions)

    def entropy(self) -> torch.Tensor:
        return self._categorical.entropy()


class MaskedMultiCategorical:
    """Several independent choices at once, (..., F) int64.

    Args:
        logits: (..., A), one block of logits per choice.
        mask: (..., A) float, 1 for what an agent can choose; of a block without any it chooses the first.
        block_sizes: F numbers of entries.
    """

    def __init__(self, logits: torch.Tensor, mask: torch.Tensor, block_sizes: Sequence[int]) -> None:
        blocks = zip(logits.split(list(block_sizes), -1), mask.split(list(block_sizes), -1), strict=True)
        self._choices = [MaskedCategorical(*block) for block in blocks]

    def sample(self) -> torch.Tensor:
        return self._joint(MaskedCategorical.sample)

    def deterministic(self) -> torch.Tensor:
        return self._joint(MaskedCategorical.deterministic)

    def reparameterised(self) -> tuple[torch.Tensor, torch.Tensor]:
        """One-hot draws (..., A) and the sum of negative entropies (...), as `MaskedCategorical`'s."""
        draws, log_probs = zip(*(choice.reparameterised() for choice in self._choices), strict=True)
        return torch.cat(draws, dim=-1), torch.stack(log_probs).sum(0)

    def log_prob(self, actions: torch.Tensor) -> torch.Tensor:
        pairs = zip(self._choices, actions.unbind(-1), strict=True)
        return torch.stack([choice.log_prob(action) for choice, action in pairs]).sum(0)

    def entropy(self) -> torch.Tensor:
        return torch.stack([choice.entropy() for choice in self._choices]).sum(0)

    def _joint(self, draw: Callable[[MaskedCategorical], torch.Tensor]) -> torch.Tensor:
        return torch.stack([draw(choice) for choice in self._choices], dim=-1)


def gumbel_max(logits: torch.Tensor) -> torch.Tensor:
    """Draws of categorical distributions, (..., A) -> (...) int64, without checks, which would wait for the device."""
    uniform = torch.rand_like(logits).clamp(min=torch.finfo(torch.float32).tiny)
    return (logits - (-uniform.log()).log()).argmax(-1)


def categorical(
    logits: torch.Tensor, usable: torch.Tensor, layout: AgentLayout
) -> MaskedCategorical | MaskedMultiCategorical:
    """The distribution of discrete actions, from logits and masks (..., A)."""
    if layout.is_factored:
        return MaskedMultiCategorical(logits, usable, layout.block_sizes)
    return MaskedCategorical(logits, usable)
