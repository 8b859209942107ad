"""Plays a checkpoint's policy, examines its world model on what happened, and writes the report."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rllib_dima.analysis.checkpoint import load_replay, load_world_model
from rllib_dima.analysis.collecting import Act, Episode, play_episode
from rllib_dima.analysis.examination import Examination, examine, table
from rllib_dima.analysis.observations import ObservationExamination, examine_observations, observation_table
from rllib_dima.analysis.plain_mlp import PlainDynamics, train_baseline
from rllib_dima.analysis.replaying import longest_rollout, require_horizon
from rllib_dima.checkpoint import CheckpointError
from rllib_dima.cli.checkpoints import find_checkpoint, load_config
from rllib_dima.cli.episodes import evaluation_config
from rllib_dima.cli.errors import RunError, UsageError, failing_as, notice
from rllib_dima.cli.session import prepare
from rllib_dima.cli.video import check_can_write, explaining_graphics, open_writer, render_without_display
from rllib_dima.core.dima.world_model import WorldModel
from rllib_dima.envs.cooperative import CooperativeEnv
from rllib_dima.policy import Policy
from rllib_dima.sampling.env_runner import make_cooperative_env

NUM_FILMED = 4
SNAPSHOT_EVERY = 10  # steps between states of the simulator that sensitivities can start from


def imagine_checkpoint(
    checkpoint: str,
    *,
    verbosity: int,
    imports: Iterable[str],
    episodes: int,
    segments: int,
    horizon: int | None,
    seed: int,
    explore: bool,
    out: str,
    baseline: int | None,
    video: str | None,
    film: int | None,
    config: dict[str, Any],
    env: str | None,
) -> Examination | ObservationExamination:
    """Prints the table and writes the report; the parameters are the flags.

    Raises:
        UsageError: there is no such checkpoint, the horizon is too long, the report or the video cannot be written,
            the environment draws no states, or the model predicts none.
        RunError: the checkpoint has no world model, or no replay for the baseline, or is damaged, an episode failed, or
            nothing could be replayed.
    """
    folder, file = find_checkpoint(checkpoint), _report_file(out)
    _prepare_film(video, film)
    with failing_as(UsageError, "Figures need more: pip install matplotlib. ", of=ModuleNotFoundError):
        from rllib_dima.analysis.page import observation_page, page
    prepare(verbosity, imports)
    algorithm, trained = load_config(folder)
    with failing_as(RunError, of=CheckpointError):
        world_model, policy = load_world_model(folder), Policy.from_checkpoint(folder)
    num_steps: int = horizon or longest_rollout(world_model.hp) or world_model.hp.imagination_horizon
    with failing_as(UsageError, "--horizon: "):
        require_horizon(world_model.hp, num_steps)
    if not isinstance(world_model, WorldModel) and (baseline or video):
        raise UsageError(
            f"--baseline and --video need a model of global states, but {algorithm.__name__}'s predicts observations: "
            "leave them out."
        )
    render_mode = None if video is None else "rgb_array"
    settings = evaluation_config(algorithm, trained, render_mode, config=config, env=env, seed=seed)
    title = f"{algorithm.__name__} on {getattr(settings.env, '__name__', settings.env)}, {folder}"
    print(title, flush=True)
    with nullcontext() if video is None else explaining_graphics():
        team = _build(settings)
    try:
        plain = None if baseline is None else _train_plain(folder, world_model, team, baseline, seed)
        torch.manual_seed(seed)
        played = _play(team, policy, not explore, episodes, seed)
        if not isinstance(world_model, WorldModel):
            with failing_as(RunError):
                seen = examine_observations(world_model, team.layout, played, segments, num_steps, seed)
            print(f"{len(seen.segments)} segments of up to {seen.segments.horizon} steps\n\n{observation_table(seen)}")
            file.write_text(observation_page(seen, title), encoding="utf-8")
            print(f"report: {file}", flush=True)
            return seen
        with failing_as(RunError):
            found = examine(world_model, team, played, segments, num_steps, seed, plain)
        print(f"{len(found.segments)} segments of up to {found.segments.horizon} steps\n\n{table(found)}")
        file.write_text(page(found, title), encoding="utf-8")
        print(f"report: {file}", flush=True)
        if video is not None:
            _write_film(Path(video).expanduser(), world_model, team, played, found, film or NUM_FILMED)
    finally:
        team.close()
    return found


def _train_plain(
    checkpoint: Path, world_model: WorldModel, env: CooperativeEnv, updates: int, seed: int
) -> PlainDynamics:
    with failing_as(RunError, "--baseline: ", of=CheckpointError):
        steps = load_replay(checkpoint, env.layout, world_model.hp.replay_capacity)
    print(f"plain MLP: {updates} updates on the {len(steps)} steps of the checkpoint's replay", flush=True)
    return train_baseline(world_model, steps, updates, seed)


def _prepare_film(video: str | None, film: int | None) -> None:
    if video is not None:
        check_can_write(Path(video).expanduser())
        render_without_display()
    elif film is not None:
        raise UsageError("--film is how many segments --video films: add --video FILE.")


def _build(settings: Any) -> CooperativeEnv:
    """The environment, which has drawn a picture if it is to be filmed."""
    with failing_as(RunError, f"The environment {settings.env!r} cannot be built: "):
        team = make_cooperative_env(settings, settings.env_config)
    if settings.env_config.get("render_mode") is not None:
        _draw_one(team)
    return team


def _draw_one(env: CooperativeEnv) -> None:
    """Draws a state, before anything is played."""
    env.reset()
    start = env.get_state() if env.can_restore else None
    if not env.can_render_states:
        with failing_as(UsageError):
            env.render_states(env.state()[None], start)
    with failing_as(RunError, "The environment cannot draw a state: "):
        list(env.render_states(env.state()[None], start))


def _write_film(
    file: Path, world_model: WorldModel, env: CooperativeEnv, played: list[Episode], found: Examination, count: int
) -> None:
    from rllib_dima.analysis.film import STEPS_PER_SECOND, frames  # it needs pillow, as imageio does

    with failing_as(RunError, "The video failed: "), open_writer(file, STEPS_PER_SECOND) as writer:
        for picture in frames(world_model, env, played, found, count):
            writer.append_data(picture)
    print(f"video: {file}")


def _play(env: CooperativeEnv, policy: Policy, deterministic: bool, num: int, seed: int) -> list[Episode]:
    act: Act = partial(policy.act, deterministic=deterministic)
    played = []
    for number in range(num):
        policy.reset()
        with failing_as(RunError, f"Episode {number + 1} failed: "):
            played.append(play_episode(env, act, seed + number, SNAPSHOT_EVERY))
        trajectory = played[-1].trajectory
        print(
            f"episode {number + 1:3d}   steps {len(trajectory):6d}   return {trajectory.rewards.sum():9.1f}", flush=True
        )
    first, *others = (episode.trajectory.states for episode in played)
    if others and all(np.array_equal(first, states) for states in others):
        notice("all episodes are the same, as nothing in them is drawn; with --explore, actions are.")
    return played


def _report_file(out: str) -> Path:
    """Where to write, tried before anything is played."""
    file = Path(out).expanduser()
    with failing_as(UsageError, f"The report {file} cannot be written: ", of=OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.open("a").close()
    return file
