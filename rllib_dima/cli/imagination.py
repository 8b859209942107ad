"""Plays a checkpoint's policy, examines its world model on what happened, and writes the report."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from rllib_dima.analysis.checkpoint import load_world_model
from rllib_dima.analysis.collecting import Act, Episode, play_episode
from rllib_dima.analysis.examination import Examination, examine, table
from rllib_dima.checkpoint import CheckpointError
from rllib_dima.cli.checkpoints import find_checkpoint, load_config
from rllib_dima.cli.episodes import evaluation_config
from rllib_dima.cli.errors import RunError, UsageError, failing_as
from rllib_dima.cli.session import prepare
from rllib_dima.core.dima.hyperparameters import DIMAHyperparameters
from rllib_dima.envs.cooperative import CooperativeEnv
from rllib_dima.envs.creation import create_team
from rllib_dima.policy import Policy

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
    config: dict[str, Any],
    env: str | None,
) -> Examination:
    """Prints the table and writes the report; the parameters are the flags.

    Raises:
        UsageError: there is no such checkpoint, the horizon is too long, or the report cannot be written.
        RunError: the checkpoint has no world model or is damaged, an episode failed, or nothing could be replayed.
    """
    folder, file = find_checkpoint(checkpoint), _report_file(out)
    with failing_as(UsageError, "Figures need more: pip install matplotlib. ", of=ModuleNotFoundError):
        from rllib_dima.analysis.page import page
    prepare(verbosity, imports)
    algorithm, trained = load_config(folder)
    with failing_as(RunError, of=CheckpointError):
        world_model, policy = load_world_model(folder), Policy.from_checkpoint(folder)
    horizon = _horizon(world_model.hp, horizon)
    settings = evaluation_config(algorithm, trained, None, config=config, env=env, seed=seed)
    title = f"{algorithm.__name__} on {getattr(settings.env, '__name__', settings.env)}, {folder}"
    print(title, flush=True)
    team = _build(settings)
    try:
        torch.manual_seed(seed)
        played = _play(team, lambda seen: policy.act(seen, deterministic=not explore), episodes, seed)
        with failing_as(RunError):
            found = examine(world_model, team, played, segments, horizon, seed)
    finally:
        team.close()
    print(f"{found.num_segments} segments of up to {found.horizon} steps\n\n{table(found)}")
    file.write_text(page(found, title), encoding="utf-8")
    print(f"report: {file}")
    return found


def _build(settings: Any) -> CooperativeEnv:
    with failing_as(RunError, f"The environment {settings.env!r} cannot be built: "):
        env, own = create_team(settings.env, settings.env_config)
        return CooperativeEnv(env, **own)


def _play(env: CooperativeEnv, act: Act, num: int, seed: int) -> list[Episode]:
    played = []
    for number in range(num):
        with failing_as(RunError, f"Episode {number + 1} failed: "):
            played.append(play_episode(env, act, seed + number, SNAPSHOT_EVERY))
        trajectory = played[-1].trajectory
        print(
            f"episode {number + 1:3d}   steps {len(trajectory):6d}   return {trajectory.rewards.sum():9.1f}", flush=True
        )
    return played


def _horizon(hp: DIMAHyperparameters, asked: int | None) -> int:
    """Steps of a segment: those of imagination, which the transformer of rewards cannot exceed."""
    if asked is not None and hp.reward_network == "transformer" and asked > hp.imagination_horizon:
        raise UsageError(
            f"--horizon {asked} is beyond this model's imagination_horizon of {hp.imagination_horizon}, which is all "
            "that its reward transformer holds. Give fewer steps."
        )
    return hp.imagination_horizon if asked is None else asked


def _report_file(out: str) -> Path:
    """Where to write, tried before anything is played."""
    file = Path(out).expanduser()
    with failing_as(UsageError, f"The report {file} cannot be written: ", of=OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.open("a").close()
    return file
