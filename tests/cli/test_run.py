"""The `rllib` command from end to end: training, failing, resuming, evaluating and filming."""

import contextlib
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys

import imageio.v2
import numpy as np
import pytest
import ray
from ray import cloudpickle
from ray.rllib.algorithms.ppo import PPO
from support.team import TINY

from rllib_dima.cli import main
from rllib_dima.cli.checkpoints import find_checkpoint, require_restorable
from rllib_dima.cli.console import ProgressLines
from rllib_dima.policy import Policy

# The reward depends on the actions and on a number drawn at reset, and every frame tells the step.
TEAM = """\
import numpy as np
from gymnasium.spaces import Box
from ray.rllib.env.multi_agent_env import MultiAgentEnv

from rllib_dima import DIMAConfig


class Team(MultiAgentEnv):
    metadata = {"render_fps": 4}

    def __init__(self, config=None):
        super().__init__()
        self.config = dict(config or {})
        self.agents = self.possible_agents = ["left", "right"]
        self.observation_spaces = dict.fromkeys(self.agents, Box(-9, 9, (3,), np.float32))
        self.action_spaces = dict.fromkeys(self.agents, Box(-1, 1, (1,), np.float32))
        self.render_mode = self.config.get("render_mode")
        self.random = np.random.default_rng()

    def observe(self):
        return {name: np.full(3, self.x + i, np.float32) for i, name in enumerate(self.agents)}

    def reset(self, *, seed=None, options=None):
        self.random = self.random if seed is None else np.random.default_rng(seed)
        self.step_count, self.x = 0, self.random.uniform(-1, 1)
        return self.observe(), {}

    def step(self, actions):
        self.step_count += 1
        if self.step_count == self.config.get("fails_at"):
            raise RuntimeError("the cable broke")
        reward = float(10 * self.x + actions["left"][0] - actions["right"][0])
        flags = {"__all__": self.step_count == 7}
        return self.observe(), dict.fromkeys(self.agents, reward), {"__all__": False}, flags, {}

    def render(self):
        is_blind = self.render_mode is None or self.config.get("is_blind")
        return None if is_blind else np.full((16, 16, 3), 30 * self.step_count, np.uint8)


config = DIMAConfig().environment(Team).training(**SETTINGS).debugging(seed=3)
stop = {"training_iteration": 2}
"""


@pytest.fixture(scope="module")
def team_file(tmp_path_factory):
    """The file of an experiment with an environment of its own."""
    file = tmp_path_factory.mktemp("files") / "team.py"
    file.write_text(TEAM.replace("SETTINGS", repr(TINY)))
    return str(file)


@pytest.fixture(scope="module")
def results(team_file, tmp_path_factory):
    """The folder of an experiment that `rllib train file` ran."""
    folder = tmp_path_factory.mktemp("results")
    assert main(["train", "file", team_file, "--storage-path", str(folder), "--stop", '{"training_iteration": 3}']) == 0
    yield folder / "team"
    with contextlib.suppress(Exception):
        ray.shutdown()


def printed_returns(out):
    return [float(value) for value in re.findall(r"episode +\d+ +steps +7 +return +(-?[\d.]+)", out)]


def expected_returns(checkpoint, team, seed, episodes):
    """The team's returns by a loop of our own over the exported policy."""
    policy, env, returns = Policy.from_checkpoint(checkpoint), team(), []
    for episode in range(episodes):
        observations, _ = env.reset(seed=seed if episode == 0 else None)
        returns.append(0.0)
        for _ in range(7):
            observations, rewards, *_ = env.step(policy.act(observations))
            returns[-1] += rewards["left"]
    return returns


