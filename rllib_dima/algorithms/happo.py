"""HAPPO: PPO of one network per agent, updated one after the other, with one central critic.

"Heterogeneous-Agent Reinforcement Learning", Zhong et al. 2024, arXiv 2304.09870. The algorithm itself is
`rllib_dima.core.model_free.happo`.
"""

from __future__ import annotations

from typing import ClassVar

from rllib_dima.algorithms.base import TeamAlgorithm
from rllib_dima.algorithms.base_config import TeamConfig
from rllib_dima.core.model_free.happo import HAPPOTrainer
from rllib_dima.core.model_free.hyperparameters import HAPPOHyperparameters
from rllib_dima.settings import ALTERNATIVES


class HAPPOConfig(TeamConfig):
    """Configuration of HAPPO: 20 environments per runner by default.

        HAPPOConfig().environment("mamujoco_halfcheetah_2x3").training(clip_param=0.1).build()

    `help(HAPPOConfig.training)` lists the hyperparameters.
    """

    hyperparameter_class, trainer_class = HAPPOHyperparameters, HAPPOTrainer
    alternatives: ClassVar[dict[str, str]] = {
        **ALTERNATIVES,
        "compress_observations": "Nothing is kept beyond an iteration.",
        "_torch_lr_scheduler_classes": "Set lr_decay_steps.",
    }
    shown_losses: ClassVar[dict[str, str]] = {"value_loss": "critic"}

    def __init__(self, algo_class: type | None = None) -> None:
        super().__init__(algo_class or HAPPO)
        self.num_envs_per_env_runner = 20


class HAPPO(TeamAlgorithm):
    """Sequential PPO of agents that share no parameter."""

    @classmethod
    def get_default_config(cls) -> HAPPOConfig:
        """The benchmark's settings."""
        return HAPPOConfig()
