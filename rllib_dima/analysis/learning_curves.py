"""Learning curves of several experiments in one picture, and their numbers as CSV files and a table.

plot_runs([("swift", "benchmarks/results/learning_halfcheetah_2x3_swift_0.json"), (None, "~/ray_results/dima_ant")])
"""

from __future__ import annotations

import csv
import itertools
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from rllib_dima.analysis.aggregation import AXES, Curve, Estimate, Score, common_kind, curve, scores
from rllib_dima.analysis.figures import STYLE, styles
from rllib_dima.analysis.published import RETURNS
from rllib_dima.analysis.runs import group_runs

PANEL = (5.0, 3.1)  # inches
MOST_COLUMNS = 3
WORDS = {"mean": "mean", "iqm": "interquartile mean"}
RETURN_OF = {"evaluation": "return of the deterministic policy", "training": "return of sampled actions"}
MARKS = "osD^vPX"


def plot_runs(
    sources: Iterable[tuple[str | None, str | Path]],
    out: str | Path = "returns.png",
    kind: str | None = None,
    axes: Sequence[str] = AXES,
    statistic: str = "mean",
    confidence: float = 0.95,
    paper: bool = False,
) -> list[Score]:
    """Draws returns of experiments, and writes them beside the picture as `<out>.csv` and `<out>_scores.csv`.

    Args:
        sources: names and places, as for `group_runs`.
        out: the picture, of a format that matplotlib writes.
        kind: of returns, "evaluation" or "training"; by default the former if every run has them.
        axes: "steps", "seconds" or both.
        statistic: "mean" or "iqm" over runs.
        confidence: of the bootstrap intervals.
        paper: whether the paper's returns are drawn where the task is of the paper.

    Returns:
        Where every experiment has come, and its score over tasks.

    Raises:
        ResultsError: a place is missing, or holds no such returns.
    """
    groups, out = group_runs(sources), Path(out).expanduser()
    kind = kind or common_kind(groups)
    drawn = {axis: [curve(group, kind, axis, statistic, confidence) for group in groups] for axis in axes}
    ends = drawn.get("steps") or [curve(group, kind, "steps", statistic, confidence) for group in groups]
    found = scores(ends, statistic, confidence)
    caption = f"{WORDS[statistic]} over runs and {confidence:.0%} bootstrap interval"
    caption = caption if any(len(group.runs) > 1 for group in groups) else "one run each"
    picture(drawn, found, RETURN_OF[kind], caption, paper).savefig(out, dpi=160)
    write_curves(drawn, out.with_suffix(".csv"))
    write_scores(found, out.with_name(f"{out.stem}_scores.csv"))
    return found


def picture(
    curves: dict[str, list[Curve]], found: Sequence[Score], ylabel: str, caption: str, paper: bool = False
) -> Figure:
    """Panels, and below them the scores over all tasks, if there are.

    With several axes a task has a row and an axis a column; with one axis tasks stand side by side, up to three.

    Args:
        curves: by axis.
        found: of `scores`.
        ylabel: what the returns are of.
        caption: what lines and bands are.
        paper: whether the paper's returns are drawn.
    """
    names = list(dict.fromkeys(of.group.name for of in next(iter(curves.values()))))
    tasks = list(dict.fromkeys(of.group.task for of in next(iter(curves.values()))))
    totals = [score for score in found if len(score.tasks) > 1]
    columns = len(curves) if len(curves) > 1 else min(len(tasks), MOST_COLUMNS)
    heights = [PANEL[1]] * math.ceil(len(tasks) * len(curves) / columns) + [0.7 + 0.28 * len(totals)] * bool(totals)
    with rc_context(STYLE):
        figure = Figure(figsize=(PANEL[0] * columns + 0.6, sum(heights) + 0.8), layout="constrained")
        grid = figure.add_gridspec(len(heights), columns, height_ratios=heights)
        for place, (task, axis) in enumerate(itertools.product(tasks, curves)):
            row, column = divmod(place, columns)
            shared = figure.axes[-1] if axis != next(iter(curves)) else None
            panel = figure.add_subplot(grid[row, column], sharey=shared)
            _draw_task(panel, [of for of in curves[axis] if of.group.task == task], names, paper)
            panel.set(title=task, xlabel=_XLABELS[axis], ylabel=ylabel if column == 0 else None)
            panel.xaxis.set_major_formatter(_short)
        if totals:
            _draw_scores(figure.add_subplot(grid[-1, :]), totals, names)
        handles = [Line2D([], [], label=f"{name} ({_runs(curves, name)})", **_style(names, name)) for name in names]
        entries = int(figure.get_figwidth() / (0.6 + 0.075 * max(len(str(handle.get_label())) for handle in handles)))
        figure.legend(
            handles=handles, loc="outside upper center", ncols=max(1, min(entries, len(names))), handlelength=3.5
        )
        figure.supxlabel(caption, fontsize=8, color="#555555")
    return figure


_XLABELS = {"steps": "environment steps", "seconds": "seconds"}


def _style(names: Sequence[str], name: str) -> dict[str, Any]:
    """Colour and line of an experiment, the same in every panel."""
    color, line = styles(len(names))[names.index(name)]
    return {"color": color, "linestyle": line, "linewidth": 1.8}