def test_training_with_a_smaller_stop_writes_a_checkpoint_that_evaluate_loads(results, team_file, tmp_path, capsys):
    from rllib_dima.cli.experiment.files import import_code

    checkpoint, video = find_checkpoint(results), tmp_path / "new" / "team.gif"
    assert checkpoint.name == "checkpoint_000000" and (checkpoint / "dima_checkpoint.json").is_file()
    assert len((results / checkpoint.parent.name / "result.json").read_text().splitlines()) == 3

    assert main(["evaluate", str(results), "--episodes", "3", "--seed", "1", "--out", str(video), "--film", "2"]) == 0
    out = capsys.readouterr().out
    expected = expected_returns(checkpoint, import_code(team_file).Team, seed=1, episodes=3)
    np.testing.assert_allclose(printed_returns(out), expected, atol=0.051)
    mean, spread = re.search(r"mean return (-?[\d.]+) \+- ([\d.]+) over 3 episodes", out).groups()
    np.testing.assert_allclose([float(mean), float(spread)], [np.mean(expected), np.std(expected, ddof=1)], atol=0.051)

    frames = [frame[0, 0, 0] for frame in imageio.v2.mimread(video)]
    np.testing.assert_allclose(frames, 2 * [30 * step for step in range(8)], atol=3)
    assert imageio.v2.get_reader(video).get_meta_data()["duration"] == 250  # milliseconds at 4 frames per second


def test_evaluate_reads_neither_world_model_nor_replay(results, tmp_path, capsys):
    bare = tmp_path / "bare"
    shutil.copytree(find_checkpoint(results), bare)
    for part in ("replay_buffer.pt", "rl_module/world_model", "rl_module/critic", "state.pkl"):
        path = bare / "learner_group" / "learner" / part
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert main(["evaluate", str(bare), "--episodes", "1", "--seed", "1"]) == 0
    (first,) = printed_returns(capsys.readouterr().out)
    assert main(["evaluate", str(bare), "--episodes", "1", "--seed", "1", "--explore"]) == 0
    assert printed_returns(capsys.readouterr().out) != [first]


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        (["--run", "PPO"], 2, "of DIMA, not of PPO"),
        (["--config", '{"explore": true}'], 2, "give --explore"),
        (["--out", "x.avif"], 2, "must end in one of .mp4"),
        (["--out", f"{__file__}/x.mp4"], 2, "x.mp4 cannot be written"),
        (["--film", "2"], 2, "add --out FILE"),
        (["--config", '{"dynamic_lr": 1}'], 2, "Did you mean 'dynamics_lr'"),
        (["--config", '{"env_config": {"fails_at": 3}}'], 1, "Episode 1 failed: .*the cable broke"),
        (["--env", "mamujoco_halfcheetah_2x3"], 1, "cannot be loaded|cannot be built"),
        (["--env", "CartPole-v1"], 1, "cannot be built"),
        (["--env", "mamujoco_ant_4x2", "--config", '{"env_config": {"xyzzy": 1}}'], 1, r" version\.\n\Z"),
    ],
)
def test_evaluations_that_cannot_be_are_one_message(results, flags, code, message, capsys):
    assert main(["evaluate", str(results), "--episodes", "1", *flags]) == code
    assert re.search(message, err := capsys.readouterr().err) and err.startswith("rllib: ")


def test_restore_refuses_foreign_and_damaged_checkpoints_before_a_trial_starts(results, team_file, tmp_path, capsys):
    damaged, foreign = tmp_path / "damaged", tmp_path / "foreign"
    shutil.copytree(find_checkpoint(results), damaged)
    file = damaged / "learner_group/learner/replay_buffer.pt"
    file.write_bytes(file.read_bytes()[:-3])
    foreign.mkdir()
    (foreign / "rllib_checkpoint.json").write_text("{}")
    record = {"class": PPO, "ctor_args_and_kwargs": ((PPO.get_default_config().get_state(),), {})}
    (foreign / "class_and_ctor_args.pkl").write_bytes(cloudpickle.dumps(record))
    ppo = ["--run", "PPO", "--env", "CartPole-v1"]
    for command, checkpoint, message in (
        (["file", team_file], damaged, "replay_buffer.pt is damaged"),
        (["file", team_file], foreign, "PPO"),
        (ppo, results, "is a checkpoint of DIMA, not of PPO"),
    ):
        assert main(["train", *command, "--restore", str(checkpoint), "--storage-path", str(tmp_path)]) == 2
        assert message in capsys.readouterr().err
    require_restorable(foreign, type("Mine", (PPO,), {}))


