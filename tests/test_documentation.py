"""README and documentation: links, files, commands and targets that they name exist; short commands run."""

import re
import subprocess
import sys

import pytest
from support.pages import PAGES, ROOT, commands

FOLDERS = "benchmarks|docs|examples|rllib_dima|tests|tuned_examples"


def rllib(*words):
    """What the `rllib` command prints."""
    command = [sys.executable, "-m", "rllib_dima", *words]
    return subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout


@pytest.mark.parametrize("page", [*PAGES, ROOT / "benchmarks/RESULTS.md"], ids=lambda page: page.name)
def test_links_and_files_of_a_page_exist(page):
    text = page.read_text()
    links = [page.parent / link for link in re.findall(r"\]\((?!http|#)([^)#]+)", text)]
    named = [ROOT / name for name in re.findall(rf"(?<![\w/])(?:{FOLDERS})/[\w/]+\.(?:py|yaml|md)\b", text)]
    assert [str(file) for file in links + named if not file.exists()] == []


def test_commands_have_the_words_and_options_that_the_pages_use():
    helps = {word: rllib(word, "--help") for word in ("train", "evaluate")}
    helps["train"] += rllib("train", "file", "--help")
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    used = {"rllib": 0, "make": 0}
    for program, word, *words in (command for command in commands() if command[0] in used and len(command) > 1):
        used[program] += 1
        if program == "make":
            assert word in targets
        elif word != "example":
            assert [option for option in words if option.startswith("--") and option not in helps[word]] == []
    assert min(used.values()) > 4


def test_short_commands_run():
    assert {command[2] for command in commands() if command[:2] == ["rllib", "example"]} == {"list"}
    examples = {line.split()[0] for line in rllib("example", "list").splitlines() if line}
    assert {file.stem for file in (ROOT / "tuned_examples").glob("*.yaml")} <= examples


def test_the_readme_takes_two_minutes():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150
