"""The `rllib` command: `rllib train`, `evaluate`, `example` and `version`; also `python -m rllib_dima`.

Ray 2.60 has no such command any more. This one has the words, flags and file format of the old one and runs DIMA and
RLlib's own algorithms. Ray is imported only by the commands that need it, so that `--help` answers at once.
"""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

from rllib_dima.cli.arguments import build_parser, parse
from rllib_dima.cli.errors import FAILED, INTERRUPTED, MISUSED, SUCCEEDED, RunError, UsageError


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command line.

    Args:
        argv: the arguments; those of this process by default.

    Returns:
        The exit code: 0, 1 if a run failed, 2 if the usage was wrong, 130 after Ctrl-C.

    Raises:
        SystemExit: with code 0, after printing help that was asked for.
    """
    arguments = argparse.Namespace(verbosity=0)
    try:
        arguments = parse(sys.argv[1:] if argv is None else argv)
        code = _run(arguments)
        sys.stdout.flush()
        return code
    except UsageError as error:
        return _fail(error, arguments, MISUSED)
    except RunError as error:
        return _fail(error, arguments, FAILED)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # as in `rllib example list | head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes it once more at exit
        return SUCCEEDED


def _run(arguments: argparse.Namespace) -> int:
    if arguments.command == "train":
        from rllib_dima.cli.training import train

        return train(arguments)
    if arguments.command == "evaluate":
        from rllib_dima.cli.evaluation import evaluate

        return evaluate(arguments)
    if arguments.command == "example":
        from rllib_dima.cli.examples import example

        return example(arguments)
    if arguments.command == "version":
        return _print_versions()
    build_parser().print_help()
    return MISUSED


def _fail(error: Exception, arguments: argparse.Namespace, code: int) -> int:
    """Prints an error as one message; with -v also where it came from."""
    if getattr(arguments, "verbosity", 0):
        traceback.print_exception(error)
    print(f"rllib: {error}", file=sys.stderr)
    return code


def _print_versions() -> int:
    for package in ("rllib_dima", "ray", "torch", "gymnasium"):
        try:
            print(f"{package} {version(package)}")
        except PackageNotFoundError:
            print(f"{package} is not installed")
    return SUCCEEDED
