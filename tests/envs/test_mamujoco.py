"""MAMuJoCo on the paper's tasks against plain Gymnasium: same physics, the paper's observations and partitions."""

import dataclasses
import warnings

import gymnasium
import mujoco
import numpy as np
import pytest
from ray.rllib.utils.pre_checks.env import check_multiagent_environments

from rllib_dima.envs.cooperative import SIMULATION_ERROR, CooperativeEnv
from rllib_dima.envs.mamujoco import scenarios as mamujoco_scenarios
from rllib_dima.envs.mamujoco.env import MAMuJoCo
from rllib_dima.envs.mamujoco.observations import FullObservations
from rllib_dima.envs.outcomes import SimulationError

# Joints in the order of the actuators, written down from the MuJoCo models' XML.
ACTUATORS = {
    "Ant": ["hip_4", "ankle_4", "hip_1", "ankle_1", "hip_2", "ankle_2", "hip_3", "ankle_3"],
    "HalfCheetah": ["bthigh", "bshin", "bfoot", "fthigh", "fshin", "ffoot"],
    "Walker2d": ["thigh_joint", "leg_joint", "foot_joint", "thigh_left_joint", "leg_left_joint", "foot_left_joint"],
}
STATE_SIZES = {"Ant": 27, "HalfCheetah": 17, "Walker2d": 17}
CONSECUTIVE = {
    ("Ant", "2x4"): ["hip_4 ankle_4 hip_1 ankle_1", "hip_2 ankle_2 hip_3 ankle_3"],
    ("Ant", "4x2"): ["hip_4 ankle_4", "hip_1 ankle_1", "hip_2 ankle_2", "hip_3 ankle_3"],
    ("HalfCheetah", "2x3"): ["bthigh bshin bfoot", "fthigh fshin ffoot"],
    ("HalfCheetah", "3x2"): ["bthigh bshin", "bfoot fthigh", "fshin ffoot"],
    ("HalfCheetah", "6x1"): ["bthigh", "bshin", "bfoot", "fthigh", "fshin", "ffoot"],
    ("Walker2d", "2x3"): ["thigh_joint leg_joint foot_joint", "thigh_left_joint leg_left_joint foot_left_joint"],
    ("Walker2d", "3x2"): [
        "thigh_joint leg_joint",
        "foot_joint thigh_left_joint",
        "leg_left_joint foot_left_joint",
    ],
}
JOINTS = {
    ("Ant", "2x4"): ["hip_1 ankle_1 hip_2 ankle_2", "hip_3 ankle_3 hip_4 ankle_4"],
    ("Ant", "4x2"): ["hip_1 ankle_1", "hip_2 ankle_2", "hip_3 ankle_3", "hip_4 ankle_4"],
    ("HalfCheetah", "2x3"): ["bfoot bshin bthigh", "ffoot fshin fthigh"],
    ("HalfCheetah", "3x2"): ["bfoot bshin", "bthigh ffoot", "fshin fthigh"],
    ("HalfCheetah", "6x1"): ["bfoot", "bshin", "bthigh", "ffoot", "fshin", "fthigh"],
    ("Walker2d", "2x3"): ["foot_joint leg_joint thigh_joint", "foot_left_joint leg_left_joint thigh_left_joint"],
    ("Walker2d", "3x2"): [
        "foot_joint leg_joint",
        "thigh_joint foot_left_joint",
        "leg_left_joint thigh_left_joint",
    ],
}
TASKS = list(CONSECUTIVE)


def name(task):
    return "_".join(task)


def sample(env, rng):
    return {agent: rng.uniform(-1, 1, space.shape).astype(np.float32) for agent, space in env.action_spaces.items()}


