"""The paper's table: eleven tasks, every algorithm, several seeds, as far as time and machines reach.

    python benchmarks/table.py --dry-run                              # the runs of the laptop's table, and their hours
    python benchmarks/table.py                                        # runs them, one per core; goes on where it was
    python benchmarks/table.py --algorithms swift mappo --tasks halfcheetah_2x3 --seeds 0 1
    python benchmarks/table.py --show                                 # the tables of what has been run
    python benchmarks/table.py --budget paper --dry-run               # 1M and 300,000 steps, 4 seeds, networks in full
    python benchmarks/table.py --budget paper --ray-address auto --gpus 1     # on a cluster with GPUs

Runs are those of `benchmarks/learning.py`, whose files in benchmarks/results/ they write after every evaluation, with a
checkpoint from which an interrupted run goes on. Ray Tune starts them, as many at a time as there are cores (or GPUs);
on several machines this folder must be one that all of them see. A run that fails is reported and does not stop the
others. A cell is the return of the deterministic policy over ten episodes after the last step: mean and sample standard
deviation over seeds, in brackets how many, and below it the paper's. The untrained policy is DIMA's (recipe swift)
before the first update, evaluated alike with three seeds: its mean action is nearly zero, so that it stands still.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import learning

from rllib_dima.analysis.published import RETURNS, TABLE, Published
from rllib_dima.envs import CooperativeEnv, make

RANDOM, UNTRAINED = learning.RESULTS / "random_policy.json", learning.RESULTS / "untrained_policy.json"
MAMUJOCO = [task.removeprefix("mamujoco_") for task in RETURNS if task.startswith("mamujoco_")]
BIDEXHANDS = [task for task in RETURNS if task.startswith("bidexhands_")]
TASKS = [*MAMUJOCO, *BIDEXHANDS]

NOISELESS = {"imagination_noise": 0.0}
"""Imagination without noise: the recipe on MAMuJoCo before commit 47c3477."""
CODED = NOISELESS | {
    "decoder_network": "fsq", "decoder_lr": 1e-3, "decoder_updates_per_iteration": 50,
    "reward_reads_next_state": False, "reward_imagined_fraction": 0.0,
}  # fmt: skip
"""The paper's state decoder, and outcomes learnt on real states alone: the recipe before commit de94558."""
EARLIER = {
    name: ["--run", "DIMA", "--recipe", "swift", "--label", name, "--set", json.dumps(settings)]
    for name, settings in (("noiseless", NOISELESS), ("coded", CODED))
}
"""What the recipe was before: run and shown only if it is named."""
ALGORITHMS = {
    "swift": ["--run", "DIMA", "--recipe", "swift"],
    "dima": ["--run", "DIMA", "--recipe", "paper", "--conditioning", "sequential"],
    "mappo": ["--run", "MAPPO"],
    "happo": ["--run", "HAPPO"],
    "hasac": ["--run", "HASAC"],
    "mamba": ["--run", "MAMBA"],
    "marie": ["--run", "MARIE"],
    **EARLIER,
}
"""The columns: what `benchmarks/learning.py` is given."""
CURRENT = [name for name in ALGORITHMS if name not in EARLIER]
SWIFT = ["swift", *EARLIER]
NAMES = {
    "swift": "DIMA, recipe swift", "dima": "DIMA, recipe paper", "mappo": "MAPPO", "happo": "HAPPO", "hasac": "HASAC",
    "mamba": "MAMBA", "marie": "MARIE", "coded": "DIMA, swift with a code",
    "noiseless": "DIMA, swift without noise",
}  # fmt: skip


@dataclass(frozen=True)
class Budget:
    """How long, how large and how often."""

    model_size: str
    steps: dict[str, int]  # by family of tasks
    evaluate_every: int
    seeds: int
    seconds: dict[str, float]  # per 1,000 environment steps of a run, by algorithm, where nothing has been run yet


BUDGETS = {
    "laptop": Budget(
        "nano",
        {"mamujoco": 30_000, "bidexhands": 30_000},
        5000,
        3,
        dict.fromkeys(SWIFT, 20) | {"dima": 60, "mappo": 2, "happo": 3, "hasac": 30, "mamba": 40, "marie": 130},
    ),
    # DIMA on one H200 (docs/hardware.md); MAPPO, HAPPO and HASAC on one core; MAMBA and MARIE guessed.
    "paper": Budget(
        "paper",
        {"mamujoco": 1_000_000, "bidexhands": 300_000},
        20_000,
        4,
        dict.fromkeys(SWIFT, 65) | {"dima": 7.7, "mappo": 2, "happo": 3, "hasac": 60, "mamba": 60, "marie": 120},
    ),
}


