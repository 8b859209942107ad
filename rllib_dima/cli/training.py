"""`rllib train`: runs experiments with Ray Tune."""

from __future__ import annotations

import argparse
import sys
from typing import Any, NamedTuple

from rllib_dima.cli.errors import FAILED, INTERRUPTED, RunError, UsageError
from rllib_dima.cli.experiment_files import read_experiments
from rllib_dima.cli.ray_session import is_cluster, prepare, ray_session, require_resources


class _Run(NamedTuple):
    """An experiment, its scheduler, what they were made of, and whether it has been started before."""

    experiment: Any
    scheduler: Any
    spec: dict[str, Any]
    flags: dict[str, Any]
    is_resumed: bool


def train(arguments: argparse.Namespace) -> int:
    """Runs what `rllib train` asks for.

    Returns:
        The exit code: 0 if all trials ended well, 1 if one failed, 130 after Ctrl-C.

    Raises:
        UsageError: something is wrong with the arguments or the file; nothing has run then.
        RunError: Ray could not be reached or started.
    """
    prepare(arguments)
    specs = read_specs(arguments)
    runs = [_checked(name, spec, arguments) for name, spec in specs.items()]
    if arguments.resume and not any(run.is_resumed for run in runs):
        folders = " and ".join(run.experiment.folder for run in runs)
        raise UsageError(f"There is nothing to resume: {folders} was not started by this command. Leave out --resume.")
    codes = []
    with ray_session(arguments):
        for run in runs:
            codes.append(_run_or_fail(run, arguments))
            if codes[-1] == INTERRUPTED:
                break
    return max(codes)


def notice(message: str) -> None:
    """Prints something worth knowing that is neither a result nor an error."""
    print(f"rllib: note: {message}", file=sys.stderr, flush=True)


def read_specs(arguments: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Settings by experiment, from a file or from --run and --env.

    Raises:
        UsageError: neither or both are given, the file cannot be read, or flags contradict each other.
    """
    if arguments.file is None:
        return _spec_of_flags(arguments)
    if arguments.run is not None or arguments.env is not None:
        raise UsageError("--run and --env stand for an experiment of their own: leave them out with a file.")
    specs = read_experiments(arguments.file)
    if arguments.experiment_name is None:
        return specs
    if len(specs) > 1:
        raise UsageError(f"--experiment-name can rename one experiment, but the file has {len(specs)}.")
    return {arguments.experiment_name: next(iter(specs.values()))}


def _spec_of_flags(arguments: argparse.Namespace) -> dict[str, dict[str, Any]]:
    if arguments.run is None:
        raise UsageError("Nothing to train: give `file FILE`, or --run and --env. See `rllib train --help`.")
    spec = {"run": arguments.run}
    if arguments.env is not None:
        spec["env"] = arguments.env
    parts = [arguments.run, arguments.env or arguments.spec.get("config", {}).get("env", "")]
    name = arguments.experiment_name or "_".join(str(part) for part in parts if part)
    return {name.replace("/", "_").replace(":", "_"): spec}


def _checked(name: str, spec: dict[str, Any], arguments: argparse.Namespace) -> _Run:
    """An experiment, ready to run."""
    from rllib_dima.cli.experiment import make_experiment
    from rllib_dima.cli.resume import resumed_flags
    from rllib_dima.cli.schedulers import make_scheduler

    stored = resumed_flags(name, spec, arguments.spec) if arguments.resume else None
    flags = arguments.spec if stored is None else stored
    experiment = make_experiment(name, spec, flags, notice)
    scheduler = make_scheduler(experiment.scheduler, experiment.scheduler_config, experiment.stop)
    return _Run(experiment, scheduler, spec, flags, is_resumed=stored is not None)


def _run_or_fail(run: _Run, arguments: argparse.Namespace) -> int:
    """Runs one experiment; one that cannot run does not keep the next from running."""
    try:
        return _run(run, arguments)
    except RunError as error:
        print(f"rllib: {run.experiment.name}: {error}", file=sys.stderr)
        return FAILED


def _run(run: _Run, arguments: argparse.Namespace) -> int:
    """Runs one experiment and prints how it ended."""
    from rllib_dima.cli.algorithms import variants
    from rllib_dima.cli.progress import ProgressLines
    from rllib_dima.cli.resume import remember
    from rllib_dima.cli.saving import Saving, kept_signal_handlers
    from rllib_dima.cli.trial_report import report

    experiment = run.experiment
    if not is_cluster(arguments):
        require_resources(experiment.algorithm, next(variants(experiment.config)))
    print(f"{experiment.name}: {experiment.title}, {experiment.folder}", flush=True)
    if not experiment.stop and experiment.time_budget_s is None:
        notice("there is no stop criterion: training goes on until Ctrl-C")
    if not run.is_resumed:
        remember(experiment.folder, run.spec, run.flags)
    by_time = "checkpoint_frequency" not in experiment.checkpoint_config
    saving = Saving(by_time, experiment.time_budget_s)
    with kept_signal_handlers():
        trials = _run_tune(run, [ProgressLines(experiment.stop), saving], arguments)
    return report(experiment, trials, saving.end)


def _run_tune(run: _Run, callbacks: list[Any], arguments: argparse.Namespace) -> list[Any]:
    """Tune's trials, after all of them have ended."""
    from ray import tune

    experiment = run.experiment
    options = {**experiment.options, "callbacks": [*experiment.options.get("callbacks", []), *callbacks]}
    try:
        analysis = tune.run(
            experiment.run,
            name=experiment.name,
            config=experiment.config,
            stop=experiment.stop,
            checkpoint_config=tune.CheckpointConfig(**experiment.checkpoint_config),
            scheduler=run.scheduler,
            verbose=arguments.verbosity,
            raise_on_failed_trial=False,
            resume="AUTO+ERRORED" if run.is_resumed else None,
            **options,
        )
    except Exception as error:  # what Tune itself refuses, before or between trials
        raise RunError(str(error)) from error
    return analysis.trials
