"""The grammar of the `rllib` command: what is read from a command line, what is refused, and what `--help` costs."""

import os
import subprocess
import sys

import pytest

from rllib_dima.cli import main
from rllib_dima.cli.arguments import REMOVED_FLAGS, build_parser, parse
from rllib_dima.cli.errors import UsageError


def test_flags_stand_before_or_after_the_file():
    flags = ["--num-samples", "3", "--stop", '{"training_iteration": 2}', "-vv"]
    before, after = parse(["train", *flags, "file", "a.yaml"]), parse(["train", "file", "a.yaml", *flags])
    assert vars(before) == vars(after)
    assert (before.file, before.verbosity) == ("a.yaml", 2)
    assert before.spec == {"num_samples": 3, "stop": {"training_iteration": 2}}


def test_old_and_new_names_of_a_flag_mean_the_same():
    old = parse(
        ["train", "--algo", "DIMA", "--env", "e", "--local-dir", "/x", "--log-info", "--keep-checkpoints-num", "2"]
    )
    new = parse(["train", "-r", "DIMA", "-e", "e", "--storage-path", "/x", "-v", "--keep-checkpoints-num=2"])
    assert vars(old) == vars(new)
    assert old.spec == {"storage_path": "/x", "keep_checkpoints_num": 2}


def test_absent_flags_change_nothing_of_a_file():
    arguments = parse(["train", "file", "a.yaml"])
    assert arguments.spec == {}
    assert (arguments.resume, arguments.imports, arguments.ray_address, arguments.verbosity) == (False, [], None, 0)
    assert parse(["train", "file", "a.yaml", "--no-checkpoint-at-end"]).spec == {"checkpoint_at_end": False}


def test_numbers_with_an_exponent_are_whole_if_they_can_be():
    config = parse(["train", "--config", '{"a": 1e3, "b": 1e-4, "c": 25e-1, "d": 2.0, "e": 1e30}']).spec["config"]
    assert config == {"a": 1000, "b": 1e-4, "c": 2.5, "d": 2.0, "e": 1e30}
    assert [type(value) for value in config.values()] == [int, float, float, float, float]


def test_example_run_takes_the_flags_of_train():
    arguments = parse(["example", "run", "dima_ant", "--config", '{"seed": 1}'])
    assert (arguments.name, arguments.spec) == ("dima_ant", {"config": {"seed": 1}})


def test_evaluate_has_the_flags_that_the_design_names():
    arguments = parse(["evaluate", "here", "--episodes", "3", "--render", "--out", "v.mp4", "--seed", "5"])
    assert (arguments.checkpoint, arguments.episodes, arguments.render) == ("here", 3, True)
    assert (arguments.out, arguments.seed, arguments.imports) == ("v.mp4", 5, [])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("trian", "Did you mean 'train'"),
        ("rollout here", "`rllib rollout` is now `rllib evaluate`"),
        ("y.yaml", "Did you mean `rllib train file y.yaml`"),
        ("train y.yaml", "Did you mean `rllib train file y.yaml`"),
        ("train -f y.yaml", "Did you mean `rllib train file y.yaml`"),
        ("train --file y.yaml", "Did you mean `rllib train file`"),
        ("train PPO", "'PPO'. Known: file. See `rllib train --help`"),
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
        ("evaluate", "required: CHECKPOINT"),
        ("evaluate here there", "unrecognized arguments: there"),
        ("train --local-mode", "no local mode any more"),
        ("train --framework=torch", "torch only"),
        ("evaluate here --steps 9", "use --episodes"),
        ("train --num-samples 0", "at least 1"),
        ("train --num-samples 1.5", "whole number"),
        ("train --config {lr:1}", "double quotes"),
        ("train --config 3", "must be a JSON object"),
        ('train --config {"a":1,"a":2}', "'a' occurs twice"),
        ("example", "required: ACTION"),
    ],
)
def test_misuse_is_one_message_and_code_2(line, message, capsys):
    assert main(line.split()) == 2
    printed = capsys.readouterr()
    assert message in printed.err and printed.err.startswith("rllib: ") and printed.err.count("\n") == 1
    assert printed.out == ""


def test_every_removed_flag_says_what_to_do_instead():
    for command, flags in REMOVED_FLAGS.items():
        for flag in flags:
            with pytest.raises(UsageError, match="means nothing any more"):
                parse([command, flag])


def test_without_arguments_the_help_is_printed(capsys):
    assert main([]) == 2
    assert "COMMAND" in capsys.readouterr().out


def test_version_names_ray_and_this_package(capsys):
    for line in (["version"], ["--version"]):
        assert main(line) == 0
        assert "rllib_dima 0." in (printed := capsys.readouterr().out) and "ray 2.60" in printed


@pytest.mark.parametrize("command", ["", "train", "train file", "evaluate", "example", "example run"])
def test_help_never_imports_ray(command, tmp_path):
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "__init__.py").write_text("raise SystemExit('Ray was imported')")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])}
    line = [sys.executable, "-m", "rllib_dima", *command.split(), "--help"]
    run = subprocess.run(line, capture_output=True, text=True, env=environment)
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout.startswith(f"usage: rllib {command}".rstrip())


def test_every_flag_has_a_help_text():
    def check(parser):
        for action in parser._actions:
            if isinstance(action.choices, dict):
                for child in action.choices.values():
                    check(child)
            assert action.help or not action.option_strings, action

    check(build_parser())
