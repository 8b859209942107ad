"""What one experiment trains: settings of a file and of the command line, translated, checked and merged."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from ray.tune.search.sample import Domain

from rllib_dima.cli.checkpoints import require_restorable
from rllib_dima.cli.errors import UsageError, failing_as, notice
from rllib_dima.cli.experiment.resume import resumed_flags
from rllib_dima.cli.experiment.schedulers import make_scheduler
from rllib_dima.cli.experiment.search_space import with_search_spaces
from rllib_dima.cli.experiment.settings import check_configs, find_algorithm, read_settings
from rllib_dima.cli.experiment.spec import checkpoint_config, mapping, merged, options, present_spec, stop_criteria


@dataclasses.dataclass(frozen=True)
class Experiment:
    """One experiment, ready to run."""

    name: str  # also of its folder
    run: str | type  # what Tune is told to run: the registered name of an algorithm, or its class
    algorithm: Any  # the class
    config: dict[str, Any]  # settings of the algorithm; may hold search spaces of Tune's
    stop: Any  # metrics and the values at which a trial ends, or whatever `ray.tune.run` takes
    checkpoint_config: dict[str, Any]  # arguments of `ray.tune.CheckpointConfig`
    scheduler: Any  # one of Tune's, or None
    time_budget_s: float | None  # for the whole experiment
    options: dict[str, Any]  # further arguments of `ray.tune.run`, the storage path always among them
    started_with: tuple[dict[str, Any], dict[str, Any]]  # the spec and the flags, for --resume
    is_resumed: bool  # whether it has been started before

    @property
    def folder(self) -> str:
        """Where the results are: a path or URI."""
        return f"{self.options['storage_path']}/{self.name}"


def make_experiment(name: str, spec: dict[str, Any], flags: dict[str, Any], resume: bool = False) -> Experiment:
    """Merges an experiment's settings and the flags, and checks all that can be checked before Ray starts.

    Args:
        name: of the experiment.
        spec: its settings, as the file spells them.
        flags: settings of the command line, which count more.
        resume: whether to go on with it as it was started, if it was.

    Raises:
        UsageError: unknown names, wrong values, or settings that the algorithm refuses.
    """
    with failing_as(UsageError, f"{name}: ", of=(UsageError, ValueError)):
        spec, flags = present_spec(spec), present_spec(flags)
        started_flags = resumed_flags(name, spec, flags) if resume else None
        return _make(name, spec, started_flags or flags, is_resumed=started_flags is not None)


def _make(name: str, spec: dict[str, Any], flags: dict[str, Any], is_resumed: bool) -> Experiment:
    algorithm = find_algorithm(spec.get("run"))
    is_python = isinstance(spec["run"], type)  # whose config is a whole one, and no user's spelling
    settings = spec["config"] if is_python else read_settings(spec["config"], algorithm)
    over = read_settings(flags["config"], algorithm)
    both = merged({**spec, "config": settings}, {**flags, "config": over})
    arguments, config, stop = options(both), with_search_spaces(both["config"]), stop_criteria(both.get("stop"))
    scheduler_arguments = with_search_spaces(mapping(both, "scheduler_config"), "scheduler_config")
    if "restore" in arguments:
        require_restorable(Path(arguments["restore"]), algorithm)
    check_configs(algorithm, config)
    _notice_equal_runs(arguments, config)
    return Experiment(
        name=name,
        run=spec["run"],
        algorithm=algorithm,
        config=config,
        stop=stop,
        checkpoint_config=checkpoint_config(both["checkpoint_config"]),
        scheduler=make_scheduler(both.get("scheduler"), scheduler_arguments, stop, algorithm),
        time_budget_s=arguments.pop("time_budget_s", None),
        options=arguments,
        started_with=(spec, flags),
        is_resumed=is_resumed,
    )


def _notice_equal_runs(arguments: dict[str, Any], config: dict[str, Any]) -> None:
    samples, seed = arguments.get("num_samples", 1), config.get("seed")
    draws = any(isinstance(value, Domain) for value in config.values())
    if samples > 1 and isinstance(seed, int) and not draws:
        notice(f"num_samples is {samples}, but all samples have seed {seed}: seed: {{grid_search: [0, 1]}} varies it")
