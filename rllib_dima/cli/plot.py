"""`rllib plot`: learning curves of experiments, with intervals over seeds."""

from __future__ import annotations

from typing import Any

import click

from rllib_dima.cli.grammar import Command
from rllib_dima.cli.train import VERBOSITY


@click.command(cls=Command, short_help="Draw the returns of experiments.", params=[VERBOSITY])
@click.argument("experiments", nargs=-1, required=True, metavar="EXPERIMENT...")
@click.option("--out", default="returns.png", metavar="FILE", help="The picture (returns.png); also .svg, .pdf.")
@click.option(
    "--returns", "kind", type=click.Choice(("evaluation", "training")), help="Which (evaluation, if all have)."
)
@click.option(
    "--x", "axis", type=click.Choice(("steps", "seconds", "both")), default="both", help="Against what (both)."
)
@click.option("--statistic", type=click.Choice(("mean", "iqm")), default="mean", help="Over runs (mean).")
@click.option(
    "--confidence", type=click.FloatRange(0, 1, True, True), default=0.95, metavar="P", help="Of intervals (0.95)."
)
@click.option("--paper", is_flag=True, help="Also the paper's returns, where the task is one of its.")
def plot(**flags: Any) -> None:
    """Draw returns against environment steps and seconds, and write them as CSV; print where each experiment has come.

      rllib plot ~/ray_results/dima_ant ~/ray_results/mappo_ant
      rllib plot DIMA=~/ray_results/dima_ant DIMA=~/ray_results/dima_walker2d --statistic iqm --out dima.png
      rllib plot benchmarks/results

    EXPERIMENT is the folder of an experiment or a trial of Tune's, a folder of what benchmarks/learning.py has written,
    or one such file. Trials that differ in their seeds alone make one line, with a bootstrap interval over them; others
    get lines of their own. NAME=EXPERIMENT names a line; the same name for several tasks also gives a score over them,
    in which returns are divided by the paper's. docs/analysis.md says how.
    """
    from rllib_dima.cli.plotting import plot_experiments

    plot_experiments(**flags)
