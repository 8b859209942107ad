"""The process that runs the real Bi-DexHands, under Isaac Gym's own Python.

`process.py` runs this file as a script and talks to it over a socket pair, so that neither another process nor what
the simulator prints can get into the conversation. Python 3.7 and 3.8 must be able to run it with numpy and the
simulator alone: it imports nothing of this package and uses nothing newer.

    this process                                     the environment
    READY    sizes, as JSON                     ->
                                                <-   RESET    SEED
    RESULT   OUTCOME, state, observations       ->
                                                <-   STEP     actions (2, A) float32
    RESULT   OUTCOME, state, observations       ->
    FAILURE  stage and error, as JSON           ->   instead of any of these, and the process ends

The process also ends when the environment closes the socket pair, or dies.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import socket
import struct
import sys
import time
import traceback
from collections.abc import Iterator
from typing import Any

import numpy as np

READY, RESET, STEP, RESULT, FAILURE = b"REDY", b"RSET", b"STEP", b"RSLT", b"FAIL"
HEADER = struct.Struct("=4sQ")  # kind of message, number of bytes that follow
SEED = struct.Struct("=q")
NO_SEED = -1
OUTCOME = struct.Struct("=f??")  # reward, done, success
ALGORITHM = "mappo"  # every multi-agent algorithm of the benchmark gets the same environment


class Channel:
    """Messages over a connected stream socket.

    Args:
        connection: the socket.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection

    def send(self, kind: bytes, payload: bytes = b"") -> None:
        """Sends a message.

        Args:
            kind: 4 bytes.
            payload: what follows.

        Raises:
            OSError: the other side has gone.
        """
        self._connection.settimeout(None)
        self._connection.sendall(HEADER.pack(kind, len(payload)) + payload)

    def receive(self, timeout_s: float | None = None) -> tuple[bytes, bytes]:
        """Kind and payload of the next message.

        Args:
            timeout_s: seconds to wait for the whole message; None waits for ever.

        Raises:
            socket.timeout: it did not arrive in time.
            EOFError: the other side has closed.
            OSError: the other side has gone.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        kind, size = HEADER.unpack(self._read(HEADER.size, deadline))
        return kind, self._read(size, deadline)

    def _read(self, size: int, deadline: float | None) -> bytes:
        data = b""
        while len(data) < size:
            self._connection.settimeout(None if deadline is None else max(deadline - time.monotonic(), 1e-3))
            part = self._connection.recv(size - len(data))
            if not part:
                raise EOFError("the other side has closed the connection")
            data += part
        return data


class StageError(Exception):
    """Something failed, and where; the cause is the error itself.

    Args:
        stage: name of what failed.
    """

    def __init__(self, stage: str) -> None:
        super().__init__(stage)
        self.stage = stage


@contextlib.contextmanager
def stage(name: str) -> Iterator[None]:
    """Names what fails inside: also `quit()`, by which the benchmark ends when it finds no usable GPU."""
    try:
        yield
    except BaseException as error:
        raise StageError(name) from error


class Simulator:
    """One environment of the benchmark, with numpy arrays instead of tensors.

    Args:
        env: what `bidexhands.make` returns.
        torch: the module.

    Attributes:
        sizes: what the environment says about itself.
    """

    def __init__(self, env: Any, torch: Any) -> None:
        self._env, self._torch = env, torch
        self.sizes = {
            "environments": int(env.num_envs),
            "agents": int(env.num_agents),
            "observations": [int(np.prod(space.shape)) for space in env.observation_space],
            "states": [int(np.prod(space.shape)) for space in env.share_observation_space],
            "actions": [int(np.prod(space.shape)) for space in env.action_space],
            "steps of an episode": int(env.task.max_episode_length),
        }

    def reset(self, payload: bytes) -> bytes:
        """Starts an episode, by its first control step: the benchmark resets no earlier.

        Args:
            payload: SEED of torch's random numbers, from which the action of this step is drawn; or NO_SEED.

        Raises:
            RuntimeError: the episode has ended within that step.
        """
        (seed,) = SEED.unpack(payload)
        if seed != NO_SEED:
            self._torch.manual_seed(seed)
        task = self._env.task
        task.reset_buf[:] = 1  # reset() itself resets only what is done
        observations, states, _ = self._env.reset()
        if to_numpy(task.reset_buf).any():
            raise RuntimeError("the episode ended in its first step, which the benchmark's reset() takes")
        return self._result(0.0, False, states, observations)

    def step(self, payload: bytes) -> bytes:
        """Moves both hands.

        Args:
            payload: actions (2, A), of the right and the left hand.
        """
        actions = np.frombuffer(payload, np.float32).reshape(2, 1, -1).copy()  # (agents, environments, A)
        tensors = [self._torch.from_numpy(action).to(self._env.task.device) for action in actions]
        observations, states, rewards, dones, _, _ = self._env.step(tensors)
        return self._result(to_numpy(rewards)[0, 0, 0], bool(to_numpy(dones).any()), states, observations)

    def _result(self, reward: float, done: bool, states: Any, observations: Any) -> bytes:
        """The state is that of the first agent: all agents' are the same."""
        success = to_numpy(self._env.task.successes)[0] > 0
        outcome = OUTCOME.pack(float(reward), bool(done), bool(success))
        return outcome + to_numpy(states)[0, 0].tobytes() + to_numpy(observations)[0].tobytes()


