"""One iteration of Algorithm 1 after the real experience has been collected, without Ray.

for each of decoder_updates_per_iteration:     update the state decoder
for each of dynamics_updates_per_iteration:    update the dynamics
for each of reward_updates_per_iteration:      update reward and termination
for each of policy_updates_per_iteration:      imagine, then PPO epochs for actor and critic

The first three do not depend on each other; their updates take turns.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import ClassVar

import numpy as np
import torch
from torch import nn

from rllib_dima.core.dima.hyperparameters import DIMAHyperparameters
from rllib_dima.core.dima.imagination import imagine
from rllib_dima.core.dima.world_model import WorldModel
from rllib_dima.core.layout import AgentLayout
from rllib_dima.core.policy.data import PPOBatch, Rollout
from rllib_dima.core.policy.networks import Actor, Critic
from rllib_dima.core.policy.ppo import ppo_batch
from rllib_dima.core.replay.buffer import ReplayBuffer, free_memory
from rllib_dima.core.replay.data import Trajectory, Window, states_to_count
from rllib_dima.core.trainer import Metrics, NonFiniteLossError, Trainer
from rllib_dima.core.training.clock import PhaseClock
from rllib_dima.core.training.compile import Accelerator, Step, has_bfloat16, matrix_product_precision
from rllib_dima.core.training.metrics import RunningMeans
from rllib_dima.core.training.optimization import AverageGradients, ModelOptimizer
from rllib_dima.core.training.random_numbers import own_random_numbers

logger = logging.getLogger(__name__)

Loss = Callable[[Window], tuple[torch.Tensor, dict[str, torch.Tensor]]]
Draw = Callable[[], Window]

WORLD_MODEL_PHASES = {"decoder": "state_decoder", "dynamics": "dynamics", "reward": "reward_termination"}


class DIMATrainer(Trainer):
    """The replay buffer, the five optimisers and the updates of one iteration.

    Every iteration draws its random numbers from a generator seeded by (seed, rank, iteration), so that a run that
    is resumed continues as if it had never stopped. The caller's random state is left as it was.

    Args:
        layout: sizes.
        hp: hyperparameters.
        networks: "actor", "critic" and "world_model", on `device`.
        device: where training happens.
        seed: of all random numbers, also after `load_state_dict`; None draws one, or goes on with the saved one.
        rank: of this learner among several.
        average_gradients: averages gradients over the learners, in place.
        side_by_side: whether steps that do not depend on each other run at the same time where they are recorded as
            CUDA graphs. The seconds of the world model's three parts are then one number.

    Raises:
        ValueError: if `hp.acceleration` needs a GPU and `device` is none.
    """

    NETWORKS: ClassVar[dict[str, type[nn.Module]]] = {"actor": Actor, "critic": Critic, "world_model": WorldModel}

    def __init__(
        self,
        layout: AgentLayout,
        hp: DIMAHyperparameters,
        networks: dict[str, nn.Module],
        device: torch.device | str = "cpu",
        seed: int | None = 0,
        rank: int = 0,
        average_gradients: AverageGradients | None = None,
        side_by_side: bool = True,
    ) -> None:
        self.hp, self.device, self.rank = hp, torch.device(device), rank
        self.actor: Actor = networks["actor"]
        self.critic: Critic = networks["critic"]
        self.world_model: WorldModel = networks["world_model"]
        self._given_seed, self.seed = seed, int.from_bytes(os.urandom(4), "little") if seed is None else seed
        self.replay = ReplayBuffer(
            layout, hp.replay_capacity, _replay_device(layout, hp, self.device), self.device, hp.replay_recency
        )
        self.num_env_steps = 0
        self.num_iterations = 0  # iterations that trained
        self.clock = PhaseClock(self.device)
        self.optimizers = _build_optimizers(hp, self.actor, self.critic, self.world_model, average_gradients)
        measured = (*WORLD_MODEL_PHASES, "statistics", "rollout", "actor", "critic")
        self._means = {part: RunningMeans(self.device) for part in measured}
        self.accelerator = Accelerator(hp.acceleration, self.device, self.world_model.fusible_modules())
        if hp.precision == "bfloat16" and not has_bfloat16(self.device):
            logger.warning(
                f"precision='bfloat16': this {self.device.type} device has no instructions for it, so training is many "
                "times slower than with precision='float32'."
            )
        self._is_alone, self._side_by_side = average_gradients is None, side_by_side
        if self.accelerator.records and not self._is_recordable:
            reason = "replay lives in host memory" if self._is_alone else "several learners exchange gradients"
            logger.warning(
                f"acceleration={hp.acceleration!r}: {reason}, so updates are launched operation by operation instead "
                "of being recorded as CUDA graphs, which makes them several times slower."
            )
        self._update_steps: dict[tuple[str, ...], Step] = {}
        self._steps = self._build_policy_steps()

    def add(self, trajectories: Sequence[Trajectory]) -> None:
        """Stores real experience and updates the statistics of states and rewards with it.

        Raises:
            ValueError: if a trajectory does not fit the layout or the buffer, or holds NaN or infinity.
        """
        with self._on_device(), self.clock.timed("add"):
            for trajectory in trajectories:
                self.replay.check(trajectory)
            for trajectory in trajectories:
                self.replay.add(trajectory)
                self.num_env_steps += len(trajectory)
            if trajectories:
                rewards = np.concatenate([trajectory.rewards for trajectory in trajectories])
                experience = (torch.as_tensor(x, device=self.device) for x in (states_to_count(trajectories), rewards))
                self._observe(*experience)

    def train_iteration(self) -> Metrics:
        """Updates everything as often as one iteration does.

        Returns:
            Means over the iteration's updates under "world_model", "actor" and "critic", seconds under "time". Before
            `num_steps_before_learning` steps were stored only "time", during the world model's warm-up without the
            policy.

        Raises:
            NonFiniteLossError: if anything became NaN or infinite, with its name.
        """
        if self.replay.num_written < self.hp.num_steps_before_learning:
            return self._report({})
        for means in self._means.values():
            means.clear()
        precision = matrix_product_precision(self.hp.precision, self.device)
        with self._on_device(), self._random_numbers(), precision:
            self._train_world_model()
            parts = {"world_model": (*WORLD_MODEL_PHASES, "statistics")}
            if self.num_iterations >= self.hp.num_world_model_warmup_iterations:
                self._train_policy()
                parts |= {"actor": ("actor",), "critic": ("rollout", "critic")}
        self.num_iterations += 1
        return self._report(parts)

    def state_dict(self) -> dict[str, object]:
        """Optimisers and counters; networks and replay are saved by whoever owns them."""
        return {
            "optimizers": {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()},
            "num_env_steps": self.num_env_steps,
            "num_iterations": self.num_iterations,
            "seed": self.seed,
        }

    def load_state_dict(self, state: dict[str, object]) -> None:
        """Restores `state_dict`; learning rates and the seed, if one was given, stay those of this trainer."""
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(state["optimizers"][name])
        self.accelerator.forget()
        self.num_env_steps, self.num_iterations = state["num_env_steps"], state["num_iterations"]
        if self._given_seed in (None, state["seed"]):
            self.seed = state["seed"]
        elif self.rank == 0:
            logger.warning(
                f"The restored run has drawn its random numbers with seed {state['seed']}; it goes on with seed "
                f"{self.seed}, which is configured now. Without a seed, or with that one, it would go on as it was."
            )

    def set_learning_rates(self, hp: DIMAHyperparameters) -> None:
        """Makes the optimisers use the learning rates of `hp` from the next update on."""
        for name, (lr, *_) in _optimizer_settings(hp).items():
            self.optimizers[name].lr = lr

    def _observe(self, states: torch.Tensor, rewards: torch.Tensor) -> None:
        """Updates the statistics with (M, S) and (M',); predicted rewards and values stay when their scale changes."""
        model = self.world_model
        model.normalizer.update(states)
        if len(rewards):
            factor, shift = model.reward_normalizer.update(rewards)
            if self.num_iterations:  # else nothing has been learnt
                model.reward_termination.transform_rewards(factor, shift)
                self.critic.value_normalizer.rescale(factor)

    def _train_world_model(self) -> None:
        """The models do not depend on each other: their updates take turns, or are done side by side."""
        updates = {part: getattr(self.hp, f"{part}_updates_per_iteration") for part in WORLD_MODEL_PHASES}
        self.world_model.train()
        for number in range(max(updates.values())):
            parts = tuple(part for part in updates if number < updates[part])
            for part in parts:
                self.optimizers[part].begin_update()
            if self._side_by_side and self._is_recordable and self.accelerator.records:
                with self.clock.timed("world_model"):
                    self._update_step(parts)()
                continue
            for part in parts:
                with self.clock.timed(WORLD_MODEL_PHASES[part]):
                    self._update_step((part,))()
        self.world_model.eval()
        self._means["statistics"].add(self.world_model.statistics())

    def _update_step(self, parts: tuple[str, ...]) -> Step:
        """A step that updates the given parts once, side by side."""
        if parts not in self._update_steps:
            updates = [partial(self._update_part, part, *self._loss_and_draw(part)) for part in parts]
            step = partial(self.accelerator.side_by_side, updates) if len(parts) > 1 else updates[0]
            name = f"the update of {', '.join(parts)}"
            self._update_steps[parts] = self.accelerator.accelerate(name, step, self._is_recordable)
        return self._update_steps[parts]

    def _loss_and_draw(self, part: str) -> tuple[Loss, Draw]:
        """What a part of the world model is trained on."""
        hp, model, sample = self.hp, self.world_model, self.replay.sample
        if part == "decoder":
            return model.state_decoder_loss, partial(sample, hp.decoder_batch_size)
        if part == "dynamics":
            past, future = hp.context_length - 1, hp.num_autoregressive_steps - 1
            return model.dynamics_loss, partial(sample, hp.dynamics_batch_size, past, future)
        horizon = hp.imagination_horizon
        return model.reward_termination_loss, partial(sample, hp.reward_batch_size, future=horizon - 1)

    def _update_part(self, part: str, loss: Loss, draw: Draw) -> None:
        value, metrics = loss(draw())
        self._means[part].add(metrics | {f"{part}_grad_norm": self.optimizers[part].step(value)})

    def _train_policy(self) -> None:
        hp = self.hp
        for _ in range(hp.policy_updates_per_iteration):
            with self.clock.timed("imagination"):
                rollout = self._steps["imagine"]()
            with self.clock.timed("ppo"):
                batch = self._steps["evaluate"](*rollout)
                for _ in range(hp.ppo_epochs):
                    self.optimizers["actor"].begin_update(hp.ppo_minibatches)
                    self.optimizers["critic"].begin_update(hp.ppo_minibatches)
                    self._steps["ppo_epoch"](*batch)

    def _build_policy_steps(self) -> dict[str, Step]:
        accelerate = self.accelerator.accelerate
        return {
            "imagine": accelerate("imagination", self._imagine, self._has_replay_on_device),
            "evaluate": accelerate("the evaluation of rollouts", self._evaluate),
            "ppo_epoch": accelerate("PPO epochs", self._ppo_epoch, self._is_alone),
        }

    def _imagine(self) -> Rollout:
        start = self.replay.sample(self.hp.num_imagined_rollouts, past=self.hp.context_length - 1)
        return imagine(self.world_model, self.actor, start, self.hp.imagination_horizon)

    def _evaluate(self, *rollout: torch.Tensor) -> PPOBatch:
        scale = self.world_model.reward_normalizer.scale
        batch, metrics = ppo_batch(Rollout(*rollout), self.critic, self.hp, scale)
        self._means["rollout"].add(metrics)
        return batch

    def _ppo_epoch(self, *columns: torch.Tensor) -> None:
        """One pass of actor and critic over an imagined batch."""
        for minibatch in self._minibatches(PPOBatch(*columns)):
            updates = [partial(self._update_policy, name, minibatch) for name in ("actor", "critic")]
            self.accelerator.side_by_side(updates)

    def _update_policy(self, name: str, minibatch: PPOBatch) -> None:
        loss, metrics = {"actor": self.actor, "critic": self.critic}[name].loss(minibatch)
        self._means[name].add(metrics | {f"{name}_grad_norm": self.optimizers[name].step(loss)})

    def _minibatches(self, batch: PPOBatch) -> Iterator[PPOBatch]:
        """The batch in `ppo_minibatches` random parts, whose sizes differ by one step at most."""
        if self.hp.ppo_minibatches == 1:
            yield batch
            return
        order = torch.rand(len(batch.returns), device=self.device, dtype=torch.float64).argsort()
        for rows in order.tensor_split(self.hp.ppo_minibatches):
            yield PPOBatch(*(column[rows] for column in batch))

    def _report(self, parts: dict[str, Sequence[str]]) -> Metrics:
        """Moves the means of all metrics to the host at once and checks them."""
        means = {part: self._means[part].read() for names in parts.values() for part in names}
        norms = self._parameter_norms() if means else {}
        stacked = torch.cat([mean for _, mean in means.values()] + list(norms.values())).tolist() if means else []
        numbers, seconds = iter(stacked), self.clock.pop()
        report: Metrics = {part: {} for part in parts}
        for part, names in parts.items():
            for name in (metric for source in names for metric in means[source][0]):
                report[part][name] = next(numbers)
                self._check_finite(f"{part}/{name}", report[part][name])
        for name in norms:
            self._check_finite(f"the norm of the parameters of {name}", next(numbers))
        return {**report, "time": seconds}

    @torch.no_grad()
    def _parameter_norms(self) -> dict[str, torch.Tensor]:
        """(1,) by network: the last update of an iteration may have spoilt what no loss has seen yet."""
        norm = nn.utils.get_total_norm
        return {name: norm(optimizer.parameters).double().view(1) for name, optimizer in self.optimizers.items()}

    def _check_finite(self, name: str, number: float) -> None:
        if not np.isfinite(number):
            raise NonFiniteLossError(
                f"{name} became {number} in training iteration {self.num_iterations} (after {self.num_env_steps} "
                f"environment steps). Go on from the last checkpoint with a lower learning rate of that model, or look "
                f"for extreme values from the environment: the largest in replay are {self.replay.largest()}."
            )

    @property
    def _has_replay_on_device(self) -> bool:
        return self.replay.device == self.replay.output_device

    @property
    def _is_recordable(self) -> bool:
        """Whether updates of the world model touch nothing but the device."""
        return self._is_alone and self._has_replay_on_device

    def _on_device(self) -> AbstractContextManager:
        """Makes streams, events and graphs those of this trainer's GPU, if there are several."""
        return torch.cuda.device(self.device) if self.device.type == "cuda" else nullcontext()

    def _random_numbers(self) -> AbstractContextManager:
        """Random numbers that depend on (seed, rank, iteration) alone."""
        entropy = np.random.SeedSequence([self.seed, self.rank, self.num_iterations])
        return own_random_numbers(int(entropy.generate_state(1, np.uint64)[0] >> 1), self.device)


def _optimizer_settings(hp: DIMAHyperparameters) -> dict[str, tuple]:
    """Name -> learning rate, gradient clip, weight decay, warm-up."""
    return {
        "decoder": (hp.decoder_lr, hp.decoder_grad_clip, hp.decoder_weight_decay, 0),
        "dynamics": (hp.dynamics_lr, hp.dynamics_grad_clip, hp.dynamics_weight_decay, hp.dynamics_lr_warmup_updates),
        "reward": (hp.reward_lr, hp.reward_grad_clip, hp.reward_weight_decay, 0),
        "actor": (hp.actor_lr, hp.actor_grad_clip, 0.0, 0),
        "critic": (hp.critic_lr, hp.critic_grad_clip, 0.0, 0),
    }


def _build_optimizers(
    hp: DIMAHyperparameters,
    actor: Actor,
    critic: Critic,
    world_model: WorldModel,
    average_gradients: AverageGradients | None,
) -> dict[str, ModelOptimizer]:
    """AdamW for the world model's parts, Adam for actor and critic."""
    parts = {"decoder": world_model.state_decoder, "dynamics": world_model.dynamics}
    parts |= {"reward": world_model.reward_termination, "actor": actor, "critic": critic}
    optimizers = {}
    for name, (lr, clip, decay, warmup) in _optimizer_settings(hp).items():
        is_policy = name in ("actor", "critic")
        kind, epsilon = (torch.optim.Adam, hp.adam_epsilon) if is_policy else (torch.optim.AdamW, 1e-8)
        optimizers[name] = ModelOptimizer(name, parts[name], kind, lr, clip, decay, epsilon, warmup, average_gradients)
    return optimizers


def _replay_device(layout: AgentLayout, hp: DIMAHyperparameters, device: torch.device) -> torch.device:
    """Where the buffer lives; on a GPU by default if it takes at most half of the free memory."""
    if hp.replay_device == "cpu" or device.type != "cuda":
        return torch.device("cpu")
    if hp.replay_device == "learner":
        return device
    fits = ReplayBuffer.bytes_needed(layout, hp.replay_capacity) <= free_memory(device) / 2
    return device if fits else torch.device("cpu")
