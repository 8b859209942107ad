"""Settings of Gymnasium's environments: they do what they do there, and what is impossible is refused."""

import pickle

import gymnasium
import numpy as np
import pytest
from ray.rllib.env.env_context import EnvContext

from rllib_dima import envs
from rllib_dima.envs.mamujoco.env import MAMuJoCo
from rllib_dima.envs.mamujoco.scenarios import SCENARIOS
from rllib_dima.envs.mamujoco.settings import check_settings, default_settings

CASES = [
    ("Ant", "2x4", "v4", {"use_contact_forces": True, "contact_cost_weight": 0.1, "healthy_z_range": [0.5, 0.8]}),
    ("Ant", "4x2", "v5", {"include_cfrc_ext_in_observation": False, "frame_skip": 2, "contact_force_range": (-9, 9)}),
    ("HalfCheetah", "2x3", "v4", {"forward_reward_weight": 0, "exclude_current_positions_from_observation": False}),
    ("Hopper", "3x1", "v4", {"terminate_when_unhealthy": False, "healthy_reward": np.float32(2)}),
    ("Hopper", "3x1", "v5", {"healthy_angle_range": (-0.01, 0.01), "healthy_state_range": (-np.inf, np.inf)}),
    ("Humanoid", "9|8", "v5", {"exclude_current_positions_from_observation": False, "contact_cost_range": [0, 1]}),
    ("HumanoidStandup", "9|8", "v5", {"uph_cost_weight": 2, "include_cinert_in_observation": False}),
    ("Pusher", "3p", "v5", {"reward_near_weight": 3.0}),
    ("Reacher", "2x1", "v5", {"reward_control_weight": -1}),
    ("Swimmer", "2x1", "v4", {"reset_noise_scale": 0, "ctrl_cost_weight": 1}),
    ("Walker2d", "3x2", "v5", {"healthy_z_range": (1.1, 1.5)}),
]


def act(env, rng):
    return {agent: rng.uniform(-1, 1, space.shape).astype(np.float32) for agent, space in env.action_spaces.items()}


@pytest.mark.parametrize(("scenario", "agent_conf", "version", "settings"), CASES)
def test_the_environment_is_gymnasiums_with_the_same_settings(scenario, agent_conf, version, settings):
    env = MAMuJoCo(scenario, agent_conf, version=version, **settings)
    plain = gymnasium.make(f"{scenario}-{version}", **settings)
    assert env.state_space.shape == plain.observation_space.shape
    low, high = plain.action_space.low, plain.action_space.high
    _, infos = env.reset(seed=3)
    expected, _ = plain.reset(seed=3)
    rng = np.random.default_rng(0)
    for _ in range(60):
        np.testing.assert_array_equal(infos["agent_0"]["state"], expected.astype(np.float32))
        actions, joint = act(env, rng), np.empty(plain.action_space.shape, np.float32)
        joint[np.concatenate(env.actuators)] = np.concatenate(list(actions.values()))
        _, rewards, terminateds, truncateds, infos = env.step(actions)
        expected, reward, terminated, truncated, _ = plain.step((high + low) / 2 + (high - low) / 2 * joint)
        assert rewards == pytest.approx(dict.fromkeys(env.agents, reward), rel=1e-6)  # float32 here and there
        assert (terminateds, truncateds) == ({"__all__": terminated}, {"__all__": truncated})
        if terminated or truncated:
            _, infos = env.reset()
            expected, _ = plain.reset()


@pytest.mark.parametrize("case", [("ManySegmentAnt", "2x1"), ("ManySegmentSwimmer", "2x1")])
def test_robots_of_segments_have_settings_too(case):
    moved = MAMuJoCo(*case, exclude_current_positions_from_observation=False, ctrl_cost_weight=7.0)
    plain = MAMuJoCo(*case)
    assert moved.state_space.shape[0] == plain.state_space.shape[0] + 2
    moved.reset(seed=0), plain.reset(seed=0)
    actions = {agent: np.ones(space.shape, np.float32) for agent, space in plain.action_spaces.items()}
    costs = (plain.step(actions)[1]["agent_0"] - moved.step(actions)[1]["agent_0"],)
    weight = default_settings(SCENARIOS[case[0].lower()], "v5")["ctrl_cost_weight"]
    assert costs == pytest.approx(((7 - weight) * plain.env.model.nu,))


@pytest.mark.parametrize("case", [("HalfCheetah", "2x3"), ("CoupledHalfCheetah", "1p1"), ("ManySegmentSwimmer", "2x1")])
def test_episodes_are_truncated_after_the_given_steps(case):
    env = MAMuJoCo(*case, max_episode_steps=np.int64(3))
    for _ in range(2):
        env.reset(seed=0)
        flags = [env.step(act(env, np.random.default_rng(0)))[2:4] for _ in range(3)]
        assert flags == [({"__all__": False}, {"__all__": step == 3}) for step in (1, 2, 3)]


