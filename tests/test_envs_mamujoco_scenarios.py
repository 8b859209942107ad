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

from rllib_dima.envs.base import CooperativeEnv
from rllib_dima.envs.mamujoco import MAMuJoCo
from rllib_dima.envs.mamujoco_scenarios import registered_agent_confs

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
        flat = (high + low) / 2 + (high - low) / 2 * np.concatenate(list(actions.values()))
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
