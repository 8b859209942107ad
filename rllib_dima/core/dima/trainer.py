"""Algorithm 1 of the DIMA paper, after the real experience of an iteration has been collected. Without Ray.

    for each of decoder_updates_per_iteration:     update state_decoder          (eq. 22)
    for each of dynamics_updates_per_iteration:    update dynamics               (eq. 9)
    for each of reward_updates_per_iteration:      update reward_termination     (eq. 23)
    for each of policy_updates_per_iteration:      imagine, then PPO epochs for actor and critic (eqs. 19 to 21)

The first three do not depend on each other; their updates take turns. `steps.py` has each update, `core/imagination.py`
the rollouts.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn

from rllib_dima.core.dima.hyperparameters import DIMAHyperparameters
from rllib_dima.core.dima.open_loop import OpenLoopReport, open_loop_report
from rllib_dima.core.dima.steps import PREFIXES, Steps
from rllib_dima.core.dima.world_model import WorldModel
from rllib_dima.core.policy.networks import Actor, Critic
from rllib_dima.core.replay.buffer import ReplayBuffer
from rllib_dima.core.replay.data import Trajectory, states_to_count
from rllib_dima.core.trainer import Metrics, OptimizingTrainer
from rllib_dima.core.training.compile import has_bfloat16, matrix_product_precision

logger = logging.getLogger(__name__)

MOST_FRESH_STEPS = 256
"""So many of an iteration's new steps the dynamics is measured on before it learns from them."""
NUM_USELESS = 10
"""After so many iterations in a row without a use of the dynamics a warning says so."""


