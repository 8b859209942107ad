"""The Bi-DexHands environment: every block of observation and state, resets, flags, state dicts, bad input."""

import copy
import dataclasses
import math
import pickle

import mujoco
import numpy as np
import pytest
from ray.rllib.utils.pre_checks.env import check_multiagent_environments

from rllib_dima.envs.bidexhands import TASKS, BiDexHands
from rllib_dima.envs.bidexhands.tasks import Outcome
from rllib_dima.envs.cooperative import SIMULATION_ERROR, CooperativeEnv

# From the benchmark's files: limits of the joints, in the order of the observation.
FINGER = [(-0.349, 0.349), (0, 1.571), (0, 1.571), (0, 1.571)]
RANGES = [(-0.489, 0.140), (-0.698, 0.489), *FINGER, *FINGER, *FINGER, (0, 0.785), *FINGER]
RANGES += [(-1.047, 1.047), (0, 1.222), (-0.209, 0.209), (-0.524, 0.524), (-1.571, 0)]
JOINTS = ["WRJ1", "WRJ0", "FFJ3", "FFJ2", "FFJ1", "FFJ0", "MFJ3", "MFJ2", "MFJ1", "MFJ0", "RFJ3", "RFJ2", "RFJ1"]
JOINTS += ["RFJ0", "LFJ4", "LFJ3", "LFJ2", "LFJ1", "LFJ0", "THJ4", "THJ3", "THJ2", "THJ1", "THJ0"]
FINGERS = ("ff", "mf", "rf", "lf", "th")
HANDS = ("right", "left")
HAND_START = np.array([[1, 0, 0], [0, 0, -1], [0, 1, 0]]) @ np.diag([-1, -1, 1])  # Rx(90 deg) Rz(180 deg)

# At the reset, from the benchmark's files: palms; object points; sums of finger distances; Euler angles of the base.
CHECKS = {
    "bottle_cap": (
        [(0, -0.7205, 0.6686), (0.0076, -0.6200, 0.4564)],
        [(0, -0.6, 0.5), (-0.0966, -0.6, 0.6147), (-0.0058, -0.6070, 0.4951)],
        (0.8057, None),
        [(3.642, 0, 0), (0, 0.87, 0)],
        [(1.071, 0, 3.142), (4.712, 5.413, 3.142)],
        1.146,
    ),
    "door_open_inward": (
        [(0.18, 0.1903, 0.60), (0.18, -0.1897, 0.60)],
        [(0.0456, -0.0304, 0.7167), (0.0485, 0.0365, 0.7167)],
        (1.0533, 1.1673),
        [(3.142, 1.57, 1.57), (3.142, 4.713, 1.57)],
        [(1.571, 4.713, 4.712), (1.571, 1.57, 4.712)],
        -0.221,
    ),
    "door_open_outward": (
        [(0.18, 0.1903, 0.60), (0.18, -0.1897, 0.60)],
        [(0.0344, -0.0304, 0.6833), (0.0315, 0.0365, 0.6833)],
        (1.0106, 1.0944),
        [(3.142, 1.57, 1.57), (3.142, 4.713, 1.57)],
        [(1.571, 4.713, 4.712), (1.571, 1.57, 4.712)],
        -0.105,
    ),
    "pen": (
        [(0.18, 0.2003, 0.79), (0.18, -0.1997, 0.79)],
        [(0, 0.1, 0.6125), (0, -0.07, 0.6125)],
        (1.1934, 1.3351),
        [(3.142, 0, 1.57), (3.142, 0, 1.57)],
        [(1.571, 0, 4.712), (1.571, 0, 4.712)],
        8e-6,
    ),
}
FINGERTIPS = {  # right forefinger and thumb
    "bottle_cap": [(-0.0330, -0.6379, 0.7365), (-0.0846, -0.7593, 0.6027)],
    "door_open_inward": [(0.0750, 0.2104, 0.6330), (0.1673, 0.2012, 0.6976)],
    "door_open_outward": [(0.0750, 0.2104, 0.6330), (0.1673, 0.2012, 0.6976)],
    "pen": [(0.0750, 0.1674, 0.8100), (0.1673, 0.1027, 0.8010)],
}


def as_dict(actions):
    return {"agent_0": actions[0], "agent_1": actions[1]}


def play(env, num_steps, seed=0, scale=0.5, until_end=False):
    """Gaussian actions; what the steps returned."""
    rng = np.random.default_rng(seed)
    results = []
    for _ in range(num_steps):
        results.append(env.step(as_dict(rng.normal(0, scale, (2, 26)))))
        if until_end and (results[-1][2]["__all__"] or results[-1][3]["__all__"]):
            break
    return results


