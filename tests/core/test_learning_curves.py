"""Curves and scores of runs: statistics by brute force, intervals by their exact distribution, files of Tune's form."""

import csv
import itertools
import json
import math

import numpy as np
import pytest
from support.pages import ROOT

from rllib_dima.analysis.aggregation import AXES, Curve, curve, estimate, interquartile_mean, scores, weighted_mean
from rllib_dima.analysis.figures import COLORS, styles
from rllib_dima.analysis.learning_curves import picture, plot_runs
from rllib_dima.analysis.published import RETURNS
from rllib_dima.analysis.runs import Group, ResultsError, group_runs, read_runs

RNG = np.random.default_rng(0)
CHEETAH, WALKER = "mamujoco_halfcheetah_2x3", "mamujoco_walker2d_2x3"


def middle_half(values, weights):
    """The interquartile mean by copying every value as often as four times its weight."""
    copies = sorted(itertools.chain.from_iterable([v] * (4 * w) for v, w in zip(values, weights, strict=True)))
    return np.mean(copies[len(copies) // 4 : -len(copies) // 4])


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 7, 11])
def test_the_interquartile_mean_is_that_of_the_middle_half(count):
    values, weights = RNG.normal(size=(3, count)), RNG.integers(1, 5, count)
    expected = [middle_half(row, weights) for row in values]
    np.testing.assert_allclose(interquartile_mean(values, weights), expected, rtol=1e-12)
    np.testing.assert_allclose(weighted_mean(values, weights), np.average(values, axis=1, weights=weights))


def test_an_interval_is_that_of_all_resamples_and_tasks_weigh_alike():
    first, second = np.array([0.0, 10.0, 1.0]), np.array([100.0, 200.0])
    found = estimate([first, second], confidence=0.8)
    means = [
        (np.mean(a) + np.mean(b)) / 2
        for a in itertools.product(first, repeat=3)
        for b in itertools.product(second, repeat=2)
    ]
    assert found.value == pytest.approx((11 / 3 + 150) / 2)
    assert found.low == pytest.approx(np.quantile(means, 0.1), abs=0.6)
    assert found.high == pytest.approx(np.quantile(means, 0.9), abs=0.6)
    columns = estimate([np.stack([first, first + 7], axis=1)], confidence=0.8)
    for bound in (columns.low, columns.high):
        assert bound[1] == pytest.approx(bound[0] + 7)
    assert math.isnan(estimate([first, second[:1]]).low)


def trial(experiment, name, rows, env=CHEETAH, as_csv=False, **config):
    """A trial's folder with reports of (steps, seconds, return of training, return of evaluation)."""
    folder = experiment / name
    folder.mkdir(parents=True)
    reports = [
        {
            "num_env_steps_sampled_lifetime": steps,
            "time_total_s": seconds,
            "env_runners": {"episode_return_mean": training},
            **({} if evaluation is None else {"evaluation": {"env_runners": {"episode_return_mean": evaluation}}}),
            "config": {"env": env, "callbacks": f"<object at 0x{name}>", **config},
        }
        for steps, seconds, training, evaluation in rows
    ]
    if not as_csv:
        (folder / "result.json").write_text("".join(json.dumps(report) + "\n" for report in reports) + '{"cut": ')
        return folder
    columns = ["num_env_steps_sampled_lifetime", "time_total_s", "env_runners/episode_return_mean", "config/env"]
    columns += ["config/seed"]
    with (folder / "progress.csv").open("w") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows([*row[:3], env, config.get("seed")] for row in rows)
    (folder / "result.json").touch()
    return folder


NAN = math.nan


def test_runs_that_differ_in_their_seed_alone_are_a_group_on_common_steps(tmp_path):
    trial(tmp_path / "ant", "a", [(0, 1, NAN, None), (100, 2, 0, None), (300, 4, 20, None)], seed=0, lr=1)
    trial(tmp_path / "ant", "b", [(200, 5, 30, None), (300, 7, 40, None), (400, 9, 9, None)], seed=1, lr=1)
    trial(tmp_path / "ant", "c", [(200, 5, 30, None)], seed=1, lr=2)
    one, two = group_runs([(None, tmp_path / "ant")])
    assert (one.name, two.name, len(one.runs), len(two.runs)) == ("ant, lr=1", "ant, lr=2", 2, 1)
    by_steps = curve(one, "training")
    assert by_steps.x.tolist() == [200, 300]
    np.testing.assert_allclose(by_steps.returns, [[10, 20], [30, 40]])
    np.testing.assert_allclose(by_steps.estimate.value, [20, 30])
    np.testing.assert_allclose([by_steps.estimate.low, by_steps.estimate.high], [[10, 20], [30, 40]])
    with pytest.raises(ResultsError, match="No seconds are common"):
        curve(one, "training", "seconds")
    with pytest.raises(ResultsError, match="no returns of evaluation"):
        curve(one, "evaluation")


