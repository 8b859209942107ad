"""A film of imagination: left what really happened, right what the world model made of the same start and actions.

Numbers come first (`shots`): what every picture says is known without drawing any. Both sides are drawn by the
environment's `render_states`, so that nothing but the states makes them differ: the left ones anew from the simulator's
saved state at every step, the right ones all from the one at the start.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from rllib_dima.analysis.collecting import Episode, to_actions
from rllib_dima.analysis.examination import Examination
from rllib_dima.core.dima.world_model import WorldModel
from rllib_dima.envs.cooperative import CooperativeEnv

STEPS_PER_SECOND = 5  # slow enough to be looked at
NUM_HELD = 5  # frames for which the first and the last picture of a segment stand
FONT_SIZE, LINE, MARGIN = 20, 28, 10  # pixels


@dataclass(frozen=True)
class Shot:
    """One picture's content.

    Attributes:
        segment: number of the segment, from 0.
        step: steps since its start, 0 being the start itself.
        length: steps of the segment.
        states: (2, S) real and imagined, in the environment's units.
        rewards: real and imagined, of this step; none at the start.
        error: mean absolute error of the state, in standard deviations of each entry.
        mean_error: the same over all segments that reach this step, as the table has it.
    """

    segment: int
    step: int
    length: int
    states: np.ndarray
    rewards: tuple[float, float] | None
    error: float
    mean_error: float


def shots(world_model: WorldModel, found: Examination, segment: int) -> list[Shot]:
    """The start of a segment and every step of it that was replayed.

    Args:
        world_model: that was examined.
        found: of `examine`.
        segment: which of its segments.
    """
    segments, imagined = found.segments, found.imagined
    known = segments.valid[segment] & imagined.states[segment].isfinite().all(dim=1)
    length = int(known.cumprod(0).sum())  # a state with NaN or infinity cannot be drawn
    errors = (imagined.states[segment] - world_model.normalizer(segments.next_states[segment])).abs().mean(dim=1)
    made = world_model.normalizer.denormalize(imagined.states[segment])
    states = torch.stack([segments.next_states[segment], made], dim=1).numpy()  # (H, 2, S)
    start = segments.start.states[segment, -1].numpy()
    first = Shot(segment, 0, length, np.stack([start, start]), None, 0.0, 0.0)
    return [first] + [
        Shot(
            segment,
            step + 1,
            length,
            states[step],
            (float(segments.rewards[segment, step]), float(imagined.rewards[segment, step])),
            float(errors[step]),
            float(found.trained.state_by_step[step]),
        )
        for step in range(length)
    ]


def frames(
    world_model: WorldModel, env: CooperativeEnv, episodes: Sequence[Episode], found: Examination, count: int
) -> Iterator[np.ndarray]:
    """The pictures of a film, (height, width, 3) uint8, to be shown at `STEPS_PER_SECOND`.

    Args:
        world_model: that was examined.
        env: that `env.can_render_states`, with a render mode; it is left as it was before.
        episodes: that were examined.
        found: of `examine`.
        count: of segments, the first ones.

    Raises:
        RuntimeError: the environment does not do again what it did in an episode, or draws no picture.
    """
    for segment in range(min(count, len(found.segments))):
        content = shots(world_model, found, segment)
        saved = _saved(env, episodes, found.segments.places[segment], len(content))
        real, imagined = np.stack([shot.states for shot in content], axis=1)  # (T, S) each
        lefts = [picture for t, start in enumerate(saved) for picture in env.render_states(real[t : t + 1], start)]
        for shot, left, right in zip(content, lefts, env.render_states(imagined, saved[0]), strict=True):
            is_held = shot.step in (0, shot.length)
            yield from [frame(shot, left, right)] * (NUM_HELD if is_held else 1)


def _saved(env: CooperativeEnv, episodes: Sequence[Episode], place: tuple[int, int], count: int) -> list[Any]:
    """What `env.get_state()` returned at so many steps of an episode from a place on; Nones if it cannot restore."""
    if not env.can_restore:
        return [None] * count
    number, first = place
    trajectory, snapshots = episodes[number].trajectory, episodes[number].snapshots
    begin = max(step for step in snapshots if step <= first)
    before, saved = env.get_state(), [snapshots[begin]]
    env.set_state(snapshots[begin])
    for step in range(begin, first + count - 1):
        infos = env.step(to_actions(trajectory.actions[step], env.layout))[-1]
        if not np.array_equal(infos[env.layout.agent_ids[0]]["state"], trajectory.states[step + 1]):
            raise RuntimeError(
                f"Step {step} of an episode, taken again from what get_state() returned, leads to another state: "
                "get_state() and set_state() must hold all that the future depends on."
            )
        saved.append(env.get_state())
    env.set_state(before)
    return saved[first - begin :]


def caption(shot: Shot) -> tuple[str, str]:
    """What is written below a picture."""
    where = f"segment {shot.segment + 1}, step {shot.step} of {shot.length}"
    if shot.rewards is not None:
        where += f"     reward {shot.rewards[0]:.3f}, imagined {shot.rewards[1]:.3f}"
    return where, f"state error {shot.error:.3f} deviations, mean of all segments {shot.mean_error:.3f}"


def frame(shot: Shot, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """(height, width, 3) uint8: both pictures, what they are above, and the numbers below.

    Raises:
        RuntimeError: the environment drew no picture.
    """
    if left is None or right is None:
        raise RuntimeError("render_states() drew no picture: it yielded None.")
    (height, width, _), line = left.shape, LINE
    canvas, second = Image.new("RGB", (2 * width + MARGIN, height + 3 * line + MARGIN), "white"), width + MARGIN
    canvas.paste(Image.fromarray(left), (0, line))
    canvas.paste(Image.fromarray(right), (second, line))
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(FONT_SIZE)
    texts = [(MARGIN, 0, "real"), (second + MARGIN, 0, "imagined")]
    texts += [(MARGIN, line + height + row * line, text) for row, text in enumerate(caption(shot))]
    for x, y, text in texts:
        draw.text((x, y + 4), text, "black", font)
    return np.asarray(canvas)
