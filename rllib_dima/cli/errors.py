"""How a command ends: its exit codes, and the two ways in which it fails. The message is all that a user sees."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import click

SUCCEEDED, FAILED, MISUSED, INTERRUPTED = 0, 1, 2, 130

UsageError = click.UsageError  # the command line, a file or a setting is wrong


class RunError(click.ClickException):
    """What was asked for is right, but running it failed."""


@contextmanager
def failing_as(
    kind: type[click.ClickException], before: str = "", after: str = "", of: type[Exception] | tuple = Exception
) -> Iterator[None]:
    """Turns errors `of` the given kinds into one of the command's, with text before and after the message."""
    try:
        yield
    except of as error:
        raise kind(f"{before}{error}{after}") from error


def notice(message: str) -> None:
    """Prints something worth knowing that is neither a result nor an error."""
    print(f"rllib: note: {message}", file=sys.stderr, flush=True)