@pytest.mark.parametrize("partition", ["consecutive", "joints"])
@pytest.mark.parametrize("task", TASKS, ids=name)
def test_every_agent_moves_its_own_joints_exactly_as_in_gymnasium(task, partition):
    parts = {"consecutive": CONSECUTIVE, "joints": JOINTS}[partition][task]
    env = MAMuJoCo(*task, partition=partition)
    plain = gymnasium.make(f"{task[0]}-v4")
    _, infos = env.reset(seed=3)
    expected, _ = plain.reset(seed=3)
    rng = np.random.default_rng(0)
    for _ in range(40):
        np.testing.assert_array_equal(infos["agent_0"]["state"], expected.astype(np.float32))
        np.testing.assert_array_equal(env.state(), expected.astype(np.float32))
        actions = sample(env, rng)
        torques = {
            joint: torque
            for joints, action in zip(parts, actions.values(), strict=True)
            for joint, torque in zip(joints.split(), action, strict=True)
        }
        flat = np.array([torques[joint] for joint in ACTUATORS[task[0]]], np.float32)
        _, rewards, terminateds, truncateds, infos = env.step(actions)
        expected, reward, terminated, truncated, _ = plain.step(flat)
        assert rewards == dict.fromkeys(env.possible_agents, reward)
        assert (terminateds, truncateds) == ({"__all__": terminated}, {"__all__": truncated})
        if terminated:
            _, infos = env.reset()
            expected, _ = plain.reset()


@pytest.mark.parametrize("task", TASKS, ids=name)
def test_spaces(task):
    env = MAMuJoCo(*task)
    scenario, agent_conf = task
    num_agents, num_joints = map(int, agent_conf.split("x"))
    assert env.possible_agents == env.agents == [f"agent_{i}" for i in range(num_agents)]
    assert env.state_space.shape == (STATE_SIZES[scenario],) and env.state_space.dtype == np.float32
    for agent in env.possible_agents:
        assert env.observation_spaces[agent].shape == (STATE_SIZES[scenario] + num_agents,)
        assert env.action_spaces[agent] == gymnasium.spaces.Box(-1, 1, (num_joints,), np.float32)
    check_multiagent_environments(env)
    layout = CooperativeEnv(env).layout
    assert layout.observation_size == STATE_SIZES[scenario] + num_agents and not layout.appends_agent_id
    assert layout.action_sizes == (num_joints,) * num_agents and layout.state_size == STATE_SIZES[scenario]


@pytest.mark.parametrize("task", TASKS, ids=name)
def test_observation_is_the_standardised_state_and_agent_id(task):
    env, plain = MAMuJoCo(*task), gymnasium.make(f"{task[0]}-v4")
    rng = np.random.default_rng(0)
    raw, _ = plain.reset(seed=1)
    observations, _ = env.reset(seed=1)
    for _ in range(10):
        for index, agent in enumerate(env.possible_agents):
            vector = np.concatenate([raw, np.eye(env.num_agents)[index]])
            expected = (vector - np.mean(vector)) / np.std(vector)
            assert observations[agent].dtype == np.float32
            np.testing.assert_allclose(observations[agent], expected, rtol=1e-6, atol=1e-7)
            assert observations[agent][-env.num_agents :].argmax() == index
        action = rng.uniform(-1, 1, plain.action_space.shape).astype(np.float32)
        raw, *_ = plain.step(action)
        observations, *_ = env.step({agent: action[own] for agent, own in zip(env.agents, env.actuators, strict=True)})


@pytest.mark.parametrize("wrap", [lambda env: env, CooperativeEnv], ids=["plain", "wrapped"])
def test_time_limit_truncates_and_does_not_terminate(wrap):
    env = wrap(MAMuJoCo("HalfCheetah", "2x3"))
    env.reset(seed=0)
    still = {agent: np.zeros(3, np.float32) for agent in env.possible_agents}
    for step in range(1, 1001):
        *_, terminateds, truncateds, infos = env.step(still)
        assert terminateds == {"__all__": False} and truncateds == {"__all__": step == 1000}
    assert infos["agent_0"]["state"].shape == (17,)
    with pytest.raises(RuntimeError, match="call reset"):
        env.step(still)


