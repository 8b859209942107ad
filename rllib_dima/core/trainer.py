"""One iteration of Algorithm 1 after the real experience has been collected, without Ray.

for each of decoder_updates_per_iteration:     update the state decoder
for each of dynamics_updates_per_iteration:    update the dynamics
for each of reward_updates_per_iteration:      update reward and termination
for each of policy_updates_per_iteration:      imagine, then PPO epochs for actor and critic
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch

from rllib_dima.core.behavior import Actor, Critic, PPOBatch, ppo_batch
from rllib_dima.core.hyperparameters import Hyperparameters
from rllib_dima.core.imagination import Rollout, imagine
from rllib_dima.core.layout import AgentLayout
from rllib_dima.core.optimization import AverageGradients, ModelOptimizer
from rllib_dima.core.replay_buffer import ReplayBuffer, Trajectory, Window, states_to_count
from rllib_dima.core.world_model import WorldModel

Loss = Callable[[Window], tuple[torch.Tensor, dict[str, torch.Tensor]]]
Metrics = dict[str, dict[str, float]]


class NonFiniteLossError(RuntimeError):
    """A loss, a gradient norm or an imagined quantity became NaN or infinite."""


class Trainer:
    """The replay buffer, the five optimisers and the updates of one iteration.

    Every iteration draws its random numbers from a generator seeded by (seed, rank, iteration), so that a run that
    is resumed continues as if it had never stopped. The caller's random state is left as it was.

    Args:
        layout: sizes.
        hp: hyperparameters.
        actor: policy network, on `device`.
        critic: value network, on `device`.
        world_model: the world model, on `device`.
        device: where training happens.
        seed: of all random numbers; None draws one.
        rank: of this learner among several.
        average_gradients: averages gradients over the learners, in place.
    """

    def __init__(
        self,
        layout: AgentLayout,
        hp: Hyperparameters,
        actor: Actor,
        critic: Critic,
        world_model: WorldModel,
        device: torch.device | str = "cpu",
        seed: int | None = 0,
        rank: int = 0,
        average_gradients: AverageGradients | None = None,
    ) -> None:
        self.hp, self.device, self.rank = hp, torch.device(device), rank
        self.actor, self.critic, self.world_model = actor, critic, world_model
        self.seed = int.from_bytes(os.urandom(4), "little") if seed is None else seed
        self.replay = ReplayBuffer(
            layout, hp.replay_capacity, _replay_device(layout, hp, self.device), self.device, hp.replay_recency
        )
        self.num_env_steps = 0
        self.num_iterations = 0  # iterations that trained
        self._times: dict[str, float] = {}
        self.optimizers = _build_optimizers(hp, actor, critic, world_model, average_gradients)

    def add(self, trajectories: Sequence[Trajectory]) -> None:
        """Stores real experience and updates the state statistics with it.

        Raises:
            ValueError: if a trajectory does not fit the layout or the buffer.
        """
        with self._timed("add"):
            for trajectory in trajectories:
                self.replay.add(trajectory)
                self.num_env_steps += len(trajectory)
            if trajectories:
                self.world_model.normalizer.update(torch.as_tensor(states_to_count(trajectories), device=self.device))

    def train_iteration(self) -> Metrics:
        """Updates everything as often as one iteration does.

        Returns:
            Means over the iteration's updates under "world_model", "actor" and "critic", seconds under "time". Before
            `num_steps_before_learning` steps only "time", during the world model's warm-up without the policy.

        Raises:
            NonFiniteLossError: if anything became NaN or infinite, with its name.
        """
        if self.num_env_steps < self.hp.num_steps_before_learning:
            return self._report({})
        with self._random_numbers():
            metrics = {"world_model": self._train_world_model()}
            if self.num_iterations >= self.hp.num_world_model_warmup_iterations:
                metrics.update(self._train_policy())
        self.num_iterations += 1
        return self._report(metrics)

    def state_dict(self) -> dict[str, object]:
        """Optimisers and counters; networks and replay are saved by whoever owns them."""
        return {
            "optimizers": {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()},
            "num_env_steps": self.num_env_steps,
            "num_iterations": self.num_iterations,
            "seed": self.seed,
        }

    def load_state_dict(self, state: dict[str, object]) -> None:
        """Restores `state_dict`; learning rates stay those of this trainer's hyperparameters."""
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(state["optimizers"][name])
        self.num_env_steps, self.num_iterations = state["num_env_steps"], state["num_iterations"]
        self.seed = state["seed"]

    def set_learning_rates(self, hp: Hyperparameters) -> None:
        """Makes the optimisers use the learning rates of `hp` from the next update on."""
        for name, (lr, *_) in _optimizer_settings(hp).items():
            self.optimizers[name].lr = lr

    def _train_world_model(self) -> dict[str, torch.Tensor]:
        hp, model = self.hp, self.world_model
        model.train()
        metrics = {}
        with self._timed("state_decoder"):
            draw = lambda: self.replay.sample(hp.decoder_batch_size)  # noqa: E731
            metrics |= self._fit("decoder", model.state_decoder_loss, draw, hp.decoder_updates_per_iteration)
        with self._timed("dynamics"):
            past, future = hp.context_length - 1, hp.num_autoregressive_steps - 1
            draw = lambda: self.replay.sample(hp.dynamics_batch_size, past, future)  # noqa: E731
            metrics |= self._fit("dynamics", model.dynamics_loss, draw, hp.dynamics_updates_per_iteration)
        with self._timed("reward_termination"):
            draw = lambda: self.replay.sample(hp.reward_batch_size, future=hp.imagination_horizon - 1)  # noqa: E731
            metrics |= self._fit("reward", model.reward_termination_loss, draw, hp.reward_updates_per_iteration)
        model.eval()
        return metrics

    def _fit(self, name: str, loss: Loss, draw: Callable[[], Window], updates: int) -> dict[str, torch.Tensor]:
        """Updates one part of the world model; means of its metrics."""
        optimizer, history = self.optimizers[name], []
        for _ in range(updates):
            value, metrics = loss(draw())
            history.append(metrics | {f"{name}_grad_norm": optimizer.step(value)})
        return _means(history)

    def _train_policy(self) -> dict[str, dict[str, torch.Tensor]]:
        actor_history, critic_history = [], []
        for _ in range(self.hp.policy_updates_per_iteration):
            rollout = self._imagine()
            with self._timed("ppo"):
                batch, metrics = ppo_batch(rollout, self.critic, self.hp)
                critic_history.append(metrics)
                for minibatch in self._minibatches(batch):
                    actor_history.append(self._update("actor", self.actor, minibatch))
                    critic_history.append(self._update("critic", self.critic, minibatch))
        return {"actor": _means(actor_history), "critic": _means(critic_history)}

    def _imagine(self) -> Rollout:
        with self._timed("imagination"):
            start = self.replay.sample(self.hp.num_imagined_rollouts, past=self.hp.context_length - 1)
            return imagine(self.world_model, self.actor, start, self.hp.imagination_horizon)

    def _minibatches(self, batch: PPOBatch) -> Iterator[PPOBatch]:
        """`ppo_epochs` passes over the batch, in `ppo_minibatches` random parts each."""
        for _ in range(self.hp.ppo_epochs):
            if self.hp.ppo_minibatches == 1:
                yield batch
                continue
            order = torch.randperm(len(batch.returns), device=self.device)
            for rows in order.chunk(self.hp.ppo_minibatches):
                yield PPOBatch(*(column[rows] for column in batch))

    def _update(self, name: str, model: Actor | Critic, batch: PPOBatch) -> dict[str, torch.Tensor]:
        loss, metrics = model.loss(batch)
        return metrics | {f"{name}_grad_norm": self.optimizers[name].step(loss)}

    def _report(self, metrics: dict[str, dict[str, torch.Tensor]]) -> Metrics:
        """Moves all metrics to the host at once and checks them."""
        names = [(part, name) for part, values in metrics.items() for name in values]
        stacked = [metrics[part][name].float() for part, name in names]
        numbers = torch.stack(stacked).tolist() if stacked else []
        report: Metrics = {part: {} for part in metrics}
        times, self._times = self._times, {}
        for (part, name), number in zip(names, numbers, strict=True):
            if not np.isfinite(number):
                raise NonFiniteLossError(
                    f"{part}/{name} became {number} in training iteration {self.num_iterations} (after "
                    f"{self.num_env_steps} environment steps). Go on from the last checkpoint with a lower learning "
                    f"rate of that model, or look for extreme values in the environment's states and rewards."
                )
            report[part][name] = number
        return {**report, "time": times}

    @contextmanager
    def _random_numbers(self) -> Iterator[None]:
        """Random numbers that depend on (seed, rank, iteration) alone."""
        entropy = np.random.SeedSequence([self.seed, self.rank, self.num_iterations])
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(int(entropy.generate_state(1, np.uint64)[0] >> 1))
            yield

    @contextmanager
    def _timed(self, phase: str) -> Iterator[None]:
        """Adds the seconds inside to `phase`; on a GPU until its work is done."""
        start = time.perf_counter()
        yield
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self._times[phase] = self._times.get(phase, 0.0) + time.perf_counter() - start


