"""What is looked at in a world model that predicts observations and no global states: MARIE's and MAMBA's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from rllib_dima.analysis.collecting import Episode
from rllib_dima.analysis.comparison import TRAINED
from rllib_dima.analysis.replaying import (
    HELD,
    Calibration,
    Imagined,
    Imagining,
    ObservationErrors,
    observation_errors,
    replay,
    steps_shown,
    termination_calibration,
)
from rllib_dima.analysis.segments import Segments, draw_segments
from rllib_dima.core.layout import AgentLayout


@dataclass(frozen=True)
class ObservationExamination:
    """What was found.

    Attributes:
        layout: of the team.
        returns: of the episodes.
        segments: that were replayed.
        trained: errors of the model, in the environment's units.
        held: errors of "nothing changes" and of the mean reward.
        calibration: of the end of the task.
    """

    layout: AgentLayout
    returns: tuple[float, ...]
    segments: Segments
    trained: ObservationErrors
    held: ObservationErrors
    calibration: Calibration


def examine_observations(
    world_model: Imagining,
    layout: AgentLayout,
    episodes: Sequence[Episode],
    num_segments: int,
    horizon: int,
    seed: int = 0,
) -> ObservationExamination:
    """Replays segments of episodes in a world model.

    Args:
        world_model: trained.
        layout: of the team.
        episodes: of `play_episode`.
        num_segments, horizon: what is replayed.
        seed: of draws.
    """
    mask, trajectories = layout.own_observation_mask(), [episode.trajectory for episode in episodes]
    segments = draw_segments(trajectories, num_segments, world_model.hp.context_length, horizon, seed)
    imagined = replay(world_model, segments, seed)
    mean_reward = float(np.concatenate([trajectory.rewards for trajectory in trajectories]).mean())
    return ObservationExamination(
        layout,
        tuple(float(trajectory.rewards.sum()) for trajectory in trajectories),
        segments,
        observation_errors(segments, imagined, mask),
        observation_errors(segments, unchanged(segments, mean_reward), mask),
        termination_calibration(segments, imagined),
    )


def unchanged(segments: Segments, mean_reward: float) -> Imagined:
    """What "nothing changes" predicts: the first observations, the mean reward, no end."""
    shape = segments.rewards.shape
    seen = segments.start.observations[:, -1:].expand(-1, shape[1], -1, -1)
    return Imagined(seen, seen, torch.full(shape, mean_reward), torch.ones(shape))


def observation_table(found: ObservationExamination) -> str:
    """The examination in text, in the environment's units."""
    steps = steps_shown(found.trained)
    header = [*(f"step {step}" for step in steps), "obs. sum", "reward"]
    lines = [f"{'':<{len(HELD) + 2}}{''.join(f'{name:>10}' for name in header)}"]
    for name, errors in ((HELD, found.held), (TRAINED, found.trained)):
        values = [errors.observation_by_step[step - 1] for step in steps]
        values += [errors.cumulative_observation[-1], errors.rewards.mean()]
        lines.append(f"{name:<{len(HELD) + 2}}{''.join(f'{value:>10.4g}' for value in values)}")
    return "\n".join([*lines, "", *_sentences(found)])


def _sentences(found: ObservationExamination) -> list[str]:
    return [
        str(found.calibration),
        "errors are of observations, per entry: this model predicts no global state, so what needs one (orders of "
        "conditioning, spread, influence of agents, a film) is left out",
    ]
