"""What an iteration of Algorithm 1 consists of: updates of the three models, imagination, and updates of the policy.

Each is a step as `core/training/compile.py` understands it, prepared once: on a GPU it is recorded or compiled.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch

from rllib_dima.core.dima.hyperparameters import DIMAHyperparameters
from rllib_dima.core.dima.world_model import WorldModel
from rllib_dima.core.imagination import imagine
from rllib_dima.core.policy.data import PPOBatch, Rollout
from rllib_dima.core.policy.networks import Actor, Critic
from rllib_dima.core.policy.ppo import PPOEpochs, ppo_batch
from rllib_dima.core.replay.buffer import ReplayBuffer
from rllib_dima.core.replay.data import Window
from rllib_dima.core.training.clock import PhaseClock
from rllib_dima.core.training.compile import Accelerator, Step
from rllib_dima.core.training.metrics import RunningMeans
from rllib_dima.core.training.optimization import ModelOptimizer

logger = logging.getLogger(__name__)

Loss = Callable[[Any], tuple[torch.Tensor, dict[str, torch.Tensor]]]
Draw = Callable[[], Window | torch.Tensor]

PREFIXES = {"state_decoder": "decoder", "dynamics": "dynamics", "reward_termination": "reward"}
"""The world model's parts, and what their hyperparameters and metrics begin with."""