class DIMATrainer(OptimizingTrainer):
    """Replay, world model, actor and critic, and the updates of one iteration.

    Args:
        *args: of every `Trainer`.
        side_by_side: whether steps that do not depend on each other run at the same time where they are recorded as
            CUDA graphs. The seconds of the world model's three parts are then one number.
        imagination_report_interval: learning iterations between measurements of imagination over the whole horizon, on
            steps that were not learnt from yet; None for never. They change nothing in training.
        **kwargs: of every `Trainer`.

    Attributes:
        imagination_report: of the steps that were added last, if it was their turn.
        steps: the updates, which benchmarks run and time on their own.

    Raises:
        ValueError: if `hp.acceleration` needs a GPU and `device` is none.
    """

    NETWORKS: ClassVar[dict[str, type[nn.Module]]] = {"actor": Actor, "critic": Critic, "world_model": WorldModel}
    PREFIXES: ClassVar[dict[str, str]] = PREFIXES
    ADAMW: ClassVar[tuple[str, ...]] = tuple(PREFIXES)

    hp: DIMAHyperparameters

    def __init__(
        self, *args: Any, side_by_side: bool = True, imagination_report_interval: int | None = None, **kwargs: Any
    ) -> None:
        self._side_by_side, self._report_interval = side_by_side, imagination_report_interval
        super().__init__(*args, **kwargs)

    def _set_up(self, networks: dict[str, Any]) -> None:
        self.imagination_report: OpenLoopReport | None = None
        self.actor: Actor = networks["actor"]
        self.critic: Critic = networks["critic"]
        self.world_model: WorldModel = networks["world_model"].eval()
        self.replay: ReplayBuffer = self._new_replay()  # pyright: ignore[reportIncompatibleVariableOverride]
        parts = {name: getattr(self.world_model, name) for name in PREFIXES}
        self.optimizers = self._new_optimizers(parts | {"actor": self.actor, "critic": self.critic})
        self.steps = Steps(
            self.hp, self.actor, self.critic, self.world_model, self.replay, self.optimizers, self._is_alone,
            self._side_by_side, self.clock,
        )  # fmt: skip
        self._num_useless = 0
        if self.hp.precision == "bfloat16" and not has_bfloat16(self.device):
            logger.warning(
                f"precision='bfloat16': this {self.device.type} device has no instructions for it, so training is many "
                "times slower than with precision='float32'."
            )

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
            return {"time": self.clock.pop()}
        for name, means in self.steps.means.items():
            if name != "fresh":  # measured when the steps came
                means.clear()
        trains_policy = self.num_iterations >= self.hp.num_world_model_warmup_iterations
        precision = matrix_product_precision(self.hp.precision, self.device)
        with self._on_device(), self.random_numbers(self.rank), precision:
            self.train_world_model()
            if trains_policy:
                self._train_policy()
        self.num_iterations += 1
        return self._report_iteration(trains_policy)

    def train_world_model(self) -> None:
        """Updates the world model's parts as often as one iteration does, with torch's random numbers."""
        hp = self.hp
        updates = {
            "state_decoder": hp.decoder_updates_per_iteration,
            "dynamics": hp.dynamics_updates_per_iteration,
            "reward_termination": hp.reward_updates_per_iteration,
        }
        self.steps.prepare()
        self.world_model.train()
        for models in _turns(updates):
            self.steps.update(models)
        self.world_model.eval()
        self.steps.means["statistics"].add(self.world_model.statistics())

    def _train_policy(self) -> None:
        for _ in range(self.hp.policy_updates_per_iteration):
            rollout = self.steps.imagine()
            batch = self.steps.evaluate(rollout)
            for _ in range(self.hp.ppo_epochs):
                self.steps.update_policy(batch)

    def add(self, trajectories: Sequence[Trajectory]) -> None:
        """Stores real experience and updates the statistics of states and rewards with it.

        Raises:
            ValueError: if a trajectory does not fit the layout or the buffer, or holds NaN or infinity.
        """
        self.imagination_report = None
        with self._on_device(), self.clock.timed("add"):
            self.replay.extend(trajectories)
            self.num_env_steps += sum(map(len, trajectories))
            if trajectories:
                changes = np.concatenate([np.diff(trajectory.states, axis=0) for trajectory in trajectories])
                rewards = np.concatenate([trajectory.rewards for trajectory in trajectories])
                columns = (states_to_count(trajectories), changes, rewards)
                self._normalize_observations([trajectory.observations for trajectory in trajectories])
                self._observe(*(torch.as_tensor(column, device=self.device) for column in columns))
                if self.num_iterations and len(rewards):
                    self._predict_newest(min(len(rewards), MOST_FRESH_STEPS, len(self.replay)))
        self._imagine_newest(sum(map(len, trajectories)))

    def _predict_newest(self, count: int) -> None:
        """Measures the dynamics on steps that it has not learnt from yet."""
        window = self.replay.windows(self.replay.newest(count), past=self.hp.context_length - 1)
        with self.random_numbers(0):  # the same for all learners, as imagination's noise is drawn from what is measured
            self.steps.means["fresh"].add(self.world_model.measure(window))

    def _imagine_newest(self, num_new: int) -> None:
        """Measures imagination on the same steps, if it is time to; with random numbers that training does not miss."""
        if not (self._report_interval and num_new and self.num_iterations):
            return
        if self.num_iterations % self._report_interval:
            return
        rows = self.replay.newest(min(num_new, MOST_FRESH_STEPS, len(self.replay)))
        with self._on_device(), self.clock.timed("imagination_report"), self.random_numbers(self.rank):
            window = self.replay.windows(rows, self.hp.context_length - 1, self.hp.imagination_horizon - 1)
            self.imagination_report = open_loop_report(self.world_model, window, self.num_env_steps)

    def _normalize_observations(self, observations: Sequence[np.ndarray]) -> None:
        """Updates the statistics of observations, (T, N, O) each."""
        for normalizer in (self.actor.normalizer, self.world_model.state_decoder.normalizer):
            if normalizer is not None:
                normalizer.update(torch.as_tensor(np.concatenate(observations), device=self.device))

    def _observe(self, states: torch.Tensor, changes: torch.Tensor, rewards: torch.Tensor) -> None:
        """Updates the statistics with states (M, S), and with changes of states (M', S) and rewards (M',) of steps.

        Predicted rewards and values stay when the rewards' scale changes.
        """
        model = self.world_model
        model.normalizer.update(states)
        if model.dynamics.changes is not None:
            model.dynamics.changes.update(changes, model.normalizer.scale)
        if len(rewards):
            factor, shift = model.reward_normalizer.update(rewards)
            if self.num_iterations:  # else nothing has been learnt
                model.reward_termination.transform_rewards(factor, shift)
                self.critic.rescale(factor)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores `state_dict`; learning rates and the seed, if one was given, stay those of this trainer."""
        super().load_state_dict(state)
        self.steps.accelerator.forget()
        self.steps.means["fresh"].clear()  # of steps that were added to what is replaced, perhaps NaN
        self.imagination_report, self._num_useless = None, 0

    def _report_iteration(self, has_trained_policy: bool) -> Metrics:
        """The means of all metrics by network, checked."""
        means = self.steps.means
        fresh = [means["fresh"]] if means["fresh"].is_filled else []
        sources = {"world_model": [*(means[model] for model in PREFIXES), means["statistics"], *fresh]}
        if has_trained_policy:
            sources |= {"actor": [means["actor"]], "critic": [means["rollout"], means["critic"]]}
        report = self._report(sources)
        means["fresh"].clear()
        if self.imagination_report is not None:
            for name, number in self.imagination_report.metrics().items():
                self._check_finite(name, number)
                report["world_model"][name] = number
        self._warn_of_useless_dynamics(report["world_model"])
        return report

    def _warn_of_useless_dynamics(self, metrics: dict[str, float]) -> None:
        """Says it, once in a while, if the dynamics predict no better than that nothing changes."""
        error, persistence = metrics.get("open_loop_error_1", 0.0), metrics.get("persistence_error_1", 1.0)
        self._num_useless = self._num_useless + 1 if error >= persistence else 0
        if self._num_useless == NUM_USELESS and self.rank == 0:
            logger.warning(
                f"In each of the last {NUM_USELESS} iterations the dynamics predicted fresh steps no better than if "
                f"nothing changed (open_loop_error_1 is {error:.3g}, persistence_error_1 {persistence:.3g}), so the "
                "policy learns from imagination that is off. Use recipe='swift', wider dynamics, or more updates."
            )


def _turns(updates: Mapping[str, int]) -> Iterator[tuple[str, ...]]:
    """Who is updated in each turn, until everyone has had the given number of updates."""
    for number in range(max(updates.values())):
        yield tuple(model for model in updates if number < updates[model])
