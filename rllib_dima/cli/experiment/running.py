"""Experiments, one after the other, with Ray Tune."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ray import tune

from rllib_dima.cli.console import notice
from rllib_dima.cli.console.progress import ProgressLines
from rllib_dima.cli.console.report import report
from rllib_dima.cli.errors import FAILED, INTERRUPTED, RunError, UsageError
from rllib_dima.cli.experiment import Experiment, make_experiment
from rllib_dima.cli.experiment.algorithms import variants
from rllib_dima.cli.experiment.files import read_experiments
from rllib_dima.cli.experiment.resume import remember, resumed_flags
from rllib_dima.cli.experiment.saving import Saving, kept_signal_handlers
from rllib_dima.cli.experiment.schedulers import make_scheduler
from rllib_dima.cli.ray_session import is_cluster, prepare, ray_session, require_resources


class _Run(NamedTuple):
    """An experiment, its scheduler, what they were made of, and whether it has been started before."""

    experiment: Experiment
    scheduler: Any
    spec: dict[str, Any]
    flags: dict[str, Any]
    is_resumed: bool


def run_experiments(
    source: str | Path | dict[str, dict[str, Any]],
    *,
    imports: Sequence[str],
    verbosity: int,
    log_debug: bool,
    resume: bool,
    ray_address: str | None,
    ray_ui: bool,
    ray_num_cpus: int | None,
    ray_num_gpus: int | None,
    ray_object_store_memory: int | None,
    experiment_name: str | None = None,
    **settings: Any,
) -> int:
    """Runs experiments; the parameters are the flags of `rllib train`.

    Args:
        source: a file, or settings by experiment.
        **settings: of experiments, which count more than those of the source; None where they are not given.

    Returns:
        The exit code: 0 if all trials ended well, 1 if one failed, 130 after Ctrl-C.

    Raises:
        UsageError: something is wrong with the flags or the file; nothing has run then.
        RunError: Ray could not be reached or started.
    """
    verbosity = max(verbosity, 2 * log_debug)
    prepare(verbosity, imports)
    specs = source if isinstance(source, dict) else read_experiments(source)
    if experiment_name is not None:
        if len(specs) > 1:
            raise UsageError(f"--experiment-name can rename one experiment, but the file has {len(specs)}.")
        specs = {experiment_name: next(iter(specs.values()))}
    flags = {name: value for name, value in settings.items() if value is not None}
    runs = [_checked(name, spec, flags, resume) for name, spec in specs.items()]
    if resume and not any(run.is_resumed for run in runs):
        folders = " and ".join(run.experiment.folder for run in runs)
        raise UsageError(f"There is nothing to resume: {folders} was not started by this command. Leave out --resume.")
    machine = {"num_cpus": ray_num_cpus, "num_gpus": ray_num_gpus, "object_store_memory": ray_object_store_memory}
    codes = []
    with ray_session(ray_address, verbosity > 0, ray_ui, **machine):
        for run in runs:
            codes.append(_run_or_fail(run, verbosity, is_cluster(ray_address)))
            if codes[-1] == INTERRUPTED:
                break
    return max(codes)


def _checked(name: str, spec: dict[str, Any], flags: dict[str, Any], resume: bool) -> _Run:
    """An experiment, ready to run."""
    stored = resumed_flags(name, spec, flags) if resume else None
    flags = flags if stored is None else stored
    experiment = make_experiment(name, spec, flags, notice)
    scheduler = make_scheduler(experiment.scheduler, experiment.scheduler_config, experiment.stop)
    return _Run(experiment, scheduler, spec, flags, is_resumed=stored is not None)


def _run_or_fail(run: _Run, verbosity: int, can_grow: bool) -> int:
    """Runs one experiment and prints how it ended; one that cannot run does not keep the next from running."""
    try:
        if not can_grow:
            require_resources(run.experiment.algorithm, next(variants(run.experiment.config)))
        return _run(run, verbosity)
    except RunError as error:
        print(f"rllib: {run.experiment.name}: {error}", file=sys.stderr)
        return FAILED


def _run(run: _Run, verbosity: int) -> int:
    experiment = run.experiment
    print(f"{experiment.name}: {experiment.title}, {experiment.folder}", flush=True)
    if not experiment.stop and experiment.time_budget_s is None:
        notice("there is no stop criterion: training goes on until Ctrl-C")
    if not run.is_resumed:
        remember(experiment.folder, run.spec, run.flags)
    saving = Saving("checkpoint_frequency" not in experiment.checkpoint_config, experiment.time_budget_s)
    with kept_signal_handlers():
        trials = _run_tune(run, [ProgressLines(experiment.stop), saving], verbosity)
    return report(experiment, trials, saving.end)


def _run_tune(run: _Run, callbacks: list[Any], verbosity: int) -> list[Any]:
    """Tune's trials, after all of them have ended."""
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
            verbose=verbosity,
            raise_on_failed_trial=False,
            resume="AUTO+ERRORED" if run.is_resumed else None,
            **options,
        )
    except Exception as error:  # what Tune itself refuses, before or between trials
        raise RunError(str(error)) from error
    return analysis.trials
