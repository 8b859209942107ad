"""README and documentation: their code blocks."""

import re
import shlex
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(page, language):
    """The fenced blocks of a page that are of a language ("" for commands)."""
    fenced = re.findall(r"^```(.*?)\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)
    return [block for of, block in fenced if of == language]


def commands():
    """Every command of the pages' blocks, as a list of its words."""
    lines = (line for page in PAGES for block in blocks(page, "") for line in block.replace("\\\n", "").splitlines())
    return [words for words in (shlex.split(line, comments=True) for line in lines) if words]


def measurements():
    """Every command of the measured results, which are indented, as a list of its words."""
    text = (ROOT / "benchmarks/RESULTS.md").read_text()
    return [line.split() for line in re.findall(r"^    ((?:make|python) [^#\n]*)", text, re.MULTILINE)]
