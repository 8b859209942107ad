"""Recorded stretches of real episodes, to be replayed in a world model: real contexts, and the actions really taken."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch

from rllib_dima.core.replay.data import Trajectory, Window


@dataclass(frozen=True)
class Segments:
    """B stretches of at most H steps; where an episode ends sooner, later steps are zero and not valid.

    Shapes: start (B, L) positions; actions (B, H, N, A); next_states (B, H, S) raw; next_observations (B, H, N, O);
    rewards (B, H); terminated, valid and observed (B, H) bool, `observed` being where next_observations are known.
    """

    start: Window
    actions: torch.Tensor
    next_states: torch.Tensor
    next_observations: torch.Tensor
    rewards: torch.Tensor
    terminated: torch.Tensor
    valid: torch.Tensor
    observed: torch.Tensor
    places: tuple[tuple[int, int], ...]
    """Which trajectory, and which of its steps, each segment begins with."""

    def __len__(self) -> int:
        return len(self.actions)

    @property
    def horizon(self) -> int:
        """H."""
        return self.actions.shape[1]


def draw_segments(
    trajectories: Sequence[Trajectory], count: int, context_length: int, horizon: int, seed: int = 0
) -> Segments:
    """Segments that begin at steps drawn uniformly, each at most once.

    Args:
        trajectories: whole episodes, or chunks of episodes.
        count: B; fewer if there are fewer steps.
        context_length: L of the world model.
        horizon: H, at least 1.
        seed: of the draw.

    Raises:
        ValueError: there is no step to begin with.
    """
    places = possible_places(trajectories, context_length)
    if not places:
        raise ValueError(
            f"There is nothing to replay in {len(trajectories)} trajectories: none has a step whose context of "
            f"{context_length} steps is known. Give whole episodes, or longer chunks."
        )
    drawn = np.random.default_rng(seed).permutation(len(places))[:count]
    return segments_at(trajectories, [places[i] for i in drawn], context_length, horizon)


def possible_places(trajectories: Sequence[Trajectory], context_length: int) -> list[tuple[int, int]]:
    """(trajectory, step) wherever all of the context that exists is known."""
    firsts = [0 if trajectory.is_start else context_length - 1 for trajectory in trajectories]
    return [(i, step) for i, trajectory in enumerate(trajectories) for step in range(firsts[i], len(trajectory))]


def segments_at(
    trajectories: Sequence[Trajectory], places: Sequence[tuple[int, int]], context_length: int, horizon: int
) -> Segments:
    """The segments that begin with the given (trajectory, step); other arguments as of `draw_segments`."""
    starts = [_context(trajectories[i], step, context_length) for i, step in places]
    futures = [_future(trajectories[i], step, horizon) for i, step in places]
    start = Window(*(_stacked(column) for column in zip(*starts, strict=True)))
    return Segments(start, *(_stacked(column) for column in zip(*futures, strict=True)), places=tuple(places))


def repeated(segments: Segments, times: int) -> Segments:
    """Every segment `times` times, one copy of all after the other."""
    start = Window(*(_repeat(getattr(segments.start, field.name), times) for field in fields(Window)))
    names = [field.name for field in fields(Segments) if field.name not in ("start", "places")]
    return Segments(start, *(_repeat(getattr(segments, name), times) for name in names), places=segments.places * times)


def _repeat(values: torch.Tensor, times: int) -> torch.Tensor:
    return values.repeat(times, *(1 for _ in values.shape[1:]))


def _stacked(rows: Sequence[np.ndarray]) -> torch.Tensor:
    return torch.from_numpy(np.stack(rows))


def _context(trajectory: Trajectory, step: int, length: int) -> tuple[np.ndarray, ...]:
    """The columns of a `Window` of L positions that ends with a step."""
    begin = max(0, step - length + 1)
    rows = slice(begin, step + 1)
    terminated = np.zeros(len(trajectory), bool)
    terminated[-1] = trajectory.terminated
    columns = (
        trajectory.states[:-1][rows],
        trajectory.states[1:][rows],
        trajectory.observations[rows],
        trajectory.actions[rows],
        trajectory.rewards[rows],
        terminated[rows],
        np.ones(step + 1 - begin, bool),
    )
    return tuple(_padded(column, length, at_end=False) for column in columns)


def _future(trajectory: Trajectory, step: int, horizon: int) -> tuple[np.ndarray, ...]:
    """The columns of `Segments` from a step on, of H positions."""
    rows, last = slice(step, step + horizon), trajectory.last_observations
    terminated = np.zeros(len(trajectory), bool)
    terminated[-1] = trajectory.terminated
    valid, observed = np.ones(len(trajectory), bool), np.ones(len(trajectory), bool)
    observed[-1] = last is not None
    unknown = np.zeros_like(trajectory.observations[:1]) if last is None else last[None]
    columns = (
        trajectory.actions[rows],
        trajectory.states[1:][rows],
        np.concatenate([trajectory.observations[1:], unknown])[rows],
        trajectory.rewards[rows],
        terminated[rows],
        valid[rows],
        observed[rows],
    )
    return tuple(_padded(column, horizon, at_end=True) for column in columns)


def _padded(values: np.ndarray, length: int, at_end: bool) -> np.ndarray:
    """Zeros before or after the rows of an array, so that there are `length`."""
    missing = length - len(values)
    widths = [(0, missing) if at_end else (missing, 0), *((0, 0) for _ in values.shape[1:])]
    return np.pad(values, widths)
