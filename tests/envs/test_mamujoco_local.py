"""MAMuJoCo's local observations against Gymnasium-Robotics, on the same simulation and on one of its own."""

import numpy as np
import pytest
from gymnasium_robotics.envs.multiagent_mujoco import mamujoco_v1, obsk

from rllib_dima.envs.mamujoco import local_observations as mamujoco_observations
from rllib_dima.envs.mamujoco.env import MAMuJoCo
from rllib_dima.envs.outcomes import SimulationError

CASES = [
    ("Ant", "2x4"),
    ("Ant", "4x2"),
    ("CoupledHalfCheetah", "1p1"),
    ("HalfCheetah", "2x3"),
    ("HalfCheetah", "6x1"),
    ("Hopper", "3x1"),
    ("Humanoid", "9|8"),
    ("HumanoidStandup", "9|8"),
    ("ManySegmentAnt", "2x1"),
    ("ManySegmentAnt", "3x2"),
    ("ManySegmentAnt", "12x1"),  # labels with two digits are sorted as text
    ("ManySegmentSwimmer", "2x1"),
    ("ManySegmentSwimmer", "2x6"),
    ("Pusher", "3p"),
    ("Reacher", "2x1"),
    ("Swimmer", "2x1"),
    ("Walker2d", "2x3"),
]
OWN_DIVISIONS = [("Ant", "2x4d"), ("HalfCheetah", "3x2"), ("Walker2d", "3x2")]  # Gymnasium-Robotics has no such ones


def sample(env, rng):
    return {agent: rng.uniform(-1, 1, space.shape).astype(np.float32) for agent, space in env.action_spaces.items()}


def make_version(scenario):
    return None if scenario == "CoupledHalfCheetah" else "v5"


def make_reference(env, scenario, agent_conf, agent_obsk):
    """Gymnasium-Robotics' environment on the simulation of `env`, and the agent of `env` that each of its agents is."""
    reference = mamujoco_v1.parallel_env(scenario, agent_conf, agent_obsk, gym_env=env.env)
    for near in reference.k_dicts:  # equal labels (Pusher): their order depends on memory addresses
        for nodes in near.values():
            nodes.sort(key=lambda node: (node.label, node.act_ids))
    moves = [{node.act_ids for node in part} for part in reference.agent_action_partitions]
    ours = {frozenset(own.tolist()): agent for agent, own in zip(env.agents, env.actuators, strict=True)}
    return reference, {agent: ours[frozenset(own)] for agent, own in zip(reference.agents, moves, strict=True)}


def assert_same(observations, reference, agent_of):
    expected = reference._get_obs()
    assert set(agent_of.values()) == set(observations)
    for agent, entries in expected.items():
        np.testing.assert_array_equal(observations[agent_of[agent]], entries.astype(np.float32))


@pytest.mark.parametrize("agent_obsk", [0, 1, 2])
@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_observations_are_those_of_gymnasium_robotics(case, agent_obsk):
    settings = {"partition": "joints", "observations": "local", "agent_obsk": agent_obsk}
    env = MAMuJoCo(*case, version=make_version(case[0]), **settings)
    reference, agent_of = make_reference(env, *case, agent_obsk)
    rng = np.random.default_rng(0)
    observations, _ = env.reset(seed=0)
    for _ in range(25):
        assert_same(observations, reference, agent_of)
        observations, _, terminateds, _, _ = env.step(sample(env, rng))
        if terminateds["__all__"]:
            assert_same(observations, reference, agent_of)
            observations, _ = env.reset()


@pytest.mark.parametrize(
    "case", [("Ant", "2x4"), ("Hopper", "3x1"), ("Humanoid", "9|8"), ("Reacher", "2x1")], ids="-".join
)
def test_a_whole_episode_is_that_of_gymnasium_robotics(case):
    env = MAMuJoCo(*case, version="v5", partition="joints", observations="local")
    reference = mamujoco_v1.parallel_env(*case)
    assert env.agents == reference.possible_agents
    observations, _ = env.reset(seed=4)
    expected, _ = reference.reset(seed=4)
    rng = np.random.default_rng(0)
    for _ in range(50):
        for agent in env.agents:
            np.testing.assert_array_equal(observations[agent], expected[agent].astype(np.float32))
        actions = sample(env, rng)
        scale = reference.single_agent_env.action_space.high[0]
        observations, rewards, terminateds, truncateds, _ = env.step(actions)
        expected, *flags_and_rewards, _ = reference.step({agent: scale * actions[agent] for agent in env.agents})
        assert flags_and_rewards[0] == pytest.approx(
            rewards, rel=1e-6, abs=1e-6
        )  # there, the cost of actions is float64
        assert set(flags_and_rewards[1].values()) == {terminateds["__all__"]}
        assert set(flags_and_rewards[2].values()) == {truncateds["__all__"]}
        if terminateds["__all__"] or truncateds["__all__"]:
            return


