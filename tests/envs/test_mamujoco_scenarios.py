"""Every MAMuJoCo robot and division: it runs, it is Gymnasium's simulation, and nobody's numbers change afterwards."""

import os
import pathlib
import tempfile

import gymnasium
import gymnasium_robotics
import numpy as np
import pytest
from gymnasium_robotics.envs.multiagent_mujoco import (
    CoupledHalfCheetahEnv,
    many_segment_ant,
    many_segment_swimmer,
)
from ray.rllib.utils.pre_checks.env import check_multiagent_environments

from rllib_dima.envs.cooperative import CooperativeEnv
from rllib_dima.envs.mamujoco.env import MAMuJoCo
from rllib_dima.envs.mamujoco.scenarios import registered_agent_confs

# Robot and division: versions, actuators of every agent, state sizes by version; from the MuJoCo models and the
# documentation of Gymnasium and Gymnasium-Robotics.
SIZES = {
    ("Ant", "2x4"): ({"v4": 27, "v5": 105}, (4, 4)),
    ("Ant", "2x4d"): ({"v4": 27, "v5": 105}, (4, 4)),
    ("Ant", "4x2"): ({"v4": 27, "v5": 105}, (2, 2, 2, 2)),
    ("CoupledHalfCheetah", "1p1"): ({None: 40}, (6, 6)),
    ("HalfCheetah", "2x3"): ({"v4": 17, "v5": 17}, (3, 3)),
    ("HalfCheetah", "3x2"): ({"v4": 17, "v5": 17}, (2, 2, 2)),
    ("HalfCheetah", "6x1"): ({"v4": 17, "v5": 17}, (1,) * 6),
    ("Hopper", "3x1"): ({"v4": 11, "v5": 11}, (1, 1, 1)),
    ("Humanoid", "9|8"): ({"v4": 376, "v5": 348}, (9, 8)),
    ("HumanoidStandup", "9|8"): ({"v4": 376, "v5": 348}, (9, 8)),
    ("ManySegmentAnt", "2x1"): ({"v5": 27 + 6 * 14}, (4, 4)),
    ("ManySegmentAnt", "3x2"): ({"v5": 11 + 2 * 4 * 6 + 6 * 42}, (8, 8, 8)),
    ("ManySegmentSwimmer", "2x1"): ({"v5": 8}, (1, 1)),
    ("ManySegmentSwimmer", "4x3"): ({"v5": 4 + 2 * 12}, (3,) * 4),
    ("ManySegmentSwimmer", "21x1"): ({"v5": 4 + 2 * 21}, (1,) * 21),  # valid, though it has no id
    ("Pusher", "3p"): ({"v5": 23}, (3, 1, 3)),
    ("Reacher", "2x1"): ({"v4": 11, "v5": 10}, (1, 1)),
    ("Swimmer", "2x1"): ({"v4": 8, "v5": 8}, (1, 1)),
    ("Walker2d", "2x3"): ({"v4": 17, "v5": 17}, (3, 3)),
    ("Walker2d", "3x2"): ({"v4": 17, "v5": 17}, (2, 2, 2)),
}
CASES = [(*robot, version) for robot, (sizes, _) in SIZES.items() for version in sizes]
# The joints of every agent by default: the actuators' order in the paper's tasks, else the benchmark's lists.
DIVISIONS = {
    ("Ant", "2x4"): ["hip_4 ankle_4 hip_1 ankle_1", "hip_2 ankle_2 hip_3 ankle_3"],
    ("Ant", "2x4d"): ["hip_1 ankle_1 hip_3 ankle_3", "hip_2 ankle_2 hip_4 ankle_4"],
    ("Ant", "4x2"): ["hip_4 ankle_4", "hip_1 ankle_1", "hip_2 ankle_2", "hip_3 ankle_3"],
    ("CoupledHalfCheetah", "1p1"): [
        "bthigh0 bshin0 bfoot0 fthigh0 fshin0 ffoot0",
        "bthigh1 bshin1 bfoot1 fthigh1 fshin1 ffoot1",
    ],
    ("HalfCheetah", "2x3"): ["bthigh bshin bfoot", "fthigh fshin ffoot"],
    ("HalfCheetah", "3x2"): ["bthigh bshin", "bfoot fthigh", "fshin ffoot"],
    ("HalfCheetah", "6x1"): ["bthigh", "bshin", "bfoot", "fthigh", "fshin", "ffoot"],
    ("Hopper", "3x1"): ["thigh_joint", "leg_joint", "foot_joint"],
    **{
        (humanoid, "9|8"): [
            "abdomen_x abdomen_y abdomen_z "
            "right_shoulder1 right_shoulder2 right_elbow left_shoulder1 left_shoulder2 left_elbow",
            "right_hip_x right_hip_y right_hip_z right_knee left_hip_x left_hip_y left_hip_z left_knee",
        ]
        for humanoid in ("Humanoid", "HumanoidStandup")
    },
    ("ManySegmentAnt", "2x1"): ["hip2_0 ankle2_0 hip1_0 ankle1_0", "hip2_1 ankle2_1 hip1_1 ankle1_1"],
    ("ManySegmentAnt", "3x2"): [
        " ".join(f"{joint}_{segment}" for segment in segments for joint in ("hip2", "ankle2", "hip1", "ankle1"))
        for segments in ((0, 1), (2, 3), (4, 5))
    ],
    ("ManySegmentSwimmer", "2x1"): ["rot0", "rot1"],
    ("ManySegmentSwimmer", "4x3"): ["rot0 rot1 rot2", "rot3 rot4 rot5", "rot6 rot7 rot8", "rot9 rot10 rot11"],
    ("ManySegmentSwimmer", "21x1"): [f"rot{segment}" for segment in range(21)],
    ("Pusher", "3p"): [
        "r_shoulder_pan_joint r_shoulder_lift_joint r_upper_arm_roll_joint",
        "r_elbow_flex_joint",
        "r_forearm_roll_joint r_wrist_flex_joint r_wrist_roll_joint",
    ],
    ("Reacher", "2x1"): ["joint0", "joint1"],
    ("Swimmer", "2x1"): ["motor1_rot", "motor2_rot"],
    ("Walker2d", "2x3"): ["thigh_joint leg_joint foot_joint", "thigh_left_joint leg_left_joint foot_left_joint"],
    ("Walker2d", "3x2"): ["thigh_joint leg_joint", "foot_joint thigh_left_joint", "leg_left_joint foot_left_joint"],
}
SETTINGS = [
    {"partition": partition, "observations": observations}
    for partition in ("consecutive", "joints")
    for observations in ("full", "local")
]
GENERATORS = {"ManySegmentAnt": many_segment_ant, "ManySegmentSwimmer": many_segment_swimmer}


