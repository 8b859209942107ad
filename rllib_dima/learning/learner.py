"""`TeamLearner`: feeds RLlib's episodes to an algorithm's trainer.

The trainer owns the replay buffer, so an iteration moves one batch of new episodes in and nothing but metrics and the
policy's weights out. With several learners every one receives the same episodes and draws different samples; their
gradients are averaged at every optimiser step.
"""

from __future__ import annotations

import logging
import pathlib
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow.fs
import torch
import torch.distributed as dist
import tree
from ray.rllib.core import COMPONENT_RL_MODULE
from ray.rllib.core.learner.torch.torch_learner import TorchLearner
from ray.rllib.core.learner.training_data import TrainingData
from ray.rllib.env.multi_agent_episode import MultiAgentEpisode
from ray.rllib.utils.metrics import (
    ALL_MODULES,
    NUM_ENV_STEPS_TRAINED,
    NUM_ENV_STEPS_TRAINED_LIFETIME,
    NUM_MODULE_STEPS_TRAINED,
    NUM_MODULE_STEPS_TRAINED_LIFETIME,
    WEIGHTS_SEQ_NO,
)
from torch import nn

from rllib_dima.checkpoint import Place, locate, on_local_disk
from rllib_dima.core.trainer import Trainer
from rllib_dima.learning.rl_modules import POLICY_ID, TeamMultiRLModule, TeamNetwork, module_id
from rllib_dima.learning.trajectories import to_trajectory
from rllib_dima.policy import load_layout

if TYPE_CHECKING:
    from rllib_dima.algorithms.base_config import TeamConfig

REPLAY_FILE_NAME = "replay_buffer.pt"

logger = logging.getLogger("ray.rllib")


@dataclass
class BroadcastTrainingData(TrainingData):
    """Episodes that every learner receives whole.

    RLlib's own sharding slices episodes, which drops the infos with the global state and the flags of their ends.
    """

    episodes: list[MultiAgentEpisode] | None = None

    def shard(self, num_shards: int, **kwargs: Any) -> list[tuple[BroadcastTrainingData, dict[str, Any]]]:
        """The same data, once for each of `num_shards` learners."""
        return [(self, {})] * num_shards


