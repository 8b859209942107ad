"""The hyperparameters of MARIE: those of its MAMuJoCo configuration are the defaults.

Where the released code and its paper differ, the default is the code's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

from rllib_dima.core.hyperparameters import Hyperparameters, knob
from rllib_dima.core.policy.networks import ActorHyperparameters
from rllib_dima.core.replay.hyperparameters import ReplayHyperparameters

Settings = dict[str, Any]

_NANO: Settings = {
    "num_steps_before_learning": 5000,
    "num_tokenizer_warmup_iterations": 0,
    "num_world_model_warmup_iterations": 25,
    "tokenizer": "bins",
    "tokenizer_num_tokens": 8,
    "tokenizer_codebook_size": 128,
    "tokenizer_code_size": 16,
    "tokenizer_num_bins": 64,
    "tokenizer_hidden_size": 128,
    "tokenizer_lr": 1e-3,
    "tokenizer_batch_size": 128,
    "tokenizer_updates_per_iteration": 50,
    "action_bins": 64,
    "model_embedding_size": 64,
    "model_num_layers": 2,
    "model_dropout": 0.0,
    "perceiver_num_layers": 1,
    "perceiver_num_heads": 4,
    "perceiver_head_size": 16,
    "slot_embedding": True,
    "matrix_std": 0.08,
    "embedding_std": 0.5,
    "factored_positions": True,
    "model_lr": 2e-3,
    "model_batch_size": 64,
    "imagination_horizon": 6,
    "model_updates_per_iteration": 60,
    "num_imagined_rollouts": 200,
    "policy_updates_per_iteration": 8,
    "actor_hidden_size": 64,
    "critic_hidden_size": 64,
}
_FAMILIES: dict[str, Settings] = {
    "mamujoco": {"gamma": 0.99, "entropy_coeff": 0.001, "normalize_observations": False},  # standardised already
    "bidexhands": {  # not in the release: DIMA's
        "gamma": 0.95, "entropy_coeff": 0.01, "env_steps_per_iteration": 500, "normalize_observations": False,
    },
}  # fmt: skip
_SMALL: Settings = {
    "model_embedding_size": 128,
    "model_num_layers": 4,
    "perceiver_num_layers": 1,
    "perceiver_num_heads": 4,
    "perceiver_head_size": 32,
    "num_imagined_rollouts": 300,
}


@dataclass(frozen=True)
class TokenizerHyperparameters(Hyperparameters):
    """What turns observations into tokens, and back."""

    normalize_observations = False  # no field here: not every algorithm can

    tokenizer: str = knob(
        "vq",
        "Tokens of an observation: an autoencoder's, of learned codes (vq) or of a grid of them (fsq), or one for each "
        "entry by itself, in one of some bins (bins, which nothing trains; the release's configuration for MPE).",
        choices=("vq", "fsq", "bins"),
    )
    tokenizer_num_tokens: int = knob(16, "Tokens per observation (vq, fsq); bins: one per entry.", symbol="K", low=1)
    tokenizer_codebook_size: int = knob(512, "Codes that a token can be (vq).", low=2)
    tokenizer_code_size: int = knob(64, "Entries of a code (vq).", low=1)
    tokenizer_fsq_levels: tuple[int, ...] = knob((8, 8, 8), "Levels of each entry of a code (fsq).", low=3)
    tokenizer_num_bins: int = knob(256, "Bins per entry (bins).", low=2)
    tokenizer_bin_range: float = knob(3.0, "Bins divide symlog(o) between plus and minus this (bins).", low=1e-6)
    tokenizer_hidden_size: int = knob(256, "Width of encoder and decoder.", low=1)
    tokenizer_ema_decay: float = knob(0.8, "Decay of the codes' moving averages (vq).", low=0.0, high=0.999999)
    tokenizer_commitment: float = knob(10.0, "Weight of the distance to the codes (vq).", low=0.0)


@dataclass(frozen=True)
class MARIEActorHyperparameters(TokenizerHyperparameters, ActorHyperparameters):
    """What the policy is built from: it acts on reconstructed observations, so the tokeniser is a part of it."""

    actor_num_layers: int = knob(3, "Hidden layers of the actor.", low=1)
    normalize_observations: bool = knob(
        True,
        "Normalise observations by running statistics, for tokeniser, actor and critic; off for MAMuJoCo and "
        "Bi-DexHands, which scale them already, but for MAMuJoCo's local observations: set it there.",
    )


@dataclass(frozen=True)
class MARIEHyperparameters(ReplayHyperparameters, MARIEActorHyperparameters):
    """Hyperparameters of MARIE; see each field's metadata for text, symbol and range."""

    MODEL_SIZES: ClassVar[dict[str, Settings]] = {"paper": {}, "small": _SMALL, "nano": _NANO}
    FAMILIES: ClassVar[dict[str, Settings]] = _FAMILIES

    context_length = 1  # real steps that imagination starts from: no field, as it is always one

    critic_hidden_size: int = knob(128, "Width of the critic.", low=1)
    critic_num_layers: int = knob(3, "Hidden layers of the critic, behind its attention over agents.", low=1)
    critic_num_heads: int = knob(8, "Heads of the critic's attention over agents.", low=1)

    # Execution
    acceleration: str = knob(
        "eager",
        "How training steps are executed: operation by operation (eager), or as CUDA graphs, but for the tokeniser's.",
        choices=("eager", "cuda_graphs"),
    )
    precision: str = knob(
        "tf32", "Arithmetic of matrix products in training: float32, or tf32 on GPUs.", choices=("float32", "tf32")
    )

    # The tokeniser's training
    tokenizer_lr: float = knob(3e-4, "Learning rate of the tokeniser (AdamW).", low=0.0)
    tokenizer_weight_decay: float = knob(0.01, "Weight decay of the tokeniser.", low=0.0)
    tokenizer_grad_clip: float = knob(
        10.0, "Largest gradient norm of the tokeniser; a larger gradient is scaled down to it.", low=1e-9
    )
    tokenizer_batch_size: int = knob(256, "Transitions, of all agents, per update of the tokeniser.", low=1)
    tokenizer_updates_per_iteration: int = knob(100, "Updates of the tokeniser per iteration.", low=1)

    # The sequence model
    action_bins: int = knob(256, "Bins of each entry of a continuous action.", low=2)
    model_embedding_size: int = knob(256, "Width of transformer and Perceiver.", symbol="D", low=1)
    model_num_layers: int = knob(10, "Transformer blocks.", low=1)
    model_num_heads: int = knob(4, "Attention heads of the transformer.", low=1)
    model_dropout: float = knob(
        0.1, "Dropout on embeddings, attention and residuals, and in the Perceiver.", low=0.0, high=0.99
    )
    perceiver_num_layers: int = knob(2, "Self-attention layers of the Perceiver, behind its cross-attention.", low=0)
    perceiver_num_heads: int = knob(8, "Attention heads of the Perceiver.", low=1)
    perceiver_head_size: int = knob(64, "Width of a head of the Perceiver.", low=1)
    matrix_std: float = knob(0.02, "Standard deviation of new matrices, which is small for narrow networks.", low=0.0)
    factored_positions: bool = knob(
        False,
        "Embed a position as the sum of its step's embedding and its slot's, instead of each by itself (released).",
    )
    embedding_std: float = knob(
        0.02,
        "Standard deviation of new embeddings of tokens, positions and slots. The Perceiver adds them to a code of "
        "agents whose entries reach 1.",
        low=0.0,
    )
    slot_embedding: bool = knob(
        False,
        "Tell the Perceiver which of an agent's tokens is which; in the release it sees an unordered set of them.",
    )
    reward_loss: str = knob(
        "hl_gauss",
        "Error of rewards: cross-entropy to a smoothed histogram of symlog(r), or SmoothL1 of r.",
        choices=("hl_gauss", "smooth_l1"),
    )
    reward_bins: int = knob(128, "Bins of the histogram (hl_gauss).", low=2)
    reward_range: float = knob(
        3.0, "The histogram is of symlog(r) between plus and minus this: of rewards up to 19.1 (hl_gauss).", low=1e-6
    )
    reward_sigma_ratio: float = knob(0.75, "Standard deviation of the smoothing, in bins (hl_gauss).", low=1e-3)
    model_lr: float = knob(1e-4, "Learning rate of the sequence model (AdamW).", low=0.0)
    model_weight_decay: float = knob(0.01, "Weight decay of the sequence model.", low=0.0)
    model_grad_clip: float = knob(
        10.0, "Largest gradient norm of the sequence model; a larger gradient is scaled down to it.", low=1e-9
    )
    model_batch_size: int = knob(40, "Windows, of all agents, per update of the sequence model.", low=1)
    model_updates_per_iteration: int = knob(200, "Updates of the sequence model per iteration.", low=1)

    # Collecting real experience
    num_steps_before_learning: int = knob(
        500, "Real steps collected with the untrained policy before the first update.", low=0
    )
    num_tokenizer_warmup_iterations: int = knob(
        9, "Learning iterations that train the tokeniser alone; none are needed with bins.", low=0
    )
    num_world_model_warmup_iterations: int = knob(
        10, "Learning iterations after these that train tokeniser and sequence model, but no policy.", low=0
    )

    # Replay
    replay_recency: float = knob(
        1.0,
        "Recency of replay: the age rank of a drawn transition is a uniform number raised to this power. "
        "1 draws uniformly, larger values prefer newer transitions.",
        low=1.0,
    )

    # Imagination
    imagination_horizon: int = knob(
        15,
        "Observations of an imagined rollout, the first of which is real, and steps of a training window: one step "
        "less is imagined (in DIMA as many as its horizon says).",
        symbol="H",
        low=2,
    )
    num_imagined_rollouts: int = knob(600, "Imagined rollouts per policy update.", low=1)
    rollouts_at_once: int = knob(
        200,
        "Rollouts that are imagined at a time: at the published sizes each takes about 12 MB for two agents.",
        low=1,
    )
    policy_updates_per_iteration: int = knob(5, "Imagined batches per iteration.", low=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require_multiple("model_embedding_size", of="model_num_heads")
        self._require_multiple("critic_hidden_size", of="critic_num_heads")
        self._require_capacity(self.env_steps_per_iteration, self.imagination_horizon, "imagination_horizon")
        steps = (self.imagination_horizon - 1) * self.num_imagined_rollouts
        self._require_steps_for_minibatches(steps, "an imagined batch")

    @property
    def num_codes(self) -> int:
        """V, what a token of an observation can be."""
        sizes = {"vq": self.tokenizer_codebook_size, "bins": self.tokenizer_num_bins}
        return sizes.get(self.tokenizer, math.prod(self.tokenizer_fsq_levels))
