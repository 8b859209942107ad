"""What an experiment was started with, kept in its folder: --resume goes on with that and nothing else."""

from __future__ import annotations

import json
from typing import Any

import pyarrow.fs

from rllib_dima.checkpoint import CheckpointError, locate
from rllib_dima.cli.errors import RunError, UsageError
from rllib_dima.cli.experiment import merged
from rllib_dima.cli.experiment.spec import flat, options, present_spec

FILE_NAME = "rllib_command.json"
FREE = ("storage_path", "max_concurrent_trials", "time_budget_s")  # may be others when an experiment goes on


def remember(folder: str, spec: dict[str, Any], flags: dict[str, Any]) -> None:
    """Writes down what an experiment is started with.

    Args:
        folder: of the experiment, a path or URI.
        spec: its settings in a file, or --run and --env.
        flags: settings of the command line.

    Raises:
        RunError: the folder cannot be written.
    """
    try:
        filesystem, path = locate(folder)
        filesystem.create_dir(path)
        with filesystem.open_output_stream(f"{path}/{FILE_NAME}") as file:
            file.write(_text({"spec": _present(spec), "flags": _present(flags)}).encode())
    except (OSError, ValueError, CheckpointError) as error:  # pyarrow's are of the first kinds
        raise RunError(f"The results cannot be written to {folder}: {error}") from error


def resumed_flags(name: str, spec: dict[str, Any], flags: dict[str, Any]) -> dict[str, Any] | None:
    """The flags with which an experiment goes on: those it was started with.

    Args:
        name: of the experiment.
        spec: its settings in the file, or --run and --env.
        flags: settings of the command line, all of which may be left out.

    Returns:
        The flags, or None if the experiment has not been started.

    Raises:
        UsageError: the file or a flag is about something else than what was started.
    """
    spec, flags = _present(spec), _present(flags)
    stored = _read(f"{options({**spec, **flags})['storage_path']}/{name}")
    if stored is None:
        return None
    started, now = merged(stored["spec"], stored["flags"]), merged(merged(spec, stored["flags"]), flags)
    before, after = dict(flat(started)), dict(flat(now))
    changed = [key for key in sorted({*before, *after}) if _text(before.get(key)) != _text(after.get(key))]
    changed = [f"{key} was {_text(before.get(key))}, not {_text(after.get(key))}" for key in changed if key not in FREE]
    if changed:
        raise UsageError(
            f"{name}: --resume goes on with an experiment as it was started, but {'; '.join(changed)}. Give what was "
            "given then, or nothing. To train on with other settings, use --restore CHECKPOINT instead of --resume."
        )
    return merged(stored["flags"], flags)


def _read(folder: str) -> dict[str, Any] | None:
    try:
        filesystem, path = locate(f"{folder}/{FILE_NAME}")
        if filesystem.get_file_info(path).type != pyarrow.fs.FileType.File:
            return None
        with filesystem.open_input_stream(path) as file:
            return json.loads(file.read())
    except (OSError, ValueError, CheckpointError) as error:
        raise UsageError(f"{folder}/{FILE_NAME} cannot be read: {error}") from error


def _present(spec: dict[str, Any]) -> dict[str, Any]:
    return present_spec(spec, lambda message: None)


def _name(value: Any) -> str:
    """What stands for an object that JSON has no form for: the name of a class or function, or of its class."""
    return getattr(value, "__qualname__", type(value).__name__)


def _text(value: Any) -> str:
    return json.dumps(value, default=_name, skipkeys=True)
