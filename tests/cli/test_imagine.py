"""`rllib imagine` on a checkpoint of networks that were never trained, written without an algorithm."""

import re
import shutil
from dataclasses import replace
from types import SimpleNamespace

import mujoco
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box
from ray import cloudpickle
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.env.env_context import EnvContext
from support.core import TINY_MAMBA, TINY_MARIE, random_observations, random_trajectory, randomize, tiny
from support.team import TINY, Team

import rllib_dima
from rllib_dima import DIMA, DIMAConfig
from rllib_dima.analysis import simulator_sensitivity
from rllib_dima.analysis.checkpoint import REPLAY_FILE, WORLD_MODEL_FOLDER, load_world_model
from rllib_dima.analysis.collecting import Episode, play_episode
from rllib_dima.analysis.examination import SIMULATOR, examine, table
from rllib_dima.analysis.film import NUM_HELD, caption, frames, shots
from rllib_dima.analysis.observations import examine_observations, observation_table
from rllib_dima.analysis.page import observation_page
from rllib_dima.analysis.replaying import require_horizon, steps_shown
from rllib_dima.checkpoint import CheckpointError, locate, write_manifest
from rllib_dima.cli import main
from rllib_dima.cli.imagination import _play
from rllib_dima.core.dima.world_model import WorldModel
from rllib_dima.core.policy.networks import Actor
from rllib_dima.core.replay.buffer import ReplayBuffer
from rllib_dima.core.training.random_numbers import own_random_numbers
from rllib_dima.envs import make
from rllib_dima.envs.cooperative import CooperativeEnv
from rllib_dima.envs.mamujoco.env import MAMuJoCo
from rllib_dima.envs.outcomes import SimulationError
from rllib_dima.learning.rl_modules import TeamNetwork
from rllib_dima.policy import POLICY_FOLDER, save_weights

SMALL = {"MARIE": TINY_MARIE, "MAMBA": TINY_MAMBA}


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


def test_a_plain_mlp_learns_from_the_replay_of_the_checkpoint(checkpoint, tmp_path, capsys):
    flags = ["--episodes", "1", "--segments", "5", "--out", str(tmp_path / "report.html"), "--baseline", "2"]
    assert main(["imagine", str(checkpoint), *flags]) == 1
    assert "holds no replay buffer" in capsys.readouterr().err
    with_replay, layout = tmp_path / "with", CooperativeEnv(Team(EnvContext({}, 0))).layout
    shutil.copytree(checkpoint, with_replay)
    replay = ReplayBuffer(layout, TINY["replay_capacity"])
    replay.add(random_trajectory(layout, 40))
    replay.save(with_replay / REPLAY_FILE)
    write_manifest(with_replay, "DIMA")
    assert main(["imagine", str(with_replay), *flags]) == 0
    out = capsys.readouterr().out
    assert "2 updates on the 40 steps" in out
    rows = {line[:15]: line.split()[2:6] for line in out.splitlines() if line.startswith(("plain MLP  ", "nothing"))}
    assert len(rows) == 2 and np.isfinite([float(cell) for row in rows.values() for cell in row]).all()


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


@pytest.fixture(scope="module")
def examined():
    """Episodes of a robot, and what a world model that was never trained makes of them."""
    env = CooperativeEnv(make("mamujoco_halfcheetah_2x3", max_episode_steps=25, render_mode="rgb_array"))
    random = np.random.default_rng(0)
    act = lambda seen: {agent: random.uniform(-1, 1, 3).astype(np.float32) for agent in seen}  # noqa: E731
    episodes = [play_episode(env, act, seed=seed, snapshot_every=10) for seed in range(2)]
    torch.manual_seed(0)
    model = randomize(WorldModel(env.layout, tiny(imagination_horizon=6)), scale=0.1).eval()
    model.normalizer.update(torch.from_numpy(episodes[0].trajectory.states))
    return env, episodes, model, examine(model, env, episodes, 8, 6)


