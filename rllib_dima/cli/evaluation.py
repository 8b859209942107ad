"""`rllib evaluate`: whole episodes with the policy of a checkpoint, and nothing else of it."""

from __future__ import annotations

import argparse
import os
import statistics
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from rllib_dima.cli.checkpoints import find_checkpoint, load_config, verify_part
from rllib_dima.cli.errors import SUCCEEDED, RunError, UsageError, sentence
from rllib_dima.cli.ray_session import prepare
from rllib_dima.cli.video import film, require_display, show

MODULES_FOLDER = "learner_group/learner/rl_module"
RUNNER_FOLDER = "env_runner"


def evaluate(arguments: argparse.Namespace) -> int:
    """Runs what `rllib evaluate` asks for: prints every return, their mean and their standard deviation.

    Returns:
        The exit code, 0.

    Raises:
        UsageError: there is no such checkpoint, or a setting does not fit it.
        RunError: the checkpoint cannot be loaded, or an episode failed.
    """
    checkpoint = find_checkpoint(arguments.checkpoint)
    if arguments.out is not None:
        _render_without_display()
    elif arguments.film is not None:
        raise UsageError("--film is how many episodes --out films: add --out FILE.")
    elif arguments.render:
        require_display()
    prepare(arguments)
    algorithm, config = load_config(checkpoint)
    config = evaluation_config(algorithm, config, arguments)
    print(f"{algorithm.__name__} on {getattr(config.env, '__name__', config.env)}, {checkpoint}", flush=True)
    _report(run_episodes(checkpoint, config, arguments))
    return SUCCEEDED


def evaluation_config(algorithm: type, config: Any, arguments: argparse.Namespace) -> Any:
    """The configuration of one runner with one environment that acts without exploration.

    Args:
        algorithm: class of the algorithm.
        config: as it was trained with; its own `evaluation_config` is applied.
        arguments: what the command line changes.

    Raises:
        UsageError: the checkpoint is of another algorithm than --run says, or a setting is unknown.
    """
    if arguments.run not in (None, algorithm.__name__):
        raise UsageError(f"The checkpoint is of {algorithm.__name__}, not of {arguments.run}.")
    config = _with_changes(config.get_evaluation_config_object(), algorithm, arguments)
    config.in_evaluation = False  # RLlib would add a million to the seed
    config.num_env_runners = 0
    config.num_envs_per_env_runner = 1
    config.explore = False
    config.seed = arguments.seed
    if arguments.out is not None or arguments.render:
        mode = "human" if arguments.out is None else "rgb_array"
        config.env_config = {**config.env_config, "render_mode": mode}
    return config


def _with_changes(config: Any, algorithm: type, arguments: argparse.Namespace) -> Any:
    """The configuration with the settings of --config and --env."""
    from rllib_dima.cli.algorithms import read_settings
    from rllib_dima.cli.training import notice

    env = {} if arguments.env is None else {"env": arguments.env}
    try:
        return config.update_from_dict({**read_settings(arguments.config, algorithm, notice), **env})
    except Exception as error:  # RLlib raises all kinds
        raise UsageError(str(error)) from error


def run_episodes(checkpoint: Path, config: Any, arguments: argparse.Namespace) -> list[float]:
    """Returns of whole episodes, printed as they end; filmed or shown if the command line asks for it.

    Raises:
        RunError: the environment or the policy cannot be built, an episode failed, or there was nothing to film.
    """
    from rllib_dima.sampling.broken_episodes import breakdown

    returns: list[float] = []
    broken: list[str] = []

    def on_episode_end(episode: Any, **kwargs: Any) -> None:
        reason = breakdown(episode) if config.is_multi_agent else None
        if reason is None:
            returns.append(team_return(episode, config))
            outcome = f"return {returns[-1]:9.1f}"
        else:
            broken.append(reason)
            outcome = "broken, and left out"
        print(f"episode {len(returns) + len(broken):3d}   steps {len(episode):6d}   {outcome}", flush=True)

    watching = nullcontext(show if arguments.render else None)
    with film(Path(arguments.out), arguments.film or 1) if arguments.out is not None else watching as on_frame:
        frames = {} if on_frame is None else {"on_episode_start": on_frame, "on_episode_step": on_frame}
        config.callbacks(on_episode_end=on_episode_end, **frames)
        with _runner(checkpoint, config) as runner:
            try:
                runner.sample(num_episodes=arguments.episodes, explore=False)
            except Exception as error:  # whatever the environment, the policy or the video raises
                raise RunError(f"Episode {len(returns) + len(broken) + 1} failed: {error}") from error
    if not returns:
        raise RunError(f"The simulator broke down in all {len(broken)} episodes: {broken[-1]}")
    return returns


