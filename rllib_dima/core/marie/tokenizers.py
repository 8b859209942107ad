"""Observations as tokens, and back: every agent's own, by the same network.

    observation (O,)  --encode-->  K tokens, each one of V codes  --decode-->  observation (O,)

An id that the layout appends is no part of what is decoded: whose observation it is, is known. Flags are entries like
others, and set where they are decoded to more than a half.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import nn
from torch.nn import functional

from rllib_dima.core.flags import Flags
from rllib_dima.core.layout import AgentLayout
from rllib_dima.core.marie.hyperparameters import TokenizerHyperparameters
from rllib_dima.core.marie.symlog import bin_centres, bin_numbers, symexp, symlog
from rllib_dima.core.mlp import mlp
from rllib_dima.core.policy.observation_normalizer import ObservationNormalizer

Metrics = dict[str, torch.Tensor]


class Tokenizer(nn.Module, ABC):
    """What every tokeniser can do.

    Args:
        layout: sizes.
        hp: hyperparameters.

    Attributes:
        num_tokens: K.
        num_codes: V.
        num_entries: of an observation that tokens tell.
        is_trained: whether there is anything to train.
        token_of_zero: where every entry is a token, that of padded ones.
    """

    is_trained = True
    token_of_zero = 0
    num_tokens: int
    num_codes: int
    observation_mask: torch.Tensor

    def __init__(self, layout: AgentLayout, hp: TokenizerHyperparameters) -> None:
        super().__init__()
        self.layout = layout
        self.num_entries = layout.observation_size - (layout.num_agents if layout.appends_agent_id else 0)
        self.register_buffer("observation_mask", layout.observation_mask().float(), persistent=False)  # (N, O)
        self.normalizer = ObservationNormalizer(layout) if hp.normalize_observations else None
        self.flags = Flags(layout) if layout.num_flags else None

    def encode(self, observations: torch.Tensor, agents: torch.Tensor | None = None) -> torch.Tensor:
        """Tokens of observations.

        Args:
            observations: (..., N, O), or (B, O) together with `agents`.
            agents: (B,) which agent each row of (B, O) belongs to.

        Returns:
            (..., K) int64.
        """
        return self._tokens(self._scaled(observations, agents))

    def decode(self, tokens: torch.Tensor, agents: torch.Tensor | None = None) -> torch.Tensor:
        """Observations of tokens (..., N, K), or (B, K) together with `agents`; padded entries are 0."""
        decoded = self._with_id(self._entries(tokens), agents) * self._mask(agents)
        if self.normalizer is not None:
            decoded = self.normalizer.denormalize(decoded, agents) * self._mask(agents)
        return decoded if self.flags is None else self.flags.set(self._as_logits(decoded), agents)

    def forward(self, observations: torch.Tensor, agents: torch.Tensor | None = None) -> torch.Tensor:
        """What of observations is left in their tokens; shapes as of `encode`."""
        return self.decode(self.encode(observations, agents), agents)

    def loss(self, observations: torch.Tensor) -> tuple[torch.Tensor, Metrics]:
        """Reconstruction error, as a mean over real entries, and what the codes cost.

        Args:
            observations: (B, N, O) padded.
        """
        scaled = self._scaled(observations)
        decoded, cost = self._reconstruct(scaled)
        mask = self.observation_mask[:, : self.num_entries]
        error = ((decoded - scaled[..., : self.num_entries]) * mask).abs().sum() / (mask.sum() * len(observations))
        return error + cost, {"tokenizer_loss": error.detach(), "commitment_loss": cost.detach()}

    @abstractmethod
    def _tokens(self, scaled: torch.Tensor) -> torch.Tensor:
        """(..., O) -> (..., K) int64."""

    @abstractmethod
    def _entries(self, tokens: torch.Tensor) -> torch.Tensor:
        """(..., K) -> (..., num_entries)."""

    @abstractmethod
    def _reconstruct(self, scaled: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(..., O) -> (..., num_entries), with gradients, and a cost ()."""

    def _scaled(self, observations: torch.Tensor, agents: torch.Tensor | None = None) -> torch.Tensor:
        """Observations on the scale that they are tokenised on, 0 where padded."""
        if self.normalizer is not None:
            observations = self.normalizer(observations, agents)
        return observations * self._mask(agents)

    def _mask(self, agents: torch.Tensor | None) -> torch.Tensor:
        return self.observation_mask if agents is None else self.observation_mask[agents]

    def _with_id(self, entries: torch.Tensor, agents: torch.Tensor | None) -> torch.Tensor:
        """(..., O) with the ids that the layout appends."""
        if not self.layout.appends_agent_id:
            return entries
        numbers = torch.arange(self.layout.num_agents, device=entries.device) if agents is None else agents
        ids = functional.one_hot(numbers, self.layout.num_agents).to(entries.dtype)
        return torch.cat([entries, ids.expand(*entries.shape[:-1], -1)], dim=-1)

    def _as_logits(self, decoded: torch.Tensor) -> torch.Tensor:
        """With flags above 0 where they are decoded to more than a half."""
        first = max(self.layout.observation_sizes)
        last = first + self.layout.num_flags
        return torch.cat([decoded[..., :first], decoded[..., first:last] - 0.5, decoded[..., last:]], dim=-1)


