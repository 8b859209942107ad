"""`rllib example`: the experiments in `tuned_examples/`."""

from __future__ import annotations

import argparse
from pathlib import Path

import rllib_dima
from rllib_dima.cli.errors import SUCCEEDED, UsageError
from rllib_dima.core.names import check_name


def example(arguments: argparse.Namespace) -> int:
    """Lists, prints or runs examples.

    Returns:
        The exit code.

    Raises:
        UsageError: there is no such example, or it cannot be run as asked.
    """
    if arguments.action == "list":
        return _list(arguments.filter)
    file = find_example(arguments.name)
    if arguments.action == "get":
        print(file.read_text(encoding="utf-8"), end="")
        return SUCCEEDED
    from rllib_dima.cli.training import train

    arguments.file = file
    return train(arguments)


def examples_folder() -> Path:
    """Where the examples are: inside the package where it was installed, beside it in a checkout.

    Raises:
        UsageError: in neither place.
    """
    package = Path(rllib_dima.__file__).parent
    for folder in (package / "tuned_examples", package.parent / "tuned_examples"):
        if any(folder.glob("*.yaml")):
            return folder
    raise UsageError(f"This installation has no tuned_examples/, neither inside nor beside {package}.")


def find_example(name: str) -> Path:
    """The file of an example, by its name with or without the ending.

    Raises:
        UsageError: there is none, with the nearest names.
    """
    files = {file.stem: file for file in _files()}
    stem = name.removesuffix(".yaml")
    try:
        check_name(stem, files, "example")
    except ValueError as error:
        raise UsageError(f"{error} `rllib example list` shows all.") from None
    return files[stem]


def _list(text: str) -> int:
    """Prints the examples that have a text in their name or title, with their titles."""
    files = {file.stem: _title(file) for file in _files()}
    chosen = {name: title for name, title in files.items() if text.lower() in f"{name} {title}".lower()}
    width = max(map(len, chosen), default=0)
    for name, title in chosen.items():
        print(f"{name:{width}}  {title}")
    return SUCCEEDED


def _files() -> list[Path]:
    return sorted(examples_folder().glob("*.yaml"))


def _title(file: Path) -> str:
    """The first line of the comment at a file's head."""
    return file.read_text(encoding="utf-8").split("\n", 1)[0].removeprefix("#").strip()
