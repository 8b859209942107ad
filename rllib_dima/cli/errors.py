"""How a command ends: its exit codes, and the two ways in which it fails."""

from __future__ import annotations

SUCCEEDED, FAILED, MISUSED, INTERRUPTED = 0, 1, 2, 130


def sentence(error: Exception) -> str:
    """The message of an error, which ends as a sentence does."""
    message = str(error).rstrip()
    return message if message.endswith((".", "?", "!")) else f"{message}."


class UsageError(Exception):
    """The command line, a file or a setting is wrong. The message is all that a user sees."""


class RunError(Exception):
    """What was asked for is right, but running it failed. The message is all that a user sees."""
