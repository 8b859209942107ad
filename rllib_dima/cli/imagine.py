"""`rllib imagine`: what a checkpoint's world model imagines, beside what really happens."""

from __future__ import annotations

from typing import Any

import click

from rllib_dima.cli.grammar import Command, json_object
from rllib_dima.cli.train import IMPORTS, VERBOSITY


@click.command(cls=Command, short_help="Compare a checkpoint's imagination with reality.", params=[IMPORTS, VERBOSITY])
@click.argument("checkpoint", metavar="CHECKPOINT")
@click.option("--episodes", type=click.IntRange(1), default=10, metavar="N", help="Whole episodes to play (10).")
@click.option("--segments", type=click.IntRange(1), default=100, metavar="N", help="Segments to replay (100).")
@click.option("--horizon", type=click.IntRange(1), metavar="N", help="Steps of a segment (those of imagination).")
@click.option("--seed", type=int, default=0, metavar="N", help="Seed of environment, draws and noise (0).")
@click.option("--explore", is_flag=True, help="Draw actions, as in training, instead of the likeliest.")
@click.option("--out", default="imagination.html", metavar="FILE", help="The report (imagination.html).")
@click.option("--baseline", type=click.IntRange(1), metavar="N", help="Also a plain MLP, trained on replay N times.")
@click.option("--video", metavar="FILE", help="Film segments (.mp4, .gif, ...): left what happened, right the model.")
@click.option("--film", type=click.IntRange(1), metavar="N", help="Segments in the video, the first ones (4).")
@click.option("-c", "--config", type=json_object, default="{}", metavar="JSON", help="Changes, such as env_config.")
@click.option("-e", "--env", metavar="ENV", help="Another environment than the one trained on.")
def imagine(**flags: Any) -> None:
    """Replay real actions in a checkpoint's world model; print a table and write a report with figures.

      rllib imagine ~/ray_results/dima_ant --out ant.html
      rllib imagine CHECKPOINT --episodes 3 --segments 50 --horizon 10 --video imagined.mp4

    CHECKPOINT is DIMA's, MARIE's or MAMBA's, as for `rllib evaluate`. Its policy plays whole episodes; segments of them
    are replayed in the world model from real first states, DIMA's with the sampler of training and with others.
    docs/analysis.md says what each number and figure means. The checkpoint is unpickled: use only those that you trust.
    """
    from rllib_dima.cli.imagination import imagine_checkpoint

    imagine_checkpoint(**flags)
