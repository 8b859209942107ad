"""How a command ends: its exit codes, and the two ways in which it fails. The message is all that a user sees."""

from __future__ import annotations

import click

SUCCEEDED, FAILED, MISUSED, INTERRUPTED = 0, 1, 2, 130


def sentence(error: Exception | str) -> str:
    """The message of an error, which ends as a sentence does."""
    message = str(error).rstrip()
    return message if message.endswith((".", "?", "!")) else f"{message}."


class UsageError(click.UsageError):
    """The command line, a file or a setting is wrong."""

    exit_code = MISUSED


class RunError(click.ClickException):
    """What was asked for is right, but running it failed."""

    exit_code = FAILED
