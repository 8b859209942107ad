"""How a command ends: exit codes, the two ways in which it fails, and how a message is put."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import click

SUCCEEDED, FAILED, MISUSED, INTERRUPTED = 0, 1, 2, 130

UsageError = click.UsageError  # the command line, a file or a setting is wrong


class RunError(click.ClickException):
    """What was asked for is right, but running it failed."""


def sentence(error: Exception | str) -> str:
    """The message of an error, with a full stop if it lacks one."""
    message = str(error).rstrip()
    return message if message.endswith((".", "?", "!")) else f"{message}."


@contextmanager
def failing_as(
    kind: type[click.ClickException], before: str = "", after: str = "", of: type[Exception] | tuple = Exception
) -> Iterator[None]:
    """Turns the errors `of` some kinds into one of the command's, with something said before and after the message."""
    try:
        yield
    except of as error:
        raise kind(f"{before}{error}{after}") from error


def notice(message: str) -> None:
    """Prints something worth knowing that is neither a result nor an error."""
    print(f"rllib: note: {message}", file=sys.stderr, flush=True)