def _optimizer_settings(hp: Hyperparameters) -> dict[str, tuple]:
    """Name -> learning rate, gradient clip, weight decay, warm-up."""
    return {
        "decoder": (hp.decoder_lr, hp.decoder_grad_clip, hp.decoder_weight_decay, 0),
        "dynamics": (hp.dynamics_lr, hp.dynamics_grad_clip, hp.dynamics_weight_decay, hp.dynamics_lr_warmup_updates),
        "reward": (hp.reward_lr, hp.reward_grad_clip, hp.reward_weight_decay, 0),
        "actor": (hp.actor_lr, hp.actor_grad_clip, 0.0, 0),
        "critic": (hp.critic_lr, hp.critic_grad_clip, 0.0, 0),
    }


def _build_optimizers(
    hp: Hyperparameters,
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


def _means(history: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Mean of every metric over the updates that reported it."""
    names = {name: None for metrics in history for name in metrics}
    return {name: torch.stack([m[name] for m in history if name in m]).mean() for name in names}


def _replay_device(layout: AgentLayout, hp: Hyperparameters, device: torch.device) -> torch.device:
    """Where the buffer lives; on a GPU by default if it takes at most half of the free memory."""
    if hp.replay_device == "cpu" or device.type != "cuda":
        return torch.device("cpu")
    if hp.replay_device == "learner":
        return device
    free, _ = torch.cuda.mem_get_info(device)
    return device if ReplayBuffer.bytes_needed(layout, hp.replay_capacity) <= free / 2 else torch.device("cpu")
