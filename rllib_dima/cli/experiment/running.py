"""Experiments, one after the other, with Ray Tune."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ray import tune

from rllib_dima.cli.console import ProgressLines, report
from rllib_dima.cli.errors import FAILED, INTERRUPTED, RunError, UsageError, failing_as, notice
from rllib_dima.cli.experiment import Experiment, make_experiment
from rllib_dima.cli.experiment.files import Specs, read_experiments
from rllib_dima.cli.experiment.resume import remember
from rllib_dima.cli.experiment.saving import Saving, kept_signal_handlers
from rllib_dima.cli.experiment.search_space import variants
from rllib_dima.cli.session import is_cluster, prepare, ray_session, require_resources


def run_experiments(
    source: str | Path | Specs,
    *,
    imports: Sequence[str],
    verbosity: int,
    log_debug: bool,
    resume: bool,
    ray_address: str | None,
    ray_ui: bool,
    experiment_name: str | None = None,
    **settings: Any,
) -> int:
    """Runs the experiments of a file, or of settings by name, with the flags of `rllib train`; returns the exit code.

    Raises:
        UsageError: something is wrong with the flags or the file; nothing has run then.
        RunError: Ray could not be reached or started.
    """
    verbosity = max(verbosity, 2 * log_debug)
    prepare(verbosity, imports)
    flags = {name: value for name, value in settings.items() if value is not None}
    machine = {name[4:]: flags.pop(name) for name in settings if name.startswith("ray_") and name in flags}
    specs = source if isinstance(source, dict) else read_experiments(source)
    if experiment_name is not None:
        if len(specs) > 1:
            raise UsageError(f"--experiment-name can rename one experiment, but the file has {len(specs)}.")
        specs = {experiment_name: next(iter(specs.values()))}
    experiments = [make_experiment(name, spec, flags, resume) for name, spec in specs.items()]
    if resume and not any(experiment.is_resumed for experiment in experiments):
        folders = " and ".join(experiment.folder for experiment in experiments)
        raise UsageError(f"There is nothing to resume: {folders} was not started by this command. Leave out --resume.")
    codes = []
    with ray_session(ray_address, verbosity > 0, ray_ui, machine):
        for experiment in experiments:
            try:
                codes.append(_run(experiment, verbosity, can_grow=is_cluster(ray_address)))
            except RunError as error:  # which does not keep the next from running
                print(f"rllib: {experiment.name}: {error}", file=sys.stderr)
                codes.append(FAILED)
            if codes[-1] == INTERRUPTED:
                break
    return max(codes)


def _run(experiment: Experiment, verbosity: int, can_grow: bool) -> int:
    """Runs one experiment, prints how it ended, and returns the exit code."""
    if not can_grow:
        require_resources(experiment.algorithm, next(variants(experiment.config)))
    env = experiment.config.get("env")
    title = f"{experiment.algorithm.__name__} on {getattr(env, '__name__', env)}"
    print(f"{experiment.name}: {title}, {experiment.folder}", flush=True)
    if not experiment.stop and experiment.time_budget_s is None:
        notice("there is no stop criterion: training goes on until Ctrl-C")
    if not experiment.is_resumed:
        remember(experiment.folder, *experiment.started_with)
    saving = Saving("checkpoint_frequency" not in experiment.checkpoint_config, experiment.time_budget_s)
    callbacks = [*experiment.options.get("callbacks", []), ProgressLines(experiment.stop), saving]
    with failing_as(RunError), kept_signal_handlers():
        analysis = tune.run(
            experiment.run,
            name=experiment.name,
            config=experiment.config,
            stop=experiment.stop,
            checkpoint_config=tune.CheckpointConfig(**experiment.checkpoint_config),
            scheduler=experiment.scheduler,
            verbose=verbosity,
            raise_on_failed_trial=False,
            resume="AUTO+ERRORED" if experiment.is_resumed else None,
            **{**experiment.options, "callbacks": callbacks},
        )
    return report(experiment.folder, analysis.trials, saving.end)
