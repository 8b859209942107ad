"""Experiment files: YAML and JSON mappings from names to settings, and Python files that define a configuration."""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml

from rllib_dima.cli.errors import UsageError
from rllib_dima.cli.grammar import FILE_ENDINGS, number, read_json

_MODULE_PREFIX = "rllib_experiment_"
_TUNE_SETTINGS = ("storage_path", "stop", "callbacks", "log_to_file", "metric", "mode", "search_alg", "scheduler")
_TUNE_SETTINGS += ("num_samples", "max_concurrent_trials", "time_budget_s", "reuse_actors", "trial_name_creator")
_TUNE_SETTINGS += ("trial_dirname_creator",)  # of RunConfig and TuneConfig; `ray.tune.run` takes them by these names


def read_experiments(file: str | Path) -> dict[str, dict[str, Any]]:
    """The experiments of a file.

    Args:
        file: .yaml, .yml, .json or .py.

    Returns:
        Settings by the experiment's name, as the file spells them. Those of a .py file have "run" (a class), "config"
        (all settings of its `config`) and what the file's `stop`, `run_config` and `tune_config` set.

    Raises:
        UsageError: the file is missing, cannot be read, or is none of these kinds.
    """
    path = Path(file).expanduser()
    if "://" in str(file):
        raise UsageError(f"{file} is a URL: download the file first.")
    if not path.is_file():
        raise UsageError(f"There is no file {file}. `rllib example list` names the files that come with this package.")
    if path.suffix == ".py":
        return _read_python(path)
    if path.suffix not in FILE_ENDINGS:
        raise UsageError(f"{file} must end in one of {', '.join(FILE_ENDINGS)}.")
    return _checked(path, _read_json(path) if path.suffix == ".json" else _read_yaml(path))


def import_code(name: str) -> ModuleType:
    """Imports a module by name, or a .py file by path.

    Classes and functions of a file are pickled by value afterwards, so that they work in Ray's processes, which cannot
    import the file.

    Raises:
        UsageError: there is no such module or file, or importing it failed.
    """
    path = Path(name).expanduser()
    if path.suffix == ".py":
        return _import_file(path)
    try:
        return importlib.import_module(name)
    except Exception as error:  # whatever the module does
        raise UsageError(f"Importing {name} failed: {type(error).__name__}: {error}") from error


def _import_file(path: Path) -> ModuleType:
    from ray import cloudpickle

    path = path.absolute()
    if not path.is_file():
        raise UsageError(f"There is no file {path}.")
    spec = importlib.util.spec_from_file_location(f"{_MODULE_PREFIX}{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[module.__name__] = module
    cloudpickle.register_pickle_by_value(module)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # whatever the file does
        raise UsageError(f"{path}{_line_in(path, error)}: {type(error).__name__}: {error}") from error
    return module


def _line_in(path: Path, error: Exception) -> str:
    """The last line of a file that an error passed through, as in ", line 3"."""
    if isinstance(error, SyntaxError):
        return f", line {error.lineno}"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    return f", line {lines[-1]}" if lines else ""


def _read_python(path: Path) -> dict[str, dict[str, Any]]:
    """The experiment of a Python file; its name is that of its `run_config`, or the file's."""
    from ray.rllib.algorithms.algorithm_config import AlgorithmConfig

    module = import_code(str(path))
    config = getattr(module, "config", None)
    if not isinstance(config, AlgorithmConfig):
        found = "nothing" if config is None else f"a {type(config).__name__}"
        raise UsageError(
            f"{path} must define `config`, an AlgorithmConfig such as DIMAConfig().environment(...), but has {found} "
            "of that name."
        )
    spec = {"run": config.algo_class, "config": config.to_dict(), **_tune_settings(module)}
    if getattr(module, "stop", None) is not None:
        spec["stop"] = module.stop
    name = getattr(getattr(module, "run_config", None), "name", None)
    return {name or path.stem: spec}


def _tune_settings(module: ModuleType) -> dict[str, Any]:
    """Settings of an experiment out of `run_config` and `tune_config`, where a module defines them."""
    from ray.tune import CheckpointConfig, RunConfig, TuneConfig

    settings: dict[str, Any] = {}
    for name, expected in (("run_config", RunConfig), ("tune_config", TuneConfig)):
        given = getattr(module, name, None)
        if given is not None and not isinstance(given, expected):
            raise UsageError(f"{name} must be a ray.tune.{expected.__name__}, but is {given!r}.")
        settings |= {} if given is None else {key: value for key, value in vars(given).items() if value is not None}
    taken = {name: settings[name] for name in _TUNE_SETTINGS if settings.get(name)}
    if settings.get("failure_config"):
        taken["max_failures"] = settings["failure_config"].max_failures
    checkpoints, defaults = settings.get("checkpoint_config"), vars(CheckpointConfig())
    changed = {key: value for key, value in vars(checkpoints or CheckpointConfig()).items() if value != defaults[key]}
    return {**taken, "checkpoint_config": changed} if changed else taken


def _read_json(path: Path) -> Any:
    try:
        return read_json(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UsageError(f"{path} is no JSON: {error}.") from None


def _read_yaml(path: Path) -> Any:
    try:
        return yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is no YAML: {error}") from None


def _checked(path: Path, content: Any) -> dict[str, dict[str, Any]]:
    """The content of a YAML or JSON file, if it maps names to mappings."""
    if not isinstance(content, dict) or not content:
        raise UsageError(f"{path} must map the names of experiments to their settings, but holds {_kind(content)}.")
    for name, spec in content.items():
        if not isinstance(spec, dict):
            raise UsageError(
                f"{path} must map the names of experiments to their settings, but {name!r} is {_kind(spec)}. A file "
                "looks like `my_experiment: {run: DIMA, env: mamujoco_ant_4x2, ...}`, on indented lines."
            )
    return {str(name): spec for name, spec in content.items()}


def _kind(value: Any) -> str:
    if value is None:
        return "nothing"
    return repr(value) if isinstance(value, (str, int, float)) else f"a {type(value).__name__}"


class _Loader(yaml.SafeLoader):
    """Safe YAML that reads 1e-4 and 1e3 as numbers, text to YAML 1.1, and refuses keys that occur twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode) and key.value != "<<"]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise yaml.constructor.ConstructorError(None, None, f"the key {twice!r} occurs twice", node.start_mark)
        return super().construct_mapping(node, deep)

    def construct_yaml_float(self, node: yaml.ScalarNode) -> float:
        return number(node.value) if "e" in node.value.lower() else super().construct_yaml_float(node)


_EXPONENT_FORM = re.compile(r"[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$")
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _EXPONENT_FORM, list("-+0123456789"))
_Loader.add_constructor("tag:yaml.org,2002:float", _Loader.construct_yaml_float)
