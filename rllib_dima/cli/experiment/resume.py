"""Remembers in an experiment's folder what it was started with: --resume goes on with that and nothing else."""

from __future__ import annotations

import contextlib
import json
from typing import Any

from ray.tune.utils import flatten_dict

from rllib_dima.checkpoint import locate
from rllib_dima.cli.errors import RunError, UsageError, failing_as
from rllib_dima.cli.experiment.spec import merged, options

FILE_NAME = "rllib_command.json"
FREE = ("storage_path", "max_concurrent_trials", "time_budget_s")  # may be others when an experiment goes on


def remember(folder: str, spec: dict[str, Any], flags: dict[str, Any]) -> None:
    """Writes the settings that an experiment starts with, those of its file and the flags, into its folder."""
    with failing_as(RunError, f"The results cannot be written to {folder}: "):
        filesystem, path = locate(folder)
        filesystem.create_dir(path)
        with filesystem.open_output_stream(f"{path}/{FILE_NAME}") as file:
            file.write(_text({"spec": spec, "flags": flags}).encode())


def resumed_flags(name: str, spec: dict[str, Any], flags: dict[str, Any]) -> dict[str, Any] | None:
    """The flags that an experiment was started with, which need not be given again; None if it was never started.

    Raises:
        UsageError: the file or a flag is about something else than what was started.
    """
    stored = _read(f"{options({**spec, **flags})['storage_path']}/{name}/{FILE_NAME}")
    if stored is None:
        return None
    before = flatten_dict(merged(stored["spec"], stored["flags"]))
    after = flatten_dict(merged(merged(spec, stored["flags"]), flags))
    pairs = {key: (_text(before.get(key)), _text(after.get(key))) for key in sorted({*before, *after} - {*FREE})}
    changed = [f"{key} was {old}, not {new}" for key, (old, new) in pairs.items() if old != new]
    if changed:
        raise UsageError(
            f"--resume goes on with an experiment as it was started, but {'; '.join(changed)}. To train on with other "
            "settings, use --restore CHECKPOINT instead."
        )
    return merged(stored["flags"], flags)


def _read(file: str) -> dict[str, Any] | None:
    with failing_as(UsageError, f"{file} cannot be read: "), contextlib.suppress(FileNotFoundError):
        filesystem, path = locate(file)
        with filesystem.open_input_stream(path) as stream:
            return json.loads(stream.read())
    return None


def _text(value: Any) -> str:
    """JSON; classes and functions are written by name, other objects by the name of their class."""
    return json.dumps(value, default=lambda it: getattr(it, "__qualname__", type(it).__name__), skipkeys=True)