@dataclass(frozen=True)
class Run:
    """One cell's seed."""

    algorithm: str
    task: str
    seed: int
    budget: Budget

    @property
    def steps(self) -> int:
        """That it is to have."""
        return self.budget.steps["bidexhands" if self.task in BIDEXHANDS else "mamujoco"]

    @property
    def arguments(self) -> argparse.Namespace:
        """Those of `benchmarks/learning.py`."""
        given = ["--task", self.task, "--steps", self.steps, "--model-size", self.budget.model_size]
        given += ["--evaluate-every", self.budget.evaluate_every, *ALGORITHMS[self.algorithm]]
        return learning.arguments(list(map(str, given)))

    @property
    def mode(self) -> str:
        """Of conditioning."""
        return "sequential" if self.algorithm == "dima" else "default"

    @property
    def steps_done(self) -> int:
        """How far it has come."""
        return learning.steps_done(self.arguments, self.mode, self.seed)

    def record(self) -> dict:
        """What it has written."""
        return json.loads(learning.result_file(self.arguments, self.mode, self.seed).read_text())


def runs_of(args: argparse.Namespace) -> list[Run]:
    """The grid, one seed of everything before the next one."""
    budget = BUDGETS[args.budget]
    seeds = args.seeds or range(budget.seeds)
    return [
        Run(algorithm, task, seed, budget)
        for seed, task, algorithm in itertools.product(seeds, args.tasks, args.algorithms)
    ]


def hours(run: Run, runs: list[Run]) -> float:
    """What is left of a run, by what runs of its algorithm have taken, or by the budget's estimate."""
    like = [other.record() for other in runs if other.algorithm == run.algorithm and other.steps_done]
    measured = [record["cpu_seconds"] / record["curve"][-1]["steps"] * 1000 for record in like]
    seconds = statistics.fmean(measured) if measured else run.budget.seconds[run.algorithm]
    return max(run.steps - run.steps_done, 0) / 1000 * seconds / 3600


def list_runs(runs: list[Run]) -> None:
    """Every run that is not finished, with its hours."""
    total = 0.0
    for run in runs:
        left = hours(run, runs)
        total += left
        if left:
            progress = f"{run.steps_done:>9,} of {run.steps:>9,} steps"
            print(f"{run.algorithm:<8}{run.task:<32}seed {run.seed}  {progress}{left:8.2f} h")
    unfinished = sum(run.steps_done < run.steps for run in runs)
    print(f"{unfinished} of {len(runs)} runs, {total:.0f} hours of one core (or GPU), {total / 8:.0f} of eight")


def train(config: dict) -> None:
    """One run, in a process of Tune's."""
    sys.path.insert(0, str(learning.HERE))
    run: Run = config["run"]
    arguments = run.arguments
    arguments.gpus = config["gpus"]
    learning.run(arguments, run.mode, run.seed)


def run_all(runs: list[Run], args: argparse.Namespace) -> None:
    """Trains what is not finished."""
    import ray
    from ray import tune

    ray.init(args.ray_address, runtime_env={"env_vars": {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(learning.HERE)}})
    unfinished = [run for run in runs if run.steps_done < run.steps]
    trainable = tune.with_resources(train, {"cpu": 1, "gpu": args.gpus or 0})
    space = {"run": tune.grid_search(unfinished), "gpus": args.gpus}
    results = tune.Tuner(trainable, param_space=space, run_config=tune.RunConfig(name="table", verbose=1)).fit()
    for result in results:
        if result.error is not None:
            print(f"failed: {result.config['run']}: {result.error}")


def play_randomly(task: str) -> list[float]:
    """Returns of ten episodes of actions drawn uniformly."""
    env = CooperativeEnv(make(learning.environment_of(task)))
    returns = []
    for seed in range(10):
        env.reset(seed=seed)
        spaces = {agent: env.action_spaces[agent] for agent in env.possible_agents}
        for number, space in enumerate(spaces.values()):
            space.seed(seed * len(spaces) + number)
        total, over = 0.0, False
        while not over:
            _, rewards, terminated, truncated, _ = env.step({agent: space.sample() for agent, space in spaces.items()})
            total += next(iter(rewards.values()))
            over = terminated["__all__"] or truncated["__all__"]
        returns.append(round(float(total), 2))
    return returns


def act_untrained(task: str) -> list[float]:
    """Returns of DIMA's policy before the first update, each a mean over ten episodes, of three seeds."""
    returns = []
    for seed in range(3):
        run = Run("swift", task, seed, BUDGETS["laptop"])
        algo = learning.build_config(run.arguments, run.mode, seed).build()
        returns.append(round(float(algo.evaluate()["env_runners"]["episode_return_mean"]), 2))
        algo.stop()
    return returns