def _runs(curves: dict[str, list[Curve]], name: str) -> str:
    """How many runs a line is made of: "3 runs", or "1 to 3 runs" where tasks differ."""
    counts = sorted({len(of.group.runs) for lines in curves.values() for of in lines if of.group.name == name})
    return " to ".join(map(str, dict.fromkeys((counts[0], counts[-1])))) + (" run" if counts[-1] == 1 else " runs")


def _short(number: float, position: float | None = None) -> str:
    """ "500", "1.5k", "2M"."""
    for unit, word in ((1e6, "M"), (1e3, "k")):
        if abs(number) >= unit:
            return f"{number / unit:g}{word}"
    return f"{number:g}"


def _draw_task(panel: Axes, lines: Sequence[Curve], names: Sequence[str], paper: bool) -> None:
    for of in lines:
        style, spread = _style(names, of.group.name), of.estimate
        panel.plot(of.x, spread.value, marker="o" if len(of.x) == 1 else None, **style)
        panel.fill_between(of.x, spread.low, spread.high, color=style["color"], alpha=0.16, linewidth=0)
    published = RETURNS.get(lines[0].group.task) if lines else None
    if paper and published is not None:
        panel.axhline(published.mean, color="#666666", linewidth=1, linestyle=(0, (1, 3)))
        text = f"paper, {published.steps:,} steps: {published.mean:g} ± {published.deviation:g}"
        panel.annotate(
            text, (1, published.mean), (0, -3), xycoords=("axes fraction", "data"), textcoords="offset points",
            ha="right", va="top", fontsize=8, color="#444444",
        )  # fmt: skip


def _draw_scores(panel: Axes, totals: Sequence[Score], names: Sequence[str]) -> None:
    """Point and interval of every experiment."""
    for row, total in enumerate(totals):
        assert total.score is not None, "that of all tasks together"
        color, mark = _style(names, total.name)["color"], MARKS[names.index(total.name) % len(MARKS)]
        value, low, high = (float(number) for number in (total.score.value, total.score.low, total.score.high))
        panel.hlines(row, low, high, color=color, linewidth=3, alpha=0.4)
        panel.plot([value], [row], mark, color=color, markersize=7)
        panel.annotate(f"{value:.2f}", (value, row), (0, 6), textcoords="offset points", ha="center", color="#444444")
    panel.set(
        title="score over tasks of the paper", xlabel="return / paper's return", yticks=range(len(totals)),
        yticklabels=[f"{total.name}, {len(total.tasks)} tasks" for total in totals], ylim=(len(totals) - 0.5, -0.7),
    )  # fmt: skip
    low, high = panel.get_xlim()
    panel.set_xlim(min(0.0, low), max(1.0, high))


def table(found: Sequence[Score]) -> str:
    """The scores in text, with their intervals."""
    header = ("task", "experiment", "runs", "steps", "return", "paper", "score")
    rows = [header, *(_cells(score) for score in found)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(header))]
    left = (0, 1)
    lines = (
        "  ".join(c.ljust(w) if i in left else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True)))
        for row in rows
    )
    return "\n".join(line.rstrip() for line in lines)


def _cells(score: Score) -> tuple[str, ...]:
    steps = "" if score.steps is None else f"{score.steps:,.0f}"
    paper = "" if score.published is None else f"{score.published.mean:g}"
    task = score.tasks[0] if len(score.tasks) == 1 else f"{len(score.tasks)} tasks of the paper"
    return (
        task, score.name, str(score.num_runs), steps, _words(score.returns, ".1f"), paper, _words(score.score, ".3f"),
    )  # fmt: skip


def _words(of: Estimate | None, spec: str) -> str:
    """ "4255.4 [3290.1, 4990.8]"; the value alone where one run has no interval."""
    if of is None:
        return ""
    return f"{of.value:{spec}}" + ("" if np.isnan(of.low) else f" [{of.low:{spec}}, {of.high:{spec}}]")


def write_curves(curves: dict[str, list[Curve]], file: Path) -> None:
    """One row for each point of each line."""
    columns = ("task", "experiment", "runs", "axis", "x", "return", "low", "high")
    rows = (
        (of.group.task, of.group.name, len(of.group.runs), axis, *map(float, point))
        for axis, lines in curves.items()
        for of in lines
        for point in zip(of.x, of.estimate.value, of.estimate.low, of.estimate.high, strict=True)
    )
    _write(file, columns, rows)


def write_scores(found: Sequence[Score], file: Path) -> None:
    """One row for each score; empty where there is no number."""
    columns = ("task", "experiment", "runs", "steps", "return", "return_low", "return_high", "paper")
    columns += ("score", "score_low", "score_high")
    rows = (
        (
            " ".join(score.tasks), score.name, score.num_runs, score.steps, *_numbers(score.returns),
            score.published and score.published.mean, *_numbers(score.score),
        )
        for score in found
    )  # fmt: skip
    _write(file, columns, rows)


def _numbers(of: Estimate | None) -> tuple[float | None, ...]:
    return (None, None, None) if of is None else (float(of.value), float(of.low), float(of.high))


def _write(file: Path, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Without a number where there is none."""
    with file.open("w", newline="", encoding="utf-8") as target:
        writer = csv.writer(target)
        writer.writerow(columns)
        writer.writerows(["" if value is None or value != value else value for value in row] for row in rows)
