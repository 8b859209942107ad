"""README and documentation: links, files, commands and targets that they name exist; short commands run.

`ray/test_documented_code.py` runs the Python blocks and the commands that train.
"""

import re
import subprocess
import sys

import pytest
from support.pages import PAGES, ROOT, commands, measurements

FOLDERS = "benchmarks|docs|examples|rllib_dima|tests|tuned_examples"
NOT_RUN = {  # commands of the pages that no test runs, by how they begin, and why
    "make install": "downloads everything, as has been done where tests run",
    "make test": "runs the tests, this one too",
    "make test-slow": "takes many minutes",
    "make quickstart": "trains for five minutes",
    "make benchmark-gpu": "needs a GPU",
    "make docs": "downloads mkdocs; strict, so that it fails on a broken link",
    "pip install": "downloads packages; `make dist-test` does, into a fresh environment",
    "ray start": "starts a cluster that outlives the test; tests/ray/test_scaling.py joins one of two nodes",
    "ray get-auth-token": "writes to the home folder",
    "RAY_ADDRESS=FIRST:6379 python train.py": "joins that cluster",
}


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


def test_the_results_link_to_no_file():
    """They are a page in another folder as well (docs/benchmarks.md)."""
    assert re.findall(r"\]\((?!http|#)[^)]+", (ROOT / "benchmarks/RESULTS.md").read_text()) == []


def test_commands_have_the_words_and_options_that_the_pages_use():
    helps = {word: rllib(word, "--help") for word in ("train", "evaluate", "imagine", "plot")}
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


def test_every_command_runs_here_or_with_ray_or_says_why_not():
    others = [" ".join(words) for words in commands() if words[0] != "rllib"]
    assert {start for start in NOT_RUN if not any(line.startswith(start) for line in others)} == set()
    assert [line for line in others if not line.startswith(tuple(NOT_RUN))] == []
    words_of = {words[1] for words in commands() if words[0] == "rllib"}
    assert words_of == {"train", "evaluate", "imagine", "plot", "example"}
    assert {tuple(words) for words in commands() if words[:2] == ["rllib", "example"]} == {("rllib", "example", "list")}
    examples = {line.split()[0] for line in rllib("example", "list").splitlines() if line}
    assert {file.stem for file in (ROOT / "tuned_examples").glob("*.yaml")} <= examples


def test_commands_of_the_results_have_options_that_the_benchmarks_define():
    """They measure for minutes to hours, some on a GPU, so none is run."""
    benchmarks = [words[1:] for words in measurements() if words[0] == "python"]
    assert len(benchmarks) > 8 and {file for file, *_ in benchmarks} > {"benchmarks/epoch.py", "benchmarks/learning.py"}
    for file, *words in benchmarks:
        source = (ROOT / file).read_text()
        assert [word for word in words if word.startswith("--") and f'"{word}"' not in source] == [], file


def test_the_readme_takes_two_minutes():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150
