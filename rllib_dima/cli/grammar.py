"""What click does not bring: hints at misspelt words and flags, help as it is written, JSON as a value."""

from __future__ import annotations

import inspect
import re
from collections.abc import Collection, Iterator
from typing import Any

import click
import yaml

from rllib_dima.cli.errors import UsageError
from rllib_dima.cli.vocabulary import REFUSED, RENAMED_COMMANDS, hint_at_flag
from rllib_dima.core.names import check_name

FILE_ENDINGS = (".yaml", ".yml", ".json", ".py")


class Command(click.Command):
    """A command that prints its help as it is written and hints at what a misspelt flag was meant to be."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Reads flags and arguments."""
        files = [argument for argument in args if argument.endswith(FILE_ENDINGS) and "file" not in args]
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
    if not flag.startswith("--") and files and ctx.command.name == "train":
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


def read_values(text: str) -> Any:
    """The value of a YAML text, and so of a JSON text; a YAMLError if it is neither, or a key occurs twice."""
    return yaml.load(text, Loader=_Loader)


def problem(error: Exception) -> str:
    """What is wrong with a text, in one line."""
    mark = getattr(error, "problem_mark", None)
    return f"{getattr(error, 'problem', error)}{f', line {mark.line + 1}' if mark else ''}"


class _Loader(yaml.SafeLoader):
    """Safe YAML that reads 1e-4 and 1e3 as numbers, text to YAML 1.1, and refuses keys that YAML would misread."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key for key, _ in node.value if isinstance(key, yaml.ScalarNode) and key.value != "<<"]
        for key in keys:
            if [other.value for other in keys].count(key.value) > 1:
                raise yaml.MarkedYAMLError(problem=f"the key {key.value!r} occurs twice", problem_mark=key.start_mark)
            if key.style is None and ":" in key.value:
                raise yaml.MarkedYAMLError(problem=f"{key.value!r} lacks a space after :", problem_mark=key.start_mark)
        return super().construct_mapping(node, deep)

    def construct_yaml_float(self, node: yaml.ScalarNode) -> float:
        """A number: whole, as settings may need it to be, if it is written as 1e3 is."""
        value = super().construct_yaml_float(node)
        return int(value) if "e" in node.value.lower() and value.is_integer() and abs(value) < 2**53 else value


_EXPONENT_FORM = re.compile(r"[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$")
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _EXPONENT_FORM, list("-+0123456789"))
_Loader.add_constructor("tag:yaml.org,2002:float", _Loader.construct_yaml_float)