def case_name(value):
    return "-".join(map(str, value))


def sample(env, rng):
    return {agent: rng.uniform(-1, 1, space.shape).astype(np.float32) for agent, space in env.action_spaces.items()}


def make_plain(scenario, agent_conf, version, folder):
    """The single-agent environment, made by its own package as users make it."""
    if scenario == "CoupledHalfCheetah":
        return gymnasium.wrappers.TimeLimit(CoupledHalfCheetahEnv(), 1000)
    if scenario not in GENERATORS:
        return gymnasium.make(f"{scenario}-{version}")
    segments, file = np.prod([int(number) for number in agent_conf.split("x")]), os.path.join(folder, "model.xml")
    GENERATORS[scenario].gen_asset(segments, file)
    return gymnasium.make(f"{scenario.removeprefix('ManySegment')}-{version}", xml_file=file)


def step_through(env, num_steps):
    """Steps with random actions, and checks every number."""
    rng = np.random.default_rng(0)
    observations, infos = env.reset(seed=0)
    for _ in range(num_steps):
        assert list(observations) == env.agents and infos.keys() == {"agent_0"}
        for agent, observation in observations.items():
            assert observation.dtype == np.float32 and observation.shape == env.observation_spaces[agent].shape
            assert np.isfinite(observation).all()
        state = infos["agent_0"]["state"]
        assert state.dtype == np.float32 and state.shape == env.state_space.shape and np.isfinite(state).all()
        observations, rewards, terminateds, truncateds, infos = env.step(sample(env, rng))
        assert list(rewards) == env.agents and np.isfinite(list(rewards.values())).all()
        if terminateds["__all__"] or truncateds["__all__"]:
            observations, infos = env.reset()


@pytest.mark.parametrize("robot", SIZES, ids=case_name)
def test_every_agent_moves_its_joints_by_default(robot):
    assert joints_by_agent(MAMuJoCo(*robot)) == DIVISIONS[robot]


