"""Experiment files: what YAML, JSON and Python files mean, and what is refused."""

import pytest

from rllib_dima.cli.errors import UsageError
from rllib_dima.cli.experiment.files import import_code, read_experiments

YAML = """\
first:
  run: DIMA
  env: mamujoco_ant_4x2
  stop: {num_env_steps_sampled_lifetime: 1_000_000}
  config:
    dynamics_lr: 1e-4
    replay_capacity: 1e3
    sampler_rho: 1.0e+30
    actor_lr: -5E+3
    gamma: 9.9e-1
    note: 1e-4 or so
    decoder_fsq_levels: [8, 6, 5]
    seed: {grid_search: [0, 1]}
second:
  run: PPO
"""


def written(tmp_path, name, text):
    file = tmp_path / name
    file.write_text(text)
    return file


def test_yaml_and_json_hold_the_same_experiments(tmp_path):
    from_yaml = read_experiments(written(tmp_path, "a.yml", YAML))
    config = from_yaml["first"]["config"]
    assert (config["dynamics_lr"], config["actor_lr"], config["gamma"]) == (1e-4, -5000.0, 0.99)
    assert all(type(config[name]) is float for name in ("dynamics_lr", "gamma", "sampler_rho"))
    assert config["replay_capacity"] == 1000 and type(config["replay_capacity"]) is int
    assert config["note"] == "1e-4 or so" and config["seed"] == {"grid_search": [0, 1]}
    assert from_yaml["first"]["stop"] == {"num_env_steps_sampled_lifetime": 1_000_000}
    assert list(from_yaml) == ["first", "second"]
    json = '{"second": {"run": "PPO", "config": {"lr": 1e-4}}}'
    for text in (json, json.replace(" ", "\n\t")):
        expected = {"second": {"run": "PPO", "config": {"lr": 1e-4}}}
        assert read_experiments(written(tmp_path, "a.json", text)) == expected


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.yaml", "a:\n  run: DIMA\n  run: PPO\n", "'run' occurs twice"),
        ("a.yaml", "a:\n  config:\n    lr: 1\n    lr: 2\n", "'lr' occurs twice"),
        ("a.yaml", "a: [1\n", "is no YAML"),
        ("a.yaml", "a: {config: {lr:1}}\n", "'lr:1' lacks a space after :, line 1"),
        ("a.yaml", "", "but holds None"),
        ("a.yaml", "- a\n", r"but holds \['a'\]"),
        ("a.yaml", "run: DIMA\nenv: x\n", "my_experiment.* but 'run' is 'DIMA'"),
        ("a.json", '{"a": {"run": 1, "run": 2}}', "'run' occurs twice"),
        ("a.json", "{", "is no JSON"),
        ("a.txt", "", r"must end in one of \.yaml"),
        ("a.py", "x = 1\n", "must define `config`"),
        ("a.py", "config = {}\n", "config must be a AlgorithmConfig of Ray, but is {}"),
        ("a.py", "\nx = 1 / 0\n", r"a\.py, line 2: ZeroDivisionError"),
        ("a.py", "x = = 1\n", r"a\.py, line 1: SyntaxError"),
        (
            "a.py",
            "from rllib_dima import DIMAConfig as D\nconfig = D()\nrun_config = 3\n",
            "run_config must be a RunConfig of Ray, but is 3",
        ),
        (
            "a.py",
            "from ray import tune\nfrom rllib_dima import DIMAConfig as D\nconfig = D()\n"
            "run_config = tune.RunConfig(verbose=2, failure_config=tune.FailureConfig(fail_fast=True))\n",
            "sets fail_fast, verbose, which `rllib train` does not read",
        ),
    ],
)
def test_bad_files_are_refused_with_their_name(tmp_path, name, text, message):
    with pytest.raises(UsageError, match=f"(?s){message}"):
        read_experiments(written(tmp_path, name, text))


def test_missing_files_and_urls_are_refused():
    with pytest.raises(UsageError, match="There is no file nowhere"):
        read_experiments("nowhere.yaml")
    with pytest.raises(UsageError, match="download the file first"):
        read_experiments("https://example.com/a.yaml")
    with pytest.raises(UsageError, match="Importing no_such_module failed: ModuleNotFoundError"):
        import_code("no_such_module")


PYTHON = """\
from ray import tune
from rllib_dima import DIMAConfig

config = DIMAConfig().environment("mamujoco_ant_2x4")
config.training(dynamics_lr=tune.loguniform(1e-5, 1e-3), model_size="nano")
stop = {"training_iteration": 3}
run_config = tune.RunConfig(name="mine", storage_path="/there", failure_config=tune.FailureConfig(max_failures=2))
tune_config = tune.TuneConfig(num_samples=5, max_concurrent_trials=1, metric="m", mode="min")
"""


def test_python_files_define_a_config_and_settings_of_tune(tmp_path):
    from rllib_dima import DIMA

    (name, spec), *others = read_experiments(written(tmp_path, "any.py", PYTHON)).items()
    assert (name, others, spec["run"]) == ("mine", [], DIMA)
    assert spec["config"]["env"] == "mamujoco_ant_2x4" and spec["config"]["model_size"] == "nano"
    assert spec["config"]["dynamics_lr"].lower == 1e-5
    del spec["run"], spec["config"]
    assert spec == {
        "stop": {"training_iteration": 3},
        "storage_path": "/there",
        "max_failures": 2,
        "num_samples": 5,
        "max_concurrent_trials": 1,
        "metric": "m",
        "mode": "min",
    }


def test_checkpoint_settings_of_a_python_file_are_those_it_changed(tmp_path):
    changed = PYTHON.replace('name="mine"', "checkpoint_config=tune.CheckpointConfig(num_to_keep=3)")
    name, spec = next(iter(read_experiments(written(tmp_path, "any.py", changed)).items()))
    assert name == "any" and spec["checkpoint_config"] == {"num_to_keep": 3}


def test_classes_of_a_python_file_are_pickled_with_their_code(tmp_path):
    from ray import cloudpickle

    module = import_code(str(written(tmp_path, "my_env.py", "class Env:\n    answer = 42\n")))
    assert b"answer" in cloudpickle.dumps(module.Env)