def played_once(file: Path, play: Callable[[str], list[float]], tasks: list[str]) -> dict[str, list[float]]:
    """Returns by task, from the file; those that it lacks are played, and added to it."""
    known = json.loads(file.read_text()) if file.exists() else {}
    for task in tasks:
        if task not in known:
            known[task] = play(task)
            file.write_text(json.dumps(known, indent=1) + "\n")
    return known


def finished(budget: str, algorithm: str, task: str) -> list[Run]:
    """The cell's seeds that have come to the end, all there are."""
    runs = [Run(algorithm, task, seed, BUDGETS[budget]) for seed in range(learning.MOST_SEEDS)]
    return [run for run in runs if run.steps_done >= run.steps]


def returns(runs: list[Run]) -> list[float]:
    """Of the last evaluation of every run."""
    return [run.record()["curve"][-1]["deterministic"] for run in runs]


def mean(values: list[float], digits: int) -> str:
    """Without the sign of zero."""
    return f"{round(statistics.fmean(values), digits) + 0.0:.{digits}f}"


def words(values: list[float], digits: int) -> str:
    """Mean and sample standard deviation."""
    return mean(values, digits) + (f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else "")


def published(algorithm: str, task: str) -> Published | None:
    """What the paper has."""
    return TABLE[ALGORITHMS[algorithm][1]].get(learning.environment_of(task))


def cell(done: list[Run], paper: Published | None, digits: int) -> str:
    """Ours, of how many seeds, and below it the paper's."""
    ours = f"{words(returns(done), digits)} ({len(done)})" if done else "-"
    return f"{ours}<br>{paper.mean:g} ± {paper.deviation:g}" if paper else ours


def above(values: list[float], others: list[float]) -> bool:
    """Whether mean minus standard deviation over seeds is above mean plus standard deviation of what was not learnt.

    Fewer seeds than three show no difference.
    """
    if len(values) < 3:
        return False
    return statistics.fmean(values) - statistics.stdev(values) > statistics.fmean(others) + statistics.stdev(others)


def markdown(table: list[list[str]]) -> str:
    """Of a table whose first row is the header."""
    lines = [table[0], ["---"] * len(table[0]), *table[1:]]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def show(args: argparse.Namespace) -> None:
    """Returns beside the paper's, CPU minutes per run with evaluations, what is above those who do not learn, hours."""
    budget, chance = BUDGETS[args.budget], played_once(RANDOM, play_randomly, args.tasks)
    untrained = played_once(UNTRAINED, act_untrained, args.tasks)
    done = {(a, task): finished(args.budget, a, task) for a, task in itertools.product(args.algorithms, args.tasks)}
    names = [NAMES[algorithm] for algorithm in args.algorithms]
    header = [f"{budget.steps['mamujoco']:,} steps<br>the paper's", "random actions", "untrained policy", *names]
    outcome, minutes = [header], [["task", *names]]
    for task in args.tasks:
        digits, cells = int(task in BIDEXHANDS), {a: done[a, task] for a in args.algorithms}
        ours = [cell(runs, published(a, task), digits) for a, runs in cells.items()]
        outcome.append([task, words(chance[task], digits), words(untrained[task], digits), *ours])
        times = [[run.record()["cpu_seconds"] / 60 for run in runs] for runs in cells.values()]
        minutes.append([task, *(f"{statistics.fmean(of):.1f}" if of else "-" for of in times)])
    print(markdown(outcome) + "\n\n" + markdown(minutes) + "\n")
    for name, others in (("random actions", chance), ("the untrained policy", untrained)):
        for task in args.tasks:
            found = [NAMES[a] for a in args.algorithms if done[a, task] and above(returns(done[a, task]), others[task])]
            print(f"{task}: above {name} by more than both deviations: {', '.join(found) or 'none'}")
    runs = list(itertools.chain(*done.values()))
    total = sum(run.record()["cpu_seconds"] for run in runs) / 3600
    print(f"{len(runs)} runs have come to the end, in {total:.1f} CPU hours")


def main() -> None:
    """Lists, runs or shows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budget", choices=BUDGETS, default="laptop")
    parser.add_argument("--algorithms", nargs="+", choices=ALGORITHMS, default=CURRENT)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=TASKS, metavar="TASK")
    parser.add_argument("--seeds", type=int, nargs="+", help="default: 3 of the laptop's, 4 of the paper's budget")
    parser.add_argument("--gpus", type=float, help="share of a GPU that a run gets (default: the core's own)")
    parser.add_argument("--ray-address", help="of a cluster, as ray.init takes it; default: this machine alone")
    parser.add_argument("--dry-run", action="store_true", help="only list the runs and their estimated hours")
    parser.add_argument("--show", action="store_true", help="only print the table")
    args = parser.parse_args()
    runs = runs_of(args)
    if args.dry_run:
        list_runs(runs)
        return
    if not args.show:
        run_all(runs, args)
    show(args)


if __name__ == "__main__":
    main()