def never_ending(env):
    """The same environment, with a task that never terminates."""
    outcome = env.task.outcome
    env.task = dataclasses.replace(env.task, outcome=lambda points: outcome(points)._replace(terminated=False))
    return env


def scripted(env, *outcomes):
    """The same environment, with given outcomes, the last for ever."""
    remaining = list(outcomes)
    env.task = dataclasses.replace(
        env.task, outcome=lambda points: remaining.pop(0) if len(remaining) > 1 else remaining[0]
    )
    return env


def rotation_of(roll, pitch, yaw):
    """Rz Ry Rx."""
    (a, b, c), (d, e, f) = np.cos((roll, pitch, yaw)), np.sin((roll, pitch, yaw))
    about_x = np.array([[1, 0, 0], [0, a, -d], [0, d, a]])
    about_y = np.array([[b, 0, e], [0, 1, 0], [-e, 0, b]])
    about_z = np.array([[c, -f, 0], [f, c, 0], [0, 0, 1]])
    return about_z @ about_y @ about_x


@pytest.fixture(scope="module", params=TASKS)
def moved(request):
    """An environment after some steps, with what the last one returned and its actions."""
    env = never_ending(BiDexHands(request.param))
    env.reset()
    play(env, 12, seed=3, scale=0.3)
    actions = np.random.default_rng(4).normal(0, 0.8, (2, 26))
    return env, env.step(as_dict(actions)), actions


def clipped(values):
    return np.clip(values, -5, 5)


def hand_block(moved, index):
    env, (*_, infos), actions = moved
    state = infos["agent_0"]["state"]
    return env, state[199 * index : 199 * (index + 1)], actions[index]


def velocity_at(env, name, point):
    """Linear velocity of a point of a body, and its angular velocity, in world axes, by Jacobians."""
    model, data = env.simulation.model, env.simulation.data
    linear, angular = np.zeros((3, model.nv)), np.zeros((3, model.nv))
    mujoco.mj_jac(model, data, linear, angular, point, model.body(name).id)
    return linear @ data.qvel, angular @ data.qvel


def test_sizes_and_spaces(moved):
    env, (observations, rewards, terminateds, truncateds, infos), _ = moved
    object_size = 22 if env.task.name == "bottle_cap" else 19
    assert list(observations) == ["agent_0", "agent_1"] == env.possible_agents
    assert env.state_space.shape == (398 + object_size,) == infos["agent_0"]["state"].shape
    for agent, observation in observations.items():
        assert env.observation_spaces[agent].shape == (199 + object_size,) == observation.shape
        assert env.observation_spaces[agent].contains(observation) and observation.dtype == np.float32
        assert env.action_spaces[agent].shape == (26,)
        assert env.action_spaces[agent].low.tolist() == [-1] * 26 and env.action_spaces[agent].high.tolist() == [1] * 26
    assert env.state_space.contains(infos["agent_0"]["state"])
    assert rewards["agent_0"] == rewards["agent_1"]
    assert terminateds == {"__all__": False} == truncateds
    assert list(infos) == ["agent_0"] and infos["agent_0"]["success"] is False


def test_observations_are_own_hand_and_object(moved):
    env, (observations, *_, infos), _ = moved
    state = infos["agent_0"]["state"]
    np.testing.assert_array_equal(observations["agent_0"], np.concatenate([state[:199], state[398:]]))
    np.testing.assert_array_equal(observations["agent_1"], np.concatenate([state[199:398], state[398:]]))
    np.testing.assert_array_equal(env.state(), state)


@pytest.mark.parametrize("index", [0, 1])
def test_joint_entries(moved, index):
    env, block, _ = hand_block(moved, index)
    data = env.simulation.data
    joints = [data.joint(f"{HANDS[index]}/robot0:{name}") for name in JOINTS]
    low, high = np.array(RANGES).T
    positions = np.array([joint.qpos[0] for joint in joints])
    np.testing.assert_allclose(block[:24], clipped((2 * positions - high - low) / (high - low)), atol=1e-5)
    np.testing.assert_allclose(block[24:48], clipped(0.2 * np.array([joint.qvel[0] for joint in joints])), atol=1e-5)
    np.testing.assert_allclose(block[48:72], clipped(10 * env.simulation.joint_forces[index]), atol=1e-5)
    assert np.abs(block[48:72]).max() > 0.1


