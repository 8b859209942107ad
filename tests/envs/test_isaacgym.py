"""The bridge to Isaac Gym, against a stand-in with Isaac Gym's and the benchmark's documented habits.

The worker runs under Python 3.8 if one with numpy is found, and else under this Python.
"""

import ast
import gc
import glob
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch
from ray.rllib.utils.pre_checks.env import check_multiagent_environments

from rllib_dima.envs.cooperative import CooperativeEnv
from rllib_dima.envs.isaacgym import process as process_module
from rllib_dima.envs.isaacgym import worker as isaacgym_worker
from rllib_dima.envs.isaacgym.env import IsaacGymBiDexHands
from rllib_dima.envs.outcomes import SimulationError

STANDIN = Path(__file__).parents[1] / "isaacgym_standin"
SUPPORTED = process_module.SUPPORTED_PYTHONS
SIZES = {  # observation, state, steps of the benchmark's episode
    "bottle_cap": (221, 420, 125),
    "door_open_inward": (218, 417, 250),
    "door_open_outward": (218, 417, 250),
    "pen": (218, 417, 125),
}
MAGIC = -63 / 64  # by which entries of the right hand's action make the stand-in do something, see its task.py:
LOSE_STATE, LOSE_REWARD, RAISE, LEAVE, CRASH, HANG, CHAT = range(7)
END, SOLVE = 24, 25


def old_pythons():
    named = [shutil.which("python3.8"), *glob.glob(os.path.expanduser("~/.pyenv/versions/3.8*/bin/python"))]
    return [python for python in named if python and runs(python, "import sys; assert sys.version_info[:2] == (3, 8)")]


def runs(python, code):
    return subprocess.run([python, "-c", code], capture_output=True).returncode == 0


@pytest.fixture(scope="module", autouse=True)
def python():
    """The worker's Python."""
    found = [python for python in old_pythons() if runs(python, "import numpy")]
    with pytest.MonkeyPatch.context() as patch:
        if not found:
            patch.setattr(process_module, "SUPPORTED_PYTHONS", (*SUPPORTED, sys.version_info[:2]))
        yield found[0] if found else sys.executable


@pytest.fixture(scope="module")
def env(python):
    """For tests that leave it usable."""
    env = IsaacGymBiDexHands("bottle_cap", python=python, bidexhands=STANDIN)
    yield env
    env.close()


@pytest.fixture(autouse=True)
def no_worker_is_left(env):
    yield
    if not workers() <= {env._simulator.process.pid}:
        gc.collect()  # a failed constructor may be part of a cycle, with its error
        assert workers() <= {env._simulator.process.pid}


@pytest.fixture
def make(python, no_worker_is_left):
    """Makes environments that are closed after the test."""
    made = []

    def make(task="bottle_cap", **arguments):
        made.append(IsaacGymBiDexHands(task, **{"python": python, "bidexhands": STANDIN, **arguments}))
        return made[-1]

    yield make
    for env in made:
        env.close()


@pytest.fixture
def checkout(tmp_path):
    """A copy of the stand-in, with further settings for the task or with other files."""

    def checkout(settings="", **files):
        shutil.copytree(STANDIN, tmp_path / "checkout")
        for name, text in files.items():
            (tmp_path / "checkout" / name / "__init__.py").write_text(text)
        with open(tmp_path / "checkout/bidexhands/cfg/ShadowHandBottleCap.yaml", "a") as file:
            file.write(settings)
        return tmp_path / "checkout"

    return checkout


def workers():
    """Processes of workers that this process has started and that still run."""
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            state, parent = (process / "stat").read_text().rpartition(") ")[2].split()[:2]
            if int(parent) == os.getpid() and state != "Z" and b"isaacgym_worker" in (process / "cmdline").read_bytes():
                found.add(int(process.name))
        except OSError:
            pass  # it has just ended
    return found


def act(right=(), left=(), **entries):
    """Actions of zeros, but for entries by number."""
    actions = {"agent_0": np.zeros(26, np.float32), "agent_1": np.zeros(26, np.float32)}
    for agent, values in (("agent_0", right), ("agent_1", left)):
        for index, value in dict(values).items():
            actions[agent][index] = value
    return actions


def command(index):
    return act(right={index: MAGIC})


def random_actions(rng):
    """Multiples of 1/64 inside (-1, 1), so that sums of them are exact."""
    return {agent: (rng.integers(-60, 61, 26) / 64).astype(np.float32) for agent in ("agent_0", "agent_1")}


