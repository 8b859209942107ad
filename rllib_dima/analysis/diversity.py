"""Whether the model knows where it does not know: the spread of repeated imaginations beside their error."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from rllib_dima.analysis.replaying import replay
from rllib_dima.analysis.segments import Segments, repeated
from rllib_dima.core.dima.world_model import WorldModel

MIN_FOR_CORRELATION = 3


@dataclass(frozen=True)
class Diversity:
    """By step, for the T steps that a segment reaches; states in normalised units.

    Attributes:
        spread: (T,) mean over segments and entries of the standard deviation over repeats.
        error: (T,) mean absolute error of the mean over repeats.
        correlation: T times the rank correlation over segments of spread and error: 1 where the model is least sure
            of what it gets most wrong, 0 where spread says nothing. None where either is the same in all segments
            (as the spread of a sampler without noise is), or fewer than three segments are left.
    """

    spread: np.ndarray
    error: np.ndarray
    correlation: tuple[float | None, ...]


def diversity(world_model: WorldModel, segments: Segments, repeats: int = 8, seed: int = 0) -> Diversity:
    """Imagines the same starts and actions again and again, with new noise.

    Args:
        world_model: trained.
        segments: what happened.
        repeats: at least 2.
        seed: of the noise.

    Raises:
        ValueError: fewer than two repeats.
    """
    if repeats < 2:
        raise ValueError(f"A spread needs at least 2 repeats, not {repeats}.")
    imagined = replay(world_model, repeated(segments, repeats), seed).states.double()
    imagined = imagined.view(repeats, len(segments), *imagined.shape[1:])  # (R, B, H, S)
    truth = world_model.normalizer(segments.next_states)
    spread = imagined.std(dim=0).mean(dim=2).numpy()  # (B, H)
    error = (imagined.mean(dim=0) - truth).abs().mean(dim=2).numpy()
    columns = [(spread[kept, step], error[kept, step]) for step, kept in _reached(segments.valid)]
    return Diversity(
        np.array([s.mean() for s, _ in columns]),
        np.array([e.mean() for _, e in columns]),
        tuple(rank_correlation(*column) for column in columns),
    )


def rank_correlation(first: np.ndarray, second: np.ndarray) -> float | None:
    """Spearman's, equal values having their mean rank; None if either does not vary or there are fewer than three."""
    if len(first) < MIN_FOR_CORRELATION or np.ptp(first) == 0 or np.ptp(second) == 0:
        return None
    return float(np.corrcoef(_ranks(first), _ranks(second))[0, 1])


def _ranks(values: np.ndarray) -> np.ndarray:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (counts.cumsum() - (counts - 1) / 2)[inverse]


def _reached(valid: torch.Tensor) -> list[tuple[int, np.ndarray]]:
    """Steps that segments reach, and which: valid (B, H)."""
    return [(step, kept) for step, kept in enumerate(valid.numpy().T) if kept.any()]
