"""The paper's seven MAMuJoCo tasks, each through RLlib: sizes, and one iteration in which everything trains."""

import math

import pytest
from test_ray_team import TINY

from rllib_dima import DIMAConfig
from rllib_dima.rl_modules import POLICY_ID

TASKS = {  # id: agents, action, state and observation sizes
    "mamujoco_ant_2x4": (2, 4, 27, 29),
    "mamujoco_ant_4x2": (4, 2, 27, 31),
    "mamujoco_halfcheetah_2x3": (2, 3, 17, 19),
    "mamujoco_halfcheetah_3x2": (3, 2, 17, 20),
    "mamujoco_halfcheetah_6x1": (6, 1, 17, 23),
    "mamujoco_walker2d_2x3": (2, 3, 17, 19),
    "mamujoco_walker2d_3x2": (3, 2, 17, 20),
}


def train_once(env, **settings):
    """One iteration on `env`: its result and the layout that the learner saw."""
    algo = DIMAConfig().environment(env).training(**settings).debugging(seed=0).build()
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
def test_task_has_the_papers_sizes_and_trains(env):
    result, layout = train_once(env, **TINY)
    assert (layout.num_agents, layout.action_size, layout.state_size, layout.observation_size) == TASKS[env]
    assert_everything_trained(result)


@pytest.mark.slow
@pytest.mark.parametrize("env", TASKS)
def test_task_trains_with_the_nano_preset(env):
    result, _ = train_once(env, model_size="nano", num_steps_before_learning=0)
    assert_everything_trained(result)
