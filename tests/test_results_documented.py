"""The learning results that the pages state are those of the benchmark's files."""

import argparse
import itertools
import json
import re
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"


def figure(folder, mode):
    """Mean and sample standard deviation, over the seeds, of the last evaluation of every run."""
    runs = [json.loads(file.read_text()) for file in folder.glob(f"learning_halfcheetah_2x3_{mode}_[0-9].json")]
    returns = [run["curve"][-1]["deterministic"] for run in runs]
    return f"{statistics.fmean(returns):.0f} +- {statistics.stdev(returns):.0f}"


def test_learning_results_are_those_of_the_files():
    for page in ("README.md", "benchmarks/RESULTS.md", "tuned_examples/dima_halfcheetah_2x3_nano.yaml"):
        assert figure(RESULTS, "swift") in (ROOT / page).read_text(), page
    for page in ("README.md", "benchmarks/RESULTS.md"):
        assert figure(RESULTS, "sequential") in (ROOT / page).read_text(), page
        assert figure(RESULTS / "five_episodes", "sequential") in (ROOT / page).read_text(), page
    assert figure(RESULTS, "gaussian") in (ROOT / "benchmarks/RESULTS.md").read_text()
    for mode in ("sequential", "cumulative"):
        assert figure(RESULTS / "first_version", mode) in (ROOT / "benchmarks/RESULTS.md").read_text()


def test_the_page_of_all_tasks_has_the_tables_of_the_benchmark():
    command = [sys.executable, "benchmarks/table.py", "--show"]
    shown = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout
    page = (ROOT / "docs/tasks.md").read_text().splitlines()
    rows = [line for line in shown.splitlines() if line.startswith("|")]
    assert len(rows) == 2 * (2 + 11) and [row for row in rows if row not in page] == []
    nothing_above = re.findall(r"^(\w+): above random actions .*: none$", shown, re.MULTILINE)
    assert nothing_above == []  # as the page says


def rows_after(mark):
    """Cells of the table that follows a comment in RESULTS.md, header and rule left out."""
    text = (ROOT / "benchmarks/RESULTS.md").read_text().split(f"<!-- {mark} -->\n\n")[1].split("\n\n")[0]
    return [[cell.strip(" *") for cell in line.strip("|").split("|")] for line in text.splitlines()[2:]]


def curve_of(label, task, seed):
    """Deterministic and sampled return by steps, and CPU minutes, as the tables write them; None without a run."""
    name = task if (RESULTS / f"learning_{task}_{label}_{seed}.json").exists() else f"bidexhands_{task}"
    if label == "noiseless" and name.startswith("bidexhands"):
        label = "swift"  # which has no noise on the hands
    file = RESULTS / f"learning_{name}_{label}_{seed}.json"
    if not file.exists():
        return None
    record = json.loads(file.read_text())
    points = {p["steps"]: f"{p['deterministic']:.0f} / {p['sampled']:.0f}" for p in record["curve"]}
    return points | {"minutes": f"{record['cpu_seconds'] / 60:.1f}"}


@pytest.mark.parametrize(
    ("mark", "labels"),
    [("with a code and without", ("coded", "noiseless")), ("without noise and with", ("noiseless", "swift"))],
)
def test_pairs_of_recipes_are_those_of_the_files(mark, labels, table):
    rows = rows_after(mark)
    for row in rows:
        task, seed = row[0].split(", ")
        assert row[1:] == [curve_of(label, task, seed)[30_000] for label in labels], row
    tasks = table.TASKS if mark.startswith("with a code") else table.MAMUJOCO
    pairs = itertools.product((task.removeprefix("bidexhands_") for task in tasks), range(10))
    assert len(rows) == sum(all(curve_of(label, *pair) for label in labels) for pair in pairs)


@pytest.mark.parametrize(("mark", "label"), [("recipe", "swift"), ("noiseless", "noiseless")])
def test_curves_of_the_recipe_are_those_of_the_files(mark, label):
    steps = [*range(5000, 30_001, 5000), "minutes"]
    for row in rows_after(f"{mark}, other tasks"):
        curve = curve_of(label, *row[0].split(", "))
        assert row[1:] == [curve[step] for step in steps], row
    curves = [curve for seed in range(10) if (curve := curve_of(label, "halfcheetah_2x3", seed))]
    rows = [row[1:] for row in rows_after(f"{mark}, seeds")]
    assert rows == [[curve[step] for curve in curves] for step in steps]


def test_curves_of_the_papers_recipe_on_other_tasks_are_those_of_the_files(table):
    rows = rows_after("the paper's recipe, other tasks")
    for row in rows:
        curve = curve_of("sequential", *row[0].split(", "))
        assert row[1:] == [curve[step] for step in (*range(5000, 30_001, 5000), "minutes")], row
    others = [task for task in table.TASKS if task != "halfcheetah_2x3"]
    assert len(rows) == sum(len(table.finished("laptop", "dima", task)) for task in others)


def test_parts_of_the_recipe_are_compared_by_the_files():
    rows = rows_after("parts, three seeds")
    for _, label, task, *cells in rows:
        files = [RESULTS / f"learning_{task}_{label}_{seed}.json" for seed in range(3)]
        last = [json.loads(file.read_text())["curve"][-1] for file in files]
        assert {point["steps"] for point in last} == {30_000}
        for cell, name in zip(cells, ("deterministic", "sampled"), strict=True):
            returns = [point[name] for point in last]
            seeds = ", ".join(f"{number:.0f}" for number in returns)
            assert cell == f"{statistics.fmean(returns):.0f} +- {statistics.stdev(returns):.0f} ({seeds})", label
    assert len(rows) == 19