class TeamLearner(TorchLearner):
    """Holds the networks and the trainer that the configuration names; an `update` is one iteration of learning."""

    config: TeamConfig
    module: TeamMultiRLModule

    def build(self) -> None:
        """Builds the modules on the learner's device, makes all learners start equal, and builds the trainer."""
        if self._check_is_built(error=False):
            return
        super().build()
        self._layout = self._network(POLICY_ID).layout
        self.trainer: Trainer = self.config.trainer_class(
            self._layout,
            self.config.hyperparameters(),
            {name: self._net(module_id(name)) for name in self.config.trainer_class.NETWORKS},
            device=self._device,
            seed=self.config.seed,
            rank=self._rank,
            average_gradients=_average_gradients if self.distributed else None,
            **self.config.trainer_settings(),
        )

    def update(
        self,
        *,
        episodes: list[MultiAgentEpisode] | None = None,
        training_data: BroadcastTrainingData | None = None,
        timesteps: dict[str, Any] | None = None,
        _no_metrics_reduce: bool = False,
        **kwargs: Any,
    ) -> dict[str, Any] | None:
        """Gives the trainer new episodes, and has it learn for one iteration.

        Args:
            episodes: new episodes or chunks of them; given either here or in `training_data`.
            training_data: as `LearnerGroup.update()` passes it.
            timesteps: RLlib's step counters, for callbacks and schedules.

        Returns:
            Metrics by module id: losses of each network, seconds of each phase and counts of trained steps.

        Raises:
            ValueError: if an episode lacks the global state.
            rllib_dima.core.trainer.NonFiniteLossError: if a loss is NaN or infinite.
        """
        self._check_is_built()
        self.before_gradient_based_update(timesteps=timesteps or {})
        training_data = training_data or BroadcastTrainingData(episodes=episodes)
        training_data.validate()
        training_data.solve_refs()
        trajectories = [to_trajectory(episode, self._layout) for episode in training_data.episodes if len(episode)]
        self.trainer.add(trajectories)
        metrics = self.trainer.train_iteration()
        self._weights_seq_no += 1
        if self.distributed:
            _broadcast(self._buffers())
        self._log(metrics, num_steps=sum(len(trajectory) for trajectory in trajectories))
        self.after_gradient_based_update(timesteps=timesteps or {})
        return None if _no_metrics_reduce else self.metrics.reduce()

    def set_state(self, state: dict[str, Any]) -> None:
        """Restores networks, optimisers and counters, also to a state older than the present one.

        Learning rates are those of this learner's config afterwards, not those stored in the optimisers' state. The
        replay buffer keeps its steps but closes its open episodes: runners may go back to an earlier step.
        """
        if state.get(WEIGHTS_SEQ_NO, 0) > 0:
            self._weights_seq_no = 0
        super().set_state(state)
        if self.trainer.replay is not None:
            self.trainer.replay.close_episodes()
        self.trainer.set_learning_rates(self.config.hyperparameters())

    def save_to_path(
        self,
        path: str | pathlib.Path | None = None,
        *,
        state: dict[str, Any] | None = None,
        filesystem: pyarrow.fs.FileSystem | None = None,
        use_msgpack: bool = False,
    ) -> str:
        """Saves the learner; the replay buffer goes to a file of its own, if `config.checkpoint_replay`."""
        saved = super().save_to_path(path, state=state, filesystem=filesystem, use_msgpack=use_msgpack)
        if self.has_replay_to_save:
            with _file_to_write(saved, filesystem) as file:
                self.trainer.replay.save(file)
        return saved

    def restore_from_path(
        self,
        path: str | pathlib.Path,
        *,
        component: str | None = None,
        filesystem: pyarrow.fs.FileSystem | None = None,
        **kwargs: Any,
    ) -> None:
        """Restores the learner; if it is restored as a whole, also the replay buffer.

        A checkpoint without one leaves the buffer empty, and learning waits for as many new steps as in a new run.

        Raises:
            ValueError: it is of other agents, or its networks or replay buffer have other sizes.
        """
        place = locate(path, filesystem)
        if component is None:
            self._check_layout(place)
        super().restore_from_path(place.path, component=component, filesystem=place.filesystem, **kwargs)
        if component is not None or self.trainer.replay is None:
            return
        with on_local_disk(place, (REPLAY_FILE_NAME,)) as folder:
            if (folder / REPLAY_FILE_NAME).is_file():
                self.trainer.replay.load(folder / REPLAY_FILE_NAME)
            else:
                self.trainer.replay.clear()
                logger.warning(f"The checkpoint {path} holds no replay buffer: experience is collected anew.")

    def keep_state(self) -> None:
        """Holds a copy of networks, optimisers and replay in host memory, until `drop_kept_state`."""
        replay = self.trainer.replay
        self._kept_state = self.get_state(), None if replay is None else replay.state_dict()  # an empty one is falsy

    def return_to_kept_state(self) -> None:
        """Goes back to what `keep_state` copied; open episodes in the replay buffer continue from there."""
        state, replay = self._kept_state
        self.set_state(state)
        if replay is not None:
            self.trainer.replay.load_state_dict(replay)

    def drop_kept_state(self) -> None:
        """Frees what `keep_state` holds."""
        del self._kept_state

    def configure_optimizers(self) -> None:
        """Registers none: the trainer owns one optimiser per network."""

    def compute_loss_for_module(self, **kwargs: Any) -> torch.Tensor:
        """Not used.

        Raises:
            RuntimeError: always; the losses belong to different batches and are computed within `update()`.
        """
        raise RuntimeError(
            "There is no loss on a train batch: trainers draw their own batches. Call TeamLearner.update(); the losses "
            "are in the algorithm's trainer."
        )

    def compute_losses(self, **kwargs: Any) -> dict[str, torch.Tensor]:
        """Not used; see `compute_loss_for_module`."""
        return {POLICY_ID: self.compute_loss_for_module()}

    def _check_layout(self, learner: Place) -> None:
        """Raises ValueError if a saved learner has other agents; network sizes are checked as they load."""
        with on_local_disk(learner, (COMPONENT_RL_MODULE,)) as folder:
            saved = load_layout(folder / COMPONENT_RL_MODULE / POLICY_ID)
        if saved != self._layout:
            raise ValueError(
                f"The checkpoint is of other agents: {saved}, but this algorithm's are {self._layout}. Build the "
                "algorithm with the environment that the checkpoint was trained on."
            )

    @property
    def has_replay_to_save(self) -> bool:
        """Whether a checkpoint holds a replay buffer."""
        return self.config.checkpoint_replay and self.trainer.replay is not None

    @property
    def _rank(self) -> int:
        return dist.get_rank() if self.distributed else 0

    def _net(self, module: str) -> nn.Module:
        return self._network(module).net

    def _network(self, module: str) -> TeamNetwork:
        network = self.module[module].unwrapped()
        assert isinstance(network, TeamNetwork)
        return network

    def _buffers(self) -> list[torch.Tensor]:
        return [buffer for module in self.module.keys() for buffer in self._net(module).buffers()]  # noqa: SIM118

    def _make_modules_ddp_if_necessary(self) -> None:
        """Makes all learners start from the same networks. No DDP: the trainer averages gradients explicitly."""
        if self.distributed:
            modules = [self._net(module) for module in self.module.keys()]  # noqa: SIM118
            _broadcast(tensor for net in modules for tensor in (*net.parameters(), *net.buffers()))

    def _get_optimizer_state(self) -> dict[str, Any]:
        return {name: tree.map_structure(_host_copy, part) for name, part in self.trainer.state_dict().items()}

    def _set_optimizer_state(self, state: dict[str, Any]) -> None:
        self.trainer.load_state_dict(state)

    def _log(self, metrics: dict[str, dict[str, float]], num_steps: int) -> None:
        """Logs this iteration's values; counts of steps once, by the first learner, as all learners see all steps."""
        for part, values in metrics.items():
            module, pattern = (ALL_MODULES, "time_{}_s") if part == "time" else (module_id(part), "{}")
            for name, value in values.items():
                self.metrics.log_value((module, pattern.format(name)), value, window=1)
        for module in self.module.keys():  # noqa: SIM118
            self.metrics.log_value((module, WEIGHTS_SEQ_NO), self._weights_seq_no, window=1)
        self._log_trainable_parameters()
        if self._rank == 0:
            self._log_steps(num_steps)

    def _log_steps(self, num_steps: int) -> None:
        for key, reduce in ((NUM_ENV_STEPS_TRAINED, "sum"), (NUM_ENV_STEPS_TRAINED_LIFETIME, "lifetime_sum")):
            self.metrics.log_value((ALL_MODULES, key), num_steps, reduce=reduce)
        for key, reduce in ((NUM_MODULE_STEPS_TRAINED, "sum"), (NUM_MODULE_STEPS_TRAINED_LIFETIME, "lifetime_sum")):
            for module in self.module.keys():  # noqa: SIM118
                self.metrics.log_value((module, key), num_steps, reduce=reduce)