class _Autoencoder(Tokenizer):
    """MLPs around codes."""

    def __init__(self, layout: AgentLayout, hp: TokenizerHyperparameters, code_size: int) -> None:
        super().__init__(layout, hp)
        self.num_tokens, self.code_size = hp.tokenizer_num_tokens, code_size
        hidden = [hp.tokenizer_hidden_size] * 2
        self.encoder = mlp([layout.observation_size, *hidden, self.num_tokens * code_size], nn.GELU).float()
        self.decoder = mlp([self.num_tokens * code_size, *hidden, self.num_entries], nn.GELU).float()

    @abstractmethod
    def _quantize(self, vectors: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(M, K, code size) -> codes with gradients, and a cost (). Codes that are learned follow the vectors."""

    @abstractmethod
    def _nearest(self, vectors: torch.Tensor) -> torch.Tensor:
        """(M, K, code size) -> tokens (M, K) int64."""

    @abstractmethod
    def _codes(self, tokens: torch.Tensor) -> torch.Tensor:
        """(..., K) -> (..., K, code size)."""

    def _tokens(self, scaled: torch.Tensor) -> torch.Tensor:
        return self._nearest(self._vectors(scaled)).view(*scaled.shape[:-1], self.num_tokens)

    def _entries(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.decoder(self._codes(tokens).flatten(-2))

    def _reconstruct(self, scaled: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        codes, cost = self._quantize(self._vectors(scaled))
        return self.decoder(codes.flatten(-2)).view(*scaled.shape[:-1], self.num_entries), cost

    def _vectors(self, scaled: torch.Tensor) -> torch.Tensor:
        return self.encoder(scaled).reshape(-1, self.num_tokens, self.code_size)


class VQTokenizer(_Autoencoder):
    """Each token is the nearest of V learned codes, which follow what falls to them."""

    def __init__(self, layout: AgentLayout, hp: TokenizerHyperparameters) -> None:
        from vector_quantize_pytorch import VectorQuantize  # takes as long to import as torch itself

        super().__init__(layout, hp, hp.tokenizer_code_size)
        self.num_codes = hp.tokenizer_codebook_size
        self.quantizer = VectorQuantize(
            dim=hp.tokenizer_code_size,
            codebook_size=self.num_codes,
            decay=hp.tokenizer_ema_decay,
            commitment_weight=hp.tokenizer_commitment,
            rotation_trick=False,  # its gradient is not the published one, which passes straight through
        ).float()

    def _quantize(self, vectors: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        codes, _, cost = self.quantizer(vectors)
        return codes, cost

    def _nearest(self, vectors: torch.Tensor) -> torch.Tensor:
        return torch.cdist(vectors, self.quantizer.codebook).argmin(-1)  # the quantiser's own cannot be exported

    def _codes(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.quantizer.codebook[tokens]


class FSQTokenizer(_Autoencoder):
    """Each token is a point of a grid (finite scalar quantisation)."""

    def __init__(self, layout: AgentLayout, hp: TokenizerHyperparameters) -> None:
        from vector_quantize_pytorch import FSQ  # takes as long to import as torch itself

        levels = list(hp.tokenizer_fsq_levels)
        super().__init__(layout, hp, len(levels))
        self.quantizer = FSQ(levels=levels)
        self.num_codes = math.prod(levels)

    def _quantize(self, vectors: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        codes, _ = self.quantizer(vectors)
        return codes, codes.new_zeros(())

    def _nearest(self, vectors: torch.Tensor) -> torch.Tensor:
        return self.quantizer(vectors)[1].long()

    def _codes(self, tokens: torch.Tensor) -> torch.Tensor:
        codes = self.quantizer.indices_to_codes(tokens.reshape(-1, self.num_tokens))  # it takes more axes for an image
        return codes.view(*tokens.shape, self.code_size).float()


class BinTokenizer(Tokenizer):
    """Each entry is a token of its own: a bin of symlog(o). Nothing is trained."""

    is_trained = False
    centres: torch.Tensor

    def __init__(self, layout: AgentLayout, hp: TokenizerHyperparameters) -> None:
        super().__init__(layout, hp)
        self.num_tokens, self.num_codes, self.limit = self.num_entries, hp.tokenizer_num_bins, hp.tokenizer_bin_range
        centres = bin_centres(-self.limit, self.limit, self.num_codes)
        self.register_buffer("centres", symexp(centres), persistent=False)
        self.token_of_zero = int(bin_numbers(torch.zeros(()), -self.limit, self.limit, self.num_codes))

    def _tokens(self, scaled: torch.Tensor) -> torch.Tensor:
        return bin_numbers(symlog(scaled[..., : self.num_entries]), -self.limit, self.limit, self.num_codes)

    def _entries(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.centres[tokens]

    def _reconstruct(self, scaled: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self._entries(self._tokens(scaled)), scaled.new_zeros(())


TOKENIZERS: dict[str, type[Tokenizer]] = {"vq": VQTokenizer, "fsq": FSQTokenizer, "bins": BinTokenizer}


def make_tokenizer(layout: AgentLayout, hp: TokenizerHyperparameters) -> Tokenizer:
    """The tokeniser that `hp.tokenizer` names."""
    return TOKENIZERS[hp.tokenizer](layout, hp)