def to_numpy(tensor: Any) -> np.ndarray:
    """A tensor on any device as a float32 array of the same shape."""
    return tensor.detach().cpu().numpy().astype(np.float32)


def command_line(options: dict) -> list:
    """What the benchmark is to find in `sys.argv`: it takes all its settings from there."""
    device = options["device"]
    devices = ["--sim_device", device, "--rl_device", device, "--pipeline", "gpu"]
    episode = ["--episode_length", str(options["episode_steps"]), "--seed", str(options["seed"])]
    return ["bidexhands", "--headless", "--num_envs", "1", *devices, *episode]


def start(options: dict) -> Simulator:
    """Builds the simulator, in the order in which Isaac Gym must be imported: before torch.

    Args:
        options: as `process.py` passes them.

    Raises:
        StageError: something failed.
    """
    with stage("isaacgym"):
        importlib.import_module("isaacgym.gymapi")
    with stage("torch"):
        torch = importlib.import_module("torch")
    with stage("cuda"):
        require_device(torch, options["device"])
    with stage("bidexhands"):
        bidexhands = importlib.import_module("bidexhands")
    with stage("make"):
        sys.argv = command_line(options)
        return Simulator(bidexhands.make(options["task"], ALGORITHM), torch)


def require_device(torch: Any, device: str) -> None:
    """Refuses a GPU that is not there: Isaac Gym would crash without a word.

    Raises:
        RuntimeError: torch cannot use `device`.
    """
    if not torch.cuda.is_available():
        raise RuntimeError("torch.cuda.is_available() is False")
    index, count = int(device.split(":")[1]), torch.cuda.device_count()
    if index >= count:
        raise RuntimeError(f"torch sees {count} GPU(s), numbered from 0")


def serve(channel: Channel, simulator: Simulator) -> None:
    """Answers requests until the other side closes.

    Raises:
        EOFError, OSError: the other side has closed, or gone.
        StageError: the simulator failed.
    """
    handlers = {RESET: ("reset", simulator.reset), STEP: ("step", simulator.step)}
    while True:
        kind, payload = channel.receive()
        name, handler = handlers[kind]
        with stage(name):
            result = handler(payload)
        channel.send(RESULT, result)


def run(channel: Channel, options: dict) -> None:
    """Builds the simulator and serves it; whatever fails is reported over the channel."""
    try:
        simulator = start(options)
        channel.send(READY, json.dumps(simulator.sizes).encode())
        serve(channel, simulator)
    except (EOFError, OSError):
        pass  # nobody is left to report to
    except StageError as failure:
        cause = failure.__cause__
        assert cause is not None, "`stage` gives one"
        traceback.print_exception(type(cause), cause, cause.__traceback__)
        error = f"{type(cause).__name__}: {cause}"
        channel.send(FAILURE, json.dumps({"stage": failure.stage, "error": error}).encode())


def main() -> None:
    """Runs until the other side closes. Ends without clean-up, in which GPU simulators are prone to hang or crash."""
    options = json.loads(sys.argv[1])
    # Python put this file's folder first, where a module of ours is named isaacgym.
    here = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [options["checkout"]] + [folder for folder in sys.path if os.path.abspath(folder) != here]
    connection = socket.socket(fileno=options["socket"])
    connection.set_inheritable(False)  # a process the simulator starts would keep it open
    status = 1
    try:
        run(Channel(connection), options)
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    main()
