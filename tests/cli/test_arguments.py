"""The grammar of the `rllib` command: what is read from a command line, what is refused, and what `--help` costs."""

import os
import subprocess
import sys

import pytest

from rllib_dima.cli import main, rllib
from rllib_dima.cli.vocabulary import REFUSED


@pytest.fixture
def call(monkeypatch):
    """What a command line hands to the code that runs it: the source or checkpoint, and the flags that were given."""

    def read(line):
        seen = []
        for name in ("experiment.running.run_experiments", "episodes.evaluate_checkpoint"):
            monkeypatch.setattr(f"rllib_dima.cli.{name}", lambda *given, **flags: seen.append((given, flags)))
        assert main(line) == 0
        ((given, flags),) = seen
        return given, {name: value for name, value in flags.items() if value not in (None, False, ())}

    return read


def test_flags_stand_before_or_after_the_file(call):
    flags = ["--num-samples", "3", "--stop", '{"training_iteration": 2}', "-vv"]
    before, after = call(["train", *flags, "file", "a.yaml"]), call(["train", "file", "a.yaml", *flags])
    assert (
        before
        == after
        == (
            ("a.yaml",),
            {"num_samples": 3, "stop": {"training_iteration": 2}, "verbosity": 2},
        )
    )


def test_old_and_new_names_of_a_flag_mean_the_same(call):
    old = call(
        ["train", "--algo", "DIMA", "--env", "e", "--local-dir", "/x", "--log-info", "--keep-checkpoints-num", "2"]
    )
    new = call(["train", "-r", "DIMA", "-e", "e", "--storage-path", "/x", "-v", "--keep-checkpoints-num=2"])
    assert old == new
    assert old[0] == ({"DIMA_e": {"run": "DIMA", "env": "e"}},)
    assert old[1] == {"storage_path": "/x", "keep_checkpoints_num": 2, "verbosity": 1}


def test_absent_flags_change_nothing_of_a_file(call):
    assert call(["train", "file", "a.yaml"]) == (("a.yaml",), {})
    assert call(["train", "file", "a.yaml", "--log-debug"])[1] == {"log_debug": True}


def test_a_flag_that_says_no_is_given(monkeypatch):
    seen = {}
    monkeypatch.setattr("rllib_dima.cli.experiment.running.run_experiments", lambda file, **flags: seen.update(flags))
    for flags, value in (([], None), (["--checkpoint-at-end"], True), (["--no-checkpoint-at-end"], False)):
        assert main(["train", "file", "a.yaml", *flags]) == 0 and seen["checkpoint_at_end"] is value


def test_numbers_with_an_exponent_are_whole_if_they_can_be(call):
    line = ["train", "--run", "PPO", "--config", '{"a": 1e3, "b": 1e-4, "c": 25e-1, "d": 2.0, "e": 1e30}']
    config = call(line)[1]["config"]
    assert config == {"a": 1000, "b": 1e-4, "c": 2.5, "d": 2.0, "e": 1e30}
    assert [type(value) for value in config.values()] == [int, float, float, float, float]


def test_names_and_words_of_a_json_flag_need_no_quotes(call):
    expected = {"model_size": "nano", "env_config": {"a": None, "b": [True, 1]}}
    for text in (
        '{"model_size":"nano","env_config":{"a":null,"b":[true,1]}}',
        "{model_size: nano, env_config: {a: , b: [true, 1]}}",
    ):
        assert call(["train", "--run", "PPO", "--config", text])[1]["config"] == expected


def test_example_run_takes_the_flags_of_train(call):
    (file,), flags = call(["example", "run", "dima_ant", "--config", '{"seed": 1}'])
    assert (file.name, flags) == ("dima_ant.yaml", {"config": {"seed": 1}})