@pytest.mark.parametrize("index", [0, 1])
def test_fingertip_entries(moved, index):
    env, block, _ = hand_block(moved, index)
    for finger, entries in zip(FINGERS, block[72:137].reshape(5, 13), strict=True):
        name = f"{HANDS[index]}/robot0:{finger}distal"
        body = env.simulation.data.body(name)
        linear, angular = velocity_at(env, name, body.xipos)
        expected = np.concatenate([body.xpos, body.xquat[[1, 2, 3, 0]], linear, angular])
        np.testing.assert_allclose(entries, clipped(expected), atol=2e-5)
        assert np.abs(linear).max() > 1e-3 and np.abs(angular).max() > 1e-2
    wrenches = env.simulation.fingertip_wrenches[index].reshape(-1)
    np.testing.assert_allclose(block[137:167], clipped(10 * wrenches), atol=1e-5)


def test_contact_forces_are_observed_at_ten_times_and_clipped():
    env = never_ending(BiDexHands("bottle_cap"))
    env.reset()
    close = np.zeros((2, 26))
    close[1, 8:], close[1, -1] = 1.0, -1.0  # the left hand closes around the bottle
    for _ in range(40):
        *_, infos = env.step(as_dict(close))
    entries = infos["agent_0"]["state"][199 + 137 : 199 + 167]
    np.testing.assert_allclose(entries, clipped(10 * env.simulation.fingertip_wrenches[1].reshape(-1)), atol=1e-5)
    assert np.abs(entries).max() == 5.0 and 0 < np.abs(entries[entries != 0]).min() < 5


@pytest.mark.parametrize("index", [0, 1])
def test_palm_base_and_action_entries(moved, index):
    env, block, actions = hand_block(moved, index)
    palm = env.simulation.data.body(f"{HANDS[index]}/robot0:palm")
    expected = palm.xpos + palm.xmat.reshape(3, 3) @ (0, -0.02, 0.08)
    np.testing.assert_allclose(block[167:170], expected, atol=1e-5)
    assert (block[170:173] >= 0).all()
    angles = block[170:173]
    if (angles < 5).all():  # else clipped
        mount = env.simulation.data.body(f"{HANDS[index]}/robot0:hand mount").xmat.reshape(3, 3)
        np.testing.assert_allclose(rotation_of(*angles) @ HAND_START, mount, atol=2e-5)
    np.testing.assert_allclose(block[173:], np.clip(actions, -1, 1), atol=1e-6)
    assert (np.abs(actions) > 1).any()


def test_object_entries(moved):
    env, (*_, infos), _ = moved
    entries = infos["agent_0"]["state"][398:]
    root = env.simulation.data.body("object/root")
    linear, angular = velocity_at(env, "object/root", root.xpos)
    expected = np.concatenate([root.xpos, root.xquat[[1, 2, 3, 0]], linear, 0.2 * angular])
    np.testing.assert_allclose(entries[:13], clipped(expected), atol=1e-5)
    targets = np.concatenate([_target(env.simulation.data, *target) for target in TARGETS[env.task.name]])
    np.testing.assert_allclose(entries[13:], targets, atol=1e-5)
    if env.task.name.startswith("door"):
        np.testing.assert_array_equal(entries[7:13], 0)


INWARD, OUTWARD = 0.04, -0.04
TARGETS = {  # body, point in its own frame
    "bottle_cap": [("root", (0, 0, 0)), ("root", (0, 0, 0.15)), ("cap", (0, 0, 0))],
    "door_open_inward": [("left", (-0.39, -0.5, INWARD)), ("right", (0.39, -0.5, INWARD))],
    "door_open_outward": [("left", (-0.39, -0.5, OUTWARD)), ("right", (0.39, -0.5, OUTWARD))],
    "pen": [("cap", (0, -0.1, 0)), ("body", (0, 0.07, 0))],
}


def _target(data, body, point):
    body = data.body(f"object/{body}")
    return body.xpos + body.xmat.reshape(3, 3) @ point


def test_points_are_those_of_the_bodies(moved):
    env, _, _ = moved
    points, data = env.points(), env.simulation.data
    for hand, fingers in (("right", points.right_fingers), ("left", points.left_fingers)):
        for finger, point in zip(FINGERS, fingers, strict=True):
            body = data.body(f"{hand}/robot0:{finger}distal")
            np.testing.assert_allclose(point, body.xpos + body.xmat.reshape(3, 3) @ (0, 0, 0.02), atol=1e-9)
    targets = [_target(data, *target) for target in TARGETS[env.task.name]]
    np.testing.assert_allclose(points.targets, targets, atol=1e-9)


