"""HAPPO: one network per agent, updated one after the other (Kuba et al. 2022; Zhong et al. 2024), as HARL runs it.

M = 1
for each agent i in a random order:
    PPO epochs of pi^i with advantages M * A
    M = M * pi^i_new(a^i | o^i) / pi^i_old(a^i | o^i)

so that every agent answers to what those before it have become.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import torch
from torch import nn

from rllib_dima.core.model_free.hyperparameters import HAPPOHyperparameters
from rllib_dima.core.model_free.on_policy import OnPolicyCritic, OnPolicyTrainer
from rllib_dima.core.policy.data import PPOBatch
from rllib_dima.core.policy.networks import AgentActors


class HAPPOTrainer(OnPolicyTrainer):
    """Sequential updates with the compound ratio M of the agents before."""

    NETWORKS: ClassVar[dict[str, Callable[..., nn.Module]]] = {"actor": AgentActors, "critic": OnPolicyCritic}

    hp: HAPPOHyperparameters
    actor: AgentActors

    def _update_actors(self, batch: PPOBatch) -> None:
        factors = torch.ones_like(batch.advantages)
        for agent in self._order():
            before = self._log_probs(agent, batch)
            self._train_actor(f"actor_{agent}", batch, [agent], factors)
            factors = factors * (self._log_probs(agent, batch) - before).exp()

    def _order(self) -> list[int]:
        if self.hp.fixed_order:
            return list(range(self.layout.num_agents))
        return self._agent_orders(self.actor).permutation(self.layout.num_agents).tolist()

    @torch.no_grad()
    def _log_probs(self, agent: int, batch: PPOBatch) -> torch.Tensor:
        """(B,) of what an agent did, under its present policy."""
        index = torch.tensor([agent], device=self.device)
        policy = self.actor.of_agent(agent)(batch.observations[:, index], index)
        return policy.log_prob(batch.actions[:, index]).squeeze(1)
