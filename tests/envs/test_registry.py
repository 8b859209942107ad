"""Environments by id and `env_config`."""

import inspect
import pickle

import pytest
from gymnasium_robotics.envs.multiagent_mujoco.obsk import get_parts_and_edges
from ray.rllib.env.env_context import EnvContext
from ray.tune.registry import ENV_CREATOR, _global_registry

from rllib_dima import envs
from rllib_dima.envs.bidexhands.settings import Settings


def test_ids_and_families():
    assert {"mamujoco", "bidexhands", "mamujoco_ant_4x2", "mamujoco_humanoid_9|8"} < set(envs.ENV_IDS)
    tasks = [name for name in envs.ENV_IDS if name.startswith("bidexhands_")]
    assert tasks == [f"bidexhands_{t}" for t in ("bottle_cap", "door_open_inward", "door_open_outward", "pen")]
    assert all(envs.env_family(name) == name.split("_")[0] for name in envs.ENV_IDS)
    strangers = ("CartPole-v1", "mamujoco_mine", "bidexhands_mine", envs.MAMuJoCo, None)
    assert [envs.env_family(other) for other in strangers] == [None] * 5


@pytest.mark.parametrize(
    ("scenario", "agent_conf"),
    [("Ant", "2x4"), ("Hopper", "3x1"), ("Pusher", "3p"), ("ManySegmentSwimmer", "10x2"), ("ManySegmentAnt", "2x3")],
)
def test_id_and_env_config_name_the_same_environment(scenario, agent_conf):
    by_id = envs.make(f"mamujoco_{scenario.lower()}_{agent_conf}", partition="joints")
    by_config = envs.make("mamujoco", scenario=scenario, agent_conf=agent_conf, partition="joints")
    expected = [[node.act_ids for node in part] for part in get_parts_and_edges(scenario, agent_conf)[0]]
    for env in (by_id, by_config):
        assert [own.tolist() for own in env.actuators] == expected


def test_segments_beyond_the_registered_ids():
    env = envs.make("mamujoco", scenario="manysegmentswimmer", agent_conf="25x1")
    assert len(env.possible_agents) == 25 and "mamujoco_manysegmentswimmer_25x1" not in envs.ENV_IDS
    env = envs.make("bidexhands", task="pen", episode_steps=7)
    assert type(env) is envs.BiDexHands and env.state_space.shape == (417,)


def test_keys_are_those_of_the_constructors():
    mamujoco = ("partition", "observations", "agent_obsk", "version", "render_mode", "max_episode_steps")
    mamujoco += ("clip_actions", "state_padding")
    assert envs.env_config_keys("mamujoco") == ("scenario", "agent_conf", *mamujoco)
    assert envs.env_config_keys("mamujoco_reacher_2x1") == mamujoco  # Reacher-v4 has no settings
    weights = ("reward_dist_weight", "reward_control_weight")
    assert envs.env_config_keys("mamujoco_reacher_2x1", {"version": "v5"}) == (*mamujoco, "frame_skip", *weights)
    reacher = {"scenario": "reacher", "version": "v5"}
    assert envs.env_config_keys("mamujoco", reacher)[-2:] == weights
    settings = tuple(inspect.signature(Settings).parameters)
    assert envs.env_config_keys("bidexhands_pen") == ("backend", "render_mode", *settings)
    isaacgym = ("python", "bidexhands", "device", "start_timeout_s", "step_timeout_s", "render_mode")
    assert envs.env_config_keys("bidexhands", {"backend": "isaacgym"}) == ("backend", "task", *isaacgym)


@pytest.mark.parametrize(
    ("env_id", "env_config", "message"),
    [
        ("mamujoco_ant_4x3", {}, "Unknown environment id 'mamujoco_ant_4x3'. Did you mean 'mamujoco_ant_4x2'"),
        ("xyzzy", {}, r"^.{,40}'xyzzy'.{,200}$"),
        ("bidexhands_pens", {}, "'bidexhands_pens'. Did you mean 'bidexhands_pen'"),
        ("mamujoco_ant_4x2", {"partition_kind": "joints"}, "'partition_kind'. Did you mean 'partition'"),
        ("mamujoco_ant_4x2", {"partition": "joint"}, "partition 'joint'. Did you mean 'joints'"),
        ("mamujoco_ant_4x2", {"healthy_rewards": 1}, "'healthy_rewards'. Did you mean 'healthy_reward'"),
        ("mamujoco_ant_4x2", {"frame_skip": 2}, "key of mamujoco_ant_4x2: 'frame_skip'"),
        ("mamujoco_ant_4x2", {"version": "v6", "frame_skip": 2}, "Unknown version 'v6'"),
        ("mamujoco", {"scenario": "Ants", "healthy_reward": 2}, "scenario 'Ants'. Did you mean 'ant'"),
        ("mamujoco_ant_4x2", {"scenario": "Ant"}, "Unknown env_config key of mamujoco_ant_4x2: 'scenario'"),
        ("mamujoco_ant_4x2", {"backend": "isaacgym"}, "Unknown env_config key of mamujoco_ant_4x2: 'backend'"),
        ("mamujoco_ant_4x2", {"seed": 3}, "Unknown env_config key of mamujoco_ant_4x2: 'seed'"),
        ("mamujoco", {"scenario": "Ant"}, "mamujoco needs 'agent_conf' in env_config, .*'scenario'"),
        ("mamujoco", {"scenario": "Ants", "agent_conf": "4x2"}, "scenario 'Ants'. Did you mean 'ant'"),
        ("bidexhands", {}, "bidexhands needs 'task' in env_config"),
        ("bidexhands_pen", {"substep": 2}, "'substep'. Did you mean 'substeps'"),
        ("bidexhands_pen", {"backend": "isaac"}, "Unknown backend 'isaac'. Did you mean 'isaacgym'"),
        ("bidexhands_pen", {"backend": "isaacgym", "substeps": 2}, "key of bidexhands_pen: 'substeps'"),
        ("bidexhands_pen", {"backend": "isaacgym"}, "bidexhands_pen needs 'python' in env_config"),
    ],
)
def test_wrong_ids_and_settings_are_refused(env_id, env_config, message):
    with pytest.raises(ValueError, match=message):
        envs.make(env_id, **env_config)


def test_every_env_config_may_hold_the_settings_of_the_wrapper():
    create = envs.creator("mamujoco_ant_4x2")
    with pytest.raises(ValueError, match=r"'team_rewards'\. Did you mean 'team_reward'"):
        create({"team_rewards": "mean"})
    with pytest.raises(
        ValueError, match=r"Known: action_masks, agent_obsk, .* max_episode_steps, .* team_reward, .*version"
    ):
        create({"xyzzy": 1})


def test_creators_are_picklable_and_accept_every_form_of_env_config():
    create = pickle.loads(pickle.dumps(envs.creator("mamujoco_ant_4x2")))
    for env_config in (None, {}, EnvContext({}, worker_index=1), EnvContext({"team_reward": "mean"}, worker_index=1)):
        assert create(env_config).actuators[0].tolist() == [0, 1]
    joints = create(EnvContext({"partition": "joints"}, worker_index=1))
    assert joints.actuators[0].tolist() != [0, 1]


def test_every_id_is_registered_with_ray():
    envs.register_envs()
    envs.register_envs()
    for name in envs.ENV_IDS:
        assert _global_registry.contains(ENV_CREATOR, name)
    assert len(_global_registry.get(ENV_CREATOR, "mamujoco_halfcheetah_6x1")({}).possible_agents) == 6
