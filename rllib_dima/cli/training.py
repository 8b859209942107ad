"""`rllib train`: runs experiments with Ray Tune."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from rllib_dima.cli.errors import FAILED, INTERRUPTED, RunError, UsageError
from rllib_dima.cli.experiment_files import read_experiments
from rllib_dima.cli.ray_session import is_cluster, prepare, ray_session, require_resources


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
    experiments = [_checked(name, spec, arguments) for name, spec in specs.items()]
    codes = []
    with ray_session(arguments):
        for experiment, scheduler in experiments:
            codes.append(_run_or_fail(experiment, scheduler, arguments))
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
    _check_resume(arguments)
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


def _check_resume(arguments: argparse.Namespace) -> None:
    """Refuses flags that Tune would ignore when it resumes an experiment."""
    fixed = set(arguments.spec) - {"storage_path", "max_concurrent_trials"}
    if arguments.resume and fixed:
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in sorted(fixed))
        raise UsageError(
            f"{flags} cannot be changed by --resume, which goes on with an experiment as it was started. To train on "
            "with other settings, use --restore CHECKPOINT instead of --resume."
        )


def _checked(name: str, spec: dict[str, Any], arguments: argparse.Namespace) -> tuple[Any, Any]:
    """An experiment and its scheduler, both checked."""
    from rllib_dima.cli.experiment import make_experiment
    from rllib_dima.cli.schedulers import make_scheduler

    experiment = make_experiment(name, spec, arguments.spec, notice)
    scheduler = make_scheduler(experiment.scheduler, experiment.scheduler_config, experiment.stop)
    if arguments.resume and not _was_started(experiment):
        raise UsageError(f"There is nothing to resume: {experiment.folder} holds no experiment. Leave out --resume.")
    return experiment, scheduler


def _was_started(experiment: Any) -> bool:
    folder = experiment.folder
    return "://" in folder or any(Path(folder).glob("experiment_state-*.json"))


def _run_or_fail(experiment: Any, scheduler: Any, arguments: argparse.Namespace) -> int:
    """Runs one experiment; one that cannot run does not keep the next from running."""
    try:
        return _run(experiment, scheduler, arguments)
    except RunError as error:
        print(f"rllib: {experiment.name}: {error}", file=sys.stderr)
        return FAILED


def _run(experiment: Any, scheduler: Any, arguments: argparse.Namespace) -> int:
    """Runs one experiment and prints how it ended."""
    from rllib_dima.cli.algorithms import variants
    from rllib_dima.cli.interruption import noticed_interruption
    from rllib_dima.cli.progress import ProgressLines
    from rllib_dima.cli.trial_report import report

    if not is_cluster(arguments):
        require_resources(experiment.algorithm, next(variants(experiment.config)))
    print(f"{experiment.name}: {experiment.title}, {experiment.folder}", flush=True)
    if not experiment.stop and "time_budget_s" not in experiment.options:
        notice("there is no stop criterion: training goes on until Ctrl-C")
    lines = [] if arguments.verbosity else [ProgressLines(experiment.stop, notice)]
    with noticed_interruption() as interruption:
        trials = _run_tune(experiment, scheduler, [*lines, interruption], arguments)
    return report(experiment, trials, interruption.happened)


def _run_tune(experiment: Any, scheduler: Any, callbacks: list[Any], arguments: argparse.Namespace) -> list[Any]:
    """Tune's trials, after all of them have ended."""
    from ray import tune

    options = {**experiment.options, "callbacks": [*experiment.options.get("callbacks", []), *callbacks]}
    try:
        analysis = tune.run(
            experiment.run,
            name=experiment.name,
            config=experiment.config,
            stop=experiment.stop,
            checkpoint_config=tune.CheckpointConfig(**experiment.checkpoint_config),
            scheduler=scheduler,
            verbose=arguments.verbosity,
            raise_on_failed_trial=False,
            resume="AUTO+ERRORED" if arguments.resume else None,
            **options,
        )
    except Exception as error:  # what Tune itself refuses, before or between trials
        raise RunError(str(error)) from error
    return analysis.trials
