"""The benchmark's interface for several agents: arrays of (environments, agents, ...)."""

import torch


class Box:
    """A space, as far as the bridge looks at it."""

    def __init__(self, size):
        self.shape = (size,)


class MultiVecTaskPython:
    """Two hands as two agents."""

    clip_obs, clip_actions = 5.0, 1.0

    def __init__(self, task, rl_device):
        self.task, self.rl_device = task, rl_device
        self.num_envs, self.num_agents = task.num_envs, 2
        self.observation_space = [Box(task.num_obs - task.num_hand_obs)] * 2
        self.share_observation_space = [Box(task.num_obs)] * 2
        self.action_space = (Box(task.num_actions),) * 2

    def step(self, actions):
        """Six results, of which the last two are of no use."""
        together = torch.hstack(actions)
        self.task.step(torch.clamp(together, -self.clip_actions, self.clip_actions))
        reward = self.task.rew_buf[:, None].to(self.rl_device)
        done = self.task.reset_buf.to(self.rl_device)
        rewards, dones = torch.stack([reward, reward], 1), torch.stack([done, done], 1)
        return self.observations(), self.states(), rewards, dones, torch.zeros((2, 0)), None

    def reset(self):
        """A step with small random actions, whatever the flags of the environments are."""
        noise = torch.rand([self.task.num_envs, 2 * self.task.num_actions], device=self.rl_device)
        self.task.step(torch.Tensor(0.01 * (1 - 2 * noise.values), noise.device))
        return self.observations(), self.states(), None

    def observations(self):
        """(environments, agents, O): every hand's own block and the object's."""
        block, everything = self.task.num_hand_obs, torch.clamp(self.task.obs_buf, -self.clip_obs, self.clip_obs)
        hands = everything[:, :block], everything[:, block : 2 * block]
        return torch.stack([torch.hstack([hand, everything[:, 2 * block :]]) for hand in hands], 1)

    def states(self):
        """(environments, agents, S): the same for both."""
        everything = torch.clamp(self.task.obs_buf, -self.clip_obs, self.clip_obs)
        return torch.stack([everything, everything], 1)