def expected_state(size, progress, resets, steps, actions):
    """What the stand-in's head says."""
    state = np.array([((37 * i + 101 * progress) % 1000 - 500) / 64 for i in range(size)])
    state[173:199], state[372:398] = actions["agent_0"], actions["agent_1"]
    state[398:401] = progress / 128, resets / 128, steps / 1024
    return np.clip(state, -5, 5).astype(np.float32)


def counters(infos):
    """Steps since the reset, resets and steps so far."""
    progress, resets, steps = infos["agent_0"]["state"][398:401]
    return round(progress * 128), round(resets * 128), round(steps * 1024)


# What travels


@pytest.mark.parametrize("task", SIZES)
def test_sizes(make, task):
    env = make(task)
    observation_size, state_size, steps = SIZES[task]
    assert env.possible_agents == env.agents == ["agent_0", "agent_1"]
    assert env.max_steps == steps - 1
    assert env.state_space == gymnasium.spaces.Box(-5, 5, (state_size,), np.float32)
    for agent in env.agents:
        assert env.observation_spaces[agent] == gymnasium.spaces.Box(-5, 5, (observation_size,), np.float32)
        assert env.action_spaces[agent] == gymnasium.spaces.Box(-1, 1, (26,), np.float32)
    check_multiagent_environments(env)
    layout = CooperativeEnv(env).layout
    assert (layout.observation_size, layout.state_size) == (observation_size + 2, state_size)
    assert layout.action_sizes == (26, 26) and layout.appends_agent_id


@pytest.mark.parametrize("task", ["bottle_cap", "pen"])
def test_every_number_arrives_where_it_belongs(make, task):
    env = make(task)
    env.reset()
    rng = np.random.default_rng(0)
    for step in range(1, 8):
        actions = random_actions(rng)
        observations, rewards, terminateds, truncateds, infos = env.step(actions)
        progress = step + 1  # the reset took one
        state = expected_state(SIZES[task][1], progress, 1, progress, actions)
        assert np.abs(state).max() == 5
        np.testing.assert_array_equal(env.state(), state)
        np.testing.assert_array_equal(infos["agent_0"]["state"], state)
        np.testing.assert_array_equal(observations["agent_0"], np.concatenate([state[:199], state[398:]]))
        np.testing.assert_array_equal(observations["agent_1"], np.concatenate([state[199:398], state[398:]]))
        both = [*actions["agent_0"].tolist(), *actions["agent_1"].tolist()]
        reward = progress + sum((i + 1) * value for i, value in enumerate(both))
        assert rewards == {"agent_0": reward, "agent_1": reward}
        assert (terminateds, truncateds) == ({"__all__": False}, {"__all__": False})
        assert set(infos) == {"agent_0"} and infos["agent_0"]["success"] is False
    for array in (*observations.values(), env.state(), infos["agent_0"]["state"]):
        assert array.dtype == np.float32 and array.flags.writeable and array.base is None


def test_actions_are_clipped_and_order_of_the_dict_does_not_matter(env):
    env.reset()
    wide = {"agent_0": np.full(26, -2.5), "agent_1": np.linspace(-3, 1e300, 26)}  # more than float32 holds
    with np.errstate(over="raise"):
        env.step(dict(reversed(wide.items())))
    np.testing.assert_array_equal(env.state()[173:199], np.clip(wide["agent_0"], -1, 1))
    np.testing.assert_array_equal(env.state()[372:398], np.clip(wide["agent_1"], -1, 1))


def test_results_are_not_changed_by_later_steps(env):
    observations, infos = env.reset()
    before = observations["agent_1"].copy(), infos["agent_0"]["state"].copy(), env.state()
    env.state()[:] = 0
    infos["agent_0"]["state"][0] += 1
    np.testing.assert_array_equal(env.state(), before[2])
    env.step(act(right={9: 0.5}))
    np.testing.assert_array_equal(observations["agent_1"], before[0])


@pytest.mark.parametrize(
    "actions, message",
    [
        ({"agent_0": np.zeros(26)}, r"Missing: \['agent_1'\]"),
        ({"agent_0": np.zeros(26), "agent_1": np.zeros(25)}, r"'agent_1' has shape \(25,\)"),
        ({"agent_0": np.full(26, np.nan), "agent_1": np.zeros(26)}, "'agent_0' has NaN"),
    ],
)
def test_wrong_actions_do_not_reach_the_simulator(env, actions, message):
    _, infos = env.reset()
    with pytest.raises(ValueError, match=message):
        env.step(actions)
    *_, after = env.step(act())
    assert counters(after)[2] == counters(infos)[2] + 1


