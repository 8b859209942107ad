"""A toy team, and a configuration of networks so small that a test can train them."""

import numpy as np
import torch
from gymnasium.spaces import Box, Discrete
from ray.rllib.env.multi_agent_env import MultiAgentEnv

from rllib_dima import DIMAConfig
from rllib_dima.learning.trajectories import to_trajectory
from rllib_dima.sampling.env_runner import LAYOUT_KEY, TeamEnvRunner

TINY = {
    "env_steps_per_iteration": 20,
    "replay_capacity": 500,
    "decoder_hidden_size": 16,
    "decoder_num_tokens": 2,
    "decoder_batch_size": 8,
    "decoder_updates_per_iteration": 2,
    "dynamics_channels": 8,
    "dynamics_group_size": 8,
    "dynamics_num_levels": 1,
    "dynamics_blocks_per_level": 1,
    "dynamics_condition_size": 8,
    "dynamics_action_size": 8,
    "dynamics_batch_size": 8,
    "dynamics_updates_per_iteration": 2,
    "reward_embedding_size": 8,
    "reward_num_layers": 1,
    "reward_num_heads": 1,
    "reward_batch_size": 4,
    "reward_updates_per_iteration": 2,
    "imagination_horizon": 3,
    "num_imagined_rollouts": 4,
    "policy_updates_per_iteration": 1,
    "actor_hidden_size": 8,
    "critic_hidden_size": 8,
}


class Team(MultiAgentEnv):
    """Two agents with different spaces. The state is (steps, a number drawn at reset, torch threads, worker)."""

    def __init__(self, config=None):
        super().__init__()
        self.config = {"length": 7, "terminates": False, "discrete": False, "nan_at": None, **config}
        if self.config.get("broken"):
            raise ValueError("the simulator is not installed")
        self.agents = self.possible_agents = ["left", "right"]
        self.observation_spaces = {"left": Box(-9, 9, (3,), np.float32), "right": Box(-9, 9, (2,), np.float32)}
        actions = Discrete(3) if self.config["discrete"] else Box(-0.4, 0.4, (2,), np.float32)
        self.action_spaces = {"left": actions, "right": actions}
        self.state_space = Box(-np.inf, np.inf, (4,), np.float32)
        self.random = np.random.default_rng()
        self.worker_index = config.worker_index

    def reset(self, *, seed=None, options=None):
        if seed is not None:
            self.random = np.random.default_rng(seed)
        self.steps, self.number = 0, self.random.normal()
        return self._observations(), {}

    def step(self, actions):
        assert all(self.action_spaces[agent].contains(action) for agent, action in actions.items()), actions
        self.steps += 1
        done = self.steps == self.config["length"]
        flags = dict.fromkeys([*self.agents, "__all__"], done), dict.fromkeys([*self.agents, "__all__"], False)
        terminateds, truncateds = flags if self.config["terminates"] else flags[::-1]
        reward = np.nan if self.steps == self.config["nan_at"] else 1.0
        return self._observations(), dict.fromkeys(self.agents, reward), terminateds, truncateds, {}

    def state(self):
        return np.array([self.steps, self.number, torch.get_num_threads(), self.worker_index], np.float32)

    def _observations(self):
        return {
            "left": np.array([self.steps, self.number, 0], np.float32),
            "right": np.array([self.steps, 1], np.float32),
        }


def team_config(env_config=None, **hyperparameters):
    """A configuration small enough for tests. `stop()` would wait for the next measurement of the machine's load."""
    config = DIMAConfig().environment(Team, env_config=env_config or {})
    return config.training(**{**TINY, **hyperparameters}).debugging(seed=1, log_sys_usage=False)


def make_runner(config, worker_index=0):
    return TeamEnvRunner(config=config, worker_index=worker_index)


def trajectories(runner, num_timesteps):
    layout = runner.get_spaces()[LAYOUT_KEY]
    return [to_trajectory(episode, layout) for episode in runner.sample(num_timesteps=num_timesteps)]


def of_learners(algo, function):
    return [result.get() for result in algo.learner_group.foreach_learner(function)]


def weights(learner):
    """Copies of the parameters and buffers of all networks, by module and name."""
    modules = learner.module.get_state()
    return {f"{module}/{name}": value for module, part in modules.items() for name, value in part.items()}
