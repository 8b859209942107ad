"""The `rllib` command: `rllib train`, `evaluate`, `imagine`, `plot`, `example`, `version`; or `python -m rllib_dima`.

Ray 2.60 has no such command any more. This one has the words, flags and file format of the old one and runs DIMA and
RLlib's own algorithms. Ray is imported only by the commands that need it, so that `--help` answers at once.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

import click

from rllib_dima.cli.errors import INTERRUPTED, MISUSED, SUCCEEDED
from rllib_dima.cli.evaluate import evaluate
from rllib_dima.cli.example import example
from rllib_dima.cli.grammar import Group
from rllib_dima.cli.imagine import imagine
from rllib_dima.cli.plot import plot
from rllib_dima.cli.train import train

_SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 120}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command line: the arguments of this process by default.

    Returns:
        The exit code: 0, 1 if a run failed, 2 if the usage was wrong, 130 after Ctrl-C.
    """
    context = None
    try:
        with rllib.make_context("rllib", list(sys.argv[1:] if argv is None else argv)) as context:
            code = rllib.invoke(context)
        sys.stdout.flush()
        return code or SUCCEEDED
    except click.exceptions.Exit as end:  # after help or versions
        return end.exit_code
    except click.ClickException as error:
        if context is not None and context.meta.get("verbosity"):
            traceback.print_exception(error)
        of = getattr(error, "ctx", None)
        where = "" if of is None else f" See `{of.command_path} --help`."
        message = error.format_message().rstrip()
        stop = "" if message.endswith((".", "?", "!")) else "."
        print(f"rllib: {message}{stop}{where}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # as in `rllib example list | head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes it once more at exit
        return SUCCEEDED


@click.group(cls=Group, invoke_without_command=True, context_settings=_SETTINGS)
@click.option("--version", "versions", is_flag=True, help="Print the versions of this package, Ray and torch.")
@click.pass_context
def rllib(context: click.Context, versions: bool) -> int | None:
    """Train and evaluate RLlib algorithms, DIMA among them."""
    if versions:
        context.exit(context.invoke(print_versions))
    if context.invoked_subcommand is None:
        print(context.get_help())
        context.exit(MISUSED)


@rllib.command("version")
def print_versions() -> int:
    """Print the versions of this package, Ray and torch."""
    for package in ("rllib_dima", "ray", "torch", "gymnasium"):
        try:
            print(f"{package} {version(package)}")
        except PackageNotFoundError:
            print(f"{package} is not installed")
    return SUCCEEDED


for command in (train, evaluate, imagine, plot, example):
    rllib.add_command(command)