def test_runs_of_one_report_each_are_one_point(tmp_path):
    for seed, steps in enumerate((1001, 1000, 1004)):
        trial(tmp_path / "pen", str(seed), [(steps, 2, 10 * seed, None)], seed=seed)
    (group,) = group_runs([(None, tmp_path / "pen")])
    found = curve(group, "training")
    assert found.x.tolist() == [1004] and found.returns.tolist() == [[0], [10], [20]]
    assert found.estimate.value.tolist() == [10]


def test_runs_that_have_no_return_yet_are_left_out_and_named(tmp_path, caplog):
    begun = trial(tmp_path / "ant", "a", [(100, 1, 1.0, None)], seed=0)
    waiting = trial(tmp_path / "ant", "b", [(100, 1, NAN, None)], seed=1)
    (group,) = group_runs([(None, tmp_path / "ant")])
    assert [run.file.parent for run in group.runs] == [begun]
    assert str(waiting) in caplog.text and str(begun) not in caplog.text
    with pytest.raises(ResultsError, match="holds a return yet"):
        group_runs([(None, waiting)])


def test_steps_repeated_after_a_restart_count_once_and_csv_says_the_same(tmp_path):
    rows = [(100, 1, 1, None), (200, 2, 2, None), (300, 3, 3, None), (200, 4, 20, None), (300, 5, 30, None)]
    trial(tmp_path / "json", "a", rows, seed=0)
    trial(tmp_path / "csv", "a", rows, seed=0, as_csv=True)
    expected = [[100, 1, 1], [200, 4, 20], [300, 5, 30]]
    for place in (tmp_path / "json", tmp_path / "csv", tmp_path / "csv" / "a", tmp_path / "json/a/result.json"):
        (run,) = read_runs(place)
        assert run.points["training"].tolist() == expected and run.task == CHEETAH
        assert run.experiment in ("json", "csv")


def test_a_report_without_a_return_takes_none_away(tmp_path):
    rows = [(100, 1, 1, 10), (100, 2, NAN, None), (200, 3, 3, None), (100, 4, NAN, None)]
    trial(tmp_path / "ant", "a", rows, seed=0)
    (run,) = read_runs(tmp_path / "ant")
    assert run.points["training"].tolist() == [[100, 1, 1]], "200 steps were lost in a restart"
    assert run.points["evaluation"].tolist() == [[100, 1, 10]]


def record(folder, task, name, seed, returns):
    folder.mkdir(exist_ok=True)
    points = [
        {"steps": 10 * i, "seconds": i, "deterministic": r, "sampled": -r} for i, r in enumerate(returns, start=1)
    ]
    text = json.dumps(
        {"task": task, "seed": seed, "recipe": name, "curve": points, "seconds": 3.0, "cpu_seconds": seed}
    )
    (folder / f"learning_{task}_{name}_{seed}.json").write_text(text)


def test_scores_are_shares_of_the_paper_in_which_tasks_weigh_alike(tmp_path):
    for seed, end in enumerate((3185, 6370, 637)):
        record(tmp_path / "results", "halfcheetah_2x3", "swift", seed, [0, end])
    for seed, end in enumerate((3329, 332.9)):
        record(tmp_path / "results", "walker2d_2x3", "swift", seed, [5, end])
    record(tmp_path / "results", "simple_spread", "swift", 0, [5, 6])
    groups = group_runs([(None, tmp_path / "results")])
    assert [(g.name, g.task) for g in groups] == [
        ("swift", CHEETAH), ("swift", "simple_spread"), ("swift", WALKER)
    ]  # fmt: skip
    cheetah, spread, walker, total = scores([curve(group, "evaluation") for group in groups])
    assert cheetah.score.value == pytest.approx((0.5 + 1 + 0.1) / 3) and cheetah.returns.value == pytest.approx(
        10192 / 3
    )
    assert spread.score is None and spread.returns.value == 6
    assert total.tasks == (CHEETAH, WALKER) and total.num_runs == 5
    assert total.score.value == pytest.approx(((0.5 + 1 + 0.1) / 3 + (1 + 0.1) / 2) / 2)
    assert walker.score.low == pytest.approx(0.1) and walker.score.high == pytest.approx(1)
    middle = scores([curve(group, "evaluation") for group in groups], statistic="iqm")[-1]
    assert middle.score.value == pytest.approx(middle_half([0.5, 1, 0.1, 1, 0.1], [2, 2, 2, 3, 3]))


