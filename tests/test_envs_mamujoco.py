"""MAMuJoCo against plain Gymnasium: same physics, the paper's observations and partitions."""

import pickle
import warnings

import gymnasium
import numpy as np
import pytest
from ray.rllib.env.env_context import EnvContext
from ray.rllib.utils.pre_checks.env import check_multiagent_environments

from rllib_dima import envs
from rllib_dima.envs import mamujoco
from rllib_dima.envs.base import CooperativeEnv, NonFiniteError
from rllib_dima.envs.mamujoco import MAMuJoCo

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


def env_id(task):
    return f"mamujoco_{task[0].lower()}_{task[1]}"


def sample(env, rng):
    return {agent: rng.uniform(-1, 1, space.shape).astype(np.float32) for agent, space in env.action_spaces.items()}


@pytest.mark.parametrize("kind", ["consecutive", "joints"])
@pytest.mark.parametrize("task", TASKS, ids=env_id)
def test_rewards_states_and_ends_are_exactly_those_of_gymnasium(task, kind):
    partition = {"consecutive": CONSECUTIVE, "joints": JOINTS}[kind][task]
    env = envs.make(env_id(task), partition_kind=kind)
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
            for joints, action in zip(partition, actions.values(), strict=True)
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


@pytest.mark.parametrize("task", TASKS, ids=env_id)
def test_spaces(task):
    env = envs.make(env_id(task))
    scenario, partition = task
    num_agents, num_joints = map(int, partition.split("x"))
    assert env.possible_agents == env.agents == [f"agent_{i}" for i in range(num_agents)]
    assert env.state_space.shape == (STATE_SIZES[scenario],) and env.state_space.dtype == np.float32
    for agent in env.possible_agents:
        assert env.observation_spaces[agent].shape == (STATE_SIZES[scenario] + num_agents,)
        assert env.action_spaces[agent] == gymnasium.spaces.Box(-1, 1, (num_joints,), np.float32)
    check_multiagent_environments(env)
    layout = CooperativeEnv(env).layout
    assert layout.observation_size == STATE_SIZES[scenario] + num_agents and not layout.appends_agent_id
    assert layout.action_sizes == (num_joints,) * num_agents and layout.state_size == STATE_SIZES[scenario]


def test_observation_is_the_standardised_state_and_agent_id():
    env = MAMuJoCo("Ant", "4x2")
    plain = gymnasium.make("Ant-v4")
    raw, _ = plain.reset(seed=1)
    observations, _ = env.reset(seed=1)
    for index, agent in enumerate(env.possible_agents):
        vector = np.concatenate([raw, np.eye(4)[index]])
        expected = (vector - np.mean(vector)) / np.std(vector)
        assert observations[agent].dtype == np.float32
        np.testing.assert_allclose(observations[agent], expected, rtol=1e-6, atol=1e-7)
        assert observations[agent][-4:].argmax() == index


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


def test_actions_are_clipped_to_the_range():
    env, other = MAMuJoCo("Ant", "2x4"), MAMuJoCo("Ant", "2x4")
    env.reset(seed=0), other.reset(seed=0)
    far = env.step({agent: np.full(4, 7.0) for agent in env.possible_agents})
    near = other.step({agent: np.ones(4) for agent in env.possible_agents})
    np.testing.assert_equal(far, near)


def test_actions_are_rescaled_to_the_range_of_the_environment(monkeypatch):
    plain = gymnasium.make("HalfCheetah-v4")
    make = gymnasium.make
    monkeypatch.setattr(gymnasium, "make", lambda *a, **k: gymnasium.wrappers.RescaleAction(make(*a, **k), 1.0, 3.0))
    env = MAMuJoCo("HalfCheetah", "2x3")  # takes actions in [1, 3], and maps them back to [-1, 1]
    assert env.env.action_space.low[0] == 1 and env.action_spaces["agent_0"].low[0] == -1
    env.reset(seed=0), plain.reset(seed=0)
    flat = np.linspace(-1, 1, 6).astype(np.float32)
    _, rewards, *_ = env.step({"agent_0": flat[:3], "agent_1": flat[3:]})
    assert rewards["agent_1"] == pytest.approx(plain.step(flat)[1], abs=1e-6)


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
        ({"agent_0": np.array(["a"] * 3), "agent_1": np.zeros(3)}, "must be 3 numbers"),
    ],
)
def test_wrong_actions_are_refused(actions, message):
    env = MAMuJoCo("HalfCheetah", "2x3")
    env.reset(seed=0)
    with pytest.raises(ValueError, match=message):
        env.step(actions)