def joints_by_agent(env):
    model = env.env.model
    joint_of = [model.joint(joint).name for joint in model.actuator_trnid[:, 0]]
    return [" ".join(joint_of[actuator] for actuator in own) for own in env.actuators]


def test_a_given_partition_always_wins():
    env = MAMuJoCo("Ant", "2x4d", partition="consecutive")
    assert joints_by_agent(env) == DIVISIONS["Ant", "2x4"]
    assert joints_by_agent(MAMuJoCo("Ant", "2x4", partition="joints"))[0] == "hip_1 ankle_1 hip_2 ankle_2"
    with pytest.raises(ValueError, match="another environment"):
        env.set_state(MAMuJoCo("Ant", "2x4d").get_state())


def test_the_legs_of_an_agent_are_diagonal_in_ant_2x4d_and_neighbours_in_ant_2x4():
    for agent_conf, are_diagonal in (("2x4d", True), ("2x4", False)):
        env = MAMuJoCo("Ant", agent_conf)
        env.reset(seed=0)
        feet = {leg: env.env.data.geom(f"{name}_ankle_geom").xpos[:2] for leg, name in FEET.items()}
        center = env.env.data.body("torso").xpos[:2]
        for joints in joints_by_agent(env):
            one, other = (feet[joint[-1]] - center for joint in joints.split() if joint.startswith("ankle"))
            cosine = one @ other / np.linalg.norm(one) / np.linalg.norm(other)
            assert cosine < -0.8 if are_diagonal else abs(cosine) < 0.5


FEET = {"1": "left", "2": "right", "3": "third", "4": "fourth"}


@pytest.mark.parametrize("case", CASES, ids=case_name)
def test_every_robot_runs_in_every_form(case):
    scenario, agent_conf, version = case
    state_sizes, action_sizes = SIZES[scenario, agent_conf]
    for settings in SETTINGS:
        env = MAMuJoCo(scenario, agent_conf, version=version, **settings)
        assert env.version == version and env.state_space.shape == (state_sizes[version],)
        assert [space.shape for space in env.action_spaces.values()] == [(size,) for size in action_sizes]
        assert sorted(np.concatenate(env.actuators)) == list(range(sum(action_sizes)))
        if settings["partition"] == "consecutive":
            assert (np.diff(np.concatenate(env.actuators)) == 1).all()
        step_through(env, 200 if settings == SETTINGS[0] else 20)


@pytest.mark.parametrize(
    "case", [case for case in CASES if case[1] in ("1p1", "3p", "9|8", "2x4d", "3x2")], ids=case_name
)
def test_rllib_and_the_wrapper_accept_it(case):
    scenario, agent_conf, version = case
    for settings in (SETTINGS[0], SETTINGS[3]):
        env = MAMuJoCo(scenario, agent_conf, version=version, **settings)
        check_multiagent_environments(env)
        wrapped = CooperativeEnv(env)
        is_full = settings["observations"] == "full"
        assert env.observations_identify_agent is is_full and wrapped.layout.appends_agent_id is not is_full
        assert wrapped.layout.action_sizes == SIZES[scenario, agent_conf][1]
        own_sizes = tuple(space.shape[0] for space in env.observation_spaces.values())
        assert wrapped.layout.observation_sizes == own_sizes
        observations, _ = wrapped.reset(seed=0)
        own, _ = env.reset(seed=0)
        for index, agent in enumerate(env.agents):
            np.testing.assert_array_equal(observations[agent][: own[agent].size], own[agent])
            assert observations[agent][-env.num_agents :].argmax() == index


@pytest.mark.slow
@pytest.mark.parametrize("scenario", registered_agent_confs())
def test_every_registered_division_runs_for_200_steps(scenario):
    for agent_conf in registered_agent_confs()[scenario]:
        for settings in SETTINGS:
            step_through(MAMuJoCo(scenario, agent_conf, **settings), 200)