def test_the_simulators_output_is_kept_apart_and_does_not_pile_up(make):
    env = make()
    env.reset()
    *_, infos = env.step(command(CHAT))
    np.testing.assert_array_equal(infos["agent_0"]["state"], expected_state(420, 2, 1, 2, command(CHAT)))
    size = lambda: os.fstat(env._simulator._log.fileno()).st_size  # noqa: E731
    assert size() > 2**24
    env.step(act())
    assert size() == 0
    with pytest.raises(RuntimeError, match="Its last words:\nTraceback"):
        env.step(command(RAISE))


# Episodes


def test_reset_takes_a_step_of_small_random_actions_and_forgets_the_last_episode(make):
    env = make()
    _, infos = env.reset()
    noise = infos["agent_0"]["state"][np.r_[173:199, 372:398]]
    assert counters(infos) == (1, 1, 1)
    assert 0.005 < np.abs(noise).max() <= 0.01
    for _ in range(3):
        *_, infos = env.step(act())
    assert counters(infos) == (4, 1, 4)
    _, infos = env.reset()  # in mid-episode
    assert counters(infos) == (1, 2, 5)
    assert not np.array_equal(infos["agent_0"]["state"][173:199], noise[:26])


def test_seeds_fix_the_resets(make):
    def noise(env, **arguments):
        return env.reset(**arguments)[1]["agent_0"]["state"][np.r_[173:199, 372:398]].tolist()

    first, second, third, fourth = make(seed=5), make(seed=5), make(), make()
    noises = [noise(env) for env in (first, second, third, fourth)]
    assert noises[0] == noises[1] and noises[2] != noises[3]
    assert noise(first, seed=2) == noise(third, seed=2) != noise(second, seed=3)
    assert noise(first) == noise(third)


def test_ending_by_itself_terminates_with_the_last_observation(env):
    env.reset()
    env.step(act())
    observations, rewards, terminateds, truncateds, infos = env.step(command(END))
    assert (terminateds, truncateds) == ({"__all__": True}, {"__all__": False})
    assert counters(infos)[0] == 3 and observations["agent_0"][173 + END] == MAGIC  # not of the next episode
    assert rewards["agent_0"] == 3 + 25 * MAGIC
    with pytest.raises(RuntimeError, match="call reset"):
        env.step(act())
    resets = counters(infos)[1]
    _, infos = env.reset()
    assert counters(infos)[:2] == (1, resets + 1)


@pytest.mark.parametrize("wrap", [lambda env: env, CooperativeEnv], ids=["plain", "wrapped"])
def test_time_limit_truncates_one_step_early(env, wrap):
    env = wrap(env)
    env.reset()
    for step in range(1, 125):
        *_, terminateds, truncateds, infos = env.step(act())
        assert terminateds == {"__all__": False} and truncateds == {"__all__": step == 124}
    assert counters(infos)[0] == 125
    with pytest.raises(RuntimeError, match="call reset"):
        env.step(act())
    assert counters(env.reset()[1])[0] == 1


def test_an_end_just_before_the_limit_terminates_and_one_at_the_limit_truncates(env):
    for steps, flags in ((123, (True, False)), (124, (False, True))):
        env.reset()
        for _ in range(steps - 1):
            env.step(act())
        _, _, terminateds, truncateds, _ = env.step(command(END))
        assert (terminateds["__all__"], truncateds["__all__"]) == flags


def test_success_lasts_until_the_next_episode(env):
    env.reset()
    actions = [act(), command(SOLVE), act(), command(END)]
    assert [env.step(action)[-1]["agent_0"]["success"] for action in actions] == [False, True, True, True]
    assert env.reset()[1]["agent_0"]["success"] is False
    assert env.step(act())[-1]["agent_0"]["success"] is False


@pytest.mark.parametrize("index, what", [(LOSE_STATE, "state became NaN.*entries \\[7\\]"), (LOSE_REWARD, "reward")])
def test_numbers_that_are_not_finite_are_a_breakdown_and_a_reset_helps(env, index, what):
    env.reset()
    env.step(act())
    with pytest.raises(SimulationError, match=f"In step 2 .*{what}"):
        env.step(command(index))
    with pytest.raises(RuntimeError, match="call reset"):
        env.step(act())
    env.reset()
    env.step(act())


