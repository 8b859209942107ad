"""MAPPO: PPO for teams, with one central critic and, by default, one actor for all agents.

"The Surprising Effectiveness of PPO in Cooperative Multi-Agent Games", Yu et al. 2022, arXiv 2103.01955.
The algorithm itself is `rllib_dima.core.model_free.mappo`.
"""

from __future__ import annotations

from typing import ClassVar

from rllib_dima.algorithms.base import TeamAlgorithm
from rllib_dima.algorithms.base_config import TeamConfig
from rllib_dima.core.model_free.hyperparameters import MAPPOHyperparameters
from rllib_dima.core.model_free.mappo import MAPPOTrainer
from rllib_dima.settings import ALTERNATIVES


class MAPPOConfig(TeamConfig):
    """Configuration of MAPPO: 20 environments per runner by default.

        MAPPOConfig().environment("mamujoco_halfcheetah_2x3").training(clip_param=0.1).build()

    `help(MAPPOConfig.training)` lists the hyperparameters.
    """

    hyperparameter_class, trainer_class = MAPPOHyperparameters, MAPPOTrainer
    alternatives: ClassVar[dict[str, str]] = {
        **ALTERNATIVES,
        "compress_observations": "Nothing is kept beyond an iteration.",
        "_torch_lr_scheduler_classes": "Set lr_decay_steps.",
    }
    shown_losses: ClassVar[dict[str, str]] = {"value_loss": "critic"}

    def __init__(self, algo_class: type | None = None) -> None:
        super().__init__(algo_class or MAPPO)
        self.num_envs_per_env_runner = 20


class MAPPO(TeamAlgorithm):
    """PPO with a central critic."""

    @classmethod
    def get_default_config(cls) -> MAPPOConfig:
        """The benchmark's settings."""
        return MAPPOConfig()
