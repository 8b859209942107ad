"""Which learning rates, and when? Population-based training (PBT) of learning rates and entropy bonus on HalfCheetah.

How to run:

    python examples/tune_pbt.py                                  # 4 trials, two at a time
    python examples/tune_pbt.py --concurrent 4 --iterations 20 --storage /data/tune
    python examples/tune_pbt.py --iterations 2 --perturb-every 1           # a short one: one mutation

Four trials start with random learning rates and entropy coefficients. After every second report the worst trial takes
over networks, optimisers and replay buffer of the best one, and its settings (also the seed, so that it becomes another
run) times 0.8 or 1.2, or a new draw. The optimisers use the new learning rates, and the actor's loss the new entropy
coefficient, from then on. A report is one episode of 1,000 real steps (five iterations of the algorithm) and an
evaluation of the deterministic policy over ten episodes.

What to expect: one line per report, Ray's messages about every mutation among them, and at the end one line per
mutation, the best trial's return and settings, and its checkpoint. The last command above ended with

    trial 3 took over trial 0: actor_lr 0.0007 -> 0.00056, critic_lr 0.00045 -> 0.0015, dynamics_lr 0.00081 ...
    Best trial: return -1.1 with actor_lr 0.00023, critic_lr 0.0015, dynamics_lr 0.00056, entropy_coeff 0.0036

It shows how a trial is replaced, not that this helps: its trials learn only once, after their last step.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.tune.schedulers import PopulationBasedTraining

from rllib_dima.reporting.progress_line import Progress

METRIC = "evaluation/env_runners/episode_return_mean"
MUTATIONS = {
    "actor_lr": tune.loguniform(1e-4, 2e-3),
    "critic_lr": tune.loguniform(1e-4, 2e-3),
    "dynamics_lr": tune.loguniform(5e-4, 5e-3),
    "entropy_coeff": tune.loguniform(1e-4, 1e-2),
    "seed": tune.randint(1, 1_000_000),  # else a trial draws the random numbers of the one that it takes over
}


def evaluated_return(result: dict[str, Any]) -> float:
    """What `METRIC` names: results are nested dictionaries."""
    return result["evaluation"]["env_runners"]["episode_return_mean"]


def build_space() -> dict[str, Any]:
    """Settings of every trial; PBT draws those of `MUTATIONS` itself, so they must not be set here."""
    return {
        "env": "mamujoco_halfcheetah_2x3",
        "model_size": "nano",
        "recipe": "swift",
        "num_steps_before_learning": 2000,
        "min_sample_timesteps_per_iteration": 1000,
        "evaluation_interval": 1,
        "evaluation_duration": 10,
        "evaluation_config": {"num_envs_per_env_runner": 10},  # in step, which takes a third of the time
    }


def build_tuner(space: dict[str, Any], trials: int, iterations: int, perturb_every: int, storage: Path) -> tune.Tuner:
    """A population of `trials` that is compared and mutated every `perturb_every` reports.

    How many run at a time is up to Ray's number of CPUs. (`max_concurrent_trials` would count waiting trials too, so
    that with PBT those beyond it start only when others are done.)
    """
    pbt = PopulationBasedTraining(
        time_attr="training_iteration",
        perturbation_interval=perturb_every,
        hyperparam_mutations=MUTATIONS,
        quantile_fraction=0.25,
        resample_probability=0.25,
        synch=True,  # compares trials of the same age, also where they have to take turns
    )
    return tune.Tuner(
        "DIMA",
        param_space=space,
        tune_config=tune.TuneConfig(metric=METRIC, mode="max", scheduler=pbt, num_samples=trials),
        run_config=tune.RunConfig(
            name="tune_pbt",
            storage_path=str(storage.resolve()),
            callbacks=[Progress()],
            verbose=0,
            stop={"training_iteration": iterations},
            # PBT copies checkpoints, so those of the last comparisons must be kept; they hold the replay buffer.
            checkpoint_config=tune.CheckpointConfig(num_to_keep=4, checkpoint_at_end=True),
            failure_config=tune.FailureConfig(fail_fast=True),  # the others would wait for a failed trial for ever
        ),
    )


def describe_mutations(experiment: Path) -> list[str]:
    """One line for every time that a trial took over another one, from Ray's own record."""
    record = experiment / "pbt_global.txt"
    lines = []
    for entry in record.read_text().splitlines() if record.exists() else ():
        target, source, *_, old, new = json.loads(entry)
        target, source = (re.match(r"\d+", tag).group() for tag in (target, source))
        changes = ", ".join(f"{name} {old[name]:.2g} -> {new[name]:.2g}" for name in MUTATIONS if name != "seed")
        lines.append(f"trial {target} took over trial {source}: {changes}")
    return lines


def positive(text: str) -> int:
    """A whole number of at least 1, from the command line."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, but is {text!r}")
    return int(text)


def parse_arguments() -> argparse.Namespace:
    """The command line, refused before Ray is started where the population could not run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=positive, default=4, help="size of the population")
    parser.add_argument("--iterations", type=positive, default=6, help="reports of 1,000 steps per trial")
    parser.add_argument("--perturb-every", type=positive, default=2, help="reports between two comparisons")
    parser.add_argument("--concurrent", type=positive, default=2, help="trials at a time, each on one CPU core")
    parser.add_argument("--storage", type=Path, default=Path("results"), help="folder of the experiment")
    args = parser.parse_args()
    if args.storage.exists() and not args.storage.is_dir():
        parser.error(f"--storage must be a folder, but {args.storage} is none")
    return args


def main() -> None:
    """Runs the population, then prints the mutations and the best trial."""
    args = parse_arguments()
    ray.init(num_cpus=args.concurrent, include_dashboard=False, log_to_driver=False)
    tuner = build_tuner(build_space(), args.trials, args.iterations, args.perturb_every, args.storage)
    results = tuner.fit()
    print("\n" + "\n".join(describe_mutations(Path(results.experiment_path))))
    if not any("evaluation" in (result.metrics or {}) for result in results):
        return print("No trial has reported anything yet.")
    best = results.get_best_result()
    settings = ", ".join(f"{name} {best.config[name]:.2g}" for name in MUTATIONS if name != "seed")
    print(f"Best trial: return {evaluated_return(best.metrics):.1f} with {settings}")
    print(f"Checkpoint: {best.checkpoint.path}")


if __name__ == "__main__":
    main()