def test_an_end_within_the_reset_is_reported(make, checkout):
    env = make(bidexhands=checkout("fault: falls\n"))
    with pytest.raises(RuntimeError, match="the episode ended in its first step"):
        env.reset()


def test_an_episode_without_an_end_is_reported(make, checkout):
    env = make(bidexhands=checkout("fault: endless\n"))
    env.reset()
    for _ in range(123):
        env.step(act())
    with pytest.raises(RuntimeError, match="goes on after its 125 steps"):
        env.step(act())


# Failures of the simulator


@pytest.mark.parametrize(
    "index, error, message",
    [
        (RAISE, RuntimeError, "failed in step.*RuntimeError: CUDA error: an illegal memory access"),
        (LEAVE, RuntimeError, "failed in step.*SystemExit"),
        (CRASH, RuntimeError, "died in step 2, killed by SIGABRT(.|\n)*PhysX Internal CUDA error"),
        (HANG, TimeoutError, "did not answer in step 2 within 2 s(.|\n)*waiting for the GPU"),
    ],
)
def test_failure_in_a_step_ends_the_simulator_and_says_why(make, python, index, error, message):
    env = make(step_timeout_s=2)
    env.reset()
    env.step(act())
    with pytest.raises(error, match=message) as caught:
        env.step(command(index))
    assert python in str(caught.value)
    assert env._simulator.process.returncode is not None
    with pytest.raises(RuntimeError, match=r"The simulator has been ended, because it .*make a new environment"):
        env.reset()
    with pytest.raises(RuntimeError, match="call reset"):
        env.step(act())


def test_death_between_steps_is_noticed_in_the_next(make):
    env = make()
    env.reset()
    os.kill(env._simulator.process.pid, signal.SIGKILL)
    env._simulator.process.wait()
    with pytest.raises(RuntimeError, match="died in step 1, killed by SIGKILL"):
        env.step(act())