def test_a_film_says_what_the_table_says(examined):
    _, _, model, found = examined
    told = [shot for segment in range(8) for shot in shots(model, found, segment)]
    assert sum(shot.step == 0 for shot in told) == 8
    errors = found.trained
    rows = dict(line.split("  ", 1) for line in table(found).splitlines() if "  " in line)
    for step, count in enumerate(errors.counts, 1):
        now = [shot for shot in told if shot.step == step]
        assert len(now) == count
        assert np.mean([shot.error for shot in now]) == pytest.approx(errors.state_by_step[step - 1], rel=1e-5)
        assert {shot.mean_error for shot in now} == {errors.state_by_step[step - 1]}
        difference = np.mean([abs(shot.rewards[0] - shot.rewards[1]) for shot in now])
        assert difference == pytest.approx(errors.rewards[step - 1], rel=1e-5)
        if step in steps_shown(errors):
            cell = rows["as trained"].split()[steps_shown(errors).index(step)]
            assert float(cell) == pytest.approx(now[0].mean_error, rel=1e-3)
            assert f"mean of all segments {now[0].mean_error:.3f}" in caption(now[0])[1]
        (number, first), shot = found.segments.places[now[0].segment], now[0]
        trajectory = episode_of(examined, number)
        np.testing.assert_array_equal(shot.states[0], trajectory.states[first + step])
        assert shot.rewards[0] == trajectory.rewards[first + step - 1]
        z = model.normalizer(torch.from_numpy(shot.states)).numpy()
        assert np.abs(z[0] - z[1]).mean() == pytest.approx(shot.error, rel=1e-3)


@pytest.mark.parametrize("first_only", [True, False])
def test_a_report_says_how_many_starts_have_no_derivative(examined, monkeypatch, first_only):
    env, episodes, model, _ = examined
    advance = MAMuJoCo._advance

    def fragile(self, actions):
        if first_only and self._num_steps > 1:
            return advance(self, actions)
        raise SimulationError("unstable")

    monkeypatch.setattr(MAMuJoCo, "_advance", fragile)
    found = examine(model, env, episodes, 2, 2)
    count = 2 if first_only else 6  # two episodes, with a saved state at 0, 10 and 20
    assert found.num_starts == 6 and found.left_out == {SIMULATOR: count}
    assert f"{count} of 6 starts left out" in table(found) and " nan" not in table(found)
    assert (SIMULATOR in found.sensitivities) == first_only
    assert {known.num_starts for known in found.sensitivities.values()} == {4 if first_only else 6}
    assert all(np.isfinite(known.matrix).all() for known in found.sensitivities.values())


def test_episodes_that_are_all_the_same_are_not_taken_for_several(capsys):
    env = CooperativeEnv(make("bidexhands_pen", episode_steps=3))
    still = SimpleNamespace(
        reset=lambda: None, act=lambda seen, deterministic: dict.fromkeys(seen, np.zeros(26, np.float32))
    )
    _play(env, still, True, 1, 0)
    assert not capsys.readouterr().err
    _play(env, still, True, 2, 0)
    assert "--explore" in capsys.readouterr().err


def episode_of(examined, number):
    return examined[1][number].trajectory


def test_a_film_shows_the_real_robot_on_the_left_and_the_imagined_one_on_the_right(examined, monkeypatch):
    env, episodes, model, found = examined
    drawn, data = [], env.unwrapped.env.data
    picture = np.zeros((8, 10, 3), np.uint8)
    monkeypatch.setattr(env.unwrapped.env, "render", lambda: drawn.append(data.qpos.copy()) or picture)
    before = env.get_state()
    pictures = list(frames(model, env, episodes, found, 2))
    np.testing.assert_equal(env.get_state(), before)
    for segment in range(2):
        told, (number, first) = shots(model, found, segment), found.segments.places[segment]
        length = len(told)
        (left, right), drawn = np.split(np.stack(drawn[: 2 * length]), 2), drawn[2 * length :]
        env.set_state(episodes[number].snapshots[0])
        actions, agents = episode_of(examined, number).actions, env.layout.agent_ids
        for step in range(first + length):
            if step >= first:
                np.testing.assert_allclose(left[step - first], data.qpos, atol=1e-6)  # with its x
            if step < len(actions):
                env.step(dict(zip(agents, actions[step], strict=True)))
        np.testing.assert_array_equal(left[0], right[0])
        np.testing.assert_allclose(right[:, 1:], [shot.states[1][:8] for shot in told], atol=1e-6)
        velocities = np.array([shot.states[1][8] for shot in told])
        moved = np.cumsum((velocities[1:] + velocities[:-1]) / 2) * 0.05
        np.testing.assert_allclose(right[1:, 0] - right[0, 0], moved, atol=1e-5)
        assert np.abs(left[-1] - right[-1]).max() > 0.01
    shown = [len(shots(model, found, segment)) for segment in range(2)]
    assert len(pictures) == sum(shown) + 2 * 2 * (NUM_HELD - 1) and pictures[0].shape[1] == 2 * 10 + 10


def test_a_film_ends_before_states_that_are_no_numbers(examined):
    _, _, model, found = examined
    states = found.imagined.states.clone()
    states[0, 3, 5] = float("inf")
    broken = replace(found, imagined=replace(found.imagined, states=states))
    told = shots(model, broken, 0)
    assert [shot.step for shot in told] == [0, 1, 2, 3] and told[-1].length == 3
    assert len(shots(model, broken, 1)) == len(shots(model, found, 1))