@pytest.mark.parametrize("task", ["ant_4x2", "walker2d_2x3"])
def test_curves_of_100_000_steps_are_those_of_the_files(task):
    records = [
        json.loads((RESULTS / f"learning_{task}_{name}_long_0.json").read_text())
        for name in ("swift", "mappo", "happo", "hasac")
    ]
    *rows, minutes = rows_after(f"{task}, 100,000 steps")
    assert minutes[1:] == [f"{record['cpu_seconds'] / 60:.1f}" for record in records]
    for row, *points in zip(rows, *(record["curve"] for record in records), strict=True):
        steps = int(row[0].replace(",", ""))
        assert all(steps <= point["steps"] < steps + 2100 for point in points), row  # after a whole iteration
        assert row[1:] == [f"{point['deterministic']:.0f} / {point['sampled']:.0f}" for point in points]


@pytest.fixture
def table(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import table

    return table


@pytest.fixture
def learning(table):
    return table.learning


def test_runs_of_the_table_are_those_that_its_columns_ask_for(table, learning):
    for algorithm, task in itertools.product(table.ALGORITHMS, table.TASKS):
        for run in table.finished("laptop", algorithm, task):
            wanted, record = learning.new_record(run.arguments, run.mode, run.seed), run.record()
            learning.require_same(record, wanted, learning.result_file(run.arguments, run.mode, run.seed))
            if algorithm in ("swift", "coded"):  # whose distribution the recipe has changed
                assert "hyperparameters" in record or "policy_distribution" in record["settings"], (task, run.seed)


@pytest.mark.parametrize("changed", [{"gamma": 0.9}, {"gamma": None}])
def test_a_run_with_other_hyperparameters_is_not_gone_on_with(learning, changed):
    args = learning.arguments(["--recipe", "swift", "--set", '{"gamma": 0.95}'])
    found = json.loads(json.dumps(learning.new_record(args, "default", 0)))
    learning.require_same(found, learning.new_record(args, "default", 0), "file")
    args.set = json.dumps(changed)
    with pytest.raises(SystemExit, match="hyperparameters"):
        learning.require_same(found, learning.new_record(args, "default", 0), "file")


def test_the_readme_shows_the_means_of_the_table(table):
    rows = (ROOT / "README.md").read_text().splitlines()
    for algorithm, name in (("swift", 'DIMA, `"swift"`'), ("mappo", "MAPPO"), ("happo", "HAPPO"), ("hasac", "HASAC")):
        runs = [table.finished("laptop", algorithm, task) for task in table.TASKS]
        cells = (table.mean(table.returns(cell), 0) if cell else "-" for cell in runs)
        assert f"| {name} | {' | '.join(cells)} |" in rows
    for name, file in (("random actions", table.RANDOM), ("untrained policy", table.UNTRAINED)):
        played = json.loads(file.read_text())
        assert f"| {name} | {' | '.join(table.mean(played[task], 0) for task in table.TASKS)} |" in rows


def test_world_models_are_compared_as_far_as_all_of_them_reach(table):
    """MARIE's nano holds five imagined steps; the others any number."""
    import world_models

    args = argparse.Namespace(run=["DIMA", "MARIE", "MAMBA"], recipe="swift", model_size="nano", set="{}")
    assert world_models.steps_reached(args) == [1, 5]
    args.run = ["DIMA", "MAMBA"]
    assert world_models.steps_reached(args) == [1, 5, 14]
    args.run, args.set = ["MARIE"], '{"MARIE": {"imagination_horizon": 15}}'
    assert world_models.steps_reached(args) == [1, 5, 14]
    args.model_size = "paper"
    assert world_models.hyperparameters("MARIE", args, {}).num_tokenizer_warmup_iterations == 0, "an update is of all"


def test_no_two_runs_of_the_table_share_a_file(table):
    runs = [
        table.Run(*of, budget)
        for budget in table.BUDGETS.values()
        for of in itertools.product(table.ALGORITHMS, table.TASKS, (0, 1))
    ]
    files = {table.learning.result_file(run.arguments, run.mode, run.seed) for run in runs}
    assert len(files) == len(runs) == 2 * len(table.ALGORITHMS) * 11 * 2


def test_above_random_actions_is_by_more_than_both_deviations(table):
    chance = [-1.0, 0.0, 1.0]  # mean 0, deviation 1
    assert table.above([4.0, 5.0, 6.0], chance)  # 5 - 1, over 1
    assert not table.above([0.0, 5.0, 10.0], chance)  # 5 - 5
    assert not table.above([9.0, 9.0], chance) and not table.above([9.0], chance)  # too few seeds


def test_what_does_not_learn_is_played_once(table, tmp_path):
    file, played = tmp_path / "returns.json", []
    file.write_text('{"ant_2x4": [1.0, 2.0]}')

    def play(task):
        played.append(task)
        return [3.0, 4.0]

    for _ in range(2):
        found = table.played_once(file, play, ["ant_2x4", "ant_4x2"])
        assert found == json.loads(file.read_text()) == {"ant_2x4": [1.0, 2.0], "ant_4x2": [3.0, 4.0]}
    assert played == ["ant_4x2"]


def test_every_record_is_json_that_any_program_reads_and_says_what_ran():
    files = list(RESULTS.rglob("learning_*.json"))
    for file in files:
        record = json.loads(file.read_text(), parse_constant=pytest.fail)  # which NaN and Infinity are
        assert {"run", "task", "recipe", "conditioning", "seed", "model_size", "settings", "curve"} <= set(record), file
    assert len(files) > 100