def test_interrupt_during_a_step_ends_the_simulator(make, monkeypatch):
    env = make()
    env.reset()

    def interrupt(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(env._simulator._channel, "receive", interrupt)
    with pytest.raises(KeyboardInterrupt):
        env.step(act())
    assert env._simulator.process.returncode == -signal.SIGKILL
    monkeypatch.undo()
    with pytest.raises(RuntimeError, match="because it was interrupted"):
        env.reset()


@pytest.mark.parametrize(
    "settings, files, message",
    [
        ("", {"isaacgym": "raise ImportError('libpython3.8.so')"}, "isaacgym: ImportError: libpython3.8.*pip install"),
        ("", {"bidexhands": "import a_module_that_is_missing"}, "could not import the benchmark: ModuleNotFoundError"),
        ("fault: quits\n", {}, "could not build the task: SystemExit(.|\n)*train.py(.|\n)*Failed to create sim"),
        ("fault: crashes\n", {}, "died at its start, killed by SIGABRT(.|\n)*Vulkan(.|\n)*Unhandled descriptor"),
        ("fault: hangs\n", {}, "did not answer at its start within 1 s(.|\n)*torch_extensions"),
    ],
)
def test_failure_at_the_start_is_explained(make, checkout, settings, files, message):
    with pytest.raises((RuntimeError, TimeoutError), match=message):
        make(bidexhands=checkout(settings, **files), start_timeout_s=1 if "hangs" in settings else 60)


def test_missing_isaacgym_is_not_taken_for_the_bridges_own_module(make, checkout):
    folder = checkout()
    shutil.rmtree(folder / "isaacgym")
    with pytest.raises(RuntimeError, match=r"ModuleNotFoundError: No module named 'isaacgym'\."):
        make(bidexhands=folder)


def test_hidden_and_missing_gpus(make, monkeypatch):
    with pytest.raises(RuntimeError, match=r"torch sees 2 GPU.*device is 'cuda:2'"):
        make(device="cuda:2")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(RuntimeError, match=r"is False.*CUDA_VISIBLE_DEVICES is ''.*num_gpus_per_env_runner"):
        make()


@pytest.mark.parametrize(
    "settings, message",
    [
        ("observationType: point_cloud\n", r"observations: \[2525, 2525\] instead of \[221, 221\].*point clouds"),
        ("resetSteps: 60\n", "steps of an episode: 60 instead of 125"),
    ],
)
def test_other_sizes_are_refused(make, checkout, settings, message):
    with pytest.raises(ValueError, match=message):
        make(bidexhands=checkout(settings))


# Wrong arguments


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"task": "bottlecap"}, "Unknown Bi-DexHands task 'bottlecap'. Did you mean 'bottle_cap'"),
        ({"render_mode": "rgb_array"}, "must be None.*MuJoCo version"),
        ({"device": "cpu"}, "device is 'cpu'.*'cuda:0'"),
        ({"device": 0}, "device is 0"),
        ({"start_timeout_s": 0}, "start_timeout_s is 0"),
        ({"step_timeout_s": float("nan")}, "step_timeout_s is nan"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": 2**32}, "seed is 4294967296"),
        ({"seed": 1.5}, "seed is 1.5"),
        ({"bidexhands": "/no/such/folder"}, "'/no/such/folder' does not exist.*git clone"),
        ({"bidexhands": STANDIN / "bidexhands"}, f"Give the folder above it: '{STANDIN}'"),
        ({"bidexhands": STANDIN / "torch"}, "has no bidexhands/__init__.py, bidexhands/cfg/ShadowHand.*, assets"),
        ({"python": "/no/such/python"}, "'/no/such/python' does not exist"),
        ({"python": "no_such_python"}, "'no_such_python' does not exist"),
        ({"python": STANDIN}, "is not an executable file"),
        ({"python": __file__}, "is not an executable file"),
        ({"python": "false"}, "could not be asked for its version"),
        ({"python": "echo"}, "could not be asked for its version"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_starts(make, arguments, message):
    with pytest.raises(ValueError, match=message):
        make(**arguments)


def test_other_pythons_are_refused_with_their_version(make, monkeypatch):
    monkeypatch.setattr(process_module, "SUPPORTED_PYTHONS", SUPPORTED)
    version = "{}.{}.{}".format(*sys.version_info[:3])
    with pytest.raises(ValueError, match=f"is Python {version}, but there is no Isaac Gym for it.*3.8"):
        make(python=sys.executable)


def test_a_program_that_is_no_python_is_quoted(make, tmp_path):
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\necho the licence has expired >&2\nexit 3\n")
    program.chmod(0o755)
    with pytest.raises(ValueError, match=r"exit status 3(.|\n)*the licence has expired"):
        make(python=program)


def test_no_images_and_no_copies_of_the_simulators_state(env):
    with pytest.raises(RuntimeError, match="no images"):
        env.render()
    assert not hasattr(env, "get_state") and not hasattr(env, "set_state")


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_seeds_of_resets_are_checked(env, seed):
    with pytest.raises(ValueError, match="seed is"):
        env.reset(seed=seed)


def test_there_is_no_state_before_the_first_reset(make):
    with pytest.raises(RuntimeError, match="call reset"):
        make().state()


# Processes


def test_two_bridges_do_not_disturb_each_other(make):
    left, right = make("bottle_cap"), make("pen", device="cuda:1")
    left.reset()
    right.reset()
    rng = np.random.default_rng(1)
    for step in range(2, 6):
        actions = random_actions(rng), random_actions(rng)
        states = [env.step(action)[-1]["agent_0"]["state"] for env, action in zip((left, right), actions, strict=True)]
        np.testing.assert_array_equal(states[0], expected_state(420, step, 1, step, actions[0]))
        np.testing.assert_array_equal(states[1], expected_state(417, step, 1, step, actions[1]))
    left.close()
    right.step(act())


def test_closing_ends_the_worker_and_further_use_says_so(make):
    env = make()
    env.reset()
    env.close()
    assert env._simulator.process.returncode == 0
    env.close()
    with pytest.raises(RuntimeError, match="call reset"):
        env.step(act())
    with pytest.raises(RuntimeError, match=r"because close\(\) was called"):
        env.reset()


def test_a_forgotten_environment_ends_its_worker(python):
    env = IsaacGymBiDexHands("pen", python=python, bidexhands=STANDIN)
    process, finalizer = env._simulator.process, env._simulator._finalizer
    assert process.poll() is None and finalizer.atexit
    del env
    gc.collect()
    assert process.returncode == 0


def test_the_worker_ends_when_the_other_process_is_killed(env, python):
    """Nothing of the other process can run then, so a bare one does here."""
    script = """
import json, os, signal, socket, subprocess, sys
ours, theirs = socket.socketpair()
options = {**json.loads(sys.argv[3]), "socket": theirs.fileno()}
worker = subprocess.Popen(
    [sys.argv[1], sys.argv[2], json.dumps(options)], cwd=sys.argv[4], pass_fds=[theirs.fileno()], stdout=2
)
ours.recv(1)
print(worker.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    options = json.dumps(env._simulator._setup.options(seed=0))
    arguments = [python, isaacgym_worker.__file__, options, str(STANDIN / "bidexhands")]
    killed = subprocess.run([sys.executable, "-S", "-c", script, *arguments], capture_output=True)
    assert killed.returncode == -signal.SIGKILL
    process = Path("/proc", killed.stdout.decode().strip())
    for _ in range(3000):
        if not process.exists() or (process / "stat").read_text().rpartition(") ")[2].startswith("Z"):
            return
        time.sleep(0.01)
    os.kill(int(process.name), signal.SIGKILL)
    pytest.fail("the worker goes on without the environment")


def test_the_worker_gets_its_own_pythons_variables(make, python, tmp_path, monkeypatch):
    (tmp_path / "numpy.py").write_text("raise ImportError('numpy of another Python')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("LD_LIBRARY_PATH", "/somewhere")
    env = make()
    text = Path("/proc", str(env._simulator.process.pid), "environ").read_text()
    variables = dict(line.split("=", 1) for line in text.split("\0") if line)
    assert "PYTHONPATH" not in variables
    assert variables["PATH"] == os.path.dirname(python) + ":" + os.environ["PATH"]
    library_dir, rest = variables["LD_LIBRARY_PATH"].split(":")
    assert rest == "/somewhere"
    assert runs(python, f"import sysconfig; assert sysconfig.get_config_var('LIBDIR') == {library_dir!r}")


class OneTensorTask:
    """The benchmark's interface with tensors of torch itself; the reward is the product of the first two actions."""

    num_envs, num_agents = 1, 2
    observation_space = [np.zeros(3)] * 2  # only the shape matters
    share_observation_space = [np.zeros(4)] * 2
    action_space = (np.zeros(2),) * 2

    def __init__(self):
        self.task = self
        self.device, self.max_episode_length = "cpu", 9
        self.reset_buf, self.successes = torch.ones(1, dtype=torch.long), torch.zeros(1)

    def results(self, value):
        return torch.full((1, 2, 3), value) + torch.tensor([[[0.0], [1.0]]]), torch.full((1, 2, 4), 10 * value)

    def reset(self):
        assert self.reset_buf.tolist() == [1]
        self.reset_buf = torch.zeros(1, dtype=torch.long)
        return *self.results(torch.rand(1).item()), None

    def step(self, actions):
        assert [action.shape for action in actions] == [(1, 2), (1, 2)]
        self.successes = torch.ones(1)
        reward = torch.full((1, 2, 1), (actions[0][0, 0] * actions[1][0, 1]).item(), requires_grad=True)
        return *self.results(2.0), reward, torch.ones((1, 2), dtype=torch.long), torch.zeros((2, 0)), None


def test_the_worker_understands_torchs_own_tensors():
    def read(result):
        return isaacgym_worker.OUTCOME.unpack_from(result), np.frombuffer(result, np.float32, offset=6).tolist()

    simulator = isaacgym_worker.Simulator(OneTensorTask(), torch)
    sizes = {"environments": 1, "agents": 2, "observations": [3, 3], "states": [4, 4], "actions": [2, 2]}
    assert simulator.sizes == {**sizes, "steps of an episode": 9}
    torch.manual_seed(4)
    first = torch.rand(1).item()
    for _ in range(2):
        outcome, numbers = read(simulator.reset(isaacgym_worker.SEED.pack(4)))
        assert not any(outcome[:2]) and numbers[4] == np.float32(first)
    outcome, numbers = read(simulator.step(np.array([[0.5, 3], [5, 0.25]], np.float32).tobytes()))
    assert outcome == (0.125, True, True)
    assert numbers == [20.0] * 4 + [2.0] * 3 + [3.0] * 3


def test_the_worker_needs_only_numpy_and_old_syntax():
    source = Path(isaacgym_worker.__file__).read_text()
    tree = ast.parse(source, feature_version=(3, 7))
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.split(".")[0] for name in imported} <= {*sys.stdlib_module_names, "numpy"}
    for python in old_pythons():
        assert runs(python, f"compile(open({isaacgym_worker.__file__!r}).read(), 'worker', 'exec')")
