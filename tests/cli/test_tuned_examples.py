"""The files in tuned_examples/: every published task with the paper's numbers; each is parsed and built."""

import contextlib
import io
import shlex
import subprocess
import sys

import pytest
import ray

import rllib_dima
from rllib_dima import ALGORITHMS, DIMA
from rllib_dima.cli import main
from rllib_dima.cli.example import examples_folder, find_example
from rllib_dima.cli.experiment import make_experiment
from rllib_dima.cli.experiment.files import read_experiments
from rllib_dima.cli.experiment.search_space import variants
from rllib_dima.cli.train import train
from rllib_dima.envs import ENV_IDS

PAPER = {  # example: environment, environment steps in the paper
    "dima_ant": ("mamujoco_ant_4x2", 1_000_000),
    "dima_ant_2x4": ("mamujoco_ant_2x4", 1_000_000),
    "dima_halfcheetah_2x3": ("mamujoco_halfcheetah_2x3", 1_000_000),
    "dima_halfcheetah_3x2": ("mamujoco_halfcheetah_3x2", 1_000_000),
    "dima_halfcheetah_6x1": ("mamujoco_halfcheetah_6x1", 1_000_000),
    "dima_walker2d_2x3": ("mamujoco_walker2d_2x3", 1_000_000),
    "dima_walker2d_3x2": ("mamujoco_walker2d_3x2", 1_000_000),
    "dima_bottle_cap": ("bidexhands_bottle_cap", 300_000),
    "dima_door_open_inward": ("bidexhands_door_open_inward", 300_000),
    "dima_door_open_outward": ("bidexhands_door_open_outward", 300_000),
    "dima_pen": ("bidexhands_pen", 300_000),
}
# Tables 1, 3 and 4 of the paper's appendix.
TABLE_1 = {"imagination_horizon": 15, "lambda_": 0.95, "clip_param": 0.1}
TABLE_1_MAMUJOCO, TABLE_1_HANDS = {"gamma": 0.99, "entropy_coeff": 0.001}, {"gamma": 0.95, "entropy_coeff": 0.01}
TABLE_3 = {
    "decoder_num_layers": 3,
    "decoder_hidden_size": 512,
    "decoder_fsq_levels": (8, 6, 5),
    "dynamics_num_levels": 3,
    "dynamics_blocks_per_level": 2,
    "dynamics_channels": 64,
    "dynamics_condition_size": 256,
    "reward_embedding_size": 256,
    "reward_num_layers": 6,
    "reward_num_heads": 4,
    "reward_dropout": 0.1,
}
TABLE_4 = {
    "decoder_batch_size": 256,
    "dynamics_batch_size": 64,
    "reward_batch_size": 128,
    "decoder_lr": 3e-4,
    "dynamics_lr": 1e-4,
    "reward_lr": 1e-4,
    "actor_lr": 5e-4,
    "critic_lr": 5e-4,
    "decoder_grad_clip": 10,
    "dynamics_grad_clip": 1,
    "reward_grad_clip": 10,
    "actor_grad_clip": 10,
    "critic_grad_clip": 10,
    "decoder_weight_decay": 0.01,
    "dynamics_weight_decay": 0.01,
    "reward_weight_decay": 0.01,
    "replay_capacity": 250_000,
    "decoder_updates_per_iteration": 200,
    "dynamics_updates_per_iteration": 200,
    "reward_updates_per_iteration": 200,
    "policy_updates_per_iteration": 4,
    "ppo_epochs": 5,
    "num_imagined_rollouts": 600,
    "sampler_solver": "euler",
    "conditioning": "sequential",
}
pytestmark = pytest.mark.usefixtures("registered")
FILES = sorted(examples_folder().glob("*.yaml"))


@pytest.fixture(scope="module")
def registered():
    """DIMA and its environments, also after another module has shut Ray down."""
    rllib_dima.register()


def read(name):
    """The experiment of an example, which has its file's name, and nothing of which is spelled in an old way."""
    (experiment_name, spec), *others = read_experiments(find_example(name)).items()
    assert (experiment_name, others) == (name, [])
    with contextlib.redirect_stderr(io.StringIO()) as notes:
        experiment = make_experiment(experiment_name, spec, {})
    assert " is now " not in notes.getvalue()
    return experiment


def config_of(experiment, variant):
    config = experiment.algorithm.get_default_config().update_from_dict(variant)
    config.validate()
    return config


@pytest.mark.parametrize("name", PAPER)
def test_published_tasks_have_the_papers_settings(name):
    experiment = read(name)
    env, steps = PAPER[name]
    assert (experiment.run, experiment.config["env"], env in ENV_IDS) == ("DIMA", env, True)
    assert experiment.stop == {"num_env_steps_sampled_lifetime": steps}
    hyperparameters = config_of(experiment, experiment.config).hyperparameters()
    is_hands = env.startswith("bidexhands")
    by_benchmark = {
        **(TABLE_1_HANDS if is_hands else TABLE_1_MAMUJOCO),
        "env_steps_per_iteration": 500 if is_hands else 200,
    }
    for setting, value in {**TABLE_1, **TABLE_3, **TABLE_4, **by_benchmark}.items():
        assert getattr(hyperparameters, setting) == value, setting
    for agents, denoising_steps in ((2, 4), (3, 3), (6, 6)):  # table 4: 2N for N <= 2, else N
        assert hyperparameters.denoising_steps(agents) == denoising_steps