@pytest.mark.parametrize("task", TASKS)
def test_start_is_the_benchmarks(task):
    env = BiDexHands(task)
    _, infos = env.reset()
    palms, targets, sums, angles, link_angles, reward = CHECKS[task]
    points, state = env.points(), infos["agent_0"]["state"]
    np.testing.assert_allclose([points.right_palm, points.left_palm], palms, atol=1e-4)
    np.testing.assert_allclose(points.targets, targets, atol=2e-4)
    np.testing.assert_allclose([points.right_fingers[0], points.right_fingers[4]], FINGERTIPS[task], atol=1e-4)
    goals = [points.targets[1], None] if task == "bottle_cap" else points.targets
    right_goal, left_goal = goals if task in ("bottle_cap", "pen") else goals[::-1]
    for fingers, goal, expected in zip(
        (points.right_fingers, points.left_fingers), (right_goal, left_goal), sums, strict=True
    ):
        if expected is not None:
            assert sum(math.dist(finger, goal) for finger in fingers) == pytest.approx(expected, abs=5e-4)
    if task == "bottle_cap":
        assert math.dist(points.left_palm, points.targets[0]) == pytest.approx(0.0485, abs=1e-4)
        assert math.dist(points.right_palm, points.targets[1]) == pytest.approx(0.1636, abs=1e-4)
    outcome = env.task.outcome(points)
    assert outcome.reward == pytest.approx(reward, abs=1e-6 if task == "pen" else 6e-4)
    assert not outcome.terminated and not outcome.success
    _assert_angles(state, angles)
    _, infos = BiDexHands(task, root_rotation="link").reset()
    _assert_angles(infos["agent_0"]["state"], link_angles)
    for index in (0, 1):
        hand = state[199 * index : 199 * (index + 1)]
        np.testing.assert_array_equal(hand[24:72], 0)
        np.testing.assert_array_equal(hand[173:], 0)
        positions = dict(zip(JOINTS, (hand[:24] * (np.diff(RANGES)[:, 0]) + np.sum(RANGES, axis=1)) / 2, strict=True))
        start = {"THJ4": -1.04, "THJ3": 1.2, "THJ0": -1.57} if task == "bottle_cap" else {}
        for name, position in positions.items():
            assert position == pytest.approx(start.get(name, 0.0), abs=1e-5)


def _assert_angles(state, expected):
    """Equal modulo a full turn; what is above 5 is clipped."""
    for index in (0, 1):
        given = state[199 * index + 170 : 199 * index + 173]
        for angle, value in zip(given, expected[index], strict=True):
            was_clipped = angle == 5.0 and (value == 0 or value > 4.98)  # a full turn or nearly
            assert was_clipped or math.cos(angle - value) > 1 - 1e-5


@pytest.mark.parametrize("task", TASKS)
def test_resets_are_deterministic(task):
    env = BiDexHands(task, seed=1)
    first = env.reset()
    trace = play(env, 8)
    second = env.reset(seed=7)
    np.testing.assert_equal(first, second)
    np.testing.assert_equal(trace, play(env, 8))


def test_actions_are_clipped():
    env, other = BiDexHands("pen"), BiDexHands("pen")
    env.reset()
    other.reset()
    actions = np.random.default_rng(0).normal(0, 3, (2, 26))
    np.testing.assert_equal(env.step(as_dict(actions)), other.step(as_dict(np.clip(actions, -1, 1))))


@pytest.mark.parametrize("task", TASKS)
def test_state_dict_goes_on_bit_by_bit(task):
    env = never_ending(BiDexHands(task))
    env.reset()
    play(env, 25, scale=0.8)
    saved = pickle.loads(pickle.dumps(env.get_state()))
    expected = play(env, 15, seed=1)
    fresh = never_ending(BiDexHands(task))
    fresh.set_state(saved)
    np.testing.assert_equal(fresh.get_state(), saved)
    np.testing.assert_array_equal(fresh.state(), saved["state"])
    np.testing.assert_array_equal(saved["actions"].astype(np.float32)[1], saved["state"][199 + 173 : 398])
    np.testing.assert_equal(play(fresh, 15, seed=1), expected)
    np.testing.assert_equal(fresh.get_state(), env.get_state())
    env.set_state(saved)  # also after going on
    np.testing.assert_equal(play(env, 15, seed=1), expected)


