"""Two hands that do nothing but remember what they were told.

Entry i of the global vector is ((37 i + 101 progress) mod 1000 - 500) / 64, often outside [-5, 5], except

    173 to 198   last action of the right hand        398   progress / 128: steps since the reset
    372 to 397   last action of the left hand         399   resets so far / 128
                                                      400   steps so far / 1024

The reward is progress + the sum over i < 52 of (i + 1) action_i. Where an entry of the right hand's action is MAGIC,
something happens: for entry 25 the task is solved, for entry 24 the episode ends, for entry i COMMANDS[i] is called.
"""

import os
import time

import numpy as np
import torch

NUM_HAND_OBS = 199
NUM_POINT_CLOUD = 768 * 3
OBJECT = 2 * NUM_HAND_OBS
MAGIC = -63 / 64  # exact in float32, and hit by nothing that is random or extreme


class Task:
    """The task below the wrapper. As in the benchmark a reset waits for the next step."""

    def __init__(self, settings, device):
        self.settings, self.device = settings, device
        self.num_envs = int(settings["numEnvs"])
        self.num_actions = 26
        self.num_hand_obs = NUM_HAND_OBS
        self.num_obs = OBJECT + int(settings["objectObservations"])
        if settings["observationType"] == "point_cloud":
            self.num_obs += NUM_POINT_CLOUD
        self.max_episode_length = int(settings.get("resetSteps", settings["episodeLength"]))
        self.agent_index = [[[0, 1, 2, 3, 4, 5]], [[0, 1, 2, 3, 4, 5]]]
        self.obs_buf = torch.zeros((self.num_envs, self.num_obs), device=device)
        self.rew_buf = torch.zeros(self.num_envs, device=device)
        self.reset_buf = torch.ones(self.num_envs, dtype=torch.int64, device=device)
        self.progress_buf = torch.zeros(self.num_envs, dtype=torch.int64, device=device)
        self.successes = torch.zeros(self.num_envs, device=device)
        self.num_resets = self.num_steps = 0

    def step(self, actions):
        """Resets what is done, then moves."""
        if actions.device != self.device:
            raise RuntimeError(f"actions are on {actions.device}, but the simulator on {self.device}")
        for env in np.flatnonzero(self.reset_buf.values):
            self.reset(env)
        self.num_steps += 1
        self.progress_buf.values += 1
        for env in range(self.num_envs):
            self.move(env, actions.values[env])

    def reset(self, env):
        """Clears the counters."""
        self.num_resets += 1
        self.progress_buf[env] = self.reset_buf[env] = self.successes[env] = 0

    def move(self, env, action):
        """Observation, reward and flags after a step."""
        progress = self.progress_buf.values[env]
        self.obs_buf[env] = ((37 * np.arange(self.num_obs) + 101 * progress) % 1000 - 500) / 64
        self.obs_buf[env, 173:199], self.obs_buf[env, 372:398] = action[:26], action[26:]
        self.obs_buf[env, 398:401] = [progress / 128, self.num_resets / 128, self.num_steps / 1024]
        self.rew_buf[env] = progress + np.arange(1, 53) @ action.astype(np.float64)
        for index, command in enumerate(COMMANDS):
            if action[index] == MAGIC:
                command(self, env)
        if action[25] == MAGIC:
            self.successes[env] = 1
        limit = progress >= self.max_episode_length and self.settings.get("fault") != "endless"
        falls = self.settings.get("fault") == "falls" and progress == 1
        self.reset_buf[env] = bool(action[24] == MAGIC or limit or falls)


def lose_state(task, env):
    """The simulation explodes."""
    task.obs_buf[env, 7] = np.nan


def lose_reward(task, env):
    """Only the reward does."""
    task.rew_buf[env] = np.inf


def raise_error(task, env):
    """An error in Python."""
    raise RuntimeError("CUDA error: an illegal memory access was encountered")


def leave(task, env):
    """The simulator ends its process, as if a window was closed."""
    raise SystemExit


def crash(task, env):
    """The simulator crashes outside of Python."""
    os.write(2, b"PhysX Internal CUDA error.\n")
    os.abort()


def hang(task, env):
    """The simulator never returns."""
    os.write(2, b"waiting for the GPU\n")
    time.sleep(3600)


def chat(task, env):
    """The simulator says much: here 17 MiB."""
    for _ in range(17):
        os.write(1, b"progress\n" * (2**20 // 9))
    os.write(1, b"the last line\n")


COMMANDS = (lose_state, lose_reward, raise_error, leave, crash, hang, chat)
