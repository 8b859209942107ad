"""Recorded actions replayed in a world model from real first states, and how far it is from what really happened.

Errors of states are in normalised units (1 is one standard deviation of that entry over all of training), those of
observations and rewards in the environment's. Steps beyond an episode's end count nowhere: a step's mean is over the
segments that reach it, and steps that none reaches are left out, so that nothing here is ever NaN.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch

from rllib_dima.analysis.segments import Segments
from rllib_dima.core.dima.hyperparameters import DIMAHyperparameters
from rllib_dima.core.dima.world_model import WorldModel
from rllib_dima.core.imagination import Simulation
from rllib_dima.core.marie.hyperparameters import MARIEHyperparameters
from rllib_dima.core.replay.data import Window
from rllib_dima.core.training.random_numbers import own_random_numbers

NUM_BINS = 10
HELD = "nothing changes"
STEPS_SHOWN = (1, 5)  # and the last


@dataclass(frozen=True)
class Imagined:
    """What a world model makes of B segments: the quantities of `Segments`, states normalised.

    Of a model that predicts no global states, `states` is what its critic reads.

    Shapes: states (B, H, S); observations (B, H, N, O); rewards (B, H); continuations (B, H).
    """

    states: torch.Tensor
    observations: torch.Tensor
    rewards: torch.Tensor
    continuations: torch.Tensor


@dataclass(frozen=True)
class ObservationErrors:
    """Mean absolute errors by step, T <= H steps being reached by at least one segment.

    Attributes:
        counts: (T,) segments that reach a step.
        observations: (T', N, O), T' <= T; 0 where padded.
        mask: (N, O) bool, which entries of observations count.
        rewards: (T,).
    """

    counts: np.ndarray
    observations: np.ndarray
    mask: np.ndarray
    rewards: np.ndarray

    @property
    def observation_by_step_and_agent(self) -> np.ndarray:
        """(T', N) mean over each agent's entries that count."""
        return self.observations.sum(axis=2) / self.mask.sum(axis=1)

    @property
    def observation_by_step(self) -> np.ndarray:
        """(T',) error per observation entry, averaged over agents."""
        return self.observation_by_step_and_agent.mean(axis=1)

    @property
    def cumulative_observation(self) -> np.ndarray:
        """(T',) appendix E.2: error per observation entry, averaged over agents, accumulated over the horizon."""
        return self.observation_by_step.cumsum()


@dataclass(frozen=True)
class OpenLoopErrors(ObservationErrors):
    """Those, and mean absolute errors of states.

    Attributes:
        states: (T, S) in normalised units.
    """

    states: np.ndarray

    @property
    def state_by_step(self) -> np.ndarray:
        """(T,) mean over entries."""
        return self.states.mean(axis=1)


@dataclass(frozen=True)
class Calibration:
    """Predicted probability that a step ends the task beside how often it did; Q bins that hold steps, rising.

    Attributes:
        predicted: (Q,) mean prediction in a bin.
        observed: (Q,) share of its steps that ended the task.
        counts: (Q,).
        brier: mean squared error of the probabilities.
        base_brier: the same of always saying the share of all steps that end the task.
    """

    predicted: np.ndarray
    observed: np.ndarray
    counts: np.ndarray
    brier: float
    base_brier: float

    def __str__(self) -> str:
        return f"end of the task: Brier score {self.brier:.4f}, of always saying the mean {self.base_brier:.4f}"


class Imagining(Protocol):
    """Any world model, of states or of observations."""

    training: bool
    hp: Any

    def reset(self, start: Window) -> Simulation: ...
    def train(self, mode: bool = True) -> Any: ...


@torch.no_grad()
def replay(world_model: Imagining, segments: Segments, seed: int = 0) -> Imagined:
    """Takes the recorded actions in the model, from the real contexts, on its own predictions.

    Of a model whose agents predict rewards and endings one by one, these are their means.

    Args:
        world_model: set to evaluation mode for the time being.
        segments: with contexts as long as the model's.
        seed: of the sampler's noise, the same for every model that is to be compared.
    """
    was_training = world_model.training
    world_model.train(False)
    try:
        with own_random_numbers(seed):
            simulation = world_model.reset(segments.start)
            steps = [simulation.step(segments.actions[:, step]) for step in range(segments.horizon)]
    finally:
        world_model.train(was_training)
    imagined = Imagined(*(torch.stack(column, dim=1) for column in zip(*steps, strict=True)))
    if imagined.rewards.ndim == 2:
        return imagined
    return replace(imagined, rewards=imagined.rewards.mean(2), continuations=imagined.continuations.mean(2))


def longest_rollout(hp: Any) -> int | None:
    """The most steps that a world model with these hyperparameters can imagine; None for any number."""
    if isinstance(hp, MARIEHyperparameters):
        return hp.imagination_horizon - 1
    has_transformer = isinstance(hp, DIMAHyperparameters) and hp.reward_network == "transformer"
    return hp.imagination_horizon if has_transformer else None


def require_horizon(hp: Any, horizon: int) -> None:
    """Refuses more steps than a world model can imagine.

    Raises:
        ValueError: its transformer holds fewer; all other parts would go on.
    """
    longest = longest_rollout(hp)
    if longest is not None and horizon > longest:
        raise ValueError(
            f"A horizon of {horizon} is beyond this model's imagination_horizon of {hp.imagination_horizon}, with "
            f"which its transformer holds {longest} imagined steps. Give fewer steps."
        )


def persistence(world_model: WorldModel, segments: Segments) -> Imagined:
    """What "nothing changes" predicts: the first state and observations, the mean reward of training, no end."""
    horizon, shape = segments.horizon, segments.rewards.shape
    states = world_model.normalizer(segments.start.states[:, -1])
    return Imagined(
        states.unsqueeze(1).expand(-1, horizon, -1),
        segments.start.observations[:, -1:].expand(-1, horizon, -1, -1),
        world_model.reward_normalizer.mean[0].float().expand(shape),
        torch.ones(shape),
    )


def open_loop_errors(
    world_model: WorldModel, segments: Segments, imagined: Imagined, mask: torch.Tensor
) -> OpenLoopErrors:
    """How far an imagination is from what happened.

    Args:
        world_model: whose normaliser states are compared through.
        segments: what happened.
        imagined: of those segments.
        mask: (N, O) bool, which entries of observations count (`AgentLayout.own_observation_mask`).
    """
    truth = world_model.normalizer(segments.next_states)
    others = observation_errors(segments, imagined, mask)
    return OpenLoopErrors(**vars(others), states=_mean_over((imagined.states - truth).abs(), segments.valid))


def observation_errors(segments: Segments, imagined: Imagined, mask: torch.Tensor) -> ObservationErrors:
    """The same without states, which not every model predicts; arguments as above."""
    observation_error = (imagined.observations - segments.next_observations).abs() * mask
    counts = segments.valid.sum(dim=0).numpy()
    return ObservationErrors(
        counts[counts > 0],
        _mean_over(observation_error, segments.observed),
        mask.numpy(),
        _mean_over((imagined.rewards - segments.rewards).abs(), segments.valid),
    )


def steps_shown(errors: ObservationErrors) -> list[int]:
    """The steps that tables show, counted from 1."""
    last = len(errors.counts)
    return sorted({step for step in (*STEPS_SHOWN, last) if step <= last})


def termination_calibration(segments: Segments, imagined: Imagined) -> Calibration:
    """Whether what the model says about the end of the task comes true as often as it says, where it says a number."""
    told = segments.valid & imagined.continuations.isfinite()
    predicted = (1 - imagined.continuations)[told].double().numpy()
    ended = segments.terminated[told].double().numpy()
    bins = np.minimum((predicted * NUM_BINS).astype(int), NUM_BINS - 1)
    counts = np.bincount(bins, minlength=NUM_BINS)
    filled = counts > 0
    means = [np.bincount(bins, values, NUM_BINS)[filled] / counts[filled] for values in (predicted, ended)]
    if not told.any():
        return Calibration(means[0], means[1], counts[filled], math.nan, math.nan)
    brier, base = ((predicted - ended) ** 2).mean(), ended.mean() * (1 - ended.mean())
    return Calibration(means[0], means[1], counts[filled], float(brier), float(base))


def _mean_over(values: torch.Tensor, valid: torch.Tensor) -> np.ndarray:
    """Mean over segments by step, (B, H, ...) -> (T, ...) for the T steps at which one is valid."""
    counts = valid.sum(dim=0)
    weight = valid.view(*valid.shape, *(1 for _ in values.shape[2:]))
    total = torch.where(weight, values, 0).sum(dim=0)
    reached = counts > 0
    return (total[reached] / counts[reached].view(-1, *(1 for _ in values.shape[2:]))).double().numpy()
