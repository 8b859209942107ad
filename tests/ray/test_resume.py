"""A run that is saved and resumed in a new process continues bit for bit as if it had never stopped."""

import json
import os
import pathlib
import pickle
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
import tree
from support.core import SWIFT
from support.results import reported_numbers
from support.team import TINY

from rllib_dima import DIMA, DIMAConfig

HALFCHEETAH = "mamujoco_halfcheetah_2x3"
FEW_UPDATES = {  # of networks of the paper's size
    "decoder_updates_per_iteration": 20,
    "dynamics_updates_per_iteration": 20,
    "reward_updates_per_iteration": 20,
    "policy_updates_per_iteration": 1,
}
# Saves fall into running episodes. Those of "tiny", of two environments that make 10 steps each in an iteration, end in
# the fourth iteration, and it evaluates after the second and the fourth.
CASES = {
    "tiny": {
        "env": HALFCHEETAH,
        "env_config": {"max_episode_steps": 35},
        "settings": {**TINY, **SWIFT},
        "envs": 2,
        "evaluate": True,
        "before": 2,
        "after": 3,
    },
    "paper": {
        "env": HALFCHEETAH,
        "env_config": {},
        "settings": FEW_UPDATES,
        "envs": 1,
        "evaluate": False,
        "before": 1,
        "after": 1,
    },
}


def build(case):
    config = DIMAConfig().environment(case["env"], env_config=case["env_config"]).training(**case["settings"])
    config.debugging(seed=3).env_runners(num_envs_per_env_runner=case["envs"])
    if case["evaluate"]:
        config.evaluation(evaluation_interval=2, evaluation_duration=1)
    return config.build()


def train(algo, iterations, out):
    """Trains and writes everything that training depends on or reports."""
    results = [dict(reported_numbers(algo.train())) for _ in range(iterations)]
    learner = algo.learner_group._learner
    modules = {f"{m}/{n}": v for m, part in learner.module.get_state().items() for n, v in part.items()}
    learner.trainer.replay.save(out.with_suffix(".replay"))
    replay = torch.load(out.with_suffix(".replay"), weights_only=True)
    replay["open_episodes"] = list(replay["open_episodes"].values())  # RLlib names episodes at random
    everything = {"results": results, "modules": modules, "replay": replay, "trainer": learner.trainer.state_dict()}
    out.write_bytes(pickle.dumps(tree.map_structure(_as_array, everything)))


def _as_array(value):
    return value.numpy() if isinstance(value, torch.Tensor) else value


def in_new_process(case, command, *paths, wait=True):
    """Every process hashes strings in its own way, which orders Python's sets of agents."""
    arguments = [sys.executable, __file__, case, command, *map(str, paths)]
    hashing = {"PYTHONHASHSEED": {"straight": "1", "forever": "2", "resume": "3"}[command]}
    output = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    process = subprocess.Popen(arguments, env={**os.environ, **hashing}, **output)
    if not wait:
        return process
    output, _ = process.communicate(timeout=1500)
    assert process.returncode == 0, output[-4000:]
    return process


def assert_equal(left, right):
    left, right = pickle.loads(left.read_bytes()), pickle.loads(right.read_bytes())
    assert len(left["results"]) == len(right["results"]) and len(left["results"][0]) > 20
    np.testing.assert_equal(right, left)


@pytest.fixture(scope="module")
def straight(request, tmp_path_factory):
    """A run that never stopped: case, its checkpoint and what it trained."""
    folder = tmp_path_factory.mktemp("straight")
    in_new_process(request.param, "straight", folder / "checkpoint", folder / "straight")
    return request.param, folder / "checkpoint", folder / "straight"


@pytest.mark.parametrize("straight", ["tiny", pytest.param("paper", marks=pytest.mark.slow)], indirect=True)
def test_resuming_in_a_new_process_continues_bit_for_bit(straight, tmp_path):
    case, checkpoint, expected = straight
    in_new_process(case, "resume", checkpoint, tmp_path / "resumed")
    assert_equal(expected, tmp_path / "resumed")


@pytest.mark.parametrize("straight", ["tiny"], indirect=True)
def test_resuming_after_kill_9_continues_bit_for_bit(straight, tmp_path):
    """Killed at some moment of training, some iterations after the checkpoint."""
    case, _, expected = straight
    process = in_new_process(case, "forever", tmp_path / "killed", tmp_path / "trained", wait=False)
    deadline = time.monotonic() + 120
    while not (tmp_path / "trained").exists() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert json.loads((tmp_path / "trained").read_text()) > CASES[case]["before"]
    in_new_process(case, "resume", tmp_path / "killed", tmp_path / "resumed")
    assert_equal(expected, tmp_path / "resumed")


def main(name, command, checkpoint, out):
    """What the processes that the tests start do."""
    case, checkpoint, out = CASES[name], pathlib.Path(checkpoint), pathlib.Path(out)
    torch.set_num_threads(1)
    if command == "resume":
        train(DIMA.from_checkpoint(checkpoint), case["after"], out)
        return
    algo = build(case)
    for _ in range(case["before"]):
        algo.train()
    algo.save_to_path(checkpoint)
    if command == "straight":
        train(algo, case["after"], out)
    while command == "forever":
        iteration = algo.train()["training_iteration"]
        out.with_suffix(".new").write_text(json.dumps(iteration))
        os.replace(out.with_suffix(".new"), out)


if __name__ == "__main__":
    main(*sys.argv[1:])
