"""MAMBA: policies that learn in a world model in which agents communicate.

"Scalable Multi-Agent Model-Based Reinforcement Learning", Egorov and Shpilman 2022, arXiv 2205.15023. The algorithm
itself is `rllib_dima.core.mamba.trainer`.
"""

from __future__ import annotations

from typing import ClassVar

from rllib_dima.algorithms.base import TeamAlgorithm
from rllib_dima.algorithms.base_config import TeamConfig
from rllib_dima.core.mamba.hyperparameters import MAMBAHyperparameters
from rllib_dima.core.mamba.trainer import MAMBATrainer
from rllib_dima.settings import ALTERNATIVES


class MAMBAConfig(TeamConfig):
    """Configuration of MAMBA.

        MAMBAConfig().environment("mamujoco_halfcheetah_2x3").training(model_size="nano").build()

    `help(MAMBAConfig.training)` lists the hyperparameters.
    """

    hyperparameter_class, trainer_class = MAMBAHyperparameters, MAMBATrainer
    alternatives: ClassVar[dict[str, str]] = {
        **ALTERNATIVES,
        "lr": "Set actor_lr, critic_lr or model_lr.",
        "grad_clip": "Set actor_grad_clip, critic_grad_clip or model_grad_clip.",
        **dict.fromkeys(
            ("train_batch_size", "_train_batch_size_per_learner"), "Set env_steps_per_iteration, or model_batch_size."
        ),
    }
    shown_losses: ClassVar[dict[str, str]] = {"model_loss": "world_model"}

    def __init__(self, algo_class: type | None = None) -> None:
        super().__init__(algo_class or MAMBA)


class MAMBA(TeamAlgorithm):
    """A joint, recurrent policy that learns in rollouts imagined by a world model with communication."""

    @classmethod
    def get_default_config(cls) -> MAMBAConfig:
        """The settings that its authors found best."""
        return MAMBAConfig()
