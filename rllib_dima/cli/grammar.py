"""What click does not bring: hints at misspelt words and flags, texts as they are written, JSON as a value."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterable
from typing import Any

import click

from rllib_dima.cli.console.spelling import REFUSED_BY_EVALUATE, REFUSED_FLAGS, RENAMED_COMMANDS
from rllib_dima.cli.errors import UsageError
from rllib_dima.core.names import check_name

FILE_ENDINGS = (".yaml", ".yml", ".json", ".py")


class Command(click.Command):
    """A command whose help is printed as it is written, and whose misspelt flags are met with a hint."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Reads flags and arguments.

        Raises:
            UsageError: a flag is unknown, before its value can be taken for something else.
        """
        files = [argument for argument in args if argument.endswith(FILE_ENDINGS)]
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            raise _unknown_flag(error.option_name, files, ctx) from None

    def format_help_text(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes the text without wrapping it."""
        formatter.write(f"\n{inspect.cleandoc(self.help)}\n")


class Group(Command, click.Group):
    """A command of commands, whose misspelt ones are met with a hint."""

    command_class = Command
    group_class = type

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        """Finds the command that the first word names."""
        check_word(args[0], self.commands, ctx)
        return super().resolve_command(ctx, args)


def check_word(word: str, known: Iterable[str], ctx: click.Context) -> None:
    """Refuses a word where a command is expected, with what was probably meant."""
    if word in known:
        return
    if word in RENAMED_COMMANDS:
        raise UsageError(f"`rllib {word}` is now `rllib {RENAMED_COMMANDS[word]}`.")
    if word.endswith(FILE_ENDINGS):
        raise UsageError(f"Did you mean `rllib train file {word}`?")
    try:
        check_name(word, known, f"command of `{ctx.command_path}`:")
    except ValueError as error:
        raise UsageError(str(error), ctx) from None


def _unknown_flag(flag: str, files: list[str], ctx: click.Context) -> UsageError:
    """What to say about a flag that a command does not know."""
    removed = REFUSED_FLAGS | (REFUSED_BY_EVALUATE if ctx.info_name == "evaluate" else {})
    if flag in removed:
        return UsageError(f"{flag} means nothing any more. {removed[flag]}")
    if not flag.startswith("--") and files:
        return UsageError(f"Did you mean `rllib train file {files[0]}`?")
    from rllib_dima.cli.console.places import hint_at_flag

    commands = [path for path in _paths(ctx.find_root().command) if path]
    hint = hint_at_flag(flag, _flags_below(ctx.command), [*commands, "train file"])
    return UsageError(f"Unknown flag of `{ctx.command_path}`: {flag}. {hint}", ctx)


def _paths(command: click.Command, path: str = "") -> Iterable[str]:
    """The words that lead to a command and to all below it."""
    yield path
    for name, child in getattr(command, "commands", {}).items():
        yield from _paths(child, f"{path} {name}".strip())


def _flags_below(command: click.Command) -> list[str]:
    """All long flags of a command and those below it."""
    children = getattr(command, "commands", {}).values()
    own = [flag for option in command.params for flag in (*option.opts, *option.secondary_opts) if flag[:2] == "--"]
    return sorted({"--help", *own, *(flag for child in children for flag in _flags_below(child))})


def json_object(text: str) -> dict[str, Any]:
    """The value of a flag that takes a JSON object."""
    try:
        value = read_json(text)
    except ValueError as error:
        hint = "JSON needs double quotes around names and words, and single quotes around it all in the shell"
        raise click.BadParameter(f"{text!r} is no JSON: {error} ({hint})") from None
    if not isinstance(value, dict):
        raise click.BadParameter(f"{text!r} must be a JSON object, such as '{{\"name\": 1}}'")
    return value


def read_json(text: str) -> Any:
    """The value of a JSON text.

    Raises:
        ValueError: it is none, or a key occurs twice, of which JSON would silently keep the last.
    """
    return json.loads(text, object_pairs_hook=_unique_keys, parse_float=number)


def number(text: str) -> float:
    """A number of a YAML or JSON file: whole, as settings may need it to be, if it is written as 1e3 is."""
    value = float(text.replace("_", ""))
    return int(value) if "e" in text.lower() and value.is_integer() and abs(value) < 2**53 else value


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in pairs:
        if key in result:
            raise ValueError(f"the key {key!r} occurs twice")
        result[key] = value
    return result