def test_experiments_of_one_name_stay_apart_unless_they_are_given_it(tmp_path):
    for folder, end in (("old", 1), ("new", 2)):
        record(tmp_path / folder, "halfcheetah_2x3", "swift", 0, [0, end])
    places = [tmp_path / "old", tmp_path / "new"]
    assert [g.name for g in group_runs((None, place) for place in places)] == ["old/swift", "new/swift"]
    deeper = [tmp_path / name / "results" for name in ("a", "b")]
    for folder in deeper:
        folder.parent.mkdir()
        record(folder, "halfcheetah_2x3", "swift", 0, [0, 1])
    assert [g.name for g in group_runs((None, place) for place in deeper)] == ["a/results/swift", "b/results/swift"]
    (together,) = group_runs(("both", place) for place in places)
    assert together.name == "both" and len(together.runs) == 2
    (once,) = group_runs((None, place) for place in (places[0], places[0] / "learning_halfcheetah_2x3_swift_0.json"))
    assert len(once.runs) == 1


def test_the_numbers_beside_the_picture_are_those_of_the_runs(tmp_path):
    for seed, end in enumerate((10.0, 30.0)):
        trial(tmp_path / "dima", f"{seed}", [(100, 1, 0, end - 5), (200, 2, 1, end)], seed=seed)
    found = plot_runs([("A", tmp_path / "dima")], tmp_path / "picture.svg", axes=("steps",), paper=True)
    assert len(found) == 1 and found[0].returns.value == 20
    with (tmp_path / "picture.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["x"], float(row["return"]), float(row["low"]), float(row["high"])) for row in rows] == [
        ("100.0", 15, 5, 25), ("200.0", 20, 10, 30)
    ]  # fmt: skip
    with (tmp_path / "picture_scores.csv").open() as file:
        (score,) = csv.DictReader(file)
    assert float(score["score"]) == pytest.approx(20 / RETURNS[CHEETAH].mean) and score["runs"] == "2"
    assert "<svg" in (tmp_path / "picture.svg").read_text()


@pytest.mark.parametrize(("axes", "places"), [(1, [(0, 0), (0, 1), (0, 2), (1, 0)]), (2, [(n, 0) for n in range(4)])])
def test_tasks_stand_side_by_side_unless_axes_do(axes, places):
    values = estimate([np.array([[1.0, 2.0]])])
    tasks = [f"task_{number}" for number in range(4)]
    lines = [Curve(Group("A", task, ()), np.array([1.0, 2.0]), np.array([[1.0, 2.0]]), values) for task in tasks]
    figure = picture(dict.fromkeys(AXES[:axes], lines), [], "return", "")
    found = [panel.get_subplotspec() for panel in figure.axes]
    assert [panel.get_title() for panel in figure.axes[::axes]] == tasks
    assert [(place.rowspan.start, place.colspan.start) for place in found[::axes]] == places


def test_no_two_lines_look_alike():
    found = styles(49)
    assert len(set(found)) == 49 and {color for color, _ in found[:7]} == set(COLORS)


def test_the_papers_returns_are_those_that_the_tuned_examples_state():
    said = "reports a return of {} +- {} after {:,} environment steps"
    texts = {file: file.read_text() for file in (ROOT / "tuned_examples").glob("dima_*.yaml")}
    for task, published in RETURNS.items():
        stating = [text for text in texts.values() if f"env: {task}\n" in text and said.format(*published) in text]
        assert stating, f"{task}: {said.format(*published)}"
    assert len(RETURNS) == 11
