"""The pictures of the documentation, from the results that are committed.

    python benchmarks/pictures.py        # writes docs/pictures/

A curve is drawn of every run that has come to its end, of the algorithms that `benchmarks/table.py` shows.
"""

from __future__ import annotations

import itertools
import json
import tempfile
from pathlib import Path

import conditioning_order
import learning
import sensitivity
import table

from rllib_dima.analysis.learning_curves import plot_runs

PICTURES = learning.HERE.parent / "docs" / "pictures"


def finished(tasks: list[str], folder: Path) -> list[tuple[str, Path]]:
    """Name and file of every run of the laptop's table that has come to its end.

    The files are copies in `folder` without settings: what a recipe once was given by name it may have of its own now.
    """
    sources = []
    for algorithm, task in itertools.product(table.CURRENT, tasks):
        for run in table.finished("laptop", algorithm, task):
            file = folder / learning.result_file(run.arguments, run.mode, run.seed).name
            record = run.record()
            file.write_text(json.dumps({name: record[name] for name in ("task", "seed", "curve")}))
            sources.append((table.NAMES[algorithm], file))
    return sources


def draw_curves(tasks: list[str], file: Path) -> None:
    """Returns against steps, and scores over the tasks; the numbers stay in benchmarks/results/."""
    with tempfile.TemporaryDirectory() as folder:
        picture = Path(folder) / file.name
        plot_runs(finished(tasks, Path(folder)), picture, axes=["steps"], paper=True)
        file.write_bytes(picture.read_bytes())


def main() -> None:
    """Draws all of them."""
    PICTURES.mkdir(exist_ok=True)
    draw_curves(table.TASKS, PICTURES / "tasks.png")
    conditioning_order.draw(json.loads(conditioning_order.RESULT.read_text()), PICTURES / "conditioning_order.png")
    sensitivity.draw(json.loads(sensitivity.RECORDS.read_text()), PICTURES / "sensitivity.png")


if __name__ == "__main__":
    main()
