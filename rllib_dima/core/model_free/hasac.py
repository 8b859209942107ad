"""HASAC: soft actor-critic for teams of agents that share no parameter (Liu et al. 2024), as HARL runs it.

for each of updates_per_iteration:                      (a round)
    critics:    Q1, Q2 towards R + gamma^m (1 - terminated) [min Q'(s', a') - alpha_c sum_i ln pi^i(a'^i)]
    for each agent i in a random order:
        pi^i:   up on min Q(s, a^1..a^N) - alpha_i ln pi^i(a^i), a^i drawn anew
        alpha_i towards the target entropy;  a^i drawn from the new pi^i, for those that follow
    alpha_c:    towards the sum of the target entropies
    targets:    Q' <- (1 - polyak) Q' + polyak Q
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import nn
from torch.nn import functional

from rllib_dima.core.layout import AgentLayout
from rllib_dima.core.model_free.hyperparameters import HASACHyperparameters
from rllib_dima.core.model_free.on_policy import living_mean
from rllib_dima.core.model_free.soft_networks import SquashedActors, Temperatures, TwinCritic
from rllib_dima.core.model_free.trainer import ModelFreeTrainer
from rllib_dima.core.replay.buffer import ReplayBuffer
from rllib_dima.core.replay.data import MultiStep, Trajectory
from rllib_dima.core.trainer import Metrics

DISCRETE_TARGET = 0.98
"""Of the largest entropy that an agent with numbered actions can have (HARL)."""


class HASACTrainer(ModelFreeTrainer):
    """The joint replay buffer, the optimisers of every agent, the critics and the temperatures, and their rounds.

    With several learners each draws its own batches; the order of agents is that of all.
    """

    NETWORKS: ClassVar[dict[str, Callable[..., nn.Module]]] = {
        "actor": SquashedActors,
        "critic": TwinCritic,
        "temperature": Temperatures,
    }
    PREFIXES: ClassVar[dict[str, str]] = {"temperature": "alpha"}

    hp: HASACHyperparameters
    actor: SquashedActors
    critic: TwinCritic

    def _set_up(self, networks: dict[str, Any]) -> None:
        self.temperatures: Temperatures = networks["temperature"]
        super()._set_up(networks)
        self.replay: ReplayBuffer = self._new_replay(keeps_next_observations=True)  # pyright: ignore[reportIncompatibleVariableOverride]
        self._action_mask = self.layout.action_mask().float().to(self.device)  # (N, A)

    def add(self, trajectories: Sequence[Trajectory]) -> None:
        limits_end = self.hp.time_limits == "termination"
        self.replay.extend(
            [replace(t, terminated=True) if limits_end and t.is_at_time_limit else t for t in trajectories]
        )
        self.num_env_steps += sum(map(len, trajectories))

    def train_iteration(self) -> Metrics:
        warmup = self.hp.warmup_steps
        self.actor.explores_uniformly.fill_(self.num_env_steps < warmup)
        if self.replay.num_written <= warmup or not len(self.replay):  # also after a restore without replay
            return {"time": self.clock.pop()}
        orders, agents = self._agent_orders(self.actor), list(range(self.layout.num_agents))
        with self._learning(stream=self.rank):
            for _ in range(self.hp.updates_per_iteration):
                order = agents if self.hp.fixed_order else orders.permutation(len(agents)).tolist()
                self._round(self.replay.multi_step(self.hp.batch_size, self.hp.n_step, self.hp.gamma), order)
        return self._report_parts()

    def _round(self, batch: MultiStep, order: Sequence[int]) -> None:
        """One update of everything."""
        with self.clock.timed("critic"):
            self._update_critic(batch)
        targets = target_entropies(self.layout, self._action_mask, batch.observations)
        with self.clock.timed("actor"), self.critic.frozen():
            log_probs = self._update_actors(batch, order, targets)
        if self.hp.auto_alpha:
            self._update_temperature(-1, (log_probs + targets).sum(1).mean())
        alphas = torch.stack([self.temperatures(agent) for agent in order])
        self._means["temperature"].add({"alpha": alphas.mean(), "alpha_critic": self.temperatures(-1)})
        self.critic.follow(self.hp.polyak)

    def _update_critic(self, batch: MultiStep) -> None:
        targets = self._critic_targets(batch)
        values = self.critic(batch.states, batch.actions)  # (2, B)
        loss = functional.mse_loss(values[0], targets) + functional.mse_loss(values[1], targets)
        norm = self._step("critic", loss)
        metrics = {"critic_loss": loss, "value_mean": values.mean(), "target_mean": targets.mean()}
        self._means["critic"].add({**metrics, "critic_grad_norm": norm})

    @torch.no_grad()
    def _critic_targets(self, batch: MultiStep) -> torch.Tensor:
        """(B,) the soft return of m steps and of what follows them."""
        actions, log_probs = self.actor.draw_executed(batch.next_observations)
        following = self.critic(batch.next_states, actions, targets=True).amin(0)
        following = following - self.temperatures(-1) * log_probs.sum(1)
        return batch.returns + batch.discounts * (~batch.terminated).float() * following

    def _update_actors(self, batch: MultiStep, order: Sequence[int], targets: torch.Tensor) -> torch.Tensor:
        """Updates the agents one after the other; (B, N) -> ln pi^i (B, N) of each before its step."""
        with torch.no_grad():
            joint = list(self.actor.draw_executed(batch.observations)[0].unbind(1))  # N of (B, A)
        alive = self.layout.alive(batch.observations)  # (B, N)
        log_probs = torch.empty(len(joint[0]), len(joint), device=self.device)
        for agent in order:
            own = batch.observations[:, agent]
            present = None if alive is None else alive[:, agent]
            joint[agent], own_log_probs = self.actor.draw_executed(own, agent)
            values = self.critic(batch.states, torch.stack(joint, dim=1)).amin(0)
            loss = living_mean(self.temperatures(agent) * own_log_probs - values, present)
            norm = self._step(f"actor_{agent}", loss)
            log_probs[:, agent] = own_log_probs.detach()
            if self.hp.auto_alpha:
                self._update_temperature(agent, living_mean(log_probs[:, agent] + targets[:, agent], present))
            with torch.no_grad():
                joint[agent] = self.actor.draw_executed(own, agent)[0]
            entropy = -living_mean(log_probs[:, agent], present)
            metrics = {"policy_loss": loss, "entropy": entropy, "actor_grad_norm": norm}
            self._means["actor"].add(metrics)
        return log_probs

    def _update_temperature(self, index: int, lack: torch.Tensor) -> None:
        """One step of an agent's temperature, or the critic's (-1): up where the entropy is below its target."""
        self._step("temperature", -(self.temperatures.log_alphas[index] * lack))

    def _step(self, name: str, loss: torch.Tensor) -> torch.Tensor:
        self.optimizers[name].begin_update()
        return self.optimizers[name].step(loss)

    def _trained(self) -> dict[str, nn.Module]:
        networks = {f"actor_{agent}": actor for agent, actor in enumerate(self.actor.actors)}
        networks["critic"] = self.critic.trained
        return {**networks, "temperature": self.temperatures} if self.hp.auto_alpha else networks


def target_entropies(layout: AgentLayout, action_mask: torch.Tensor, observations: torch.Tensor) -> torch.Tensor:
    """The entropies that temperatures keep policies at: minus the number of entries, or a share of the largest.

    Args:
        layout: sizes.
        action_mask: (N, A) float, which entries agents really have.
        observations: (B, N, O).

    Returns:
        (B, N); of choices, what those that are usable allow. 0 of agents that have left.
    """
    usable = layout.usable(action_mask.expand(len(observations), -1, -1), observations)  # (B, N, A)
    if not layout.is_discrete:
        return -usable.sum(-1)
    blocks = usable.split(list(layout.block_sizes), -1)
    return DISCRETE_TARGET * torch.stack([block.sum(-1).clamp(min=1).log() for block in blocks]).sum(0)