def _host_copy(value: Any) -> Any:
    """Copies a tensor to host memory, where it unpickles without a GPU; returns anything else unchanged."""
    return value.detach().to("cpu", copy=True) if isinstance(value, torch.Tensor) else value


def _average_gradients(parameters: Sequence[nn.Parameter]) -> None:
    """Replaces each gradient by its mean over all learners, in one all-reduce."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    parts = flat.split([gradient.numel() for gradient in gradients])
    for gradient, part in zip(gradients, parts, strict=True):
        gradient.copy_(part.view_as(gradient))


def _broadcast(tensors: Iterable[torch.Tensor]) -> None:
    """Overwrites the tensors of all learners with those of the first."""
    for tensor in tensors:
        dist.broadcast(tensor.data, src=0)


@contextmanager
def _file_to_write(folder: str, filesystem: pyarrow.fs.FileSystem | None) -> Iterator[pathlib.Path]:
    """A local path to write the replay file to; afterwards it is in `folder`, on whichever file system."""
    if locate(folder, filesystem).is_local:
        yield pathlib.Path(folder) / REPLAY_FILE_NAME
        return
    with tempfile.TemporaryDirectory() as local:
        yield pathlib.Path(local) / REPLAY_FILE_NAME
        pyarrow.fs.copy_files(local, folder, destination_filesystem=filesystem)
