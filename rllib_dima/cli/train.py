"""`rllib train`: runs experiments with Ray Tune."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from rllib_dima.cli.errors import UsageError
from rllib_dima.cli.grammar import Command, check_word, json_object

IMPORTS = click.Option(
    ["--import", "imports"],
    multiple=True,
    metavar="MODULE",
    help="Module or .py file to import first, such as one that registers your environment; repeatable.",
)
VERBOSITY = click.Option(
    ["-v", "--log-info", "verbosity"],
    count=True,
    is_eager=True,
    callback=lambda ctx, _, value: ctx.meta.setdefault("verbosity", value),
    help="Tune's and Ray's reports, what trials print, and the traceback of an error; twice for more.",
)
_AT_LEAST_1 = click.IntRange(1)


def _value(names: str, type_: Any, metavar: str, text: str) -> click.Option:
    """A flag with a value, which is None when it is not given."""
    return click.Option(names.split(), type=type_, metavar=metavar, help=text)


# Those that are not parameters of `run_experiments` replace settings of a file, under the same names.
EXPERIMENT_FLAGS = [
    _value("-n --experiment-name", str, "NAME", "Name of the experiment and of its folder."),
    _value("-c --config", json_object, "JSON", "Settings of the algorithm, merged over the file's."),
    _value("-s --stop", json_object, "JSON", "Metrics at which a trial ends, instead of the file's."),
    _value("--num-samples", _AT_LEAST_1, "N", "Draws from search spaces; repetitions without."),
    _value("--max-concurrent-trials", _AT_LEAST_1, "N", "Trials at a time; without, as many as fit."),
    _value("--time-budget-s", float, "S", "Seconds until the experiment is saved and left."),
    _value("--max-failures", int, "N", "Restarts of a failed trial from its last checkpoint."),
    _value("--scheduler", str, "NAME", "fifo (default), asha, hyperband, pbt, medianstopping, ..."),
    _value("--scheduler-config", json_object, "JSON", "Arguments of the scheduler's class in ray.tune."),
    IMPORTS,
    VERBOSITY,
    click.Option(["--log-debug"], is_flag=True, help="The same as -vv."),
    _value("--storage-path --local-dir --upload-dir storage_path", str, "DIR", "Folder or URI (~/ray_results)."),
    _value("--checkpoint-freq", int, "N", "Iterations between checkpoints, instead of 10 minutes; 0: none."),
    click.Option(["--checkpoint-at-end/--no-checkpoint-at-end"], default=None, help="A checkpoint when a trial ends."),
    _value("--keep-checkpoints-num", _AT_LEAST_1, "N", "Checkpoints to keep of each trial."),
    _value("--checkpoint-score-attr", str, "METRIC", "Keep those with the highest; min-METRIC for the lowest."),
    _value("--restore", str, "CHECKPOINT", "Start from this checkpoint (or trial, or experiment)."),
    click.Option(["--resume"], is_flag=True, help="Go on with what the same command started."),
    _value("--ray-address", str, "ADDRESS", "Cluster to run on; without, RAY_ADDRESS or this machine."),
    _value("--ray-num-cpus", int, "N", "CPUs of this machine that Ray may use."),
    _value("--ray-num-gpus", int, "N", "GPUs of this machine that Ray may use."),
    _value("--ray-object-store-memory", int, "BYTES", "Size of Ray's object store."),
    click.Option(["--ray-ui"], is_flag=True, help="Start Ray's dashboard."),
]


def _file(ctx: click.Context, _: click.Parameter, words: Sequence[str]) -> str | None:
    """FILE of `rllib train file FILE`; flags may stand anywhere."""
    if not words:
        return None
    check_word(words[0], ["file"], ctx)
    if len(words) != 2:
        raise click.UsageError(f"`rllib train file` takes one FILE, but has {len(words) - 1}", ctx)
    return words[1]


@click.command(cls=Command, short_help="Train with Ray Tune.", params=EXPERIMENT_FLAGS)
@click.argument("file", nargs=-1, callback=_file, metavar="[file FILE]")
@click.option("-r", "-a", "--run", "--algo", "run", metavar="NAME", help="Algorithm: DIMA, MAPPO, PPO, ...")
@click.option("-e", "--env", metavar="ENV", help="Environment id; with a file instead of its own.")
def train(file: str | None, run: str | None, env: str | None, **flags: Any) -> int:
    """Train RLlib algorithms with Ray Tune: those of this package (DIMA, MAPPO, ...) and RLlib's own (PPO, SAC, ...).

      rllib train file tuned_examples/dima_ant.yaml
      rllib train file tuned_examples/dima_ant.yaml --stop '{"training_iteration": 2}'
      rllib train --run DIMA --env mamujoco_ant_4x2 --config '{"model_size": "nano"}' --stop '{"time_total_s": 600}'

    The experiments of a file run one after the other. .yaml, .yml and .json files map their names to their settings:

      my_experiment:
        run: DIMA                              # or PPO, SAC, ...
        env: mamujoco_ant_4x2
        stop: {num_env_steps_sampled_lifetime: 1000000}
        num_samples: 1
        checkpoint_config: {num_to_keep: 5}
        config:                                # settings of the algorithm's configuration
          dynamics_lr: 1e-4
          seed: {grid_search: [0, 1, 2]}       # a trial for each; {loguniform: [1e-5, 1e-3]} draws num_samples times

    grid_search, and choice, uniform, loguniform, randint, lograndint, randn and their quantised forms (quniform, ...)
    are search spaces: their lists hold what the function of that name in ray.tune takes. Further keys: storage_path,
    restore, max_failures, time_budget_s, max_concurrent_trials, scheduler, scheduler_config, log_to_file.

    .py files define `config` (an AlgorithmConfig) and may define `stop`, `run_config` and `tune_config` (ray.tune's).

    The command line counts more than the file: --config is merged into the file's config, key by key; every other flag
    replaces the setting of its name. Results are in ~/ray_results/<experiment> or <storage path>/<experiment>.

    Checkpoints are written every 10 minutes (the newest three are kept) and at the end of a trial; with
    --checkpoint-freq every N iterations instead (all are kept). On Ctrl-C, SIGTERM and at the end of the time budget
    every running trial ends its iteration and is saved; a second Ctrl-C leaves at once. The same command with --resume
    goes on from the last checkpoints.

    Exit codes: 0 all trials ended well, 1 a trial failed, 2 wrong usage, 130 interrupted with Ctrl-C or SIGTERM.
    """
    from rllib_dima.cli.experiment.running import run_experiments

    if file is not None:
        if run is not None:
            raise UsageError("--run stands for an experiment of its own: leave it out with a file.")
        return run_experiments(file, env=env, **flags)
    if run is None:
        raise UsageError("Nothing to train: give `file FILE`, or --run and --env.")
    parts = [run, env or (flags["config"] or {}).get("env")]
    name = flags.pop("experiment_name") or "_".join(part for part in parts if isinstance(part, str))
    spec = {"run": run} if env is None else {"run": run, "env": env}
    return run_experiments({name.replace("/", "_").replace(":", "_"): spec}, **flags)