def test_evaluate_has_the_flags_that_the_design_names(call):
    given, flags = call(["evaluate", "here", "--episodes", "3", "--render", "--out", "v.mp4", "--seed", "5"])
    assert given == () and flags == {
        "checkpoint": "here",
        "episodes": 3,
        "render": True,
        "out": "v.mp4",
        "seed": 5,
        "config": {},
    }
    assert call(["evaluate", "here", "--explore"])[1]["explore"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("trian", "Did you mean 'train'"),
        ("rollout here", "`rllib rollout` is now `rllib evaluate`"),
        ("y.yaml", "Did you mean `rllib train file y.yaml`"),
        ("train y.yaml", "Did you mean `rllib train file y.yaml`"),
        ("train -f y.yaml", "Did you mean `rllib train file y.yaml`"),
        ("train --file y.yaml", "Did you mean `rllib train file`"),
        ("train file y.yaml -x 3", "Unknown flag of `rllib train`: -x"),
        ("plot y.json -x", "Unknown flag of `rllib plot`: -x"),
        ("train file", "takes one FILE, but has 0"),
        ("train file a.yaml b.yaml", "takes one FILE, but has 2"),
        ("train PPO", "'PPO'. Known: file. See `rllib train --help`"),
        ("train", "Nothing to train"),
        ("train --version", "Did you mean `rllib version`"),
        ("example --list", "Did you mean `rllib example list`"),
        ("train --num-sample 3", "Did you mean --num-samples"),
        ("train file a.yaml --stopp={}", "Did you mean --stop"),
        ("train --checkpoint x", "Did you mean --checkpoint-freq or --checkpoint-at-end or --keep-checkpoints-num"),
        ("train --seed 1", "Did you mean --config '{\"seed\": ...}'?"),
        ("train --lr 1", "Did you mean --config '{\"lr\": ...}'?"),
        ("train --learning-rate 1", "--config '{\"actor_lr\": ...}'"),
        ("train --model-size nano", "Did you mean --config '{\"model_size\": ...}'?"),
        ("train --num-workers 3", "Did you mean --config '{\"num_workers\": ...}'?"),
        ("train --num-gpus 1", "Did you mean --config '{\"num_gpus\": ...}'?"),
        ("train --gpu 1", "Did you mean --ray-num-gpus or --config '{\"num_gpus\": ...}'"),
        ("train --epochs 1", "--config '{\"ppo_epochs\": ...}'"),
        ("train --iterations 3", "Did you mean --stop '{\"training_iteration\": ...}'"),
        ("train --total-timesteps 3", "Did you mean --stop '{\"timesteps_total\": ...}'"),
        ("train --steps 3", "Did you mean --stop '{\"num_env_steps_sampled\": ...}'"),
        ("train --xyzzy 3", "Unknown flag of `rllib train`: --xyzzy"),
        ("evaluate here --episode 3", "Did you mean --episodes?"),
        ("evaluate here --output v.mp4", "Did you mean --out?"),
        ("evaluate here --video v.mp4", "Known: --algo, --config, "),
        ("evaluate", "Missing argument 'CHECKPOINT'. See `rllib evaluate --help`"),
        ("evaluate here there", "unexpected extra argument (there)"),
        ("train --local-mode", "no local mode any more"),
        ("train --framework=torch", "torch only"),
        ("evaluate here --steps 9", "Known: --algo, --config, --env, --episodes"),
        ("train --num-samples 0", "x>=1"),
        ("train --num-samples 1.5", "not a valid integer"),
        ("train --config {lr:1}", "double quotes"),
        ("train --config 3", "must be a JSON object"),
        ('train --config {"a":1,"a":2}', "'a' occurs twice"),
        ("example", "Missing command. See `rllib example --help`"),
    ],
)
def test_misuse_is_one_message_and_code_2(line, message, capsys):
    assert main(line.split()) == 2
    printed = capsys.readouterr()
    assert message in printed.err and printed.err.startswith("rllib: ") and printed.err.count("\n") == 1
    assert printed.err.count("--help`") <= 1
    assert printed.out == ""


def test_every_removed_flag_says_what_to_do_instead(capsys):
    flags = [flag for flag in REFUSED if flag.startswith("--")]
    lines = [[command, flag] for command in ("train", "evaluate") for flag in (*flags, "--resources-per-trial")]
    for line in [*lines, ["example", "run", "--torch"]]:
        assert main(line) == 2 and f"{line[-1]} means nothing any more" in capsys.readouterr().err


def test_without_arguments_the_help_is_printed(capsys):
    assert main([]) == 2
    assert "COMMAND" in capsys.readouterr().out


def test_version_names_ray_and_this_package(capsys):
    for line in (["version"], ["--version"]):
        assert main(line) == 0
        assert "rllib_dima 0." in (printed := capsys.readouterr().out) and "ray 2.60" in printed


@pytest.mark.parametrize("command", ["", "train", "evaluate", "example", "example run"])
def test_help_never_imports_ray(command, tmp_path):
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "__init__.py").write_text("raise SystemExit('Ray was imported')")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])}
    line = [sys.executable, "-m", "rllib_dima", *command.split(), "--help"]
    run = subprocess.run(line, capture_output=True, text=True, env=environment)
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout.startswith(f"Usage: rllib {command}".rstrip())


def test_every_flag_has_a_help_text():
    def check(command):
        assert command.help
        assert all(option.help for option in command.params if option.param_type_name == "option")
        for child in getattr(command, "commands", {}).values():
            check(child)

    check(rllib)