@pytest.mark.parametrize("algorithm", [name for name in ALGORITHMS if name != "DIMA"])
def test_other_algorithms_have_all_published_tasks_in_two_files_and_a_small_one(algorithm):
    found = {}
    for suite in ("mamujoco", "bidexhands"):
        experiment = read(f"{algorithm.lower()}_{suite}")
        assert experiment.run == algorithm
        envs = [variant["env"] for variant in variants(experiment.config)]
        found |= dict.fromkeys(envs, experiment.stop["num_env_steps_sampled_lifetime"])
        for variant in variants(experiment.config):
            config_of(experiment, variant)
    assert found == dict(PAPER.values())
    assert read(f"{algorithm.lower()}_halfcheetah_2x3_nano").config["model_size"] == "nano"


def test_there_are_also_small_ones_a_sweep_and_one_of_rllibs():
    others = {file.stem for file in FILES} - set(PAPER)
    assert {name for name in others if name.endswith("_nano")} >= {"dima_ant_nano", "dima_halfcheetah_2x3_nano"}
    for name in others:
        experiment = read(name)
        if experiment.algorithm is DIMA:
            assert experiment.config["model_size"] == "nano"
    sweep = read("dima_halfcheetah_2x3_sweep")
    assert len({variant["conditioning"] for variant in variants(sweep.config)}) == 2
    assert sweep.config["dynamics_lr"].lower == 5e-4 and sweep.options["num_samples"] == 4
    assert read("ppo_cartpole").algorithm.__name__ == "PPO"


@pytest.fixture(scope="module")
def local_ray():
    """One Ray for all builds."""
    started = not ray.is_initialized()
    if started:
        ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False)
    yield
    if started:
        ray.shutdown()


@pytest.mark.parametrize("name", [file.stem for file in FILES])
def test_every_example_builds_with_a_learner_on_the_cpu(name, local_ray):
    experiment = read(name)
    variant = next(variants(experiment.config))
    config = config_of(experiment, variant).env_runners(num_envs_per_env_runner=1)
    algo = config.learners(num_gpus_per_learner=0).debugging(log_sys_usage=False).build_algo()
    assert algo.iteration == 0 and algo.config.env == variant["env"]
    algo.stop()


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_comments_name_commands_that_exist(file):
    lines = file.read_text().splitlines()
    assert lines[0].startswith("# ") and lines[0].endswith(".")
    commands = [line.removeprefix("#").strip() for line in lines if line.startswith("#   rllib")]
    assert f"rllib train file tuned_examples/{file.name}" in commands
    assert any(command.startswith(f"rllib evaluate ~/ray_results/{file.stem}") for command in commands)
    for command in commands:
        words = shlex.split(command.split("#")[0])[1:]
        if words[0] == "train":
            with train.make_context("train", words[1:]) as context:  # refuses unknown flags
                env = context.params["env"]
            if env is not None:
                ((name, spec),) = read_experiments(file).items()
                assert make_experiment(name, spec, {"env": env}).config["env"] == env


def test_an_environment_of_the_command_line_replaces_that_of_a_file(capsys):
    """Refused before Ray starts, as it is misspelt."""
    file = examples_folder() / "happo_mamujoco.yaml"
    assert main(["train", "file", str(file), "--env", "mamujoco_ant_4x3"]) == 2
    assert "Did you mean" in (found := capsys.readouterr().err) and "mamujoco_ant_4x2" in found


def test_examples_are_listed_filtered_and_printed(capsys):
    assert main(["example", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [file.stem for file in FILES]
    assert main(["example", "list", "--filter", "WALKER"]) == 0
    assert {line.split()[0] for line in capsys.readouterr().out.splitlines()} == {
        file.stem for file in FILES if "walker" in file.stem
    }
    for name in ("dima_ant", "dima_ant.yaml"):
        assert main(["example", "get", name]) == 0
        assert capsys.readouterr().out == find_example("dima_ant").read_text()


def test_a_reader_that_has_seen_enough_is_no_error():
    line = f"{sys.executable} -m rllib_dima example list | true; exit ${{PIPESTATUS[0]}}"
    run = subprocess.run(["bash", "-c", line], capture_output=True, text=True)
    assert (run.returncode, run.stderr) == (0, "")


def test_unknown_examples_are_refused(capsys):
    assert main(["example", "get", "dima_antt"]) == 2
    assert "Did you mean 'dima_ant'" in capsys.readouterr().err
    assert main(["example", "run", "nothing_like_it"]) == 2


SHIPPED = """
from distutils.core import run_setup
import setuptools

command = run_setup("setup.py", stop_after="init").get_command_obj("build_py")
command.ensure_finalized()
print(*(f"{package}/{file}" for package, _, _, files in command.data_files for file in files))
"""


def test_every_example_is_in_the_wheel():
    pytest.importorskip("setuptools")
    where = examples_folder().parent
    run = subprocess.run([sys.executable, "-c", SHIPPED], cwd=where, capture_output=True, text=True)
    assert set(run.stdout.split()) >= {f"rllib_dima.tuned_examples/{file.name}" for file in FILES}, run.stderr


def test_examples_are_found_inside_an_installed_package(tmp_path, monkeypatch):
    installed = tmp_path / "site-packages" / "rllib_dima"
    (installed / "tuned_examples").mkdir(parents=True)
    monkeypatch.setattr(rllib_dima, "__file__", str(installed / "__init__.py"))
    from rllib_dima.cli.errors import UsageError

    with pytest.raises(UsageError, match="has no tuned_examples"):
        examples_folder()
    (installed / "tuned_examples" / "dima_ant.yaml").write_text("# Ant.\n")
    assert examples_folder() == installed / "tuned_examples"
