"""A stand-in for the benchmark, with its interface and its habits, to test the bridge without Isaac Gym.

Its numbers are made up (see task.py) so that a test can tell where each of them came from. What goes wrong is chosen by
the line "fault" of a task's cfg file, or by the actions.
"""

import os
import random
import time

import numpy as np
import torch
from isaacgym import gymutil

from bidexhands.task import Task
from bidexhands.wrapper import MultiVecTaskPython


def make(task_name, algo):
    """The environment; settings come from the command line and from files below the working directory."""
    if algo not in ("mappo", "happo", "hatrpo", "maddpg", "ippo"):
        raise ValueError(f"not a multi-agent algorithm: {algo}")
    args = parse()
    read_settings(f"cfg/{algo}/config.yaml")
    settings = read_settings(f"cfg/{task_name}.yaml")
    settings.update(numEnvs=args.num_envs or settings["numEnvs"])
    settings.update(episodeLength=args.episode_length or settings["episodeLength"])
    random.seed(args.seed)
    np.random.seed(args.seed)
    torch.manual_seed(args.seed)
    if not args.headless:
        raise RuntimeError("cannot open a window: no display")
    os.write(1, b"Not connected to PVD\n" * 5000)  # more than a pipe holds
    fail(settings.get("fault"))
    return MultiVecTaskPython(Task(settings, args.sim_device), args.rl_device)


def parse():
    """The command line."""
    return gymutil.parse_arguments(
        description="RL Policy",
        custom_parameters=[
            {"name": "--headless", "action": "store_true"},
            {"name": "--rl_device", "default": "cuda:0"},
            {"name": "--num_envs", "type": int, "default": 0},
            {"name": "--episode_length", "type": int, "default": 0},
            {"name": "--seed", "type": int},
        ],
    )


def read_settings(path):
    """The lines "key: value" of a file."""
    with open(path) as file:
        pairs = [line.split(":") for line in file if ":" in line]
    return {key.strip(): value.strip() for key, value in pairs}


def fail(fault):
    """Ways in which a start goes wrong."""
    if fault == "quits":
        print("*** Failed to create sim")
        raise SystemExit
    if fault == "crashes":
        os.write(2, b"Unhandled descriptor set 433\n")
        os.abort()
    if fault == "hangs":
        os.write(2, b"Building extension module gymtorch\n")
        time.sleep(3600)
