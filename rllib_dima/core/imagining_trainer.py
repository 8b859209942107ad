"""What the trainers of MARIE and MAMBA share: replay, and a policy that is trained by PPO on imagined rollouts.

DIMA's trainer has steps of its own (`core/dima/steps.py`), which run side by side.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from rllib_dima.core.policy.data import PPOBatch, Rollout
from rllib_dima.core.policy.ppo import PPOEpochs, ppo_batch
from rllib_dima.core.replay.buffer import ReplayBuffer
from rllib_dima.core.replay.data import Trajectory
from rllib_dima.core.trainer import OptimizingTrainer
from rllib_dima.core.training.compile import Accelerator
from rllib_dima.core.training.metrics import RunningMeans


class ImaginingTrainer(OptimizingTrainer):
    """Stores experience and trains the policy; subclasses train the world model and imagine.

    Attributes:
        actor: the policy that is trained.
        critic: its values.
        replay: where real experience is drawn from.
    """

    replay: ReplayBuffer  # pyright: ignore[reportIncompatibleVariableOverride]
    actor: Any  # an `Actor` and a `Critic`: subclasses say which
    critic: Any

    @abstractmethod
    def _imagine(self) -> Rollout:
        """One batch of rollouts."""

    @abstractmethod
    def _normalize(self, observations: np.ndarray) -> None:
        """Updates the statistics of observations (T, N, O), if they are normalised."""

    def add(self, trajectories: Sequence[Trajectory]) -> None:
        """Stores real experience, and updates the statistics of observations with it, if they are normalised.

        Raises:
            ValueError: if a trajectory does not fit the layout or the buffer, or holds NaN or infinity.
        """
        with self._on_device(), self.clock.timed("add"):
            self.replay.extend(trajectories)
            self.num_env_steps += sum(map(len, trajectories))
            if trajectories:
                self._normalize(np.concatenate([trajectory.observations for trajectory in trajectories]))

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores `state_dict`; learning rates and the seed, if one was given, stay those of this trainer."""
        super().load_state_dict(state)
        self._accelerator.forget()

    def _set_up_policy_steps(self, accelerator: Accelerator, means: dict[str, RunningMeans]) -> None:
        """How rollouts are evaluated and PPO's passes run.

        Args:
            accelerator: how steps are executed.
            means: those of "actor", "critic" and "rollout", which are filled.
        """
        self._accelerator, self._means = accelerator, means
        self._evaluate = accelerator.accelerate("the evaluation of rollouts", self._evaluated)
        self._epochs = PPOEpochs(self.hp, self.actor, self.critic, self.optimizers, means, accelerator.side_by_side)
        self._ppo_epoch = accelerator.accelerate("PPO epochs", self._epochs.run, self._is_alone)

    def _has_enough_steps(self) -> bool:
        return self.replay.num_written >= max(1, self.hp.num_steps_before_learning)

    def _train_policy(self) -> None:
        for _ in range(self.hp.policy_updates_per_iteration):
            with self.clock.timed("imagination"):
                rollout = self._imagine()
            with self.clock.timed("ppo"):
                batch = self._evaluate(*rollout)
                for _ in range(self.hp.ppo_epochs):
                    self._begin_epoch()
                    self._ppo_epoch(*batch.columns())

    def _begin_epoch(self) -> None:
        """What is done on the host before each PPO epoch."""
        self._epochs.begin()

    def _evaluated(self, *rollout: torch.Tensor) -> PPOBatch:
        imagined = Rollout(*rollout)
        alive = self.actor.layout.alive(imagined.observations)
        batch, metrics = ppo_batch(imagined, self.critic, self.hp, alive=alive)
        self._means["rollout"].add(metrics)
        return batch