def team_return(episode: Any, config: Any) -> float:
    """The return of an episode: the team's for DIMA, where every agent holds it, and else as RLlib counts it."""
    from rllib_dima.algorithms.dima_config import DIMAConfig

    if isinstance(config, DIMAConfig):
        return float(next(iter(episode.agent_episodes.values())).get_return())
    return float(episode.get_return())


@contextmanager
def _runner(checkpoint: Path, config: Any) -> Iterator[Any]:
    """An env runner of this process that acts with the checkpoint's policy; closed afterwards."""
    from ray.rllib.env.multi_agent_env_runner import MultiAgentEnvRunner
    from ray.rllib.env.single_agent_env_runner import SingleAgentEnvRunner

    from rllib_dima.envs import is_registered

    runner_class = config.env_runner_cls
    if runner_class is None:
        runner_class = MultiAgentEnvRunner if config.is_multi_agent else SingleAgentEnvRunner
    try:
        runner = runner_class(config=config, worker_index=0)
    except Exception as error:  # whatever the environment raises
        message = f"The environment {config.env!r} and the policy cannot be built: {sentence(error)}"
        if isinstance(config.env, str) and not is_registered(config.env):
            message += " Code of yours that registers an environment must be named with --import."
        raise RunError(message) from error
    try:
        restore_policy(runner, checkpoint)
        yield runner
    finally:
        runner.stop()


def restore_policy(runner: Any, checkpoint: Path) -> None:
    """Loads into a runner the modules that it has and the state of its connectors.

    Raises:
        RunError: the checkpoint is damaged, or its policy does not fit the environment.
    """
    from ray.rllib.core import DEFAULT_MODULE_ID
    from ray.rllib.core.rl_module.multi_rl_module import MultiRLModule

    is_multi = isinstance(runner.module, MultiRLModule)
    modules = dict(runner.module.items()) if is_multi else {DEFAULT_MODULE_ID: runner.module}
    parts = {f"{MODULES_FOLDER}/{name}": module for name, module in modules.items()}
    for name, component in runner.get_checkpointable_components():
        folder = f"{RUNNER_FOLDER}/{name}"
        if component is not runner.module and (checkpoint / folder).is_dir():
            parts[folder] = component
    for folder, component in parts.items():
        verify_part(checkpoint, folder)
        try:
            component.restore_from_path((checkpoint / folder).as_posix())
        except Exception as error:  # whatever a damaged file or a network of another size raises
            raise RunError(f"{checkpoint / folder} cannot be loaded: {error}") from error


def _render_without_display() -> None:
    """Lets MuJoCo draw without a display, through EGL, unless the user has chosen; before it is first imported."""
    has_display = os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    if sys.platform == "linux" and not has_display:
        os.environ.setdefault("MUJOCO_GL", "egl")


def _report(returns: list[float]) -> None:
    """The mean and, of several episodes, the standard deviation between them."""
    spread = f" +- {statistics.stdev(returns):.1f}" if len(returns) > 1 else ""
    print(f"mean return {statistics.fmean(returns):.1f}{spread} over {len(returns)} episode{'s'[: len(returns) > 1]}")