def test_falling_terminates_and_does_not_truncate():
    env = CooperativeEnv(MAMuJoCo("Walker2d", "3x2"))
    env.reset(seed=0)
    for _ in range(300):
        *_, terminateds, truncateds, _ = env.step({agent: np.ones(2) for agent in env.possible_agents})
        assert truncateds == {"__all__": False}
        if terminateds["__all__"]:
            return
    pytest.fail("the walker never fell")


def test_wrapping_changes_nothing_but_the_form():
    env, wrapped = MAMuJoCo("Walker2d", "2x3"), CooperativeEnv(MAMuJoCo("Walker2d", "2x3"))
    results = env.reset(seed=5), wrapped.reset(seed=5)
    rng = np.random.default_rng(0)
    for _ in range(5):
        np.testing.assert_equal(*results)
        actions = sample(env, rng)
        results = env.step(actions), wrapped.step(actions)


def test_without_clipping_costs_are_those_of_the_raw_actions():
    """The simulator limits what actuators do by itself, so that nothing else differs."""
    beyond = {"agent_0": np.full(3, 2.0, np.float32), "agent_1": np.full(3, -3.0, np.float32)}
    steps = {}
    for clip in (True, False):
        team = CooperativeEnv(MAMuJoCo("HalfCheetah", "2x3", clip_actions=clip))
        team.reset(seed=0)
        observations, rewards, *_ = team.step(beyond)
        steps[clip] = observations["agent_0"], rewards["agent_0"]
        again = CooperativeEnv(MAMuJoCo("HalfCheetah", "2x3", clip_actions=clip))
        again.reset(seed=0)
        mixed = {agent: action.astype(np.float64) for agent, action in beyond.items()}  # no usual form
        assert again.env.step(mixed)[1]["agent_0"] == pytest.approx(rewards["agent_0"], abs=1e-6)
    np.testing.assert_allclose(steps[True][0], steps[False][0])
    assert steps[True][1] - steps[False][1] == pytest.approx(0.1 * (3 * 4 + 3 * 9 - 6), rel=1e-5)
    with pytest.raises(ValueError, match="clip_actions is 1, but it must be True or False"):
        MAMuJoCo("HalfCheetah", "2x3", clip_actions=1)


def test_padding_lengthens_the_state_before_it_is_standardised():
    plain, padded = (MAMuJoCo("Ant", "4x2", state_padding=zeros) for zeros in (0, 84))
    plain.reset(seed=0)
    observations, _ = padded.reset(seed=0)
    state = padded.state()
    assert padded.state_space.shape == state.shape == (111,)
    np.testing.assert_array_equal(state, np.append(plain.state(), np.zeros(84, np.float32)))
    own = np.append(state, [0.0, 1.0, 0.0, 0.0])
    np.testing.assert_allclose(observations["agent_1"], (own - own.mean()) / own.std(), atol=1e-5)
    with pytest.raises(ValueError, match="state_padding is -1, but it must be a whole number of at least 0"):
        MAMuJoCo("Ant", "4x2", state_padding=-1)


def test_the_observation_of_four_numbers():
    observe = FullObservations(["a", "b"], 4)
    own = np.array([1, 2, 3, 4, 1, 0])
    seen = observe(np.arange(1.0, 5.0), 0)["a"]
    np.testing.assert_allclose(seen, (own - 11 / 6) / np.sqrt(((own - 11 / 6) ** 2).mean()), rtol=1e-6)
    assert (seen.mean(), seen.std()) == pytest.approx((0, 1), abs=1e-6)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, int])
def test_actions_are_clipped_to_the_range(dtype):
    env, other = MAMuJoCo("Ant", "2x4"), MAMuJoCo("Ant", "2x4")
    env.reset(seed=0), other.reset(seed=0)
    for bound in (1, -1):
        far = env.step({agent: np.full(4, 7 * bound, dtype) for agent in env.possible_agents})
        near = other.step({agent: np.full(4, bound, dtype) for agent in env.possible_agents})
        np.testing.assert_equal(far, near)