def test_reset_must_come_first():
    env = MAMuJoCo("HalfCheetah", "2x3")
    with pytest.raises(RuntimeError, match="call reset"):
        env.step({agent: np.zeros(3) for agent in env.possible_agents})
    with pytest.raises(RuntimeError, match="call reset"):
        env.state()


def test_unstable_simulation_is_an_error_though_mujoco_resets_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # MuJoCo writes a log file
    env = MAMuJoCo("HalfCheetah", "2x3")
    still = {agent: np.zeros(3) for agent in env.possible_agents}
    env.reset(seed=0)
    env.step(still)
    env.env.unwrapped.data.qvel[:] = 1e11
    with pytest.raises(NonFiniteError, match=r"step 2 .*BADQVEL"):
        env.step(still)
    with pytest.raises(RuntimeError, match="call reset"):
        env.step(still)
    env.reset(seed=0)
    env.step(still)


@pytest.mark.parametrize(("observation", "reward", "message"), [(np.nan, 0.0, "observation"), (1.0, np.inf, "reward")])
def test_non_finite_numbers_are_named(monkeypatch, observation, reward, message):
    env = MAMuJoCo("HalfCheetah", "2x3")
    env.reset(seed=0)
    monkeypatch.setattr(env.env, "step", lambda action: (np.full(17, observation), reward, False, False, {}))
    with pytest.raises(NonFiniteError, match=f"step 1 .*{message} became NaN or infinite"):
        env.step({agent: np.zeros(3) for agent in env.possible_agents})


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("Antt", "4x2"), "scenario 'Antt'. Did you mean 'ant'"),
        (("Ant", "4x3"), "partition of Ant '4x3'. Did you mean"),
        (("ant", "4x2", "joints", "rgb"), "render_mode 'rgb'"),
        (("ant", "4x2", "joint"), "partition_kind 'joint'. Did you mean 'joints'"),
    ],
)
def test_unknown_names_are_refused(args, message):
    with pytest.raises(ValueError, match=message):
        MAMuJoCo(*args)


@pytest.mark.parametrize(
    ("kind", "joints", "message"),
    [
        ("joints", (("bfoot", "bshim", "bthigh"), ("ffoot", "fshin", "fthigh")), "joint 'bshim'. Did you mean 'bshin'"),
        ("joints", (("bfoot", "bshin", "bfoot"), ("ffoot", "fshin", "fthigh")), "must be named once"),
        ("consecutive", (("bfoot", "bshin"), ("ffoot",)), r"\[2, 1\] joints.* 6 actuators"),
    ],
)
def test_partitions_that_do_not_fit_the_model_are_refused(monkeypatch, kind, joints, message):
    wrong = mamujoco.Scenario("HalfCheetah", "HalfCheetah-v4", {"2x3": joints})
    monkeypatch.setitem(mamujoco.SCENARIOS, "halfcheetah", wrong)
    with pytest.raises(ValueError, match=message):
        MAMuJoCo("HalfCheetah", "2x3", kind)


def test_ids_and_families():
    assert sorted(envs.ENV_IDS) == sorted(map(env_id, TASKS))
    assert envs.env_family("mamujoco_ant_4x2") == "mamujoco"
    assert envs.env_family("bidexhands_pen") == "bidexhands"
    assert [envs.env_family(other) for other in ("CartPole-v1", "mamujoco", MAMuJoCo, None)] == [None] * 4


def test_unknown_ids_and_keys_are_refused():
    with pytest.raises(ValueError, match=r"'mamujoco_ant_4x4'. Did you mean 'mamujoco_ant_4x2'"):
        envs.make("mamujoco_ant_4x4")
    with pytest.raises(ValueError, match=r"'partition_kin'. Did you mean 'partition_kind'"):
        envs.make("mamujoco_ant_4x2", partition_kin="joints")


def test_creators_are_picklable_and_accept_every_form_of_env_config():
    create = pickle.loads(pickle.dumps(envs.creator("mamujoco_ant_4x2")))
    for env_config in (None, {}, EnvContext({}, worker_index=1), EnvContext({"team_reward": "mean"}, worker_index=1)):
        assert create(env_config).actuators[0].tolist() == [0, 1]
    joints = create(EnvContext({"partition_kind": "joints"}, worker_index=1))
    assert joints.actuators[0].tolist() == [2, 3]


def test_every_id_is_registered_with_ray():
    from ray.tune.registry import ENV_CREATOR, _global_registry

    envs.register_envs()
    envs.register_envs()
    for name in envs.ENV_IDS:
        assert _global_registry.contains(ENV_CREATOR, name)
    assert len(_global_registry.get(ENV_CREATOR, "mamujoco_halfcheetah_6x1")({}).possible_agents) == 6
