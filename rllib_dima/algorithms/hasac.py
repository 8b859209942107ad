"""HASAC: soft actor-critic of one network per agent, updated one after the other, with central twin critics.

"Maximum Entropy Heterogeneous-Agent Reinforcement Learning", Liu et al. 2024, arXiv 2306.10715. The algorithm itself is
`rllib_dima.core.model_free.hasac`.
"""

from __future__ import annotations

from typing import ClassVar

from rllib_dima.algorithms.base import TeamAlgorithm
from rllib_dima.algorithms.base_config import TeamConfig
from rllib_dima.core.model_free.hasac import HASACTrainer
from rllib_dima.core.model_free.hyperparameters import HASACHyperparameters
from rllib_dima.settings import ALTERNATIVES


class HASACConfig(TeamConfig):
    """Configuration of HASAC: 20 environments per runner by default.

        HASACConfig().environment("mamujoco_halfcheetah_2x3").training(n_step=5).build()

    `help(HASACConfig.training)` lists the hyperparameters.
    """

    hyperparameter_class, trainer_class = HASACHyperparameters, HASACTrainer
    alternatives: ClassVar[dict[str, str]] = {
        **ALTERNATIVES,
        "num_epochs": "Set updates_per_iteration.",
        "minibatch_size": "Set batch_size.",
        "shuffle_batch_per_epoch": "Batches are drawn from replay.",
    }
    shown_losses: ClassVar[dict[str, str]] = {"critic_loss": "critic"}

    def __init__(self, algo_class: type | None = None) -> None:
        super().__init__(algo_class or HASAC)
        self.num_envs_per_env_runner = 20


class HASAC(TeamAlgorithm):
    """Maximum-entropy learning of agents that share no parameter, from replay."""

    @classmethod
    def get_default_config(cls) -> HASACConfig:
        """The benchmark's settings."""
        return HASACConfig()
