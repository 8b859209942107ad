"""`rllib example`: the experiments in `tuned_examples/`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

import rllib_dima
from rllib_dima.cli.errors import UsageError, failing_as
from rllib_dima.cli.grammar import Group
from rllib_dima.cli.train import EXPERIMENT_FLAGS
from rllib_dima.core.names import check_name

NAME = click.Argument(["name"], metavar="NAME")


@click.group(cls=Group, no_args_is_help=False, short_help="List, print and run the tuned examples.")
def example() -> None:
    """List, print and run the experiments that come with this package (tuned_examples/)."""


@example.command("list")
@click.option("-f", "--filter", "text", default="", metavar="TEXT", help="Only those with this text in them.")
def list_examples(text: str) -> None:
    """Print their names and titles."""
    titles = {name: file.read_text(encoding="utf-8").split("\n", 1)[0] for name, file in _examples().items()}
    for name, title in titles.items():
        if text.lower() in f"{name} {title}".lower():
            print(f"{name:{max(map(len, titles))}}  {title.removeprefix('#').strip()}")


@example.command("get", params=[NAME])
def get(name: str) -> None:
    """Print one."""
    print(find_example(name).read_text(encoding="utf-8"), end="")


@example.command("run", params=[NAME, *EXPERIMENT_FLAGS])
def run(name: str, **flags: Any) -> int:
    """Train with one. `rllib train --help` explains the flags."""
    from rllib_dima.cli.experiment.running import run_experiments

    return run_experiments(find_example(name), **flags)


def examples_folder() -> Path:
    """Where the examples are: inside the package where it was installed, beside it in a checkout."""
    package = Path(rllib_dima.__file__).parent
    for folder in (package / "tuned_examples", package.parent / "tuned_examples"):
        if any(folder.glob("*.yaml")):
            return folder
    raise UsageError(f"This installation has no tuned_examples/, neither inside nor beside {package}.")


def find_example(name: str) -> Path:
    """The file of an example, by its name with or without the ending."""
    files, stem = _examples(), name.removesuffix(".yaml")
    with failing_as(UsageError, after=" `rllib example list` shows all."):
        check_name(stem, files, "example")
    return files[stem]


def _examples() -> dict[str, Path]:
    return {file.stem: file for file in sorted(examples_folder().glob("*.yaml"))}