def test_state_dict_holds_the_position_in_the_episode():
    env = scripted(BiDexHands("pen", episode_steps=5), Outcome(1.0, False, True), Outcome(1.0, False, False))
    env.reset()
    play(env, 3)
    fresh = scripted(BiDexHands("pen", episode_steps=5), Outcome(1.0, False, False))
    fresh.set_state(env.get_state())
    results = play(fresh, 2)
    assert [step[3]["__all__"] for step in results] == [False, True]
    assert results[-1][4]["agent_0"]["success"] is True
    finished = BiDexHands("pen", episode_steps=5)
    finished.set_state(fresh.get_state())
    with pytest.raises(RuntimeError, match="running episode"):
        play(finished, 1)


def test_foreign_states_are_refused():
    state = BiDexHands("pen").get_state()
    for foreign in (BiDexHands("bottle_cap").get_state(), BiDexHands("pen", substeps=2).get_state()):
        with pytest.raises(ValueError, match="another environment"):
            BiDexHands("pen").set_state(foreign)
    for no_state in ({}, None, {**state, "more": 1}, {name: state[name] for name in state if name != "actions"}):
        with pytest.raises(ValueError, match="needs what get_state"):
            BiDexHands("pen").set_state(no_state)
    broken = {**state, "simulation": state["simulation"][:-1]}
    with pytest.raises(ValueError, match="shape"):
        BiDexHands("pen").set_state(broken)


def test_reward_and_success_are_those_of_the_task(moved):
    env, (_, rewards, *_), _ = moved
    assert rewards["agent_0"] == TASKS[env.task.name].outcome(env.points()).reward


def test_time_limit_truncates():
    for task, limit in (("bottle_cap", 125), ("door_open_inward", 250)):
        env = never_ending(BiDexHands(task))
        env.reset()
        results = play(env, 1000, scale=0.0, until_end=True)
        assert len(results) == limit
        assert results[-1][2:4] == ({"__all__": False}, {"__all__": True})
        with pytest.raises(RuntimeError, match="reset"):
            play(env, 1)


def test_an_end_at_the_time_limit_is_a_termination():
    env = scripted(BiDexHands("pen", episode_steps=2), Outcome(0.5, False, False), Outcome(-0.5, True, False))
    env.reset()
    _, last = play(env, 2)
    assert last[1:4] == ({"agent_0": -0.5, "agent_1": -0.5}, {"__all__": True}, {"__all__": False})


def test_success_stays_until_the_reset():
    env = scripted(BiDexHands("pen"), Outcome(0, False, False), Outcome(0, False, True), Outcome(0.0, False, False))
    env.reset()
    assert [step[4]["agent_0"]["success"] for step in play(env, 3)] == [False, True, True]
    _, infos = env.reset()
    assert infos["agent_0"]["success"] is False


@pytest.mark.parametrize("task", TASKS)
def test_full_actions_in_random_directions_never_fail(task):
    """2,000 steps; each episode that ends is followed by another."""
    env = BiDexHands(task)
    rng, num_episodes = np.random.default_rng(1), 0
    env.reset()
    for _ in range(2000):
        observations, _, terminateds, truncateds, _ = env.step(as_dict(rng.choice([-1.0, 1.0], (2, 26))))
        assert np.isfinite(observations["agent_0"]).all()
        if terminateds["__all__"] or truncateds["__all__"]:
            num_episodes += 1
            env.reset()
    assert num_episodes > 10


