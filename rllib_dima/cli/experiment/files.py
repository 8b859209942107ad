"""Experiment files: YAML and JSON mappings from names to settings, and Python files that define a configuration."""

from __future__ import annotations

import importlib
import importlib.util
import reprlib
import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml
from ray import cloudpickle
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.tune import FailureConfig, RunConfig, TuneConfig

from rllib_dima.cli.errors import UsageError
from rllib_dima.cli.experiment.spec import PYTHON_KEYS
from rllib_dima.cli.grammar import FILE_ENDINGS, problem, read_values
from rllib_dima.cli.vocabulary import KEYS

Specs = dict[str, dict[str, Any]]
"""Settings by the name of an experiment."""


def read_experiments(file: str | Path) -> Specs:
    """The experiments of a .yaml, .yml, .json or .py file, as it spells them.

    Raises:
        UsageError: the file is missing, cannot be read, or is none of these kinds.
    """
    path = Path(file).expanduser()
    if "://" in str(file):
        raise UsageError(f"{file} is a URL: download the file first.")
    if not path.is_file():
        raise UsageError(f"There is no file {file}. `rllib example list` names the files that come with this package.")
    if path.suffix not in FILE_ENDINGS:
        raise UsageError(f"{file} must end in one of {', '.join(FILE_ENDINGS)}.")
    return _read_python(path) if path.suffix == ".py" else _read_values(path)


def _read_values(path: Path) -> Specs:
    try:
        text = path.read_text(encoding="utf-8")
        content = read_values(text.expandtabs() if path.suffix == ".json" else text)  # YAML allows no tabs
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        kind = "JSON" if path.suffix == ".json" else "YAML"
        raise UsageError(f"{path} is no {kind}: {problem(error)}.") from None
    rule = f"{path} must map the names of experiments to their settings"
    if not isinstance(content, dict) or not content:
        raise UsageError(f"{rule}, but holds {reprlib.repr(content)}.")
    for name, spec in content.items():
        if not isinstance(spec, dict):
            example = "my_experiment: {run: DIMA, env: mamujoco_ant_4x2, ...}"
            raise UsageError(f"{rule}, as in `{example}`, but {name!r} is {reprlib.repr(spec)}.")
    return {str(name): spec for name, spec in content.items()}


def _read_python(path: Path) -> Specs:
    """The experiment of a Python file, whose "run" is a class and whose "config" holds all settings."""
    module = import_code(str(path))
    config = _defined(module, "config", AlgorithmConfig)
    if config.algo_class is None:
        raise UsageError(f"{path} must define `config`, such as DIMAConfig().environment(...).")
    given = _changed(_defined(module, "run_config", RunConfig)) | _changed(_defined(module, "tune_config", TuneConfig))
    spec = {name: given[name] for name in (*KEYS, *PYTHON_KEYS) if given.get(name)}
    failures = _changed(given.get("failure_config", FailureConfig()))
    if "failure_config" in given:
        spec["max_failures"] = given["failure_config"].max_failures
    taken = (*KEYS, *PYTHON_KEYS, "name", "failure_config", "max_failures", "checkpoint_config")
    unread = {name for name in (*given, *failures) if name[0] != "_" and name not in taken}
    if unread:
        raise UsageError(
            f"{path}: run_config or tune_config sets {', '.join(sorted(unread))}, which `rllib train` does not read. "
            "Leave it out, or run the search with ray.tune.Tuner."
        )
    if "checkpoint_config" in given:
        spec["checkpoint_config"] = _changed(given["checkpoint_config"])
    if stop := getattr(module, "stop", None):
        spec["stop"] = stop
    return {given.get("name") or path.stem: {**spec, "run": config.algo_class, "config": config.to_dict()}}


def _defined(module: ModuleType, name: str, kind: type) -> Any:
    """What a module defines under a name, or the default of its kind."""
    value = getattr(module, name, kind())
    if not isinstance(value, kind):
        raise UsageError(f"{module.__file__}: {name} must be a {kind.__name__} of Ray, but is {reprlib.repr(value)}.")
    return value


def _changed(settings: Any) -> dict[str, Any]:
    """The attributes of a RunConfig and its like that are not the default."""
    defaults = vars(type(settings)())
    return {name: value for name, value in vars(settings).items() if value != defaults[name]}


def import_code(name: str) -> ModuleType:
    """Imports a module by name, or a .py file by path.

    Raises:
        UsageError: there is no such module or file, or importing it failed.
    """
    path = Path(name).expanduser().absolute()
    is_file = path.suffix == ".py"
    if is_file and not path.is_file():
        raise UsageError(f"There is no file {path}.")
    try:
        return _import_file(path) if is_file else importlib.import_module(name)
    except Exception as error:  # whatever the code does
        what = f"{path}{_line_in(path, error)}" if is_file else f"Importing {name} failed"
        raise UsageError(f"{what}: {type(error).__name__}: {error}") from error


def _import_file(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"rllib_experiment_{path.stem}", path)
    assert spec is not None and spec.loader is not None  # its name ends in .py
    module = importlib.util.module_from_spec(spec)
    sys.modules[module.__name__] = module
    cloudpickle.register_pickle_by_value(module)  # as Ray's processes cannot import it
    spec.loader.exec_module(module)
    return module


def _line_in(path: Path, error: Exception) -> str:
    """The last line of a file that an error passed through, as in ", line 3"."""
    if isinstance(error, SyntaxError):
        return f", line {error.lineno}"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    return f", line {lines[-1]}" if lines else ""