@pytest.mark.parametrize("partition", ["consecutive", "joints"])
@pytest.mark.parametrize(
    "case", [*OWN_DIVISIONS, ("Ant", "2x4"), ("HalfCheetah", "2x3"), ("Pusher", "3p")], ids="-".join
)
def test_agents_see_the_joints_that_they_move(case, partition):
    """For any division: Gymnasium-Robotics with a division of our own, of the joints each agent truly moves."""
    env = MAMuJoCo(*case, version="v5", partition=partition, observations="local", agent_obsk=1)
    parts, edges, global_nodes = obsk.get_parts_and_edges(case[0], "3p" if case[0] == "Pusher" else None)
    nodes = {node.act_ids: node for part in parts for node in part}
    factorization = {
        "partition": [tuple(nodes[actuator] for actuator in own) for own in env.actuators],
        "edges": edges,
        "globals": global_nodes,
    }
    reference = mamujoco_v1.parallel_env(*case, 1, agent_factorization=factorization, gym_env=env.env)
    for near in reference.k_dicts:
        for found in near.values():
            found.sort(key=lambda node: (node.label, node.act_ids))
    rng = np.random.default_rng(0)
    env.reset(seed=0)
    for _ in range(10):
        observations, *_ = env.step(sample(env, rng))
        assert_same(observations, reference, {agent: agent for agent in env.agents})


def test_entries_by_hand():
    """HalfCheetah 3x2 as the paper's code divides it, k = 1: agent_1 moves bfoot and fthigh."""
    env = MAMuJoCo("HalfCheetah", "3x2", observations="local")
    env.reset(seed=0)
    observations, *_ = env.step(sample(env, np.random.default_rng(0)))
    data = env.env.data
    place = {env.env.model.joint(index).name: index for index in range(env.env.model.njnt)}
    entries = [(data.qpos, "bfoot"), (data.qvel, "bfoot"), (data.qpos, "fthigh"), (data.qvel, "fthigh")]
    entries += [(data.qpos, "bshin"), (data.qpos, "bthigh"), (data.qpos, "fshin")]  # neighbours, by name
    entries += [(data.qpos, "rootz"), (data.qpos, "rooty")]
    entries += [(data.qvel, "rootx"), (data.qvel, "rootz"), (data.qvel, "rooty")]
    expected = [field[place[joint]] for field, joint in entries]
    np.testing.assert_array_equal(observations["agent_1"], np.float32(expected))


def test_bounds_of_observations_are_kept():
    env = MAMuJoCo("Hopper", "3x1", version="v5", partition="joints", observations="local")
    env.reset(seed=0)
    reference, agent_of = make_reference(env, "Hopper", "3x1", 1)
    for velocity in (-50.0, -10.0, 9.5, 50.0):  # Hopper's velocities are cut off at 10
        env.env.data.qvel[:] = velocity
        observations = env._read(env.env._get_obs())
        assert_same(observations, reference, agent_of)
        assert max(abs(entry) for own in observations.values() for entry in own) <= 10
    env = MAMuJoCo("Ant", "4x2", observations="local", agent_obsk=0)
    env.reset(seed=0)
    env.env.data.cfrc_ext[:] = 3.0  # ants' contact forces at 1
    assert env._read(env.env._get_obs())["agent_0"].max() == 1


def test_default_reach_is_one_and_more_reach_sees_more():
    sizes = {}
    for agent_obsk in (None, 0, 1, 2, np.int64(5), 99):
        env = MAMuJoCo("HalfCheetah", "6x1", observations="local", agent_obsk=agent_obsk)
        sizes[agent_obsk] = [space.shape[0] for space in env.observation_spaces.values()]
    assert sizes[0] == [7] * 6  # own position and velocity, and the trunk's 2 + 3
    assert sizes[1] == sizes[None] == [9, 9, 8, 9, 9, 8]
    assert sizes[2] == [11, 10, 9, 11, 10, 9] and sizes[5] == sizes[99] == [12] * 6


def test_order_of_entries_does_not_depend_on_the_order_of_a_set(monkeypatch):
    find = obsk.get_joints_at_kdist
    places = []
    for reverse in (False, True):
        with monkeypatch.context() as patch:
            patch.setattr(
                obsk,
                "get_joints_at_kdist",
                lambda *args, reverse=reverse: {k: nodes[:: -1 if reverse else 1] for k, nodes in find(*args).items()},
            )
            env = MAMuJoCo("Pusher", "3p", observations="local", agent_obsk=2)
        env.reset(seed=0)
        places.append(env.step(sample(env, np.random.default_rng(0)))[0])
    np.testing.assert_equal(*places)


def test_observations_that_cannot_be_read_from_the_data_are_refused(monkeypatch):
    build = obsk.build_obs
    monkeypatch.setattr(obsk, "build_obs", lambda *args, **kwargs: 2 * build(*args, **kwargs))
    with pytest.raises(RuntimeError, match="not known here"):
        MAMuJoCo("Swimmer", "2x1", observations="local")


def test_local_observations_that_are_not_finite_are_an_error():
    env = MAMuJoCo("Ant", "4x2", observations="local")
    env.reset(seed=0)
    env.env.data.cfrc_ext[:] = np.nan  # which the state of v4 does not contain
    with pytest.raises(SimulationError, match="local observations became NaN"):
        env._read(env.env._get_obs())


def test_every_field_of_the_data_is_read_at_every_step():
    """Views of MuJoCo's arrays must stay valid: 300 steps with resets, on the robot that uses most of them."""
    env = MAMuJoCo("Humanoid", "9|8", version="v5", partition="joints", observations="local")
    reference, agent_of = make_reference(env, "Humanoid", "9|8", 1)
    assert len(mamujoco_observations._FIELDS) == 10 and len(env._observe._fields) == 6
    env.reset(seed=0)
    rng = np.random.default_rng(0)
    for _ in range(300):
        observations, _, terminateds, _, _ = env.step(sample(env, rng))
        if terminateds["__all__"]:
            observations, _ = env.reset()
    assert_same(observations, reference, agent_of)
