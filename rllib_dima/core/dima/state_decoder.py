"""The state decoder: all agents' observations from the global state.

The paper's passes the state through a finite code (FSQ autoencoder), whose few discrete values regularise it on a
drifting data distribution (appendix G.1). But observations are functions of the state, and what 12 tokens of 240 values
each cannot tell of it is lost in every imagined observation, more the larger the state is. The other network reads the
state itself.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import nn

from rllib_dima.core.flags import Flags
from rllib_dima.core.hyperparameters import Hyperparameters, knob
from rllib_dima.core.layout import AgentLayout
from rllib_dima.core.mlp import mlp
from rllib_dima.core.policy.observation_normalizer import ObservationNormalizer
from rllib_dima.core.residual_mlp import ResidualMLP


@dataclass(frozen=True)
class StateDecoderHyperparameters(Hyperparameters):
    """What the state decoder is made and trained with (section G.1 of the paper's appendix)."""

    normalize_observations = False  # no field here: not every algorithm can

    decoder_network: str = knob(
        "fsq",
        "Network of the state decoder: the paper's autoencoder with a finite code (fsq), or a linear layer plus a "
        "residual MLP of the state (mlp).",
        choices=("fsq", "mlp"),
    )
    decoder_hidden_size: int = knob(512, "Width of the state decoder's MLPs.", low=1)
    decoder_num_layers: int = knob(3, "Linear layers of each of the state decoder's MLPs (fsq).", low=1)
    decoder_num_blocks: int = knob(1, "Residual blocks of the state decoder (mlp).", low=0)
    decoder_num_tokens: int = knob(12, "Quantised tokens per state (released code; fsq).", low=1)
    decoder_fsq_levels: tuple[int, ...] = knob(
        (8, 6, 5), "FSQ levels of each channel of a token (fsq).", symbol="L_i", low=3
    )
    decoder_loss: str = knob(
        "squared", "Reconstruction error, eq. 22 (released code: absolute).", choices=("squared", "absolute")
    )
    decoder_lr: float = knob(3e-4, "Learning rate of the state decoder (AdamW).", low=0.0)
    decoder_weight_decay: float = knob(0.01, "Weight decay of the state decoder.", low=0.0)
    decoder_grad_clip: float = knob(
        10.0, "Largest gradient norm of the state decoder; a larger gradient is scaled down to it.", low=1e-9
    )
    decoder_batch_size: int = knob(256, "Transitions per state-decoder update.", low=1)
    decoder_updates_per_iteration: int = knob(200, "State-decoder updates per iteration.", low=1)


class StateDecoder(nn.Module, ABC):
    """g_phi(s): normalised states (..., S) -> observations (..., N, O). What every network of it does.

    Args:
        layout: sizes.
        hp: hyperparameters.
    """

    observation_mask: torch.Tensor

    def __init__(self, layout: AgentLayout, hp: StateDecoderHyperparameters) -> None:
        super().__init__()
        self.output_shape = (layout.num_agents, layout.observation_size)
        self.squared = hp.decoder_loss == "squared"
        self._set_up(layout, hp)
        self.register_buffer("observation_mask", layout.observation_mask().float(), persistent=False)  # (N, O)
        self.float()  # whatever torch.set_default_dtype says
        self.normalizer = ObservationNormalizer(layout) if hp.normalize_observations else None  # in float64
        self.flags = Flags(layout) if layout.num_flags else None

    @abstractmethod
    def _set_up(self, layout: AgentLayout, hp: StateDecoderHyperparameters) -> None:
        """Makes the layers."""

    @abstractmethod
    def _joint_observation(self, states: torch.Tensor) -> torch.Tensor:
        """(..., S) -> (..., N O)."""

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """Observations of all agents; padded entries are 0. (..., S) -> (..., N, O)."""
        observations = self._decode(states)
        if self.normalizer is not None:
            observations = self.normalizer.denormalize(observations)
        return observations if self.flags is None else self.flags.set(observations)

    def _decode(self, states: torch.Tensor) -> torch.Tensor:
        """Observations on the scale they are learnt on, with logits in place of flags."""
        flat = self._joint_observation(states)
        return flat.to(states.dtype).unflatten(-1, self.output_shape) * self.observation_mask

    def loss(self, states: torch.Tensor, observations: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Reconstruction error of the joint observation, eq. 22, as a mean over real entries; flags as in `Flags`.

        Args:
            states: (B, S) normalised.
            observations: (B, N, O) padded.
        """
        if self.normalizer is not None:
            observations = self.normalizer(observations)
        decoded = self._decode(states)
        error = (decoded - observations) * self.observation_mask
        error = error.square() if self.squared else error.abs()
        if self.flags is not None:
            return self.flags.loss(decoded, observations, error)
        loss = error.sum() / (self.observation_mask.sum() * len(states))
        return loss, {"decoder_loss": loss.detach()}

    @torch.no_grad()
    def unexplained_variance(self, states: torch.Tensor, observations: torch.Tensor) -> torch.Tensor:
        """Squared error of decoded observations over these observations' variance, summed over real entries, ().

        0 is exact, 1 is no better than their mean. Of living agents, on the scale that observations are learnt on.

        Args:
            states: (B, S) normalised.
            observations: (B, N, O) padded.
        """
        decoded, weight = self(states), self.observation_mask.expand_as(observations)
        if self.flags is not None and (alive := self.flags.layout.alive(observations)) is not None:
            weight = weight * alive.unsqueeze(-1)
        if self.normalizer is not None:
            decoded, observations = self.normalizer(decoded), self.normalizer(observations)
        mean = (observations * weight).sum(0) / weight.sum(0).clamp(min=1)
        error, variation = ((other - observations).square().mul(weight).sum() for other in (decoded, mean))
        return error / variation.clamp(min=torch.finfo(variation.dtype).tiny)


class FSQStateDecoder(StateDecoder):
    """D(FSQ(E(s))), the paper's.

    The quantiser is `vector_quantize_pytorch.FSQ`. Its gradient passes straight through the rounding, but not around
    the bounding function f, which eq. 22 skips as well.
    """

    def _set_up(self, layout: AgentLayout, hp: StateDecoderHyperparameters) -> None:
        from vector_quantize_pytorch import FSQ  # takes as long to import as torch itself: not in every process

        levels, hidden = list(hp.decoder_fsq_levels), [hp.decoder_hidden_size] * (hp.decoder_num_layers - 1)
        code_size = hp.decoder_num_tokens * len(levels)
        self.token_shape = (hp.decoder_num_tokens, len(levels))
        self.encoder = mlp([layout.state_size, *hidden, code_size], nn.GELU)
        self.quantizer = FSQ(levels=levels, return_indices=False)
        self.decoder = mlp([code_size, *hidden, layout.num_agents * layout.observation_size], nn.GELU)

    def encode(self, states: torch.Tensor) -> torch.Tensor:
        """Quantised tokens of normalised states: (..., S) -> (..., tokens, channels), values in [-1, 1]."""
        tokens = self.encoder(states).to(states.dtype).reshape(-1, *self.token_shape)  # (prod(...), tokens, channels)
        codes, _ = self.quantizer(tokens)
        return codes.reshape(*states.shape[:-1], *self.token_shape)

    def _joint_observation(self, states: torch.Tensor) -> torch.Tensor:
        return self.decoder(self.encode(states).flatten(-2))


class MLPStateDecoder(StateDecoder):
    """W s + b + MLP(s). Most observations copy entries of the state, which the linear layer can do.

    Both are zero at the start.
    """

    def _set_up(self, layout: AgentLayout, hp: StateDecoderHyperparameters) -> None:
        size_out = layout.num_agents * layout.observation_size
        self.linear = nn.Linear(layout.state_size, size_out)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)
        self.mlp = ResidualMLP(layout.state_size, hp.decoder_hidden_size, hp.decoder_num_blocks, size_out)

    def _joint_observation(self, states: torch.Tensor) -> torch.Tensor:
        return self.linear(states) + self.mlp(states)


STATE_DECODERS: dict[str, type[FSQStateDecoder | MLPStateDecoder]] = {"fsq": FSQStateDecoder, "mlp": MLPStateDecoder}