@pytest.mark.parametrize("case", CASES, ids=case_name)
def test_states_rewards_and_ends_are_exactly_those_of_the_plain_environment(case, tmp_path):
    scenario, _, version = case
    env, plain = MAMuJoCo(*case[:2], version=version), make_plain(*case, tmp_path)
    env.reset(seed=3)
    expected, expected_info = plain.reset(seed=3)
    low, high = plain.action_space.low, plain.action_space.high
    rng, num_ends = np.random.default_rng(0), 0
    for _ in range(120):
        actions = sample(env, rng)
        joint = np.empty(plain.action_space.shape, np.float32)
        joint[np.concatenate(env.actuators)] = np.concatenate(list(actions.values()))
        flat = (high + low) / 2 + (high - low) / 2 * joint
        _, rewards, terminateds, truncateds, infos = env.step(actions)
        expected, reward, terminated, truncated, expected_info = plain.step(flat)
        np.testing.assert_equal(infos["agent_0"], {**expected_info, "state": expected.astype(np.float32)})
        assert rewards == dict.fromkeys(env.agents, reward)
        assert (terminateds, truncateds) == ({"__all__": terminated}, {"__all__": truncated})
        if terminated or truncated:
            num_ends += 1
            _, infos = env.reset()
            expected, expected_info = plain.reset()
            np.testing.assert_equal(infos["agent_0"], {**expected_info, "state": expected.astype(np.float32)})
    assert num_ends >= {"Reacher": 2, "Pusher": 1, "Humanoid": 3, "Hopper": 3, "Walker2d": 1}.get(scenario, 0)


def test_default_versions_and_registered_lengths_of_episodes():
    for (scenario, agent_conf), (sizes, _) in SIZES.items():
        env = MAMuJoCo(scenario, agent_conf)
        assert env.version == next(iter(sizes))  # v4 where it works
        assert env.max_episode_steps == {"Reacher": 50, "Pusher": 100}.get(scenario, 1000)
    env = MAMuJoCo("Reacher", "2x1")
    env.reset(seed=0)
    ends = [env.step({agent: np.zeros(1) for agent in env.agents})[3]["__all__"] for _ in range(50)]
    assert ends == [False] * 49 + [True]


@pytest.mark.parametrize("settings", [SETTINGS[0], SETTINGS[3]], ids=lambda settings: "-".join(settings.values()))
@pytest.mark.parametrize("case", [case for case in CASES if case[2] != "v4"], ids=case_name)
def test_what_was_returned_never_changes_afterwards(case, settings):
    env = MAMuJoCo(*case[:2], version=case[2], **settings)
    rng = np.random.default_rng(0)
    results = [env.reset(seed=0)]
    results += [env.step(sample(env, rng)) for _ in range(3)]
    stored = env.state()
    kept = [copied(result) for result in [*results, stored]]
    actions = sample(env, rng)
    given = copied(actions)
    env.step(actions), env.reset(), env.step(actions)
    np.testing.assert_equal([*results, stored], kept)
    np.testing.assert_equal(actions, given)
    results.append(env.step(actions))
    stored = env.state()
    for result in results:  # nor does writing into it change anything
        result[-1]["agent_0"]["state"][:] = 7
        for observation in result[0].values():
            observation[:] = 7
    np.testing.assert_array_equal(env.state(), stored)
    np.testing.assert_equal(env.reset(seed=0), kept[0])


def copied(value):
    if isinstance(value, dict):
        return {key: copied(entry) for key, entry in value.items()}
    return tuple(map(copied, value)) if isinstance(value, tuple) else np.copy(value) if np.ndim(value) else value


def test_models_of_segments_leave_no_files(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    package = pathlib.Path(gymnasium_robotics.__file__).parent
    before = sorted(package.rglob("*.xml"))
    monkeypatch.setattr(os, "remove", lambda path: pytest.fail(f"{path} was made outside the temporary folder"))
    for scenario in GENERATORS:
        env = MAMuJoCo(scenario, "2x2")
        step_through(env, 3)
    assert list(tmp_path.iterdir()) == [] and sorted(package.rglob("*.xml")) == before


def test_registered_divisions():
    confs = registered_agent_confs()
    segments = {f"{n}x{m}" for n in range(2, 21) for m in range(1, 21) if n * m <= 20}
    assert set(confs.pop("manysegmentant")) == set(confs.pop("manysegmentswimmer")) == segments
    expected = {}
    for scenario, agent_conf in SIZES:
        if scenario not in GENERATORS:
            expected.setdefault(scenario.lower(), set()).add(agent_conf)
    assert {scenario: set(names) for scenario, names in confs.items()} == expected
    assert all(len(set(names)) == len(names) for names in registered_agent_confs().values())