@pytest.mark.parametrize(
    "convert",
    [
        lambda action: action.astype(np.float64),
        lambda action: action.astype(np.float16),
        lambda action: action.astype(int),
        lambda action: action.astype(">f4"),
        lambda action: np.repeat(action, 2)[::2],  # not contiguous
        np.ndarray.tolist,
    ],
    ids=["float64", "float16", "int", "big-endian", "strided", "list"],
)
def test_actions_may_have_any_form_that_is_right(convert):
    env, other = MAMuJoCo("Walker2d", "2x3"), MAMuJoCo("Walker2d", "2x3")
    env.reset(seed=0), other.reset(seed=0)
    usual = {"agent_0": np.array([1, 0, -1], np.float32), "agent_1": np.array([-1, -1, 0], np.float32)}
    result = env.step({agent: convert(action) for agent, action in usual.items()})
    np.testing.assert_equal(result, other.step(usual))


def test_order_of_the_dict_does_not_matter():
    env, other = MAMuJoCo("Walker2d", "2x3"), MAMuJoCo("Walker2d", "2x3")
    env.reset(seed=0), other.reset(seed=0)
    actions = sample(env, np.random.default_rng(0))
    np.testing.assert_equal(env.step(actions), other.step(dict(reversed(actions.items()))))


@pytest.mark.parametrize(("task", "limit"), [(("Humanoid", "9|8"), 0.4), (("Pusher", "3p"), 2.0)], ids=["0.4", "2"])
@pytest.mark.parametrize("partition", ["consecutive", "joints"])
def test_actions_are_rescaled_to_the_range_of_the_environment(task, limit, partition):
    env = MAMuJoCo(*task, partition=partition, version="v5")
    plain = gymnasium.make(f"{task[0]}-v5")
    env.reset(seed=0), plain.reset(seed=0)
    actions, flat = sample(env, np.random.default_rng(0)), np.zeros(plain.action_space.shape, np.float32)
    for agent, own in zip(env.agents, env.actuators, strict=True):
        flat[own] = np.float32(limit) * actions[agent]
        assert env.action_spaces[agent] == gymnasium.spaces.Box(-1, 1, own.shape, np.float32)
    _, rewards, _, _, infos = env.step(actions)
    state, reward, *_ = plain.step(flat)
    assert set(rewards.values()) == {reward}
    np.testing.assert_array_equal(infos["agent_0"]["state"], state.astype(np.float32))


def test_seed_of_the_constructor_is_that_of_the_first_episode():
    env, other = MAMuJoCo("Ant", "2x4", seed=7), MAMuJoCo("Ant", "2x4")
    first = env.reset()
    np.testing.assert_equal(first, other.reset(seed=7))
    assert not np.array_equal(env.reset()[1]["agent_0"]["state"], first[1]["agent_0"]["state"])


def test_no_warning_about_v4_and_others_pass():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        MAMuJoCo("Ant", "2x4")
    assert [str(warning.message) for warning in caught] == []


@pytest.mark.parametrize(
    ("actions", "message"),
    [
        ({"agent_0": np.zeros(3)}, r"Missing: \['agent_1'\]"),
        ({"agent_0": np.zeros(3), "agent_1": np.zeros(3), "leg": np.zeros(3)}, r"unknown: \['leg'\]"),
        ({"agent_0": np.zeros(3), "agent_1": np.zeros(2)}, r"'agent_1' has shape \(2,\).*shape \(3,\)"),
        ({"agent_0": np.array([0, np.nan, 0]), "agent_1": np.zeros(3)}, "'agent_0' has NaN"),
        (
            {"agent_0": np.array([0, np.inf, 0], np.float32), "agent_1": np.zeros(3, np.float32)},
            "'agent_0' has NaN or inf",
        ),
        (
            {"agent_0": np.array([0, np.nan, 0], np.float32), "agent_1": np.zeros(3, np.float32)},
            "'agent_0' has NaN or inf",
        ),
        ({"agent_0": np.zeros((3, 1), np.float32), "agent_1": np.zeros((3, 1), np.float32)}, r"shape \(3, 1\)"),
        ({"agent_0": np.zeros(2, np.float32), "agent_1": np.zeros(4, np.float32)}, r"'agent_0' has shape \(2,\)"),
        ({"agent_0": np.array(["a"] * 3), "agent_1": np.zeros(3)}, "must be 3 numbers"),
        ({"agent_0": 0.5, "agent_1": np.zeros(3)}, "must be 3 numbers"),
        ({"agent_0": None, "agent_1": np.zeros(3)}, "must be 3 numbers"),
    ],
)
def test_wrong_actions_are_refused(actions, message):
    env = MAMuJoCo("HalfCheetah", "2x3")
    env.reset(seed=0)
    with pytest.raises(ValueError, match=message):
        env.step(actions)


