"""`rllib imagine` on a checkpoint of networks that were never trained, written without an algorithm."""

import re
import shutil

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box
from ray import cloudpickle
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.env.env_context import EnvContext
from support.core import randomize
from support.team import TINY, Team

from rllib_dima import DIMA, DIMAConfig
from rllib_dima.analysis import simulator_sensitivity
from rllib_dima.analysis.checkpoint import WORLD_MODEL_FOLDER, load_world_model
from rllib_dima.analysis.collecting import play_episode
from rllib_dima.checkpoint import CheckpointError, locate, write_manifest
from rllib_dima.cli import main
from rllib_dima.core.dima.world_model import WorldModel
from rllib_dima.core.policy.networks import Actor
from rllib_dima.envs import make
from rllib_dima.envs.cooperative import CooperativeEnv
from rllib_dima.learning.rl_modules import TeamNetwork
from rllib_dima.policy import POLICY_FOLDER, save_weights


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """What DIMA writes of the policy and the world model."""
    folder, config = tmp_path_factory.mktemp("made") / "checkpoint", DIMAConfig().environment(Team).training(**TINY)
    layout, hp = CooperativeEnv(Team(EnvContext({}, 0))).layout, config.hyperparameters()
    for part in (POLICY_FOLDER, WORLD_MODEL_FOLDER):
        (folder / part).mkdir(parents=True)
    torch.manual_seed(0)
    model_config = {"network": WorldModel, "layout": layout, "hyperparameters": hp}
    box = Box(-1, 1, (2,), np.float32)  # which RLlib wants, and nothing reads
    module = RLModuleSpec(TeamNetwork, observation_space=box, action_space=box, model_config=model_config).build()
    randomize(module.net, scale=0.1)
    module.save_to_path((folder / WORLD_MODEL_FOLDER).as_posix())
    actor = Actor(layout, hp)
    save_weights(locate(folder / POLICY_FOLDER), actor, {k: v.numpy() for k, v in actor.state_dict().items()})
    record = {"class": DIMA, "ctor_args_and_kwargs": ((config.get_state(),), {})}
    (folder / "class_and_ctor_args.pkl").write_bytes(cloudpickle.dumps(record))
    (folder / "rllib_checkpoint.json").write_text("{}")
    write_manifest(folder, "DIMA")
    return folder


def test_it_prints_a_table_and_writes_a_report_in_one_file(checkpoint, tmp_path, capsys):
    report, rows = tmp_path / "new" / "team.html", {}
    flags = ["--episodes", "2", "--segments", "9", "--horizon", "3", "--seed", "1", "--out", str(report)]
    assert main(["imagine", str(checkpoint), *flags]) == 0
    out = capsys.readouterr().out
    assert "9 segments of up to 3 steps" in out and len(re.findall(r"^episode +\d", out, re.MULTILINE)) == 2
    for line in out.splitlines():
        if line.startswith(("nothing changes", "as trained", "ascending")):
            name, *numbers = re.split(r"  +", re.sub(r"\[.*\]", "  ", line))
            rows[name] = [float(number) for number in numbers[:4]]
    assert len(rows) == 3 and np.isfinite(list(rows.values())).all()
    page = report.read_text()
    assert page.count("data:image/png;base64,") in (6, 8) and "http" not in page and " nan" not in page.lower()
    assert main(["imagine", str(checkpoint), "--horizon", "4", "--out", str(report)]) == 2
    assert "imagination_horizon of 3" in capsys.readouterr().err
    assert "as trained" in page and report.stat().st_size > 50_000


@pytest.mark.parametrize(
    ("part", "message"),
    [(WORLD_MODEL_FOLDER, "holds no world model"), (f"{WORLD_MODEL_FOLDER}/module_state.pkl", "is not whole")],
)
def test_it_refuses_a_checkpoint_without_a_whole_world_model(checkpoint, part, message, tmp_path):
    bare = tmp_path / "bare"
    shutil.copytree(checkpoint, bare)
    if (bare / part).is_dir():
        shutil.rmtree(bare / part)
        write_manifest(bare, "DIMA")
    else:
        (bare / part).write_bytes(b"")
    with pytest.raises(CheckpointError, match=message):
        load_world_model(bare)


def test_the_world_model_is_the_one_saved(checkpoint):
    first, second = load_world_model(checkpoint), load_world_model(str(checkpoint))
    assert not first.training and first.state_dict().keys() == second.state_dict().keys()
    torch.manual_seed(0)
    fresh = randomize(WorldModel(CooperativeEnv(Team(EnvContext({}, 0))).layout, first.hp), scale=0.1)
    for name, value in fresh.named_parameters():
        torch.testing.assert_close(first.get_parameter(name), value, rtol=0, atol=0)


def test_saved_states_are_those_that_the_recorded_actions_were_taken_in():
    env = CooperativeEnv(make("mamujoco_halfcheetah_2x3", max_episode_steps=12))
    random, agents = np.random.default_rng(0), env.layout.agent_ids
    act = lambda seen: {agent: random.uniform(-1, 1, 3).astype(np.float32) for agent in seen}  # noqa: E731
    episode = play_episode(env, act, seed=1, snapshot_every=5)
    trajectory = episode.trajectory
    assert len(trajectory) == 12 and list(episode.snapshots) == [0, 5, 10] and trajectory.truncated
    for step, snapshot in episode.snapshots.items():
        env.set_state(snapshot)
        infos = env.step(dict(zip(agents, trajectory.actions[step], strict=True)))[-1]
        np.testing.assert_array_equal(infos[agents[0]]["state"], trajectory.states[step + 1])
    before = env.state()
    snapshots, actions = list(episode.snapshots.values()), trajectory.actions[[0, 5, 10]]
    found = simulator_sensitivity(env, snapshots, actions, np.ones(env.layout.state_size))
    np.testing.assert_array_equal(env.state(), before)
    velocities = found.matrix[:, 11:]  # of the joints, agent 0's three before agent 1's
    assert velocities[0, :3].sum() > velocities[1, :3].sum() and velocities[1, 3:].sum() > velocities[0, 3:].sum()
