"""The grammar of the `rllib` command. Nothing here imports Ray, so that `--help` answers at once."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import Any, NoReturn

from rllib_dima.cli.errors import UsageError
from rllib_dima.core.names import check_name

# Flags of the old command that mean nothing any more, and what to do instead.
_REMOVED_FROM_TRAIN: dict[str, str] = {
    "--framework": "RLlib trains with torch only: leave it out.",
    "--torch": "RLlib trains with torch only: leave it out.",
    "--eager": "RLlib trains with torch only: leave it out.",
    "--trace": "RLlib trains with torch only: leave it out.",
    "--resources-per-trial": "Set num_env_runners, num_learners, num_cpus_per_... and num_gpus_per_... in --config.",
    "--queue-trials": "Trials always wait for free resources: leave it out.",
    "--local-mode": "Ray has no local mode any more; build the algorithm in Python to debug it in one process.",
    "--ray-num-nodes": "Start a cluster with `ray start` and name it with --ray-address.",
    "--ray-redis-max-memory": "Ray has no Redis any more: leave it out.",
    "--export-formats": "Checkpoints hold the modules; export them in Python from there.",
    "--type": "The kind of file follows from its name.",
}
_REMOVED_FROM_EVALUATE: dict[str, str] = {
    "--local-mode": _REMOVED_FROM_TRAIN["--local-mode"],
    "--steps": "Evaluation runs whole episodes: use --episodes.",
    "--use-shelve": "Evaluation prints returns; record rollouts in Python with the algorithm's env runners.",
    "--save-info": "Evaluation prints returns; record rollouts in Python with the algorithm's env runners.",
    "--track-progress": "Every episode is printed as it ends: leave it out.",
}

REMOVED_FLAGS = {"train": _REMOVED_FROM_TRAIN, "evaluate": _REMOVED_FROM_EVALUATE, "example": _REMOVED_FROM_TRAIN}
_RENAMED_COMMANDS = {"rollout": "evaluate"}
FILE_ENDINGS = (".yaml", ".yml", ".json", ".py")

_RAY_FLAGS = {"ray_address": None, "ray_num_cpus": None, "ray_num_gpus": None, "ray_object_store_memory": None}
_TRAIN_DEFAULTS: dict[str, Any] = {
    **_RAY_FLAGS,
    "ray_ui": False,
    "experiment_name": None,
    "resume": False,
    "imports": [],
    "verbosity": 0,
    "run": None,
    "env": None,
    "file": None,
}

_TRAIN_TEXT = """\
Train RLlib algorithms with Ray Tune: DIMA and those that RLlib brings (PPO, SAC, DQN, ...).

  rllib train file tuned_examples/dima_ant.yaml
  rllib train file tuned_examples/dima_ant.yaml --stop '{"training_iteration": 2}'
  rllib train --run DIMA --env mamujoco_halfcheetah_2x3 --config '{"model_size": "nano"}' --stop '{"time_total_s": 600}'
"""

_FILE_TEXT = """\
Run the experiments of a file, one after the other.

.yaml, .yml and .json files map the name of an experiment to its settings:

  my_experiment:
    run: DIMA                              # or PPO, SAC, ...
    env: mamujoco_ant_4x2
    stop: {num_env_steps_sampled_lifetime: 1000000}
    num_samples: 1
    checkpoint_config: {num_to_keep: 5}
    config:                                # settings of the algorithm's configuration
      dynamics_lr: 1e-4
      seed: {grid_search: [0, 1, 2]}       # one trial for each; {loguniform: [1e-5, 1e-3]} draws num_samples times

A mapping with one key, which is grid_search, choice, uniform, loguniform, randint, lograndint, randn or one of these
with a q in front (quantised), is a search space; its list holds what the function of that name in ray.tune takes.
Further keys: storage_path, restore, max_failures, time_budget_s, max_concurrent_trials, scheduler, scheduler_config,
log_to_file. Old spellings (num_workers, episode_reward_mean, local_dir, ...) are translated, unknown keys are refused.

