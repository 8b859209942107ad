"""Draws what the words of `rllib plot` name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rllib_dima.cli.errors import RunError, UsageError, failing_as


def plot_experiments(
    experiments: Sequence[str],
    *,
    verbosity: int,
    out: str,
    kind: str | None,
    axis: str,
    statistic: str,
    confidence: float,
    paper: bool,
) -> None:
    """Writes the picture and its numbers, and prints a table; the parameters are the flags.

    Raises:
        UsageError: there are no such results, the picture has an unknown format, or matplotlib or scipy is missing.
        RunError: the files cannot be written.
    """
    with failing_as(UsageError, "Pictures need more: pip install matplotlib scipy. ", of=ModuleNotFoundError):
        from rllib_dima.analysis.aggregation import AXES
        from rllib_dima.analysis.learning_curves import plot_runs, table
        from rllib_dima.analysis.runs import ResultsError
    file = _picture_file(out)
    with failing_as(UsageError, of=ResultsError), failing_as(RunError, f"{file} cannot be written: ", of=OSError):
        axes = AXES if axis == "both" else (axis,)
        found = plot_runs(map(_source, experiments), file, kind, axes, statistic, confidence, paper)
    print(f"{table(found)}\npicture: {file}\nnumbers: {file.with_suffix('.csv')}, {file.stem}_scores.csv")


def _source(word: str) -> tuple[str | None, str]:
    """Name and place of "NAME=PLACE"; a place that exists is one as it stands: those of Tune's trials hold "=" too."""
    name, equals, place = word.partition("=")
    return (None, word) if not equals or "/" in name or Path(word).expanduser().exists() else (name, place)


def _picture_file(out: str) -> Path:
    from matplotlib.backend_bases import FigureCanvasBase

    file, known = Path(out).expanduser(), FigureCanvasBase.get_supported_filetypes()
    if file.suffix.removeprefix(".") not in known:
        raise UsageError(f"--out {out} must end in one of {', '.join(f'.{name}' for name in known)}.")
    with failing_as(RunError, of=OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
    return file
