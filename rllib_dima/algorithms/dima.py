"""DIMA: multi-agent reinforcement learning inside a diffusion world model (NeurIPS 2025).

"Revisiting Multi-Agent World Modeling from a Diffusion-Inspired Perspective", arXiv 2505.20922. The algorithm itself is
`rllib_dima.core.dima.trainer`; how RLlib runs it is `base.py`.
"""

from __future__ import annotations

from typing import ClassVar

from rllib_dima.algorithms.base import TeamAlgorithm
from rllib_dima.algorithms.base_config import TeamConfig
from rllib_dima.core.dima.hyperparameters import DIMAHyperparameters
from rllib_dima.core.dima.trainer import DIMATrainer
from rllib_dima.settings import ALTERNATIVES

_BATCHES = "Set env_steps_per_iteration, or the batch sizes of the networks, such as dynamics_batch_size."


class DIMAConfig(TeamConfig):
    """Configuration of DIMA.

        DIMAConfig().environment("mamujoco_ant_4x2").training(model_size="nano", gamma=0.98).build()

    `help(DIMAConfig.training)` lists the hyperparameters. A subclass that adds settings must declare them as class
    attributes, because assigning to unknown names is refused.
    """

    hyperparameter_class, trainer_class = DIMAHyperparameters, DIMATrainer
    alternatives: ClassVar[dict[str, str]] = {
        **ALTERNATIVES,
        "lr": "Set actor_lr, critic_lr, decoder_lr, dynamics_lr or reward_lr.",
        "grad_clip": (
            "Set actor_grad_clip, critic_grad_clip, decoder_grad_clip, dynamics_grad_clip or reward_grad_clip."
        ),
        **dict.fromkeys(("train_batch_size", "_train_batch_size_per_learner"), _BATCHES),
        "_torch_lr_scheduler_classes": "Learning rates are constant after dynamics_lr_warmup_updates.",
    }
    shown_losses: ClassVar[dict[str, str]] = {"dynamics_loss": "world_model"}

    def __init__(self, algo_class: type | None = None) -> None:
        super().__init__(algo_class or DIMA)


class DIMA(TeamAlgorithm):
    """DIMA: a policy that learns in rollouts imagined by a diffusion world model."""

    @classmethod
    def get_default_config(cls) -> DIMAConfig:
        """The paper's settings."""
        return DIMAConfig()
