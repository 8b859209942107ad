"""Everything that is looked at in one trained world model, and the table of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from rllib_dima.analysis.collecting import Episode
from rllib_dima.analysis.comparison import TRAINED, Variant, compare, sampled_with, standard_variants
from rllib_dima.analysis.diversity import Diversity, diversity
from rllib_dima.analysis.plain_mlp import PlainDynamics, replaced_dynamics
from rllib_dima.analysis.replaying import (
    HELD,
    Calibration,
    Imagined,
    OpenLoopErrors,
    open_loop_errors,
    persistence,
    replay,
    steps_shown,
    termination_calibration,
)
from rllib_dima.analysis.segments import Segments, draw_segments, possible_places, segments_at
from rllib_dima.analysis.sensitivity import Sensitivity, model_sensitivity, simulator_sensitivity
from rllib_dima.core.dima.world_model import WorldModel
from rllib_dima.core.layout import AgentLayout
from rllib_dima.envs.cooperative import CooperativeEnv

PLAIN, SIMULATOR = "plain MLP", "simulator"
NUM_STARTS = 24  # for sensitivities, each of which costs 2 N A samples, or as many steps of the simulator


@dataclass(frozen=True)
class Examination:
    """What was found.

    Attributes:
        layout: of the team.
        returns: of the episodes.
        segments: that were replayed.
        imagined: of them, sampled as trained.
        variants: by way of sampling; the first is as trained.
        held: errors of "nothing changes".
        calibration: of the end of the task.
        spread: of repeated imaginations.
        sensitivities: of the simulator, if it can restore its state, and by way of sampling; none of discrete actions,
            nor where no start has a derivative.
        num_starts: that derivatives were asked at.
        left_out: how many of them have none, where any have none, by the same names.
        plain: errors of the plain MLP, if there is one.
    """

    layout: AgentLayout
    returns: tuple[float, ...]
    segments: Segments
    imagined: Imagined
    variants: dict[str, Variant]
    held: OpenLoopErrors
    calibration: Calibration
    spread: Diversity
    sensitivities: dict[str, Sensitivity]
    num_starts: int
    left_out: dict[str, int]
    plain: OpenLoopErrors | None = None

    @property
    def trained(self) -> OpenLoopErrors:
        """Errors of the model sampled as it was trained."""
        return self.variants[TRAINED].errors


def examine(
    world_model: WorldModel,
    env: CooperativeEnv,
    episodes: Sequence[Episode],
    num_segments: int,
    horizon: int,
    seed: int = 0,
    baseline: PlainDynamics | None = None,
) -> Examination:
    """Replays segments of episodes in a world model in every way that this package knows.

    Args:
        world_model: trained, in evaluation mode.
        env: the simulator, for its sensitivity.
        episodes: of `play_episode`.
        num_segments, horizon: what is replayed.
        seed: of draws and noise.
        baseline: trained on what the model was trained on.
    """
    layout, length = env.layout, world_model.hp.context_length
    mask, trajectories = layout.own_observation_mask(), [episode.trajectory for episode in episodes]
    segments = draw_segments(trajectories, num_segments, length, horizon, seed)
    imagined = replay(world_model, segments, seed)
    ways = standard_variants(world_model.dynamics.hp, layout.num_agents)
    held = open_loop_errors(world_model, segments, persistence(world_model, segments), mask)
    return Examination(
        layout,
        tuple(float(trajectory.rewards.sum()) for trajectory in trajectories),
        segments,
        imagined,
        compare(world_model, segments, mask, ways, seed),
        held,
        termination_calibration(segments, imagined),
        diversity(world_model, segments, seed=seed),
        *_sensitivities(world_model, env, episodes, ways, seed),
        None if baseline is None else _plain_errors(world_model, segments, mask, baseline),
    )


def _plain_errors(
    world_model: WorldModel, segments: Segments, mask: torch.Tensor, baseline: PlainDynamics
) -> OpenLoopErrors:
    """Observations and rewards are what the model's other parts make of the baseline's states."""
    with replaced_dynamics(world_model, baseline):
        return open_loop_errors(world_model, segments, replay(world_model, segments), mask)


def _sensitivities(
    world_model: WorldModel, env: CooperativeEnv, episodes: Sequence[Episode], ways: dict[str, dict], seed: int
) -> tuple[dict[str, Sensitivity], int, dict[str, int]]:
    """By name, at the same starts in the simulator and in the model; how many starts; how many were left out."""
    if env.layout.is_discrete:
        return {}, 0, {}
    trajectories, length = [episode.trajectory for episode in episodes], world_model.hp.context_length
    places = possible_places(trajectories, length)
    saved = [(i, step) for i, step in places if step in episodes[i].snapshots]
    chosen = np.random.default_rng(seed).permutation(len(saved or places))[:NUM_STARTS]
    places = [(saved or places)[i] for i in chosen]
    results, known = {}, places
    if saved:
        snapshots, scale = [episodes[i].snapshots[step] for i, step in places], world_model.normalizer.scale.numpy()
        actions = np.stack([trajectories[i].actions[step] for i, step in places])
        results[SIMULATOR] = simulator_sensitivity(env, snapshots, actions, scale)
        known = [place for n, place in enumerate(places) if n not in results[SIMULATOR].left_out] or places
    start = segments_at(trajectories, known, length, 1).start
    for name, changes in ways.items():
        with sampled_with(world_model, **changes):
            results[name] = model_sensitivity(world_model, env.layout, start, seed)
    left_out = {name: len(found.left_out) for name, found in results.items() if found.left_out}
    return {name: found for name, found in results.items() if found.num_starts}, len(places), left_out


def table(found: Examination) -> str:
    """The examination in text: state errors in deviations, observation and reward errors in the environment's units."""
    steps = steps_shown(found.trained)
    width = max(map(len, (*found.variants, HELD))) + 8  # and up to two marks
    header = [*(f"step {step}" for step in steps), "obs. sum", "reward"]
    lines = [f"{'':<{width}}{''.join(f'{name:>10}' for name in header)}  influence of agents"]
    rows = {HELD: found.held, **({} if found.plain is None else {PLAIN: found.plain})}
    rows |= {name: variant.errors for name, variant in found.variants.items()}
    notes: list[str] = []
    for name, errors in rows.items():
        marks = _marks(found.variants[name].caveats if name in found.variants else (), notes)
        lines.append(f"{name + marks:<{width}}{_cells(errors, steps)}  {_shares(found, name)}".rstrip())
    if SIMULATOR in found.sensitivities:
        lines.append(f"{SIMULATOR:<{width}}{'':<{10 * (len(steps) + 2)}}  {_shares(found, SIMULATOR)}")
    return "\n".join([*lines, *(f"{_sign(i)} {note}" for i, note in enumerate(notes)), "", *_sentences(found)])


