"""MAPPO: PPO for teams with one central critic (Yu et al. 2022), as HARL runs it."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import torch
from torch import nn

from rllib_dima.core.layout import AgentLayout
from rllib_dima.core.model_free.hyperparameters import MAPPOHyperparameters
from rllib_dima.core.model_free.on_policy import OnPolicyCritic, OnPolicyTrainer
from rllib_dima.core.policy.data import PPOBatch
from rllib_dima.core.policy.networks import Actor, AgentActors, PolicyNetwork


def mappo_actor(layout: AgentLayout, hp: MAPPOHyperparameters) -> PolicyNetwork:
    """One actor for all agents, or one each."""
    return Actor(layout, hp) if hp.share_parameters else AgentActors(layout, hp)


class MAPPOTrainer(OnPolicyTrainer):
    """One actor learns from the steps of all agents at once, with the same advantage for each of them."""

    NETWORKS: ClassVar[dict[str, Callable[..., nn.Module]]] = {"actor": mappo_actor, "critic": OnPolicyCritic}

    def _update_actors(self, batch: PPOBatch) -> None:
        ones = torch.ones_like(batch.advantages)
        everybody = range(self.layout.num_agents)
        if isinstance(self.actor, Actor):
            self._train_actor("actor", batch, everybody, ones)
            return
        for agent in everybody:
            self._train_actor(f"actor_{agent}", batch, [agent], ones)
