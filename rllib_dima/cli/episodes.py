"""Runs whole episodes with the policy of a checkpoint, and loads nothing else of it."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.rl_module.multi_rl_module import MultiRLModule
from ray.rllib.env.multi_agent_env_runner import MultiAgentEnvRunner
from ray.rllib.env.single_agent_env_runner import SingleAgentEnvRunner

from rllib_dima.algorithms.base_config import TeamConfig
from rllib_dima.cli.checkpoints import find_checkpoint, load_config, verify_part
from rllib_dima.cli.errors import RunError, UsageError, failing_as
from rllib_dima.cli.experiment.settings import read_settings
from rllib_dima.cli.session import prepare
from rllib_dima.cli.video import explaining_graphics, film, render_without_display, require_display, show
from rllib_dima.envs import is_registered
from rllib_dima.sampling.broken_episodes import breakdown


def evaluate_checkpoint(
    checkpoint: str,
    *,
    verbosity: int,
    imports: Iterable[str],
    episodes: int,
    film: int | None,
    render: bool,
    out: str | None,
    run: str | None,
    **changes: Any,
) -> None:
    """Prints the return of every episode, their mean and their standard deviation; the parameters are the flags.

    Raises:
        UsageError: there is no such checkpoint, or a setting does not fit it.
        RunError: the checkpoint cannot be loaded, or an episode failed.
    """
    folder = find_checkpoint(checkpoint)
    if out is not None:
        render_without_display()
    elif film is not None:
        raise UsageError("--film is how many episodes --out films: add --out FILE.")
    elif render:
        require_display()
    prepare(verbosity, imports)
    algorithm, trained = load_config(folder)
    if run not in (None, algorithm.__name__):
        raise UsageError(f"The checkpoint is of {algorithm.__name__}, not of {run}.")
    render_mode = "rgb_array" if out is not None else "human" if render else None
    config = evaluation_config(algorithm, trained, render_mode, **changes)
    print(f"{algorithm.__name__} on {getattr(config.env, '__name__', config.env)}, {folder}", flush=True)
    with nullcontext() if out is None else explaining_graphics():
        returns = run_episodes(folder, config, episodes, out=out, num_filmed=film or 1, render=render)
    spread = f" +- {statistics.stdev(returns):.1f}" if len(returns) > 1 else ""
    print(f"mean return {statistics.fmean(returns):.1f}{spread} over {len(returns)} episode{'s'[: len(returns) > 1]}")


def evaluation_config(
    algorithm: type,
    trained: Any,
    render_mode: str | None,
    *,
    config: dict[str, Any],
    env: str | None,
    seed: int | None,
    explore: bool = False,
) -> Any:
    """The configuration of one runner with one environment.

    Args:
        algorithm: class of the algorithm.
        trained: configuration it was trained with; its own `evaluation_config` is applied.
        render_mode: of the environment, if it is to draw.
        config, env, seed: what is to be different.
        explore: whether actions are drawn.

    Raises:
        UsageError: a setting does not fit, or has a flag of its own.
    """
    for name in config.keys() & {"explore", "seed"}:
        raise UsageError(f"--config has {name!r}, for which there is a flag: give --{name}.")
    with failing_as(UsageError):
        changes = {**read_settings(config, algorithm), **({} if env is None else {"env": env})}
        result = trained.get_evaluation_config_object().update_from_dict(changes)
    result.in_evaluation = False  # RLlib would add a million to the seed
    result.num_env_runners = 0
    result.num_envs_per_env_runner = 1
    result.explore = explore
    result.seed = seed
    if render_mode is not None:
        result.env_config = {**result.env_config, "render_mode": render_mode}
    return result


def run_episodes(
    checkpoint: Path, config: Any, num: int, *, out: str | None = None, num_filmed: int = 1, render: bool = False
) -> list[float]:
    """Returns of `num` whole episodes, printed as they end; filmed to `out`, or shown if `render`.

    Raises:
        RunError: the environment or the policy cannot be built, an episode failed, or there was nothing to film.
    """
    returns: list[float] = []
    broken: list[str] = []

    def on_episode_end(episode: Any, **kwargs: Any) -> None:
        reason = breakdown(episode) if config.is_multi_agent else None
        if reason is None:  # here every agent holds the team's return
            agent = next(iter(episode.agent_episodes.values())) if isinstance(config, TeamConfig) else episode
            returns.append(float(agent.get_return()))
            outcome = f"return {returns[-1]:9.1f}"
        else:
            broken.append(reason)
            outcome = "broken, and left out"
        print(f"episode {len(returns) + len(broken):3d}   steps {len(episode):6d}   {outcome}", flush=True)

    filming = nullcontext(show if render else None) if out is None else film(Path(out).expanduser(), num_filmed)
    with filming as on_frame:
        frames = {} if on_frame is None else {"on_episode_start": on_frame, "on_episode_step": on_frame}
        config.callbacks(on_episode_end=on_episode_end, **frames)
        with _runner(checkpoint, config) as runner:
            try:
                runner.sample(num_episodes=num, explore=config.explore)
            except Exception as error:  # whatever the environment, the policy or the video raises
                raise RunError(f"Episode {len(returns) + len(broken) + 1} failed: {error}") from error
    if not returns:
        raise RunError(f"The simulator broke down in all {len(broken)} episodes: {broken[-1]}")
    return returns


@contextmanager
def _runner(checkpoint: Path, config: Any) -> Iterator[Any]:
    """Yields an env runner in this process that acts with the checkpoint's policy."""
    default = MultiAgentEnvRunner if config.is_multi_agent else SingleAgentEnvRunner
    is_unknown = isinstance(config.env, str) and not is_registered(config.env)
    hint = " (code of yours that registers it must be named with --import)" if is_unknown else ""
    with failing_as(RunError, f"The environment {config.env!r} and the policy cannot be built{hint}: "):
        runner = (config.env_runner_cls or default)(config=config, worker_index=0)
    try:
        _restore_policy(runner, checkpoint)
        yield runner
    finally:
        runner.stop()


def _restore_policy(runner: Any, checkpoint: Path) -> None:
    """Loads the modules and connectors that a runner has, and nothing else."""
    is_multi = isinstance(runner.module, MultiRLModule)
    modules = runner.module.items() if is_multi else [(DEFAULT_MODULE_ID, runner.module)]
    parts = {f"learner_group/learner/rl_module/{name}": module for name, module in modules}
    for name, connector in runner.get_checkpointable_components():
        if connector is not runner.module and (checkpoint / "env_runner" / name).is_dir():
            parts[f"env_runner/{name}"] = connector
    for folder, component in parts.items():
        verify_part(checkpoint, folder)
        with failing_as(RunError, f"{checkpoint / folder} cannot be loaded: "):
            component.restore_from_path((checkpoint / folder).as_posix())