@pytest.mark.filterwarnings("ignore:invalid value encountered")
@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e15])
def test_an_unstable_simulation_truncates_the_episode(bad, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    env = BiDexHands("door_open_inward")
    wrapped = CooperativeEnv(env)
    wrapped.reset()
    before = play(wrapped, 1)[-1]
    env.simulation.data.qvel[8] = bad
    observations, rewards, terminateds, truncateds, infos = play(wrapped, 1)[-1]
    np.testing.assert_equal(observations, before[0])
    np.testing.assert_array_equal(infos["agent_0"]["state"], before[4]["agent_0"]["state"])
    assert rewards == {"agent_0": 0.0, "agent_1": 0.0}
    assert (terminateds, truncateds) == ({"__all__": False}, {"__all__": True})
    assert "In step 2 " in infos["agent_0"][SIMULATION_ERROR] and "mjWARN_BAD" in infos["agent_0"][SIMULATION_ERROR]
    assert list(tmp_path.iterdir()) == [] and "WARNING" not in "".join(capfd.readouterr())
    fresh = BiDexHands("door_open_inward")
    np.testing.assert_equal(env.reset(), fresh.reset())
    np.testing.assert_equal(play(env, 3), play(fresh, 3))


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="Did you mean 'bottle_cap'"):
        BiDexHands("bottle_cup")
    with pytest.raises(ValueError, match="Did you mean 'substeps'"):
        BiDexHands("pen", substep=2)
    with pytest.raises(ValueError, match="render_mode"):
        BiDexHands("pen", render_mode="human")
    for settings in (
        {"substeps": 0},
        {"substeps": 2.5},
        {"episode_steps": -1},
        {"base_force_fraction": 0.3},
        {"base_force_fraction": 1.5},
        {"empty_link_mass": -1.0},
        {"bottle_friction": np.nan},
        {"pen_height": "high"},
        {"max_object_spin": -1.0},
        {"root_rotation": "links"},
        {"link_velocity": "center"},
    ):
        with pytest.raises(ValueError, match=next(iter(settings))):
            BiDexHands("pen", **settings)


def test_bad_steps_are_refused():
    env = BiDexHands("pen")
    with pytest.raises(RuntimeError, match="reset"):
        play(env, 1)
    with pytest.raises(RuntimeError, match="reset"):
        env.state()
    with pytest.raises(RuntimeError, match="render_mode"):
        env.render()
    env.reset()
    for bad, message in (
        ({"agent_0": np.zeros(26)}, "Missing"),
        ({**as_dict(np.zeros((2, 26))), "agent_2": np.zeros(26)}, "unknown"),
        (as_dict(np.zeros((2, 20))), "shape"),
        (as_dict(np.full((2, 26), np.nan)), "NaN"),
    ):
        with pytest.raises(ValueError, match=message):
            env.step(bad)
    play(env, 1)  # a refused action leaves the episode running


def test_results_are_copies():
    env = never_ending(BiDexHands("pen"))
    env.reset()
    first = play(env, 1)[-1]
    kept = copy.deepcopy(first)
    first[0]["agent_0"][:] = 3.0
    env.state()[:] = 3.0
    np.testing.assert_array_equal(env.state(), kept[4]["agent_0"]["state"])
    play(env, 1)
    np.testing.assert_array_equal(first[4]["agent_0"]["state"], kept[4]["agent_0"]["state"])


def test_fits_rllib_and_the_training_form():
    env = BiDexHands("bottle_cap")
    check_multiagent_environments(env)
    wrapped = CooperativeEnv(BiDexHands("bottle_cap"))
    observations, infos = wrapped.reset()
    assert wrapped.layout.agent_ids == ("agent_0", "agent_1") and wrapped.layout.state_size == 420
    assert observations["agent_1"].shape == (221 + 2,) and observations["agent_1"][-2:].tolist() == [0, 1]
    assert infos["agent_0"]["state"].shape == (420,)


def test_simulate_is_the_physics_of_a_step():
    env, other = BiDexHands("pen"), BiDexHands("pen")
    env.reset()
    other.reset()
    actions = np.random.default_rng(0).uniform(-1, 1, (2, 26))
    env.step(as_dict(actions))
    other.simulate(actions)
    np.testing.assert_array_equal(env.simulation.get_state(), other.simulation.get_state())


def test_fingertip_velocity_of_the_origin():
    env = BiDexHands("pen", link_velocity="origin")
    env.reset()
    *_, infos = play(env, 5, scale=1.0)[-1]
    body = env.simulation.data.body("left/robot0:rfdistal")
    linear, _ = velocity_at(env, "left/robot0:rfdistal", body.xpos)
    np.testing.assert_allclose(infos["agent_0"]["state"][199 + 72 + 26 + 7 :][:3], clipped(linear), atol=1e-5)


def test_pictures_show_the_scene():
    env = BiDexHands("bottle_cap", render_mode="rgb_array")
    with pytest.raises(RuntimeError, match="reset"):
        env.render()
    env.reset()
    picture = env.render()
    play(env, 10, scale=1.0)
    later = env.render()
    env.close()
    assert picture.shape == (480, 640, 3) and picture.dtype == np.uint8
    red, _, blue = picture.astype(int).transpose(2, 0, 1)
    assert ((blue > 120) & (blue > red + 60)).mean() > 0.005  # the bottle
    assert ((red > 100) & (red > blue + 80)).sum() > 20  # its cap
    assert (picture != later).any()
