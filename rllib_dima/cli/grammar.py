"""What click does not bring: hints at misspelt words and flags, help as it is written, JSON as a value."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterator
from typing import Any

import click
import yaml

from rllib_dima.cli.errors import UsageError
from rllib_dima.cli.values import problem, read_values
from rllib_dima.cli.vocabulary import REFUSED, RENAMED_COMMANDS, hint_at_flag
from rllib_dima.core.names import check_name

FILE_ENDINGS = (".yaml", ".yml", ".json", ".py")


class Command(click.Command):
    """A command that prints its help as it is written and hints at what a misspelt flag was meant to be."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Reads flags and arguments."""
        files = [argument for argument in args if argument.endswith(FILE_ENDINGS)]
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            raise _unknown_flag(error.option_name, files, ctx) from None

    def format_help_text(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes the text without wrapping it."""
        formatter.write(f"\n{inspect.cleandoc(self.help or '')}\n")


class Group(Command, click.Group):
    """A command of commands that hints at what a misspelt one was meant to be."""

    command_class = Command
    group_class = type

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        """Finds the command that the first word names."""
        check_word(args[0], self.commands, ctx)
        return super().resolve_command(ctx, args)


def check_word(word: str, known: Collection[str], ctx: click.Context) -> None:
    """Refuses an unknown word where a command is expected, with what was probably meant."""
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
    removed = REFUSED.get(flag) or REFUSED.get(flag.lstrip("-").replace("-", "_"))
    if removed is not None:
        return UsageError(f"{flag} means nothing any more. {removed}")
    if not flag.startswith("--") and files:
        return UsageError(f"Did you mean `rllib train file {files[0]}`?")
    commands = [path for path, _ in _with_commands_below(ctx.find_root().command) if path]
    options = [option for _, command in _with_commands_below(ctx.command) for option in command.params]
    flags = {name for option in options for name in (*option.opts, *option.secondary_opts) if name.startswith("--")}
    hint = hint_at_flag(flag, sorted({"--help", *flags}), [*commands, "train file"])
    return UsageError(f"Unknown flag of `{ctx.command_path}`: {flag}. {hint}", ctx)


def _with_commands_below(command: click.Command, path: str = "") -> Iterator[tuple[str, click.Command]]:
    """A command and all below it, with the words that lead there."""
    yield path, command
    for name, child in getattr(command, "commands", {}).items():
        yield from _with_commands_below(child, f"{path} {name}".strip())


def json_object(text: str) -> dict[str, Any]:
    """The value of a flag that takes a JSON object."""
    try:
        value = read_values(text)
    except yaml.YAMLError as error:
        hint = "JSON needs double quotes around names and words, and single quotes around it all in the shell"
        raise click.BadParameter(f"{text!r} is no JSON: {problem(error)} ({hint})") from None
    if not isinstance(value, dict):
        raise click.BadParameter(f"{text!r} must be a JSON object, such as '{{\"name\": 1}}'")
    return value
