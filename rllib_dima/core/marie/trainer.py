"""One iteration of MARIE, after its real experience has been collected. Without Ray.

    for each of tokenizer_updates_per_iteration:   update the tokeniser, on single observations
    for each of model_updates_per_iteration:       update the sequence model, on windows of H steps
    for each of policy_updates_per_iteration:      imagine H - 1 steps, then PPO epochs for actor and critic

The sequence model waits for `num_tokenizer_warmup_iterations` iterations, the policy for
`num_world_model_warmup_iterations` more.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn

from rllib_dima.core.imagination import imagine
from rllib_dima.core.imagining_trainer import ImaginingTrainer
from rllib_dima.core.marie.hyperparameters import MARIEHyperparameters
from rllib_dima.core.marie.networks import MARIEActor, MARIECritic
from rllib_dima.core.marie.world_model import MARIEWorldModel
from rllib_dima.core.policy.data import Rollout
from rllib_dima.core.replay.data import Window
from rllib_dima.core.trainer import Metrics
from rllib_dima.core.training.compile import Accelerator, Step, matrix_product_precision
from rllib_dima.core.training.metrics import RunningMeans

Loss = Callable[[Window], tuple[torch.Tensor, dict[str, torch.Tensor]]]

PREFIXES = {"tokenizer": "tokenizer", "sequence_model": "model"}
"""The world model's parts, and what their hyperparameters and metrics begin with."""


class MARIETrainer(ImaginingTrainer):
    """Replay, world model, actor and critic, and the updates of one iteration.

    Raises:
        ValueError: if `hp.acceleration` needs a GPU and `device` is none.
    """

    NETWORKS: ClassVar[dict[str, type[nn.Module]]] = {
        "actor": MARIEActor,
        "critic": MARIECritic,
        "world_model": MARIEWorldModel,
    }
    PREFIXES: ClassVar[dict[str, str]] = PREFIXES
    ADAMW: ClassVar[tuple[str, ...]] = tuple(PREFIXES)

    hp: MARIEHyperparameters
    actor: MARIEActor
    critic: MARIECritic

    def _set_up(self, networks: dict[str, Any]) -> None:
        self.actor, self.critic = networks["actor"], networks["critic"]
        self.world_model: MARIEWorldModel = networks["world_model"].eval()
        self._follow_tokenizer()
        self.replay = self._new_replay()
        parts = {name: getattr(self.world_model, name) for name in PREFIXES}
        if not self.world_model.tokenizer.is_trained:
            del parts["tokenizer"]
        self.optimizers = self._new_optimizers(parts | {"actor": self.actor, "critic": self.critic})
        self._set_up_steps()

    def train_iteration(self) -> Metrics:
        """Updates everything as often as one iteration does.

        Returns:
            Means over the iteration's updates under "world_model", "actor" and "critic", seconds under "time": only
            "time" before `num_steps_before_learning` steps were stored, and only of what is trained in a warm-up.

        Raises:
            NonFiniteLossError: if anything became NaN or infinite, with its name.
        """
        if not self._has_enough_steps():
            return {"time": self.clock.pop()}
        for means in self._means.values():
            means.clear()
        trains_policy = self.num_iterations >= self._num_warmup_iterations
        precision = matrix_product_precision(self.hp.precision, self.device)
        with self._on_device(), self.random_numbers(self.rank), precision:
            models = self.train_world_model()
            if trains_policy:
                self._train_policy()
        self.num_iterations += 1
        sources = {"world_model": [self._means[model] for model in models]} if models else {}
        if trains_policy:
            sources |= {"actor": [self._means["actor"]], "critic": [self._means["rollout"], self._means["critic"]]}
        return self._report(sources)

    @property
    def _num_warmup_iterations(self) -> int:
        """Learning iterations without the policy."""
        return self.hp.num_tokenizer_warmup_iterations + self.hp.num_world_model_warmup_iterations

    def train_world_model(self) -> list[str]:
        """Updates the world model as often as this iteration does, with torch's random numbers; returns which parts."""
        models = ["tokenizer"] if self.world_model.tokenizer.is_trained else []
        if self.num_iterations >= self.hp.num_tokenizer_warmup_iterations:
            models.append("sequence_model")
        for model in models:
            network = getattr(self.world_model, model).train()
            for _ in range(getattr(self.hp, f"{PREFIXES[model]}_updates_per_iteration")):
                self.optimizers[model].begin_update()
                with self.clock.timed(model):
                    self._updates[model]()
            network.eval()
        self._follow_tokenizer()
        return models

    def _follow_tokenizer(self) -> None:
        """The actor reconstructs observations as the world model does."""
        self.actor.tokenizer.load_state_dict(self.world_model.tokenizer.state_dict())

    def _normalize(self, observations: np.ndarray) -> None:
        values = torch.as_tensor(observations, device=self.device)
        for normalizer in (self.actor.normalizer, self.world_model.tokenizer.normalizer):
            if normalizer is not None:
                normalizer.update(values)
        self._follow_tokenizer()

    def _set_up_steps(self) -> None:
        """What an iteration consists of, as `core/training/compile.py` understands it."""
        accelerator = Accelerator(self.hp.acceleration, self.device, [])
        means = {name: RunningMeans(self.device) for name in (*PREFIXES, "rollout", "actor", "critic")}
        self._set_up_policy_steps(accelerator, means)
        hp, sample, accelerate = self.hp, self.replay.sample, accelerator.accelerate
        on_device = self.replay.device == self.replay.output_device
        tokens = partial(sample, hp.tokenizer_batch_size)
        windows = partial(sample, hp.model_batch_size, future=hp.imagination_horizon - 1)
        model = self.world_model
        self._updates: dict[str, Step] = {
            # Never recorded: the codebook's update is another package's code.
            "tokenizer": partial(self._update, "tokenizer", model.tokenizer_loss, tokens),
            "sequence_model": accelerate(
                "the update of the sequence model",
                partial(self._update, "sequence_model", model.sequence_loss, windows),
                self._is_alone and on_device,
            ),
        }
        self._imagine_some = accelerate("imagination", self._roll_out)

    def _update(self, model: str, loss: Loss, draw: Callable[[], Window]) -> None:
        value, metrics = loss(draw())
        norm = self.optimizers[model].step(value)
        self._means[model].add(metrics | {f"{PREFIXES[model]}_grad_norm": norm})

    def _imagine(self) -> Rollout:
        """All rollouts of an imagined batch, some at a time, as the transformer's memory of them is large."""
        starts = self.replay.sample(self.hp.num_imagined_rollouts).observations[:, -1]
        parts = [
            tuple(column.clone() for column in self._imagine_some(some))  # the next call may overwrite them
            for some in starts.split(self.hp.rollouts_at_once)
        ]
        return Rollout(*(torch.cat(column, dim=1) for column in zip(*parts, strict=True)))

    def _roll_out(self, observations: torch.Tensor) -> Rollout:
        return imagine(self.world_model.begin(observations), self.actor, self.hp.imagination_horizon - 1)