def test_an_environment_that_does_not_do_the_same_again_is_not_filmed(examined, monkeypatch):
    env, episodes, model, found = examined
    other = replace(episodes[0].trajectory, actions=-episodes[0].trajectory.actions)
    wrong = [replace(episodes[0], trajectory=other), replace(episodes[1], trajectory=other)]
    with pytest.raises(RuntimeError, match="leads to another state"):
        next(frames(model, env, wrong, found, 1))


def test_an_environment_of_ones_own_joins_a_film_by_its_hook(checkpoint, tmp_path, capsys, monkeypatch):
    film, flags = tmp_path / "film.gif", ["--episodes", "1", "--segments", "3", "--out", str(tmp_path / "r.html")]
    assert main(["imagine", str(checkpoint), *flags, "--film", "2"]) == 2
    assert "add --video" in capsys.readouterr().err
    assert main(["imagine", str(checkpoint), *flags, "--video", str(film)]) == 2
    assert "render_states(states, start)" in capsys.readouterr().err and not film.exists()
    given = []

    def render_states(self, states, start):
        for state in states:
            given.append((state, start))
            yield np.full((20, 20, 3), min(255, int(abs(state[0]))), np.uint8)

    monkeypatch.setattr(Team, "render_states", render_states, raising=False)
    assert main(["imagine", str(checkpoint), *flags, "--film", "1", "--video", str(film)]) == 0
    assert f"video: {film}" in capsys.readouterr().out and film.stat().st_size > 0
    states, starts = zip(*given, strict=True)
    assert set(starts) == {None} and {len(state) for state in states} == {4}
    np.testing.assert_array_equal(states[1], states[1 + (len(states) - 1) // 2])  # both sides begin alike


def test_a_machine_that_cannot_draw_is_told_what_to_install(checkpoint, tmp_path, capsys, monkeypatch):
    def no_context(width, height):
        raise ImportError("libEGL.so.1: cannot open shared object file")

    def render_states(self, states, start):
        raise AttributeError("'NoneType' object has no attribute 'eglQueryString'")

    flags = ["--video", str(tmp_path / "film.gif"), "--out", str(tmp_path / "r.html")]
    monkeypatch.setattr(Team, "render_states", render_states, raising=False)
    assert main(["imagine", str(checkpoint), *flags]) == 1  # not the machine's fault
    assert "eglQueryString" in capsys.readouterr().err
    monkeypatch.setattr(mujoco, "GLContext", no_context)
    assert main(["imagine", str(checkpoint), *flags]) == 2
    told = " ".join(capsys.readouterr().err.split())
    assert "libEGL.so.1" in told and "apt-get install libegl1" in told and "libosmesa6" in told


@pytest.mark.parametrize("algorithm", ["MARIE", "MAMBA"])
def test_models_of_observations_are_judged_by_these(algorithm):
    config = getattr(rllib_dima, f"{algorithm}Config")
    layout, hp = CooperativeEnv(Team(EnvContext({}, 0))).layout, config.hyperparameter_class(**SMALL[algorithm])
    torch.manual_seed(0)
    model = config.trainer_class.NETWORKS["world_model"](layout, hp).eval()
    episodes = [
        Episode(replace(random_trajectory(layout, 6, n), last_observations=random_observations(layout).numpy()), {})
        for n in (0, 1)
    ]
    found = examine_observations(model, layout, episodes, 9, 3)
    segments, mask = found.segments, layout.own_observation_mask()
    start, truth = segments.start.observations[:, -1:], segments.next_observations
    valid = segments.observed[:, 1]
    change = ((truth[:, 1:2] - start)[valid] * mask).abs().mean(dim=(0, 1))
    np.testing.assert_allclose(found.held.observations[1], change, rtol=1e-5)
    with torch.no_grad(), own_random_numbers(0):
        simulation = model.reset(segments.start)
        steps = [simulation.step(segments.actions[:, step]) for step in range(3)]
    error = ((steps[1].observations - truth[:, 1])[valid] * mask).abs().mean(0)
    np.testing.assert_allclose(found.trained.observations[1], error, rtol=1e-5)
    rewards = (steps[0].rewards.mean(1) - segments.rewards[:, 0]).abs()[segments.valid[:, 0]].mean()
    np.testing.assert_allclose(found.trained.rewards[0], rewards, rtol=1e-5)
    text = observation_table(found)
    assert "nothing changes" in text and "predicts no global state" in text and " nan" not in text
    assert "Errors by agent" in observation_page(found, "title")
    if algorithm == "MARIE":
        with pytest.raises(ValueError, match="holds 3 imagined steps"):
            require_horizon(hp, 4)