.py files define `config` (an AlgorithmConfig) and may define `stop`, `run_config` and `tune_config` (both ray.tune's).
"""

_PRECEDENCE_TEXT = """\
What counts: the command line over the file over the algorithm's defaults. --config is merged into the file's config,
key by key also in nested mappings; --stop replaces the file's stop; every other flag replaces the setting of its name.
Results are in ~/ray_results/<experiment> or <storage path>/<experiment>.

Checkpoints are written every 10 minutes, of which the newest three are kept, and at the end of a trial. With
--checkpoint-freq they come every N iterations instead, and all are kept. On Ctrl-C, SIGTERM and at the end of the time
budget every running trial ends its iteration and is saved; a second Ctrl-C leaves at once. Only what was trained since
the last checkpoint is lost then, or with the process (kill -9). The same command with --resume goes on.

Exit codes: 0 all trials ended well, 1 a trial failed, 2 wrong usage, 130 interrupted with Ctrl-C or SIGTERM.
"""

_EVALUATE_TEXT = """\
Run whole episodes with a checkpoint's policy, without exploration, and print their returns.

  rllib evaluate ~/ray_results/dima_ant --episodes 10
  rllib evaluate CHECKPOINT --episodes 1 --out ant.mp4

CHECKPOINT is a checkpoint of any algorithm on RLlib's new API stack, a trial of Tune's (its newest checkpoint), or an
experiment of Tune's (the trial with the highest last return). Only the policy is loaded. Returns of DIMA are the
team's; those of other multi-agent algorithms are summed over the agents, as RLlib does.
"""

_EXAMPLE_TEXT = "List, print and run the experiments that come with this package (tuned_examples/)."


class _Parser(argparse.ArgumentParser):
    """An argument parser that raises instead of ending the process, and never guesses abbreviations."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs = {"allow_abbrev": False, "formatter_class": argparse.RawDescriptionHelpFormatter, **kwargs}
        super().__init__(*args, **kwargs)

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}. See `{self.prog} --help`.")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """Raises for an unknown command, with what was probably meant."""
        if action.choices is None or value in action.choices:
            return
        if value in _RENAMED_COMMANDS:
            raise UsageError(f"`rllib {value}` is now `rllib {_RENAMED_COMMANDS[value]}`.")
        if value.endswith(FILE_ENDINGS):
            raise UsageError(f"Did you mean `rllib train file {value}`?")
        try:
            check_name(value, action.choices, f"command of `{self.prog}`:")
        except ValueError as error:
            self.error(str(error).removesuffix("."))


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """What a command line asks for.

    Args:
        argv: the arguments, without the program's name.

    Returns:
        `command` ("train", "evaluate", "example", "version", or None if there are no arguments) and its arguments. Of
        `train` and `example run`, `spec` holds the flags that replace settings of an experiment, under their names.

    Raises:
        UsageError: unknown or wrong arguments, with the nearest known flag.
        SystemExit: after printing the help that was asked for.
    """
    parser = build_parser()
    _check_flags(argv, parser)
    arguments = parser.parse_args(argv)
    if arguments.command == "train" or (arguments.command == "example" and arguments.action == "run"):
        for name, default in _TRAIN_DEFAULTS.items():
            setattr(arguments, name, getattr(arguments, name, default))
        arguments.spec = _spec_of(arguments)
    return arguments


def build_parser() -> argparse.ArgumentParser:
    """The parser of the whole command."""
    parser = _Parser(prog="rllib", description="Train and evaluate RLlib algorithms, DIMA among them.")
    versions = "print the versions of this package, Ray and torch"
    parser.add_argument("--version", dest="command", action="store_const", const="version", help=versions)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    _add_train(commands)
    _add_evaluate(commands)
    _add_example(commands)
    commands.add_parser("version", help=versions)
    return parser


def _add_train(commands: Any) -> None:
    train = commands.add_parser("train", help="train with Ray Tune", description=_TRAIN_TEXT, epilog=_PRECEDENCE_TEXT)
    what = train.add_argument_group("what to train")
    absent = argparse.SUPPRESS
    what.add_argument("-r", "-a", "--run", "--algo", metavar="NAME", default=absent, help="algorithm: DIMA, PPO, ...")
    what.add_argument("-e", "--env", metavar="ENV", default=absent, help="environment id")
    _add_experiment_flags(train)
    sources = train.add_subparsers(dest="source", metavar="file FILE", help="experiments from a file instead")
    from_file = sources.add_parser("file", description=_FILE_TEXT, epilog=_PRECEDENCE_TEXT)
    from_file.add_argument("file", metavar="FILE", help=".yaml, .yml, .json or .py")
    _add_experiment_flags(from_file)


def _add_experiment_flags(parser: argparse.ArgumentParser) -> None:
    """Flags shared by all ways to train; absent ones leave no trace, so that they can stand before or after `file`."""
    experiment = parser.add_argument_group("experiment")
    add = _adder(experiment)
    add("-n", "--experiment-name", metavar="NAME", help="name of the experiment and of its folder")
    add("-c", "--config", type=_json_object, metavar="JSON", help="settings of the algorithm, merged over the file's")
    add("-s", "--stop", type=_json_object, metavar="JSON", help="metrics at which a trial ends, instead of the file's")
    add("--num-samples", type=_positive, metavar="N", help="draws from search spaces; repetitions without")
    add("--max-concurrent-trials", type=_positive, metavar="N", help="trials at a time (default: as many as fit)")
    add("--time-budget-s", type=float, metavar="S", help="seconds until the experiment is saved and left")
    add("--max-failures", type=int, metavar="N", help="restarts of a failed trial from its last checkpoint")
    add("--scheduler", metavar="NAME", help="fifo (default), asha, hyperband, pbt, medianstopping, ...")
    add("--scheduler-config", type=_json_object, metavar="JSON", help="arguments of the scheduler's class in ray.tune")
    add("--import", dest="imports", action="append", metavar="MODULE", help=_IMPORT_HELP)
    add(
        "-v",
        "--log-info",
        dest="verbosity",
        action="count",
        help="Tune's and Ray's reports, and what trials print; twice for more",
    )
    add("--log-debug", dest="verbosity", action="store_const", const=2, help="the same as -vv")
    _add_storage_flags(parser)
    _add_ray_flags(parser)


_IMPORT_HELP = "module or .py file to import first, such as one that registers your environment; repeatable"


def _add_storage_flags(parser: argparse.ArgumentParser) -> None:
    add = _adder(parser.add_argument_group("checkpoints and results"))
    add(
        "--storage-path",
        "--local-dir",
        "--upload-dir",
        metavar="DIR",
        help="folder or URI of results (~/ray_results)",
    )
    add(
        "--checkpoint-freq",
        type=int,
        metavar="N",
        help="iterations between checkpoints, instead of 10 minutes; 0: none",
    )
    add(
        "--checkpoint-at-end",
        action=argparse.BooleanOptionalAction,
        help="a checkpoint when a trial ends (default: yes)",
    )
    add("--keep-checkpoints-num", type=_positive, metavar="N", help="checkpoints to keep of each trial")
    add("--checkpoint-score-attr", metavar="METRIC", help="keep those with the highest; min-METRIC for the lowest")
    add("--restore", metavar="CHECKPOINT", help="start from this checkpoint (or trial, or experiment)")
    add("--resume", action="store_true", help="go on with what the same command started")


def _add_ray_flags(parser: argparse.ArgumentParser) -> None:
    add = _adder(parser.add_argument_group("Ray"))
    add("--ray-address", metavar="ADDRESS", help="cluster to run on (default: RAY_ADDRESS, or this machine)")
    add("--ray-num-cpus", type=int, metavar="N", help="CPUs of this machine that Ray may use")
    add("--ray-num-gpus", type=int, metavar="N", help="GPUs of this machine that Ray may use")
    add("--ray-object-store-memory", type=int, metavar="BYTES", help="size of Ray's object store")
    add("--ray-ui", action="store_true", help="start Ray's dashboard")


def _adder(group: Any) -> Any:
    """`group.add_argument` for flags that leave no trace when absent."""

    def add(*names: str, **settings: Any) -> None:
        group.add_argument(*names, default=argparse.SUPPRESS, **settings)

    return add


def _add_evaluate(commands: Any) -> None:
    evaluate = commands.add_parser("evaluate", help="run a checkpoint's policy", description=_EVALUATE_TEXT)
    add = evaluate.add_argument
    add("checkpoint", metavar="CHECKPOINT", help="folder of a checkpoint, a trial or an experiment")
    add("--episodes", type=_positive, default=10, metavar="N", help="whole episodes to run (default: 10)")
    add("--seed", type=int, metavar="N", help="seed of the environment (default: a new one every time)")
    add("--render", action="store_true", help="show the episodes in a window, unless --out is given")
    add("--out", metavar="FILE", help="write a video (.mp4, .gif, ...) at the environment's frame rate")
    add("--film", type=_positive, metavar="N", help="episodes in the video, the first ones (default: 1)")
    add("-c", "--config", type=_json_object, default={}, metavar="JSON", help="changed settings, such as env_config")
    add("-e", "--env", metavar="ENV", help="another environment than the one trained on")
    add("-r", "-a", "--run", "--algo", dest="run", metavar="NAME", help="refuse checkpoints of another algorithm")
    add("--import", dest="imports", action="append", default=[], metavar="MODULE", help=_IMPORT_HELP)
    add("-v", dest="verbosity", action="count", default=0, help="warnings, and the traceback of an error")


def _add_example(commands: Any) -> None:
    example = commands.add_parser("example", help="list, print and run the tuned examples", description=_EXAMPLE_TEXT)
    actions = example.add_subparsers(dest="action", metavar="ACTION", required=True)
    listing = actions.add_parser("list", help="names and what they are")
    listing.add_argument("-f", "--filter", default="", metavar="TEXT", help="only those with this text in them")
    actions.add_parser("get", help="print one").add_argument("name", metavar="NAME")
    run = actions.add_parser("run", help="train with one", epilog=_PRECEDENCE_TEXT)
    run.add_argument("name", metavar="NAME")
    _add_experiment_flags(run)


def _spec_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """The flags that were given and replace settings of an experiment, by the names of those settings."""
    given = vars(arguments)
    plain = ("config", "stop", "num_samples", "max_concurrent_trials", "time_budget_s", "max_failures")
    plain += ("scheduler", "scheduler_config", "storage_path", "restore")
    checkpoints = ("checkpoint_freq", "checkpoint_at_end", "keep_checkpoints_num", "checkpoint_score_attr")
    return {name: given[name] for name in (*plain, *checkpoints) if name in given}


def _check_flags(argv: Sequence[str], parser: argparse.ArgumentParser) -> None:
    """Raises for the first long flag that the command does not know, before its value can be taken for something."""
    command = argv[0] if argv else ""
    commands = _subparsers(parser)
    known = _flags_below(commands.get(command, parser))
    for argument in argv:
        flag = argument.split("=")[0]
        if not flag.startswith("--") or flag in known:
            continue
        if flag in REMOVED_FLAGS.get(command, {}):
            raise UsageError(f"{flag} means nothing any more. {REMOVED_FLAGS[command][flag]}")
        from rllib_dima.cli.places import hint_at_flag

        hint = hint_at_flag(flag, known, [*commands, "train file", "example list", "example get", "example run"])
        of = f"rllib {command}" if command in commands else "rllib"
        raise UsageError(f"Unknown flag of `{of}`: {flag}. {hint} See `{of} --help`.")


def _flags_below(parser: argparse.ArgumentParser) -> list[str]:
    """All long flags of a parser and its subparsers."""
    own = [flag for action in parser._actions for flag in action.option_strings if flag.startswith("--")]
    return sorted({*own, *(flag for child in _subparsers(parser).values() for flag in _flags_below(child))})


def _subparsers(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """The parsers of a parser's commands, by name."""
    found = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    return next((action.choices for action in found), {})


def _json_object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text, object_pairs_hook=unique_keys, parse_float=number)
    except ValueError as error:
        hint = "JSON needs double quotes around names and words, and single quotes around it all in the shell"
        raise argparse.ArgumentTypeError(f"{text!r} is no JSON: {error} ({hint})") from None
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"{text!r} must be a JSON object, such as '{{\"name\": 1}}'")
    return value


def number(text: str) -> float:
    """A number of a YAML or JSON file: whole, as settings may need it to be, if it is written as 1e3 is."""
    value = float(text.replace("_", ""))
    return int(value) if "e" in text.lower() and value.is_integer() and abs(value) < 2**53 else value


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A dict of the pairs of a JSON object.

    Raises:
        ValueError: a key occurs twice, of which JSON would silently keep the last.
    """
    result: dict[str, Any] = {}
    for key, value in pairs:
        if key in result:
            raise ValueError(f"the key {key!r} occurs twice")
        result[key] = value
    return result


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, but is {text!r}")
    return int(text)
