"""Tasks through RLlib: the sizes that learners see, and one iteration in which everything trains."""

import math

import pytest
import ray.tune
from mpe2 import simple_spread_v3
from support.team import TINY

from rllib_dima import DIMAConfig
from rllib_dima.learning.rl_modules import POLICY_ID

TASKS = {  # id: agents, (largest) action, state and observation sizes, the appended ids included
    "mamujoco_ant_2x4": (2, 4, 27, 29),
    "mamujoco_ant_4x2": (4, 2, 27, 31),
    "mamujoco_halfcheetah_2x3": (2, 3, 17, 19),
    "mamujoco_halfcheetah_3x2": (3, 2, 17, 20),
    "mamujoco_halfcheetah_6x1": (6, 1, 17, 23),
    "mamujoco_walker2d_2x3": (2, 3, 17, 19),
    "mamujoco_walker2d_3x2": (3, 2, 17, 20),
    "bidexhands_bottle_cap": (2, 26, 420, 223),
    "bidexhands_door_open_inward": (2, 26, 417, 220),
    "bidexhands_door_open_outward": (2, 26, 417, 220),
    "bidexhands_pen": (2, 26, 417, 220),
    "mamujoco_humanoid_9|8": (2, 9, 376, 378),
    "mamujoco_manysegmentswimmer_10x2": (10, 2, 44, 54),
    "mamujoco_coupledhalfcheetah_1p1": (2, 6, 40, 42),
    "mamujoco_reacher_2x1": (2, 1, 11, 13),
    "mpe_continuous": (3, 5, 54, 21),
    "mpe_discrete": (3, 5, 54, 21),
}


@pytest.fixture(scope="module", autouse=True)
def mpe_registered():
    for kind in ("continuous", "discrete"):
        continuous = kind == "continuous"
        ray.tune.register_env(
            f"mpe_{kind}", lambda _, continuous=continuous: simple_spread_v3.parallel_env(continuous_actions=continuous)
        )


def train_once(env, **settings):
    """One iteration on `env`: its result and the layout that the learner saw."""
    env_config = {"team_reward": "mean"} if env.startswith("mpe") else {}
    config = DIMAConfig().environment(env, env_config=env_config).training(**settings)
    algo = config.debugging(seed=0, log_sys_usage=False).build()
    result = algo.train()
    layout = algo.learner_group._learner.module[POLICY_ID].layout
    algo.stop()
    return result, layout


def assert_everything_trained(result):
    losses = {
        "world_model": ("decoder_loss", "dynamics_loss", "reward_loss", "termination_loss"),
        "shared_policy": ("policy_loss", "entropy"),
        "critic": ("value_loss", "imagined_return_mean"),
    }
    for module, names in losses.items():
        for name in names:
            assert math.isfinite(result["learners"][module][name]), (module, name)


@pytest.mark.parametrize("env", TASKS)
def test_task_has_its_sizes_and_trains(env):
    result, layout = train_once(env, **TINY)
    assert (layout.num_agents, layout.action_size, layout.state_size, layout.observation_size) == TASKS[env]
    assert_everything_trained(result)


@pytest.mark.slow
@pytest.mark.parametrize("env", TASKS)
def test_task_trains_with_the_nano_preset(env):
    result, _ = train_once(env, model_size="nano", num_steps_before_learning=0)
    assert_everything_trained(result)
