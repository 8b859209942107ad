"""`rllib plot` on results as Tune and the benchmark write them."""

import json

import pytest

from rllib_dima.cli import main


@pytest.fixture
def experiment(tmp_path):
    """A trial of two reports in an experiment's folder whose name holds a sign of assignment."""
    folder = tmp_path / "lr=1" / "trial"
    folder.mkdir(parents=True)
    reports = [
        {
            "num_env_steps_sampled_lifetime": steps,
            "time_total_s": steps / 10,
            "env_runners": {"episode_return_mean": 3.0},
            "config": {"env": "mamujoco_ant_4x2", "seed": 0},
        }
        for steps in (100, 200)
    ]
    (folder / "result.json").write_text("\n".join(map(json.dumps, reports)))
    return folder.parent


def test_it_draws_a_picture_and_prints_where_each_experiment_has_come(experiment, tmp_path, capsys):
    out = tmp_path / "new" / "runs.png"
    assert main(["plot", str(experiment), f"named={experiment}/trial", "--out", str(out)]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("mamujoco_ant_4x2")]
    assert [row[1:5] for row in rows] == [["lr=1", "1", "200", "3.0"], ["named", "1", "200", "3.0"]]
    assert out.read_bytes()[:4] == b"\x89PNG" and out.with_suffix(".csv").stat().st_size
    assert (out.parent / "runs_scores.csv").is_file()


def test_it_says_what_is_missing(experiment, tmp_path, capsys):
    out = ["--out", str(tmp_path / "runs.png")]
    (tmp_path / "empty" / "trial").mkdir(parents=True)
    (tmp_path / "empty" / "trial" / "result.json").touch()
    (tmp_path / "other.json").write_text('{"a": 1}')
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "result.json").write_text('{"training_iteration": 1}')
    for words, message in (
        ([], "Missing argument"),
        (["nowhere"], "There is no file or folder nowhere"),
        ([str(tmp_path / "empty")], "holds no results"),
        ([str(tmp_path / "other.json")], "is no record of benchmarks/learning.py"),
        ([str(tmp_path / "bare")], "lacks 'num_env_steps_sampled_lifetime'"),
        ([str(experiment), "--returns", "evaluation"], "It has those of training"),
        ([str(experiment), "--out", "runs.doc"], "must end in one of"),
    ):
        assert main(["plot", *out, *words]) == 2, words
        assert message in capsys.readouterr().err
