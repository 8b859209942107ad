"""The real Bi-DexHands: a bridge to the benchmark on Isaac Gym, which runs in a process with a Python of its own.

Isaac Gym needs Python 3.7 or 3.8; no newer one can load it. So the simulator lives in a process of that Python
(`worker.py`), one per environment, and only arrays travel.

This bridge has been tested against a stand-in for Isaac Gym, not against Isaac Gym.
"""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Mapping
from numbers import Integral
from typing import Any, NoReturn

import numpy as np
from gymnasium.spaces import Box

from rllib_dima.core.names import check_name
from rllib_dima.envs.bidexhands.tasks import AGENT_IDS, TASKS
from rllib_dima.envs.isaacgym import worker
from rllib_dima.envs.isaacgym.process import Setup, SimulatorProcess, find_checkout, find_python
from rllib_dima.envs.outcomes import require_finite
from rllib_dima.envs.team import TeamEnv

MAX_SEED = 2**32 - 1  # numpy's, which the benchmark seeds
LIMIT = 5.0  # to which the benchmark clips observations and state

_NO_IMAGES = (
    'The bridge to Isaac Gym makes no images. Use the MuJoCo version of the task for them: leave "backend" out of '
    "env_config."
)


class IsaacGymBiDexHands(TeamEnv):
    """A task of the real Bi-DexHands, the same team as in the MuJoCo version.

    - Agents "agent_0" (right hand) and "agent_1" ("left" hand), with actions (26,) in [-1, 1]; entries outside are
      clipped.
    - Observation: the agent's own hand and the object. Global state: both hands and the object, in
      `infos["agent_0"]["state"]` and from `state()`. Both clipped to [-5, 5].
    - Reward: the benchmark's, one for both.
    - `infos["agent_0"]["success"]`: whether the object has been open far enough in this episode. Ends nothing.
    - Flags only under "__all__". The benchmark says only that an episode is over. It counts as truncated at the time
      limit, also if the task ended by itself in the same step, and as terminated before.

    The benchmark never returns the observation of a reset: its `reset()` puts everything back, moves once with random
    actions within 0.01 of zero, and returns what follows. This step counts for the time limit and its reward is lost.
    So the team acts in one step less than the benchmark's episode has: 124 instead of 125, 249 instead of 250.

    The simulator's state cannot be read or set, so there is no `get_state` and no `set_state`. It is not reproducible
    to the bit either: `seed` fixes the random actions of the resets, but physics on a GPU varies.

    After a time-out or a failure of the simulator, or an interrupt during a step, its process has been ended: make a
    new environment. After a `SimulationError` call `reset()`, and make a new environment if it raises the same again.

    Args:
        task: one of `TASKS`.
        python: the Python (3.7 or 3.8) in which isaacgym is installed, a path or a name to be found on PATH. It is
            started with PATH and LD_LIBRARY_PATH extended by its own folders, and without PYTHONPATH and PYTHONHOME,
            which belong to this Python.
        bidexhands: folder of a checkout of PKU-MARL/DexterousHands.
        device: GPU of simulator and tensors, "cuda:<index>", counted within CUDA_VISIBLE_DEVICES.
        start_timeout_s: seconds for the simulator to start. The first start on a machine takes minutes.
        step_timeout_s: seconds for a step or a reset.
        seed: the benchmark's own seed; None draws one.
        render_mode: must be None: there are no images.

    Attributes:
        task: the task.
        max_steps: steps of the team until the time limit.

    Raises:
        ValueError: an argument is wrong, or `python` or `bidexhands` is not what it should be, or the checkout's task
            has other sizes.
        RuntimeError: the simulator failed to start.
        TimeoutError: it did not start in time.
    """

    agents: list[str]

    def __init__(
        self,
        task: str,
        *,
        python: str | os.PathLike,
        bidexhands: str | os.PathLike,
        device: str = "cuda:0",
        start_timeout_s: float = 900.0,
        step_timeout_s: float = 120.0,
        seed: int | None = None,
        render_mode: str | None = None,
    ) -> None:
        check_name(task, TASKS, "Bi-DexHands task")
        _check_arguments(device, start_timeout_s, step_timeout_s, seed, render_mode)
        self.task = TASKS[task]
        self.max_steps = self.task.episode_steps - 1
        super().__init__(AGENT_IDS)
        self._share_spaces(
            Box(-LIMIT, LIMIT, (self.task.state_size,), np.float32),
            Box(-LIMIT, LIMIT, (self.task.observation_size,), np.float32),
            Box(-1.0, 1.0, (self.task.action_size,), np.float32),
        )
        self._step_timeout_s = step_timeout_s
        setup = Setup(find_python(python), find_checkout(bidexhands, self.task), self.task, device)
        self._simulator = SimulatorProcess(setup, secrets.randbelow(MAX_SEED) if seed is None else seed)
        self._simulator.start(start_timeout_s)

    def _start(self, seed: int | None, options: dict | None) -> tuple[dict, dict]:
        _check_seed(seed)
        payload = worker.SEED.pack(worker.NO_SEED if seed is None else seed)
        _, _, success = self._receive(self._simulator.ask(worker.RESET, payload, self._step_timeout_s, "in reset()"))
        return self._observations(), self._team_info(success=success)

    def _read_actions(self, action_dict: Mapping[str, Any]) -> bytes:
        return np.stack(self._finite_actions(action_dict)).clip(-1.0, 1.0).astype(np.float32).tobytes()

    def _advance(self, actions: bytes) -> tuple[dict, float, bool, bool, dict]:
        answer = self._simulator.ask(worker.STEP, actions, self._step_timeout_s, f"in step {self._num_steps}")
        reward, done, success = self._receive(answer)
        return self._observations(), reward, *self._flags(done), self._team_info(success=success)

    def render(self) -> NoReturn:
        """There are no images.

        Raises:
            RuntimeError: always.
        """
        raise RuntimeError(_NO_IMAGES)

    def close(self) -> None:
        """Ends the simulator. Calling it again does no harm."""
        self._is_running = False
        self._simulator.end("close() was called")

    def _receive(self, answer: bytes) -> tuple[float, bool, bool]:
        """Reads a result into the state and the observations; returns reward, done and success."""
        reward, done, success = worker.OUTCOME.unpack_from(answer)
        numbers = np.frombuffer(answer, np.float32, offset=worker.OUTCOME.size)
        state, observations = np.split(numbers, [self.task.state_size])
        # The observations are parts of the state.
        require_finite("the simulator's state", state, self._num_steps)
        require_finite("the reward", reward, self._num_steps)
        self._state = state
        self._own = observations.reshape(len(self.agents), self.task.observation_size)
        return reward, done, success

    def _flags(self, done: bool) -> tuple[bool, bool]:
        """Terminated and truncated."""
        at_limit = self._num_steps == self.max_steps
        if at_limit and not done:
            self._simulator.end("its time limit did not work")
            raise RuntimeError(
                f"The benchmark's episode goes on after its {self.task.episode_steps} steps. Use an unchanged checkout."
            )
        return done and not at_limit, at_limit

    def _observations(self) -> dict[str, np.ndarray]:
        return {agent: own.copy() for agent, own in zip(self.agents, self._own, strict=True)}


def _check_arguments(
    device: str, start_timeout_s: float, step_timeout_s: float, seed: int | None, render_mode: str | None
) -> None:
    if render_mode is not None:
        raise ValueError(f"render_mode is {render_mode!r}, but must be None. {_NO_IMAGES}")
    if not re.fullmatch(r"cuda:[0-9]+", str(device)):
        raise ValueError(f"device is {device!r}, but it must be an NVIDIA GPU by its number, as in 'cuda:0'.")
    for name, value in (("start_timeout_s", start_timeout_s), ("step_timeout_s", step_timeout_s)):
        if not value > 0:
            raise ValueError(f"{name} is {value!r}, but it must be a positive number of seconds.")
    _check_seed(seed)


def _check_seed(seed: int | None) -> None:
    if seed is not None and not (isinstance(seed, Integral) and 0 <= seed <= MAX_SEED):
        raise ValueError(f"seed is {seed!r}, but it must be None or an integer from 0 to {MAX_SEED}.")
