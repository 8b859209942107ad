"""`rllib evaluate`: whole episodes with the policy of a checkpoint."""

from __future__ import annotations

from typing import Any

import click

from rllib_dima.cli.grammar import Command, json_object
from rllib_dima.cli.train import IMPORTS, VERBOSITY


@click.command(cls=Command, short_help="Run a checkpoint's policy.", params=[IMPORTS, VERBOSITY])
@click.argument("checkpoint", metavar="CHECKPOINT")
@click.option("--episodes", type=click.IntRange(1), default=10, metavar="N", help="Whole episodes to run (10).")
@click.option("--explore", is_flag=True, help="Draw actions, as in training, instead of the likeliest.")
@click.option("--seed", type=int, metavar="N", help="Seed of the environment; without, a new one every time.")
@click.option("--render", is_flag=True, help="Show the episodes in a window, unless --out is given.")
@click.option("--out", metavar="FILE", help="Write a video (.mp4, .gif, ...) at the environment's frame rate.")
@click.option("--film", type=click.IntRange(1), metavar="N", help="Episodes in the video, the first ones (1).")
@click.option("-c", "--config", type=json_object, default="{}", metavar="JSON", help="Changes, such as env_config.")
@click.option("-e", "--env", metavar="ENV", help="Another environment than the one trained on.")
@click.option("-r", "-a", "--run", "--algo", "run", metavar="NAME", help="Refuse checkpoints of another algorithm.")
def evaluate(**flags: Any) -> None:
    """Run whole episodes with a checkpoint's policy, without exploration unless asked, and print their returns.

      rllib evaluate ~/ray_results/dima_ant --episodes 10
      rllib evaluate CHECKPOINT --episodes 1 --out ant.mp4

    CHECKPOINT is a checkpoint of any algorithm on RLlib's new API stack, a trial of Tune's (its newest checkpoint), or
    an experiment of Tune's (the trial with the highest last return). Only the policy is loaded. Returns of this
    package's algorithms are the team's; those of RLlib's multi-agent ones are summed over the agents, as RLlib does.
    """
    from rllib_dima.cli.episodes import evaluate_checkpoint

    evaluate_checkpoint(**flags)
