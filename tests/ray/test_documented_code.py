"""Every Python block of README and documentation runs: training with the smallest networks and episodes."""

import logging
import runpy

import pytest
import ray
from ray import tune
from ray.rllib.env.env_context import EnvContext
from support.pages import PAGES, ROOT, blocks
from support.team import TINY, Team

from rllib_dima import DIMAConfig
from rllib_dima.envs import make

TASK = "mamujoco_halfcheetah_2x3"


@pytest.fixture(scope="module", autouse=True)
def ray_running():
    ray.init(num_cpus=2, include_dashboard=False, logging_level=logging.ERROR, ignore_reinit_error=True)
    yield
    ray.shutdown()


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
        config.training(**TINY, num_steps_before_learning=20).environment(env_config={"max_episode_steps": 20})
        built.append(build(config))
        return built[-1]

    monkeypatch.setattr(DIMAConfig, "build", build_small)
    monkeypatch.setattr(tune, "Tuner", CheckedTuner)
    monkeypatch.chdir(tmp_path)  # for "results/cheetah", which README saves and docs/checkpoints.md reads
    done = set()
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
    assert len(built) == 1 and built[0].training_iteration == 60
    built[0].stop()


def test_the_table_of_hyperparameters_holds_every_one_and_the_presets():
    table = runpy.run_path(str(ROOT / "docs/hooks.py"))["hyperparameter_table"]().splitlines()
    rows = {row.split("`")[1]: row for row in table[2:]}
    assert list(rows) == list(vars(DIMAConfig().hyperparameters()))
    assert "| `200`<br>Bi-DexHands: `500` | from `1` |" in rows["env_steps_per_iteration"]
    assert "| `512`<br>small: `256`<br>nano: `128` |" in rows["decoder_hidden_size"]
    assert "| `0.99`<br>Bi-DexHands: `0.95` | `0` to `1` |" in rows["gamma"]
    assert "`squared`, `absolute`" in rows["decoder_loss"]
