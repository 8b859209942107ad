"""Global states drawn: the poses taken are those that the simulators were in."""

import mujoco
import numpy as np
import pytest

from rllib_dima.envs.bidexhands import TASKS, BiDexHands
from rllib_dima.envs.bidexhands.poses import best_fit
from rllib_dima.envs.bidexhands.rendering import Camera
from rllib_dima.envs.cooperative import CooperativeEnv
from rllib_dima.envs.mamujoco.env import MAMuJoCo

SHOWN = {"exclude_current_positions_from_observation": False}
ROBOTS = [  # and the generalised positions that are in no state
    ("Ant", "4x2", "v4", {}, [0, 1]),
    ("Ant", "2x4", "v5", {"state_padding": 3}, [0, 1]),
    ("CoupledHalfCheetah", "1p1", None, {}, [0, 9]),
    ("HalfCheetah", "2x3", "v4", {}, [0]),
    ("HalfCheetah", "2x3", "v5", SHOWN, []),
    ("Hopper", "3x1", "v4", {}, [0]),
    ("Humanoid", "9|8", "v4", {}, [0, 1]),
    ("Humanoid", "9|8", "v5", {}, [0, 1]),
    ("HumanoidStandup", "9|8", "v4", {}, [0, 1]),
    ("ManySegmentAnt", "2x2", "v5", {}, [0, 1]),
    ("ManySegmentSwimmer", "3x1", "v5", {}, [0, 1]),
    ("Pusher", "3p", "v5", {}, []),
    ("Reacher", "2x1", "v4", {}, []),
    ("Reacher", "2x1", "v5", {}, []),
    ("Swimmer", "2x1", "v4", {}, [0, 1]),
    ("Walker2d", "3x2", "v5", {}, [0]),
]


def played(env, data, steps):
    """What was saved at the first of a few random steps, all states, and the poses in which they were."""
    rng = np.random.default_rng(0)
    env.reset(seed=3)
    start, states, poses = env.get_state(), [env.state()], [data.qpos.copy()]
    for _ in range(steps):
        env.step({a: rng.uniform(-1, 1, s.shape).astype(np.float32) for a, s in env.action_spaces.items()})
        states.append(env.state())
        poses.append(data.qpos.copy())
    return start, np.stack(states), np.stack(poses)


@pytest.mark.parametrize(("scenario", "conf", "version", "settings", "hidden"), ROBOTS)
def test_robots_take_the_poses_of_their_states(scenario, conf, version, settings, hidden, monkeypatch):
    env = MAMuJoCo(scenario, conf, version=version, render_mode="rgb_array", **settings)
    start, states, poses = played(env, env.env.data, 8)
    monkeypatch.setattr(env.env, "render", lambda: env.env.data.qpos.copy())
    before = env.get_state()
    drawn = np.stack(list(env.render_states(states, start)))
    np.testing.assert_equal(env.get_state(), before)
    for pose in poses:  # robots start with a quaternion of another length
        mujoco.mj_normalizeQuat(env.env.model, pose)
    error = drawn - poses
    if scenario == "Reacher":  # whose angles are seen but for whole turns
        error[:, :2] = (error[:, :2] + np.pi) % (2 * np.pi) - np.pi
    np.testing.assert_allclose(np.delete(error, hidden, axis=1), 0, atol=1e-6)
    np.testing.assert_array_equal(error[0, hidden], 0)
    travelled = np.abs(np.diff(poses[:, hidden], axis=0)).sum(axis=0)
    assert (np.abs(error[:, hidden]).max(axis=0) < 0.15 * travelled).all()


def test_the_object_of_pusher_is_drawn_where_it_was_pushed(monkeypatch):
    env = MAMuJoCo("Pusher", "3p", render_mode="rgb_array")
    env.reset(seed=0)
    env.env.set_state(env.env.data.qpos + np.linspace(-0.1, 0.1, 11), env.env.data.qvel)
    env._read(env.env._get_obs())
    monkeypatch.setattr(env.env, "render", lambda: env.env.data.qpos.copy())
    (drawn,) = env.render_states(env.state()[None], env.get_state())
    np.testing.assert_allclose(drawn, env.env.data.qpos, atol=1e-6)


@pytest.mark.parametrize("task", TASKS)
def test_hands_and_objects_take_the_poses_of_their_states(task, monkeypatch):
    env = BiDexHands(task, render_mode="rgb_array")
    data = env.simulation.data
    start, states, poses = played(env, data, 25)
    data.qpos[env.simulation.model.joint("object/slide" if data.qpos.size > 64 else "object/left_hinge").qposadr] = 0.05
    mujoco.mj_step1(env.simulation.model, data)
    env._read_state()
    states, poses = np.vstack([states, env.state()]), np.vstack([poses, data.qpos])
    monkeypatch.setattr(Camera, "__init__", lambda self, model: None)
    monkeypatch.setattr(Camera, "image", lambda self, data: data.qpos.copy())
    before = env.get_state()
    drawn = np.stack(list(env.render_states(states, start)))
    np.testing.assert_equal(env.get_state(), before)
    if task == "bottle_cap":  # whose turning nobody sees
        drawn[:, -1] = poses[:, -1]
    quaternions = [3, 34, *([65] if data.qpos.size > 64 else [])]
    for first in quaternions:
        entries = slice(first, first + 4)
        drawn[:, entries] *= np.sign((drawn[:, entries] * poses[:, entries]).sum(axis=1, keepdims=True))
    np.testing.assert_allclose(drawn, poses, atol=2e-5)
    assert np.abs(poses[-2] - poses[0]).max() > 0.1 and abs(poses[-1] - poses[-2]).max() > 0.04


def test_points_are_fitted_best_by_the_motion_that_made_them():
    rng = np.random.default_rng(1)
    own, rotation, turn = rng.normal(size=(6, 3)), np.zeros(9), rng.normal(size=4)
    mujoco.mju_quat2Mat(rotation, turn / np.linalg.norm(turn))
    own[:, 2] = 0  # in a plane, where a mirror image fits as well
    found, quaternion = best_fit(own, own @ rotation.reshape(3, 3).T + [1, 2, 3])
    np.testing.assert_allclose(found, [1, 2, 3], atol=1e-12)
    np.testing.assert_allclose(np.abs(quaternion @ turn), np.linalg.norm(turn), rtol=1e-12)


@pytest.mark.parametrize("env_id", ["HalfCheetah", "pen"])
def test_states_of_something_else_are_refused(env_id):
    env = (
        BiDexHands("pen", render_mode="rgb_array")
        if env_id == "pen"
        else MAMuJoCo(env_id, "2x3", render_mode="rgb_array")
    )
    team = CooperativeEnv(env, state="observations")
    team.reset()
    with pytest.raises(ValueError, match="Only the environment's own states"):
        next(iter(team.render_states(team.state()[None], team.get_state())))