@pytest.mark.parametrize("display", [None, ":987"])
def test_without_a_display_nothing_is_shown_and_python_goes_on(display, tmp_path):
    environment = {name: value for name, value in os.environ.items() if name not in ("DISPLAY", "WAYLAND_DISPLAY")}
    environment |= {} if display is None else {"DISPLAY": display}
    (tmp_path / "rllib_checkpoint.json").write_text("{}")
    line = [sys.executable, "-m", "rllib_dima", "evaluate", str(tmp_path), "--render"]
    run = subprocess.run(line, capture_output=True, text=True, env=environment)
    assert run.returncode == 2 and run.stderr.startswith("rllib: --render needs a display"), run.stderr


def test_a_video_in_the_making_says_how_far_it_is(results, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("rllib_dima.cli.video.FRAMES_PER_LINE", 3)
    assert main(["evaluate", str(results), "--episodes", "2", "--out", str(tmp_path / "v.gif")]) == 0
    filmed = re.findall(r"filmed (\d+) frames|^(episode +\d+ +steps)", capsys.readouterr().out, re.M)
    assert [bool(number) for number, _ in filmed] == [True, True, False, False]  # eight frames of the first episode
    assert len(imageio.v2.mimread(tmp_path / "v.gif")) == 8


def test_a_damaged_policy_is_refused(results, tmp_path, capsys):
    damaged = tmp_path / "damaged"
    shutil.copytree(find_checkpoint(results), damaged)
    file = damaged / "learner_group/learner/rl_module/shared_policy/module_state.pkl"
    file.write_bytes(file.read_bytes()[:-3])
    assert main(["evaluate", str(damaged), "--episodes", "1"]) == 1
    assert "module_state.pkl is damaged" in capsys.readouterr().err


def test_an_environment_that_draws_nothing_cannot_be_filmed(results, tmp_path, capsys):
    flags = ["--config", '{"env_config": {"is_blind": true}}', "--out", str(tmp_path / "v.gif")]
    assert main(["evaluate", str(results), "--episodes", "1", *flags]) == 1
    assert "draws no picture: its render() returned None" in capsys.readouterr().err
    assert not (tmp_path / "v.gif").exists()


def test_an_environment_registered_by_code_is_found_after_importing_it(results, team_file, tmp_path, capsys):
    flags = ["evaluate", str(results), "--episodes", "1", "--seed", "1", "--env", "registered_team"]
    assert main(flags) == 1
    assert "must be named with --import" in capsys.readouterr().err
    code = pathlib.Path(team_file).read_text() + "\nfrom ray import tune\ntune.register_env('registered_team', Team)\n"
    (tmp_path / "registering.py").write_text(code)
    assert main([*flags, "--import", str(tmp_path / "registering.py")]) == 0
    by_name = printed_returns(capsys.readouterr().out)
    assert main(["evaluate", str(results), "--episodes", "1", "--seed", "1"]) == 0
    assert by_name == printed_returns(capsys.readouterr().out)


def test_a_failed_trial_is_one_message_and_code_1(team_file, results, tmp_path, capsys):
    settings = '{"env_config": {"fails_at": 5}}'
    flags = ["--storage-path", str(tmp_path), "-n", "failing", "--config", settings]
    assert main(["train", "file", team_file, *flags]) == 1
    err = capsys.readouterr().err
    assert "failed: RuntimeError: Environment" in err and "the cable broke" in err and "Traceback" not in err
    (error_file,) = re.findall(r"The traceback is in (\S+)", err)
    assert "the cable broke" in pathlib.Path(error_file).read_text()


def test_after_ctrl_c_the_same_command_with_resume_goes_on(team_file, results, tmp_path, capsys, monkeypatch):
    command = ["train", "file", team_file, "--storage-path", str(tmp_path), "--stop", '{"training_iteration": 3}']
    command += ["--config", '{"seed": 5}']
    printed = ProgressLines.on_trial_result

    def interrupt(lines, iteration, trials, trial, result, **info):
        printed(lines, iteration, trials, trial, result)
        if result["training_iteration"] == 2:
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(ProgressLines, "on_trial_result", interrupt)
        assert main(command) == 130
    out = capsys.readouterr().out
    assert "To go on, add --resume to the same command" in out and "iteration    3" not in out
    first = find_checkpoint(tmp_path / "team")

    other = [*command[:-1], '{"seed": 6}']
    assert main([*other, "--resume"]) == 2
    assert "config/seed was 5, not 6" in capsys.readouterr().err
    assert main([*command, "--resume"]) == 0
    out, err = capsys.readouterr()
    assert f"goes on after iteration 2 from {first}" in out and "no stop criterion" not in err
    assert "iteration    3" in out and "iteration    1 " not in out and "iteration    2 " not in out
    assert find_checkpoint(tmp_path / "team").name == "checkpoint_000001"


@pytest.mark.slow
def test_a_sweep_resumes_and_restores(team_file, tmp_path, capsys):
    storage = ["--storage-path", str(tmp_path)]
    grid = '{"conditioning": {"grid_search": ["joint", "cumulative"]}, "actor_lr": {"loguniform": [1e-4, 1e-3]}, '
    grid += '"env_steps_per_iteration": 6}'  # the first report comes before the first episode's end
    sweep = ["--config", grid, "--num-samples", "2", "--scheduler", "asha"]
    assert main(["train", "file", team_file, *storage, "-n", "sweep", *sweep]) == 0
    assert len(list((tmp_path / "sweep").glob("DIMA_Team_*"))) == 4
    best = find_checkpoint(tmp_path / "sweep")
    assert f"rllib evaluate {best}" in capsys.readouterr().out

    assert main(["train", "file", team_file, *storage, "-n", "sweep", "--resume"]) == 0  # nothing is left to do
    assert capsys.readouterr().out.count("2 iterations") == 4

    stop = '{"training_iteration": 4}'
    flags = ["--restore", str(tmp_path / "sweep"), "--stop", stop]
    assert main(["train", "file", team_file, *storage, "-n", "restored", *flags]) == 0
    out = capsys.readouterr().out
    assert "iteration    3 " in out and "iteration    4 " in out and "iteration    1 " not in out


@pytest.mark.slow
def test_rllibs_own_ppo_runs_from_yaml_and_is_evaluated(tmp_path, capsys):
    stop = '{"training_iteration": 2}'
    assert main(["example", "run", "ppo_cartpole", "--storage-path", str(tmp_path), "--stop", stop]) == 0
    video = tmp_path / "cartpole.mp4"
    assert (
        main(["evaluate", str(tmp_path / "ppo_cartpole"), "--episodes", "2", "--seed", "0", "--out", str(video)]) == 0
    )
    out = capsys.readouterr().out
    steps = [int(steps) for steps in re.findall(r"steps +(\d+) +return +\1\.0", out)]  # a reward of 1 per step
    assert len(steps) == 2
    reader = imageio.v2.get_reader(video)
    assert reader.count_frames() == steps[0] + 1 and reader.get_meta_data()["fps"] == 50


@pytest.mark.slow
def test_a_trial_that_the_machine_is_too_small_for_is_refused(team_file, tmp_path, capsys):
    flags = ["--storage-path", str(tmp_path), "--config", '{"num_env_runners": 500, "env_steps_per_iteration": 500}']
    assert main(["train", "file", team_file, *flags]) == 1
    assert re.search(r"A trial needs CPU: 501 \(Ray has \d+\)", capsys.readouterr().err)