def test_an_end_of_the_task_in_the_last_step_stays_one():
    env = MAMuJoCo("Walker2d", "2x3", healthy_z_range=(1.3, 1.4), max_episode_steps=1)
    env.reset(seed=0)
    assert env.step(act(env, np.random.default_rng(0)))[2] == {"__all__": True}


def test_states_and_copies_belong_to_their_settings():
    env = MAMuJoCo("Ant", "2x4", healthy_reward=2, max_episode_steps=9)
    env.reset(seed=0)
    copied = pickle.loads(pickle.dumps(env))
    actions = act(env, np.random.default_rng(0))
    np.testing.assert_equal(copied.step(actions), env.step(actions))
    assert copied.max_episode_steps == 9
    same = MAMuJoCo("Ant", "2x4", healthy_reward=2.0, max_episode_steps=9, healthy_z_range=[0.2, 1])  # the default
    same.set_state(env.get_state())
    for other in ({}, {"healthy_reward": 2}, {"healthy_reward": 1, "max_episode_steps": 9}):
        with pytest.raises(ValueError, match="another environment"):
            MAMuJoCo("Ant", "2x4", **other).set_state(env.get_state())


def test_env_config_sets_them():
    create = envs.creator("mamujoco_ant_4x2")
    env = create(EnvContext({"terminate_when_unhealthy": False, "max_episode_steps": 5, "team_reward": "mean"}, 1))
    assert env.env._terminate_when_unhealthy is False and env.max_episode_steps == 5
    env = envs.make("mamujoco", scenario="Reacher", agent_conf="2x1", version="v5", reward_dist_weight=3)
    assert env.env._reward_dist_weight == 3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"healthy_rewards": 1}, "Unknown setting of Ant-v4: 'healthy_rewards'. Did you mean 'healthy_reward'"),
        ({"frame_skip": 2}, "Unknown setting of Ant-v4: 'frame_skip'"),  # which only v5 has
        ({"version": "v5", "use_contact_forces": True}, "Unknown setting of Ant-v5: 'use_contact_forces'"),
        ({"xml_file": "ant.xml"}, "Unknown setting of Ant-v4: 'xml_file'"),  # the joints are those of the robot
        ({"version": "v5", "frame_skip": 0}, "frame_skip is 0, but it must be a whole number of at least 1"),
        ({"version": "v5", "frame_skip": 2.5}, r"frame_skip is 2\.5"),
        ({"max_episode_steps": 0}, "max_episode_steps is 0, but it must be a whole number of at least 1"),
        ({"max_episode_steps": True}, "max_episode_steps is True"),
        ({"max_episode_steps": 1e3}, r"max_episode_steps is 1000\.0"),
        ({"healthy_reward": "1.0"}, r"healthy_reward is '1\.0', but it must be a finite number, such as 1\.0"),
        ({"healthy_reward": None}, "healthy_reward is None"),
        ({"healthy_reward": True}, "healthy_reward is True"),
        ({"healthy_reward": np.nan}, "healthy_reward is nan"),
        ({"ctrl_cost_weight": np.inf}, "ctrl_cost_weight is inf"),
        ({"reset_noise_scale": -0.1}, r"reset_noise_scale is -0\.1, but it must be a finite number of at least 0"),
        ({"terminate_when_unhealthy": 0}, "terminate_when_unhealthy is 0, but it must be True or False"),
        ({"terminate_when_unhealthy": "false"}, "terminate_when_unhealthy is 'false'"),
        ({"healthy_z_range": 0.2}, r"healthy_z_range is 0\.2, but it must be a range \(low, high\), such as \(0\.2"),
        ({"healthy_z_range": (1.0, 0.2)}, r"healthy_z_range is \(1\.0, 0\.2\)"),
        ({"healthy_z_range": (0.2, np.nan)}, "healthy_z_range is"),
        ({"healthy_z_range": (0.2, 0.5, 1.0)}, "healthy_z_range is"),
        ({"healthy_z_range": "01"}, "healthy_z_range is '01'"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        MAMuJoCo("Ant", "2x4", **settings)


def test_a_robot_without_settings_says_so():
    with pytest.raises(
        ValueError, match=r"setting of CoupledHalfCheetah: 'ctrl_cost_weight'\. Known: max_episode_steps"
    ):
        MAMuJoCo("CoupledHalfCheetah", "1p1", ctrl_cost_weight=1)


def test_every_setting_of_this_gymnasium_is_of_a_known_kind():
    num_settings = 0
    for scenario in SCENARIOS.values():
        for version in scenario.versions or (None,):
            defaults = default_settings(scenario, version)
            assert check_settings(scenario, version, defaults) == {}
            num_settings += len(defaults)
    assert num_settings > 100
