"""Which learning rates? Random search on HalfCheetah with early stopping by ASHA.

How to run:

    python examples/tune_asha.py                                 # 6 trials, two at a time
    python examples/tune_asha.py --trials 16 --iterations 24 --concurrent 8 --storage /data/tune
    python examples/tune_asha.py --resume                        # after an interruption: go on with the same experiment

Every trial draws learning rates and the entropy coefficient at random. ASHA compares trials of the same age after 2
and 4 reports, stops those in the lower half, and lets the others go on to 6 reports. A report is one episode of 1,000
real steps (five iterations of the algorithm) and an evaluation of the deterministic policy over ten episodes.

What to expect: one line per report and, at the end, one line per trial, the best first, with the number of its
reports, the return of its last evaluation and its settings, then the best trial's checkpoint. Trials that ASHA stopped
have fewer reports than the others. A trial's first report comes soonest, as most of its steps are collected without
learning.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.tune.schedulers import ASHAScheduler

from rllib_dima.reporting.progress_line import Progress

METRIC = "evaluation/env_runners/episode_return_mean"
NAME = "tune_asha"
SEARCHED = ("actor_lr", "critic_lr", "dynamics_lr", "entropy_coeff")


def evaluated_return(result: dict[str, Any]) -> float:
    """What `METRIC` names: results are nested dictionaries."""
    return result["evaluation"]["env_runners"]["episode_return_mean"]


def build_space() -> dict[str, Any]:
    """The nano preset with the recipe for a CPU, and what is searched."""
    return {
        "env": "mamujoco_halfcheetah_2x3",
        "model_size": "nano",
        "recipe": "swift",
        "num_steps_before_learning": 1000,
        "min_sample_timesteps_per_iteration": 1000,
        "evaluation_interval": 1,
        "evaluation_duration": 10,
        "evaluation_config": {"num_envs_per_env_runner": 10},  # in step, which takes a third of the time
        "actor_lr": tune.loguniform(1e-4, 2e-3),
        "critic_lr": tune.loguniform(1e-4, 2e-3),
        "dynamics_lr": tune.loguniform(5e-4, 5e-3),
        "entropy_coeff": tune.loguniform(1e-4, 1e-2),
    }


def build_tuner(
    space: Any, trials: int, iterations: int, grace: int, concurrent: int, storage: Path, trainable: Any = "DIMA"
) -> tune.Tuner:
    """A random search whose worse half stops after `grace` reports, and again after twice, four times, ... as many."""
    asha = ASHAScheduler(time_attr="training_iteration", max_t=iterations, grace_period=grace, reduction_factor=2)
    return tune.Tuner(
        trainable,
        param_space=space,
        tune_config=tune.TuneConfig(
            metric=METRIC, mode="max", scheduler=asha, num_samples=trials, max_concurrent_trials=concurrent
        ),
        run_config=tune.RunConfig(
            name=NAME,
            storage_path=str(storage.resolve()),
            callbacks=[Progress()],
            verbose=0,
            checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=1, num_to_keep=1),
        ),
    )


def positive(text: str) -> int:
    """A whole number of at least 1, from the command line."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, but is {text!r}")
    return int(text)


def parse_arguments() -> argparse.Namespace:
    """The command line, refused before Ray is started where the search could not run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=positive, default=6)
    parser.add_argument("--iterations", type=positive, default=6, help="reports of a trial that is never stopped")
    parser.add_argument("--grace", type=positive, default=2, help="reports before a trial may be stopped")
    parser.add_argument("--concurrent", type=positive, default=2, help="trials at a time, each on one CPU core")
    parser.add_argument("--storage", type=Path, default=Path("results"), help="folder of the experiment")
    parser.add_argument("--resume", action="store_true", help="go on with an interrupted search")
    args = parser.parse_args()
    if args.grace > args.iterations:
        parser.error(f"--grace is {args.grace}, but must not be more than --iterations, which is {args.iterations}")
    if args.storage.exists() and not args.storage.is_dir():
        parser.error(f"--storage must be a folder, but {args.storage} is none")
    if args.resume and not tune.Tuner.can_restore(str(args.storage.resolve() / NAME)):
        parser.error(f"--resume: there is no search in {args.storage / NAME}; leave it out, or give another --storage")
    return args


def main() -> None:
    """Runs or resumes the search, then prints every trial."""
    args = parse_arguments()
    ray.init(include_dashboard=False, log_to_driver=False)
    if args.resume:
        tuner = tune.Tuner.restore(str(args.storage.resolve() / NAME), trainable="DIMA")
    else:
        tuner = build_tuner(build_space(), args.trials, args.iterations, args.grace, args.concurrent, args.storage)
    results = tuner.fit()
    begun = [result for result in results if "evaluation" in (result.metrics or {})]
    for result in sorted(begun, key=lambda result: evaluated_return(result.metrics), reverse=True):
        settings = ", ".join(f"{name} {result.config[name]:.2g}" for name in SEARCHED)
        age, returned = result.metrics["training_iteration"], evaluated_return(result.metrics)
        print(f"{age} reports   evaluated {returned:8.1f}   {settings}")
    if len(begun) < len(results):
        print(f"{len(results) - len(begun)} trials have reported nothing yet: --resume goes on.")
    if begun:
        print(f"Best checkpoint: {results.get_best_result().checkpoint.path}")


if __name__ == "__main__":
    main()