def test_reset_must_come_first():
    env = MAMuJoCo("HalfCheetah", "2x3", render_mode="rgb_array")
    with pytest.raises(RuntimeError, match="call reset"):
        env.step({agent: np.zeros(3) for agent in env.possible_agents})
    for method in (env.state, env.render):
        with pytest.raises(RuntimeError, match="call reset"):
            method()


def test_rendering_needs_a_render_mode():
    env = MAMuJoCo("HalfCheetah", "2x3")
    env.reset(seed=0)
    with pytest.raises(RuntimeError, match="render_mode='rgb_array'"):
        env.render()


def test_unstable_simulation_is_noticed_though_mujoco_resets_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # MuJoCo writes a log file
    env = MAMuJoCo("HalfCheetah", "2x3")
    still = {agent: np.zeros(3) for agent in env.possible_agents}
    env.reset(seed=0)
    env.step(still)
    env.env.data.qvel[:] = 1e11
    with pytest.raises(SimulationError, match=r"step 2 .*BADQVEL"):
        env.step(still)
    with pytest.raises(RuntimeError, match="call reset"):
        env.step(still)
    env.reset(seed=0)
    env.step(still)


@pytest.mark.parametrize("how", ["explodes", "gives up"])
def test_a_breakdown_truncates_the_episode(how, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # MuJoCo writes a log file
    env = CooperativeEnv(MAMuJoCo("HalfCheetah", "2x3"))
    still = {agent: np.zeros(3) for agent in env.possible_agents}
    env.reset(seed=0)
    before, *_, infos_before = env.step(still)
    if how == "explodes":
        env.env.env.data.qvel[:] = 1e11
    else:
        monkeypatch.setattr(env.env.env, "step", fail)
    observations, rewards, terminateds, truncateds, infos = env.step(still)
    np.testing.assert_equal(observations, before)
    np.testing.assert_array_equal(infos["agent_0"]["state"], infos_before["agent_0"]["state"])
    reason = {"explodes": "MuJoCo warns mjWARN_BADQVEL", "gives up": "MuJoCo gave up: mj_stackAlloc"}[how]
    assert "In step 2 " in infos["agent_0"][SIMULATION_ERROR] and reason in infos["agent_0"][SIMULATION_ERROR]
    assert (terminateds, truncateds) == ({"__all__": False}, {"__all__": True}) and set(rewards.values()) == {0.0}


def fail(action):
    raise mujoco.FatalError("mj_stackAlloc: out of memory")


@pytest.mark.parametrize("observations", ["full", "local"])
@pytest.mark.parametrize(
    ("entry", "reward", "message"),
    [(np.nan, 0.0, "observation"), (-np.inf, 0.0, "observation"), (1e39, 0.0, "observation"), (1.0, np.inf, "reward")],
)
def test_non_finite_numbers_are_named(monkeypatch, observations, entry, reward, message):
    env = MAMuJoCo("HalfCheetah", "2x3", observations=observations)
    env.reset(seed=0)
    state = np.append(np.ones(16), entry)
    monkeypatch.setattr(env.env, "step", lambda action: (state, reward, False, False, {}))
    with pytest.raises(SimulationError, match=f"step 1 .*{message} became NaN or infinite"):
        env.step({agent: np.zeros(3) for agent in env.possible_agents})


def test_numbers_up_to_the_largest_pass(monkeypatch):
    env = MAMuJoCo("HalfCheetah", "2x3")
    env.reset(seed=0)
    state = np.append(np.ones(16), 0.99e15)
    monkeypatch.setattr(env.env, "step", lambda action: (state, 0.0, False, False, {}))
    observations, *_, infos = env.step({agent: np.zeros(3) for agent in env.possible_agents})
    assert np.isfinite(observations["agent_0"]).all() and infos["agent_0"]["state"][-1] == np.float32(0.99e15)


@pytest.mark.parametrize(
    ("args", "settings", "message"),
    [
        (("Antt", "4x2"), {}, "scenario 'Antt'. Did you mean 'ant'"),
        (("InvertedPendulum", "1x1"), {}, "Unknown MAMuJoCo scenario 'InvertedPendulum'"),
        ((None, "1x1"), {}, "Unknown MAMuJoCo scenario None"),
        (("Ant", "4x3"), {}, "agent_conf of Ant '4x3'. Did you mean"),
        (("ManySegmentSwimmer", "1x4"), {}, "agent_conf of ManySegmentSwimmer '1x4'.*at least 2"),
        (("ManySegmentAnt", "4x0"), {}, "agent_conf of ManySegmentAnt '4x0'"),
        (("ManySegmentAnt", "4"), {}, "agent_conf of ManySegmentAnt '4'"),
        (("ant", "4x2"), {"render_mode": "rgb"}, "render_mode 'rgb'. Did you mean 'rgb_array'"),
        (("ant", "4x2"), {"partition": "joint"}, "partition 'joint'. Did you mean 'joints'"),
        (("ant", "4x2"), {"observations": "loca"}, "observations 'loca'. Did you mean 'local'"),
        (("ant", "4x2"), {"agent_obsk": 1}, "agent_obsk=1 has no meaning for full observations"),
        (("ant", "4x2"), {"observations": "local", "agent_obsk": -1}, "agent_obsk is -1, but"),
        (("ant", "4x2"), {"observations": "local", "agent_obsk": 1.0}, "agent_obsk is 1.0, but"),
        (("ant", "4x2"), {"observations": "local", "agent_obsk": True}, "agent_obsk is True, but"),
        (("ant", "4x2"), {"version": "v3"}, "Unknown version 'v3'"),
        (("Pusher", "3p"), {"version": "v4"}, "Pusher has no v4: .*refuses MuJoCo 3.*version='v5'"),
        (("ManySegmentAnt", "2x2"), {"version": "v4"}, "ManySegmentAnt has no v4: .*torso.*version='v5'"),
        (("ManySegmentSwimmer", "2x2"), {"version": "v4"}, "ManySegmentSwimmer has no v4: .*version='v5'"),
        (("CoupledHalfCheetah", "1p1"), {"version": "v5"}, "CoupledHalfCheetah has a single version"),
    ],
)
def test_bad_settings_are_refused(args, settings, message):
    with pytest.raises(ValueError, match=message):
        MAMuJoCo(*args, **settings)


@pytest.mark.parametrize(
    ("partition", "joints", "message"),
    [
        ("joints", (("bfoot", "bshim", "bthigh"), ("ffoot", "fshin", "fthigh")), "joint 'bshim'. Did you mean 'bshin'"),
        ("joints", (("bfoot", "bshin", "bfoot"), ("ffoot", "fshin", "fthigh")), "by exactly one agent"),
        ("consecutive", (("bfoot", "bshin"), ("ffoot",)), r"6 actuators into \[\[2, 1\], \[5\]\]"),
    ],
)
def test_joint_lists_that_do_not_fit_the_model_are_refused(monkeypatch, partition, joints, message):
    right = mamujoco_scenarios.SCENARIOS["halfcheetah"]
    wrong = dataclasses.replace(right, joints={"2x3": joints})
    monkeypatch.setitem(mamujoco_scenarios.SCENARIOS, "halfcheetah", wrong)
    with pytest.raises(ValueError, match=message):
        MAMuJoCo("HalfCheetah", "2x3", partition=partition)