def _cells(errors: OpenLoopErrors, steps: list[int]) -> str:
    values = [errors.state_by_step[step - 1] for step in steps]
    values += [errors.cumulative_observation[-1], errors.rewards.mean()]
    return "".join(f"{value:>10.4g}" for value in values)


def _shares(found: Examination, name: str) -> str:
    sensitivity = found.sensitivities.get(name)
    return "" if sensitivity is None else " : ".join(f"{share:.0%}" for share in sensitivity.shares)


def _marks(caveats: tuple[str, ...], notes: list[str]) -> str:
    """Signs of notes, which are added to `notes` if they are new."""
    notes += [caveat for caveat in caveats if caveat not in notes]
    return "".join(_sign(notes.index(caveat)) for caveat in caveats)


def _sign(number: int) -> str:
    return f"[{chr(ord('a') + number)}]"


def _sentences(found: Examination) -> list[str]:
    """What is one number each."""
    correlation = [c for c in found.spread.correlation if c is not None]
    honest = f"{np.mean(correlation):.2f} on average" if correlation else "undefined: one of them does not vary"
    return [
        str(found.calibration),
        f"spread of repeated imaginations after the last step: {found.spread.spread[-1]:.3g} deviations; rank "
        f"correlation of spread and error: {honest}",
        *(
            f"derivatives of {name}: {count} of {found.num_starts} starts left out, with no next state or no finite one"
            for name, count in found.left_out.items()
        ),
    ]
