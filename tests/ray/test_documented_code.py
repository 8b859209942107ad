"""Every Python block of README and documentation runs, and every command that trains or evaluates.

With the smallest networks, the shortest episodes and few iterations; no video, which needs a display.
"""

import json
import runpy
import shutil

import numpy as np
import pytest
from gymnasium.spaces import Box
from ray import tune
from ray.rllib.env.env_context import EnvContext
from support.pages import PAGES, ROOT, blocks, commands
from support.team import TINY, Team, team_config

from rllib_dima import DIMAConfig
from rllib_dima.cli import main
from rllib_dima.envs import make
from rllib_dima.envs.spaces import team_actions

pytestmark = pytest.mark.usefixtures("ray_running")

TASK = "mamujoco_halfcheetah_2x3"
SHORT = {**TINY, "num_steps_before_learning": 20, "env_config": {"max_episode_steps": 20}}


class CheckedTuner:
    """In place of Ray Tune's: builds the configuration of a trial from the search space, and trains nothing."""

    def __init__(self, trainable, *, param_space, run_config=None):
        assert trainable == "DIMA"
        drawn = {key: value.sample() if hasattr(value, "sample") else value for key, value in param_space.items()}
        DIMAConfig().update_from_dict(drawn).validate()

    def fit(self):
        """Nothing is left to check."""


def test_every_python_block_runs(monkeypatch, tmp_path):
    built, build = [], DIMAConfig.build

    def build_small(config):
        config.update_from_dict(SHORT)
        built.append(build(config))
        return built[-1]

    monkeypatch.setattr(DIMAConfig, "build", build_small)
    monkeypatch.setattr(tune, "Tuner", CheckedTuner)
    monkeypatch.chdir(tmp_path)  # for "results/cheetah", which README saves and other pages read
    for label in ("swift", "mappo"):  # whose curves docs/analysis.md draws
        (tmp_path / "results" / label).mkdir(parents=True)
        for record in (ROOT / "benchmarks/results").glob(f"learning_halfcheetah_2x3_{label}_?.json"):
            shutil.copy(record, tmp_path / "results" / label)
    mine = build(team_config())  # whose policy docs/checkpoints.md acts with
    mine.save_to_path("results/mine")
    mine.stop()
    done, made = set(), {}
    for page in PAGES:
        names = {
            "DIMAConfig": DIMAConfig,
            "config": DIMAConfig().environment(TASK),
            "MyEnvironment": lambda config: Team(EnvContext(config, 0)),
            "observations": make(TASK).reset(seed=0)[0],
        }
        for block in blocks(page, "python"):
            if block not in done:  # README and docs/index.md share some
                exec(compile(block, str(page), "exec"), names)
                done.add(block)
        made |= names
    assert len(built) == 1 and built[0].training_iteration == 60
    built[0].stop()
    space, action = Box(np.float32([-3, 0]), np.float32([-1, 0.3]), dtype=np.float32), np.float32([-0.3, 1, 0])
    assert (made["within_bounds"](action, space) == team_actions({"a": space}, True)["a"].to_env(action, 3)).all()


def test_training_and_evaluation_on_the_command_line_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    trainings = {tuple(words[2:4]): words for words in commands() if words[:2] == ["rllib", "train"]}
    assert set(trainings) == {("file", "tuned_examples/dima_ant.yaml"), ("--run", "DIMA")}
    for _, *words in trainings.values():  # of an option that is given twice, the last counts
        config = json.loads(words[words.index("--config") + 1]) if "--config" in words else {}
        short = ["--config", json.dumps({**config, **SHORT}), "--stop", '{"training_iteration": 2}']
        assert main([*words, *short, "--storage-path", str(tmp_path), "--experiment-name", "run"]) == 0
    ((_, *words),) = {tuple(words) for words in commands() if words[:2] == ["rllib", "evaluate"]}
    words = words[: words.index("--out")]
    assert main([str(tmp_path / "run") if word == "CHECKPOINT" else word for word in words]) == 0
    assert "over 10 episodes" in capsys.readouterr().out
    imagined = {tuple(words) for words in commands() if words[:2] == ["rllib", "imagine"]}
    ((_, *words),) = (words for words in imagined if "--video" not in words)
    places = {"CHECKPOINT": str(tmp_path / "run"), "report.html": str(tmp_path / "report.html")}
    assert main([places.get(word, word) for word in words]) == 0
    assert (tmp_path / "report.html").stat().st_size > 50_000
    for _, *words in ([*words] for words in commands() if words[:2] == ["rllib", "plot"]):
        places = {"EXPERIMENT": str(tmp_path / "run"), "returns.png": str(tmp_path / "returns.png")}
        assert main([places.get(word, word) for word in words]) == 0


def test_the_table_of_hyperparameters_holds_every_one_and_the_presets():
    table = runpy.run_path(str(ROOT / "docs/hooks.py"))["hyperparameter_table"]().splitlines()
    rows = {row.split("`")[1]: row for row in table[2:]}
    assert list(rows) == list(vars(DIMAConfig().hyperparameters()))
    assert "| `200`<br>Bi-DexHands: `500` | from `1` |" in rows["env_steps_per_iteration"]
    assert "| `512`<br>small: `256`<br>nano: `128` |" in rows["decoder_hidden_size"]
    assert "| `0.99`<br>Bi-DexHands: `0.95` | `0` to `1` |" in rows["gamma"]
    assert "`squared`, `absolute`" in rows["decoder_loss"]
    assert "| `200`<br>nano: `50`<br>swift with nano: `100` |" in rows["decoder_updates_per_iteration"]
    assert "swift with HalfCheetah, swift with Ant, swift with Walker2d: `1.0`" in rows["imagination_noise"]