class Steps:
    """Everything that one iteration does, with the optimisers and the means of the metrics that it fills.

    Args:
        hp: hyperparameters.
        actor: the policy.
        critic: the value function.
        world_model: the three models.
        replay: where real experience is drawn from.
        optimizers: by network: the parts of the world model, "actor" and "critic".
        is_alone: whether no other learner averages its gradients with this one's.
        side_by_side: see `DIMATrainer`.
        clock: times every step.

    Attributes:
        optimizers: as given.
        means: of the metrics since they were last cleared: by network, of "rollout" and of "statistics".
        accelerator: how the steps are executed.
        policy: the steps that train the policy, by name.
        clock: as given; may be replaced by another one.
    """

    def __init__(
        self,
        hp: DIMAHyperparameters,
        actor: Actor,
        critic: Critic,
        world_model: WorldModel,
        replay: ReplayBuffer,
        optimizers: Mapping[str, ModelOptimizer],
        is_alone: bool,
        side_by_side: bool,
        clock: PhaseClock,
    ) -> None:
        device = replay.output_device
        self.hp, self.actor, self.critic, self.world_model = hp, actor, critic, world_model
        self.replay, self.clock, self._side_by_side = replay, clock, side_by_side
        self.optimizers, self._is_alone = optimizers, is_alone
        self.means = {name: RunningMeans(device) for name in (*optimizers, "statistics", "rollout", "fresh")}
        self.accelerator = Accelerator(hp.acceleration, device, world_model.fusible_modules())
        self._warn_if_slow()
        self._updates: dict[tuple[str, ...], Step] = {}
        self._outcomes: torch.Tensor | None = None  # what rewards and endings are learnt from, if that is prepared
        accelerate = self.accelerator.accelerate
        self._replayed = accelerate("the replay in imagination", self._replay, self._has_replay_on_device)
        self._epochs = PPOEpochs(hp, actor, critic, optimizers, self.means, self.accelerator.side_by_side)
        self.policy = {
            "imagine": accelerate("imagination", self._imagine, self._has_replay_on_device),
            "evaluate": accelerate("the evaluation of rollouts", self._evaluate),
            "ppo_epoch": accelerate("PPO epochs", self._epochs.run, self._is_alone),
        }

    def prepare(self) -> None:
        """Prepares what an iteration's updates of the world model learn from; in evaluation mode."""
        if self.hp.reward_network != "mlp":
            return
        with self.clock.timed("reward_data"):
            outcomes = self._replayed()
            if self._outcomes is None:
                self._outcomes = torch.empty_like(outcomes)
            self._outcomes.copy_(outcomes)  # where recorded updates read it

    def update(self, models: tuple[str, ...]) -> None:
        """Updates each of the given parts of the world model once."""
        for model in models:
            self.optimizers[model].begin_update()
        if self._side_by_side and self._is_recordable and self.accelerator.records:
            with self.clock.timed("world_model"):
                self.prepared_update(models)()
            return
        for model in models:
            with self.clock.timed(model):
                self.prepared_update((model,))()

    def imagine(self) -> Rollout:
        """Imagines one batch of rollouts from real starts."""
        with self.clock.timed("imagination"):
            return self.policy["imagine"]()

    def evaluate(self, rollout: Rollout) -> PPOBatch:
        """Returns and advantages of a rollout."""
        with self.clock.timed("ppo"):
            return self.policy["evaluate"](*rollout)

    def update_policy(self, batch: PPOBatch) -> None:
        """One PPO epoch of actor and critic."""
        with self.clock.timed("ppo"):
            self._epochs.begin()
            self.policy["ppo_epoch"](*batch.columns())

    def prepared_update(self, models: tuple[str, ...]) -> Step:
        """The step that updates the given parts of the world model once, side by side."""
        if models not in self._updates:
            updates = [partial(self._update, model, *self._loss_and_draw(model)) for model in models]
            step = partial(self.accelerator.side_by_side, updates) if len(models) > 1 else updates[0]
            name = f"the update of {', '.join(models)}"
            self._updates[models] = self.accelerator.accelerate(name, step, self._is_recordable)
        return self._updates[models]

    def _loss_and_draw(self, model: str) -> tuple[Loss, Draw]:
        """What a part of the world model is trained on."""
        hp, world_model, sample = self.hp, self.world_model, self.replay.sample
        if model == "state_decoder":
            return world_model.state_decoder_loss, partial(sample, hp.decoder_batch_size)
        if model == "dynamics":
            past, future = hp.context_length - 1, hp.num_autoregressive_steps - 1
            return world_model.dynamics_loss, partial(sample, hp.dynamics_batch_size, past, future)
        if hp.reward_network == "mlp":
            return world_model.reward_termination_loss, self._draw_outcomes
        return world_model.reward_termination_loss, partial(sample, hp.reward_batch_size, future=hp.reward_window - 1)

    def _replay(self) -> torch.Tensor:
        """Imagined and real steps, M: twice as many as a batch of the policy has."""
        hp, steps = self.hp, []
        num_rollouts = math.ceil(2 * hp.reward_imagined_fraction * hp.num_imagined_rollouts)
        if num_rollouts:
            window = self.replay.sample(num_rollouts, hp.context_length - 1, hp.imagination_horizon - 1)
            steps.append(self.world_model.replayed(window))
        if num_real := (2 * hp.num_imagined_rollouts - num_rollouts) * hp.imagination_horizon:
            steps.append(self.replay.sample(num_real))
        columns = zip(*(vars(window).values() for window in steps), strict=True)
        single = (torch.cat([part.flatten(0, 1) for part in column]).unsqueeze(1) for column in columns)  # (M, 1, ...)
        return self.world_model.outcomes(Window(*single))

    def _draw_outcomes(self) -> torch.Tensor:
        """A batch of what is prepared."""
        outcomes = self._outcomes
        assert outcomes is not None, "`prepare` is called before the updates of an iteration"
        return outcomes[torch.randint(len(outcomes), (self.hp.reward_batch_size,), device=outcomes.device)]

    def _update(self, model: str, loss: Loss, draw: Draw) -> None:
        value, metrics = loss(draw())
        self.means[model].add(metrics | {f"{PREFIXES[model]}_grad_norm": self.optimizers[model].step(value)})
        if model == "dynamics":
            self.world_model.dynamics.after_update()

    def _imagine(self) -> Rollout:
        start = self.replay.sample(self.hp.num_imagined_rollouts, past=self.hp.context_length - 1)
        return imagine(self.world_model.reset(start, is_noisy=True), self.actor, self.hp.imagination_horizon)

    def _evaluate(self, *rollout: torch.Tensor) -> PPOBatch:
        scale = self.world_model.reward_normalizer.scale
        imagined = Rollout(*rollout)
        alive = self.actor.layout.alive(imagined.observations)
        batch, metrics = ppo_batch(imagined, self.critic, self.hp, scale, self.hp.weigh_by_continuation, alive)
        self.means["rollout"].add(metrics)
        return batch

    @property
    def _has_replay_on_device(self) -> bool:
        return self.replay.device == self.replay.output_device

    @property
    def _is_recordable(self) -> bool:
        """Whether updates of the world model touch nothing but the device."""
        return self._is_alone and self._has_replay_on_device

    def _warn_if_slow(self) -> None:
        if self.accelerator.records and not self._is_recordable:
            reason = "replay lives in host memory" if self._is_alone else "several learners exchange gradients"
            logger.warning(
                f"acceleration={self.hp.acceleration!r}: {reason}, so updates are launched operation by operation "
                "instead of being recorded as CUDA graphs, which makes them several times slower."
            )
