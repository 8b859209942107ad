"""What one experiment trains: settings of a file and of the command line, translated, checked and merged."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from rllib_dima.cli.checkpoints import require_restorable
from rllib_dima.cli.console.spelling import Notify
from rllib_dima.cli.errors import UsageError
from rllib_dima.cli.experiment.algorithms import check_configs, find_algorithm, read_settings
from rllib_dima.cli.experiment.search_space import is_search_space, with_search_spaces
from rllib_dima.cli.experiment.spec import checkpoint_config, mapping, options, present_spec, stop_criteria


@dataclasses.dataclass(frozen=True)
class Experiment:
    """One experiment, ready to run.

    Attributes:
        name: of the experiment and its folder.
        run: what Tune is told to run: the registered name of an algorithm, or its class.
        config: the algorithm's settings under their present names; may hold search spaces of Tune's.
        stop: metrics and the values at which a trial ends, or whatever `ray.tune.run` takes.
        checkpoint_config: arguments of `ray.tune.CheckpointConfig`.
        time_budget_s: seconds for the whole experiment, if they are limited.
        options: further arguments of `ray.tune.run`, the storage path always among them.
        scheduler: name of a scheduler, or one of Tune's objects, or None.
        scheduler_config: arguments of the scheduler that is named.
    """

    name: str
    run: str | type
    config: dict[str, Any]
    stop: Any
    checkpoint_config: dict[str, Any]
    time_budget_s: float | None
    options: dict[str, Any]
    scheduler: Any
    scheduler_config: dict[str, Any]

    @property
    def algorithm(self) -> type:
        """The class that is trained."""
        return find_algorithm(self.run)

    @property
    def title(self) -> str:
        """Algorithm and environment, in words."""
        env = self.config.get("env")
        return f"{self.algorithm.__name__} on {getattr(env, '__name__', env)}"

    @property
    def folder(self) -> str:
        """Where the results are: a path or URI."""
        return f"{self.options['storage_path']}/{self.name}"


def make_experiment(name: str, spec: dict[str, Any], flags: dict[str, Any], notify: Notify) -> Experiment:
    """The experiment that a file describes and the command line changes.

    Args:
        name: of the experiment.
        spec: its settings, as the file spells them.
        flags: settings of the command line, which count more: `config` and `checkpoint_config` are merged into the
            file's, the others replace them.
        notify: is told about translated names and other things worth knowing.

    Returns:
        The experiment. Its configuration has been built and validated.

    Raises:
        UsageError: unknown names, wrong values, or settings that the algorithm refuses.
    """
    try:
        return _make(name, spec, flags, notify)
    except (UsageError, ValueError) as error:
        raise UsageError(f"{name}: {error}") from error


def _make(name: str, spec: dict[str, Any], flags: dict[str, Any], notify: Notify) -> Experiment:
    spec, flags = present_spec(spec, notify), present_spec(flags, notify)
    algorithm = find_algorithm(spec.get("run"))
    written = spec["config"] if isinstance(spec["run"], type) else _settings(spec, algorithm, notify)
    config = with_search_spaces(_nested(written, _settings(flags, algorithm, notify)))
    both = merged(spec, flags)
    arguments = options(both)
    if "restore" in arguments:
        require_restorable(Path(arguments["restore"]), algorithm)
    experiment = Experiment(
        name=name,
        run=spec["run"],
        config=config,
        stop=stop_criteria(both.get("stop"), notify),
        checkpoint_config=checkpoint_config(mapping(both, "checkpoint_config"), notify),
        time_budget_s=arguments.pop("time_budget_s", None),
        options=arguments,
        scheduler=both.get("scheduler"),
        scheduler_config=mapping(both, "scheduler_config"),
    )
    check_configs(algorithm, config)
    _notice_equal_runs(experiment, notify)
    return experiment


def _settings(spec: dict[str, Any], algorithm: type, notify: Notify) -> dict[str, Any]:
    """The algorithm's settings in a spec, the environment among them."""
    config = read_settings(mapping(spec, "config"), algorithm, notify)
    env = spec.get("env", config.get("env"))
    if config.get("env", env) != env:
        raise UsageError(f"The environment is {env}, but config names {config['env']}. Keep one of them.")
    return config if env is None else {**config, "env": env}


def merged(spec: dict[str, Any], flags: dict[str, Any]) -> dict[str, Any]:
    """Settings of a file and of the command line, which counts more; `config` and `checkpoint_config` are merged.

    Raises:
        UsageError: one of these two is no mapping.
    """
    nested = [key for key in ("config", "checkpoint_config") if spec.get(key) and flags.get(key)]
    return {**spec, **flags, **{key: _nested(mapping(spec, key), mapping(flags, key)) for key in nested}}


def _nested(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """`over` over `base`, key by key also in nested mappings that are no search spaces."""
    result = dict(base)
    for key, value in over.items():
        old = base.get(key)
        mappings = isinstance(old, dict) and isinstance(value, dict)
        is_nested = mappings and not is_search_space(old) and not is_search_space(value)
        result[key] = _nested(old, value) if is_nested else value
    return result


def _notice_equal_runs(experiment: Experiment, notify: Notify) -> None:
    from ray.tune.search.sample import Domain

    samples, seed = experiment.options.get("num_samples", 1), experiment.config.get("seed")
    draws = any(isinstance(value, Domain) for value in experiment.config.values())
    if samples > 1 and isinstance(seed, int) and not draws:
        notify(f"num_samples is {samples}, but all samples have seed {seed}: seed: {{grid_search: [0, 1]}} varies it")
