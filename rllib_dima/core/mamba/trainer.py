"""MAMBA: policies that learn in a world model in which agents communicate (Egorov and Shpilman 2022).

"Scalable Multi-Agent Model-Based Reinforcement Learning", arXiv 2205.15023. After the real experience of an iteration
has been collected:

    for each of model_updates_per_iteration:     update the world model on windows of real steps
    for each of policy_updates_per_iteration:    states along windows, a rollout from each of them, then PPO epochs
    the policy that acts takes over the representation
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn

from rllib_dima.core.imagination import imagine
from rllib_dima.core.imagining_trainer import ImaginingTrainer
from rllib_dima.core.mamba.hyperparameters import MAMBAHyperparameters
from rllib_dima.core.mamba.policy import LatentActor, LatentCritic, MAMBAPolicy
from rllib_dima.core.mamba.representation import Latent
from rllib_dima.core.mamba.world_model import LatentSimulation, WorldModel
from rllib_dima.core.policy.data import Rollout
from rllib_dima.core.trainer import Metrics
from rllib_dima.core.training.compile import Accelerator, matrix_product_precision
from rllib_dima.core.training.metrics import RunningMeans


class MAMBATrainer(ImaginingTrainer):
    """Replay, world model, actor and critic, and the updates of one iteration.

    Raises:
        ValueError: if `hp.acceleration` needs a GPU and `device` is none.
    """

    NETWORKS: ClassVar[dict[str, type[nn.Module]]] = {
        "actor": MAMBAPolicy,
        "critic": LatentCritic,
        "world_model": WorldModel,
    }
    PREFIXES: ClassVar[dict[str, str]] = {"world_model": "model"}

    hp: MAMBAHyperparameters
    actor: LatentActor
    critic: LatentCritic

    def _set_up(self, networks: dict[str, Any]) -> None:
        self.policy: MAMBAPolicy = networks["actor"]
        self.actor, self.critic = self.policy.actor, networks["critic"]
        self.world_model: WorldModel = networks["world_model"].eval()
        self.policy.follow(self.world_model.representation)
        self.replay = self._new_replay()
        models = {"world_model": self.world_model, "actor": self.actor, "critic": self.critic}
        self.optimizers = self._new_optimizers(models)
        self._prepare_steps()

    def train_iteration(self) -> Metrics:
        """Updates everything as often as one iteration does.

        Returns:
            Means over the iteration's updates under "world_model", "actor" and "critic", seconds under "time". Before
            `num_steps_before_learning` steps were stored only "time".

        Raises:
            NonFiniteLossError: if anything became NaN or infinite, with its name.
        """
        if not self._has_enough_steps():
            return {"time": self.clock.pop()}
        for means in self._means.values():
            means.clear()
        precision = matrix_product_precision(self.hp.precision, self.device)
        with self._on_device(), self.random_numbers(self.rank), precision:
            self.train_world_model()
            self._train_policy()
        self.policy.follow(self.world_model.representation)
        self.num_iterations += 1
        means = self._means
        return self._report(
            {
                "world_model": [means["world_model"]],
                "actor": [means["actor"]],
                "critic": [means["rollout"], means["critic"]],
            }
        )

    def begin_rollouts(self) -> LatentSimulation:
        """Rollouts from the states along windows of real steps, as many for each that happened as there is room for."""
        window = self.replay.sample(self.hp.num_imagined_windows, past=1, future=self.hp.window_length - 3)
        latent, valid = self.world_model.track(window, num_before=1).latent, window.valid[:, 1:].flatten()
        real_first = (~valid).to(torch.uint8).argsort(stable=True)
        chosen = real_first[torch.arange(len(valid), device=valid.device) % valid.sum()]
        h, z, observations = (x.flatten(0, 1)[chosen] for x in (*latent, window.observations[:, 1:]))
        return self.world_model.simulate(Latent(h, z), observations)

    def _prepare_steps(self) -> None:
        """The steps of an iteration, as `core/training/compile.py` understands them."""
        mode = "cuda_graphs" if self.hp.acceleration == "auto" and self.device.type == "cuda" else self.hp.acceleration
        accelerator = Accelerator(mode, self.device, [])
        means = {name: RunningMeans(self.device) for name in ("world_model", "actor", "critic", "rollout")}
        self._set_up_policy_steps(accelerator, means)
        on_device = self.replay.device == self.replay.output_device
        self._update_model = accelerator.accelerate(
            "the update of the world model", self._model_update, self._is_alone and on_device
        )
        self._imagine_all = accelerator.accelerate("imagination", self._imagined_rollout, on_device)

    def train_world_model(self) -> None:
        """Updates the world model as often as one iteration does, with torch's random numbers."""
        self.world_model.train()
        with self.clock.timed("world_model"):
            for _ in range(self.hp.model_updates_per_iteration):
                self.optimizers["world_model"].begin_update()
                self._update_model()
        self.world_model.eval()

    def _begin_epoch(self) -> None:
        """Also lets the entropy bonus decay."""
        self.actor.entropy_decay.fill_(self.hp.entropy_decay ** self.optimizers["actor"].num_updates)
        super()._begin_epoch()

    def _normalize(self, observations: np.ndarray) -> None:
        normalizer = self.world_model.representation.normalizer
        if normalizer is not None:
            normalizer.update(torch.as_tensor(observations, device=self.device))
            self.policy.follow(self.world_model.representation)

    def _imagine(self) -> Rollout:
        return self._imagine_all()

    def _model_update(self) -> None:
        window = self.replay.sample(self.hp.model_batch_size, past=1, future=self.hp.window_length - 2)
        loss, metrics = self.world_model.loss(window)
        norm = self.optimizers["world_model"].step(loss)
        self._means["world_model"].add(metrics | {"model_grad_norm": norm})

    @torch.no_grad()
    def _imagined_rollout(self) -> Rollout:
        return imagine(self.begin_rollouts(), self.actor, self.hp.imagination_horizon)
