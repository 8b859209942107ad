"""MARIE: a policy that learns in what a transformer imagines of every agent, token by token.

"Decentralized Transformers with Centralized Aggregation are Sample-Efficient Multi-Agent World Models", Zhang et al.
2024, arXiv 2406.15836. The algorithm itself is `rllib_dima.core.marie.trainer`.
"""

from __future__ import annotations

from typing import ClassVar

from rllib_dima.algorithms.base import TeamAlgorithm
from rllib_dima.algorithms.base_config import TeamConfig
from rllib_dima.core.marie.hyperparameters import MARIEHyperparameters
from rllib_dima.core.marie.trainer import MARIETrainer
from rllib_dima.settings import ALTERNATIVES

_BATCHES = "Set env_steps_per_iteration, tokenizer_batch_size or model_batch_size."


class MARIEConfig(TeamConfig):
    """Configuration of MARIE.

        MARIEConfig().environment("mamujoco_halfcheetah_2x3").training(model_size="nano").build()

    `help(MARIEConfig.training)` lists the hyperparameters.
    """

    hyperparameter_class, trainer_class = MARIEHyperparameters, MARIETrainer
    alternatives: ClassVar[dict[str, str]] = {
        **ALTERNATIVES,
        "lr": "Set actor_lr, critic_lr, tokenizer_lr or model_lr.",
        "grad_clip": "Set actor_grad_clip, critic_grad_clip, tokenizer_grad_clip or model_grad_clip.",
        **dict.fromkeys(("train_batch_size", "_train_batch_size_per_learner"), _BATCHES),
    }
    shown_losses: ClassVar[dict[str, str]] = {"token_loss": "world_model"}

    def __init__(self, algo_class: type | None = None) -> None:
        super().__init__(algo_class or MARIE)


class MARIE(TeamAlgorithm):
    """A policy that learns in observations imagined token by token."""

    @classmethod
    def get_default_config(cls) -> MARIEConfig:
        """The released settings."""
        return MARIEConfig()
