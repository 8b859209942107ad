"""The process in which Isaac Gym runs: finding its Python, starting it, talking to it and ending it."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from rllib_dima.envs.bidexhands.tasks import AGENT_IDS, Task
from rllib_dima.envs.isaacgym import worker

SUPPORTED_PYTHONS = ((3, 7), (3, 8))
CLOSING_TIME_S = 5.0  # for the simulator to end by itself
PROBE_TIMEOUT_S = 60.0
LAST_WORDS_BYTES = 4000
LOG_LIMIT_BYTES = 16 * 2**20
_PROBE = """
import json, sys, sysconfig
print(json.dumps([list(sys.version_info[:3]), sysconfig.get_config_var("LIBDIR")]))
"""

# What each stage of the worker is, and what to do when it fails.
_FAILURES = {
    "isaacgym": (
        "could not import isaacgym",
        "Install Isaac Gym Preview 4 into this Python: {python} -m pip install -e <isaacgym>/python. After that, "
        "{python} -c 'import isaacgym.gymapi' must succeed.",
    ),
    "torch": (
        "could not import torch",
        "Install it into this Python, with CUDA.",
    ),
    "cuda": (
        "found no such GPU",
        "Isaac Gym needs an NVIDIA GPU; device is {device!r}, and CUDA_VISIBLE_DEVICES is {visible} in this process. "
        "Ray hides all GPUs from env runners that reserve none: config.env_runners(num_gpus_per_env_runner=...).",
    ),
    "bidexhands": (
        "could not import the benchmark",
        "Install what it needs into this Python: {python} -m pip install -e {checkout}, with numpy 1.23 or older.",
    ),
    "make": (
        "could not build the task",
        "Run the benchmark by itself: cd {checkout}/bidexhands && {python} train.py --task={task} --algo=mappo "
        "--headless. If that fails too, look at GPU memory, the NVIDIA driver and Vulkan, which is needed without a "
        "window too (VK_ICD_FILENAMES=/usr/share/vulkan/icd.d/nvidia_icd.json, if there are other drivers).",
    ),
    "reset": ("failed in reset()", "Make a new environment."),
    "step": ("failed in step()", "Make a new environment."),
}
_SLOW_STEP = "Raise step_timeout_s if it only needs more time."
_SLOW_START = (
    "The first start on a machine compiles code and decomposes meshes for minutes: raise start_timeout_s. If every "
    "start hangs, delete ~/.cache/torch_extensions: an aborted compilation leaves a lock there."
)


@dataclass(frozen=True)
class Interpreter:
    """A Python that can run the worker.

    Args:
        path: absolute path of the executable.
        version: as in "3.8.18".
        lib_dir: folder of its shared library, which Isaac Gym loads, or None.
    """

    path: str
    version: str
    lib_dir: str | None


@dataclass(frozen=True)
class Setup:
    """What a simulator is started from.

    Args:
        python: the Python with Isaac Gym.
        checkout: folder of the benchmark.
        task: the task.
        device: the GPU.
    """

    python: Interpreter
    checkout: str
    task: Task
    device: str

    def sizes(self) -> dict[str, Any]:
        """What the worker must report."""
        agents = len(AGENT_IDS)
        return {
            "environments": 1,
            "agents": agents,
            "observations": [self.task.observation_size] * agents,
            "states": [self.task.state_size] * agents,
            "actions": [self.task.action_size] * agents,
            "steps of an episode": self.task.episode_steps,
        }

    def options(self, seed: int) -> dict[str, Any]:
        """What the worker is told."""
        task = {"task": self.task.isaac_name, "episode_steps": self.task.episode_steps}
        return {**task, "checkout": self.checkout, "device": self.device, "seed": seed}

    def advice(self, stage: str) -> str:
        """What to do about a failure of the worker."""
        return _FAILURES[stage][1].format(
            python=self.python.path,
            device=self.device,
            visible=repr(os.environ["CUDA_VISIBLE_DEVICES"]) if "CUDA_VISIBLE_DEVICES" in os.environ else "not set",
            checkout=self.checkout,
            task=self.task.isaac_name,
        )


class SimulatorProcess:
    """The worker and the conversation with it. It ends with this object, or with this process.

    Args:
        setup: what to start.
        seed: the benchmark's seed.

    Attributes:
        process: the worker.
    """

    def __init__(self, setup: Setup, seed: int) -> None:
        self._setup = setup
        self._log = _open_log()
        ours, theirs = socket.socketpair()
        with theirs:
            options = {**setup.options(seed), "socket": theirs.fileno()}
            self.process = subprocess.Popen(
                [setup.python.path, "-u", worker.__file__, json.dumps(options)],
                cwd=os.path.join(setup.checkout, "bidexhands"),  # the benchmark's paths are relative to it
                env=_environment(setup.python.path, setup.python.lib_dir),
                stdin=subprocess.DEVNULL,
                stdout=self._log,
                stderr=self._log,
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # Ctrl-C is for this process; and all that the worker starts can be ended
            )
        self._channel = worker.Channel(ours)
        self._finalizer = weakref.finalize(self, _end_process, self.process, ours, self._log)
        self._why_ended: str | None = None

    def start(self, timeout_s: float) -> None:
        """Waits until the simulator is ready.

        Args:
            timeout_s: how long.

        Raises:
            ValueError: the task has other sizes than it should.
            RuntimeError: the simulator failed.
            TimeoutError: it was not ready in time.
        """
        sizes = json.loads(self._exchange(None, timeout_s, "at its start"))
        expected = self._setup.sizes()
        if sizes != expected:
            self.end("it has other sizes than expected")
            raise ValueError(_wrong_sizes(self._setup, sizes, expected))

    def ask(self, kind: bytes, payload: bytes, timeout_s: float, doing: str) -> bytes:
        """The answer to a request.

        Args:
            kind: RESET or STEP.
            payload: of the request.
            timeout_s: how long to wait for the answer.
            doing: what it is about, as in "in step 7".

        Raises:
            RuntimeError: the simulator failed, or has ended.
            TimeoutError: no answer in time.
        """
        if self._why_ended is not None:
            raise RuntimeError(f"The simulator has been ended, because {self._why_ended}: make a new environment.")
        _shorten(self._log)
        return self._exchange((kind, payload), timeout_s, doing)

    def end(self, why: str) -> str:
        """Ends the worker, unless it has ended.

        Args:
            why: what later requests will be told.

        Returns:
            The last words of the simulator.
        """
        self._why_ended = self._why_ended or why
        return self._finalizer() or ""

    def kill(self, why: str) -> str:
        """Like `end`, without waiting for a worker that does not listen."""
        _kill(self.process)
        return self.end(why)

    def _exchange(self, request: tuple[bytes, bytes] | None, timeout_s: float, doing: str) -> bytes:
        """Sends a request, or none at the start, and returns the answer."""
        try:
            if request is not None:
                self._channel.send(*request)
            kind, payload = self._channel.receive(timeout_s)
        except TimeoutError:
            raise TimeoutError(self._slow(timeout_s, doing, request is None)) from None
        except (EOFError, OSError):
            raise RuntimeError(self._dead(doing, request is None)) from None
        except BaseException:  # an interrupt: the answer would be taken for that to the next request
            self.kill("it was interrupted")
            raise
        if kind == worker.FAILURE:
            raise RuntimeError(self._failed(**json.loads(payload)))
        return payload

    def _slow(self, timeout_s: float, doing: str, starting: bool) -> str:
        words = self.kill(f"it did not answer {doing}")
        advice = _SLOW_START if starting else _SLOW_STEP
        return f"{self._name()} did not answer {doing} within {timeout_s:g} s and was ended. {advice}{_quote(words)}"

    def _dead(self, doing: str, starting: bool) -> str:
        words = self.end(f"it died {doing}")
        advice = self._setup.advice("make" if starting else "step")
        return f"{self._name()} died {doing}, {_exit(self.process)}. {advice}{_quote(words)}"

    def _failed(self, stage: str, error: str) -> str:
        what = _FAILURES[stage][0]
        words = self.end(f"it {what}")
        return f"{self._name()} {what}: {error}. {self._setup.advice(stage)}{_quote(words)}"

    def _name(self) -> str:
        python = self._setup.python
        return f"Isaac Gym's process ({python.path}, Python {python.version})"


def find_python(python: str | os.PathLike) -> Interpreter:
    """The Python for the worker.

    Args:
        python: path, or a name on PATH.

    Raises:
        ValueError: there is no such program, it is no Python, or a Python for which there is no Isaac Gym.
    """
    given = os.path.expanduser(os.fspath(python))
    found = shutil.which(given)
    if found is None:
        problem = "is not an executable file" if os.path.exists(given) else "does not exist"
        raise ValueError(f"python={str(python)!r} {problem}. Give the path of the Python with isaacgym.")
    path = os.path.abspath(found)  # of the link itself, by which a virtual environment is recognised
    version, lib_dir = _probe(path)
    if tuple(version[:2]) not in SUPPORTED_PYTHONS:
        raise ValueError(
            f"python={path!r} is Python {'.'.join(map(str, version))}, but there is no Isaac Gym for it: give the path "
            "of a Python 3.8 (or 3.7) with isaacgym."
        )
    return Interpreter(path, ".".join(map(str, version)), lib_dir)


def find_checkout(bidexhands: str | os.PathLike, task: Task) -> str:
    """Absolute path of the benchmark's checkout.

    Args:
        bidexhands: the folder.
        task: the task it must have.

    Raises:
        ValueError: it is no checkout of the benchmark.
    """
    root = Path(bidexhands).expanduser().absolute()
    needed = ("bidexhands/__init__.py", f"bidexhands/cfg/{task.isaac_name}.yaml", "assets")
    missing = [name for name in needed if not (root / name).exists()]
    if not missing:
        return str(root)
    inner = (root / "cfg" / f"{task.isaac_name}.yaml").exists()
    problem = f"has no {', '.join(missing)}" if root.exists() else "does not exist"
    raise ValueError(
        f"bidexhands={str(bidexhands)!r} {problem}. "
        + (f"Give the folder above it: {str(root.parent)!r}." if inner else "")
        + ("" if inner else "Give a checkout: git clone https://github.com/PKU-MARL/DexterousHands.")
    )


def _probe(path: str) -> tuple[list[int], str | None]:
    """Version and library folder of a Python, from itself."""
    try:
        answer = subprocess.run(
            [path, "-c", _PROBE],
            env=_environment(path),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=PROBE_TIMEOUT_S,
            check=True,
        ).stdout
        version, lib_dir = json.loads(answer.splitlines()[-1])
    except (OSError, subprocess.SubprocessError, ValueError, IndexError) as error:
        said = (getattr(error, "stderr", None) or b"").decode(errors="replace")
        raise ValueError(
            f"python={path!r} could not be asked for its version ({type(error).__name__}: {error}). Give the path of "
            f"the Python with isaacgym itself.{_quote(said)}"
        ) from error
    return version, lib_dir


def _environment(path: str, lib_dir: str | None = None) -> dict[str, str]:
    """Variables for a process of another Python: this process's, but for what belongs to this process's Python.

    As in an activated environment, that Python's own programs come first: torch needs ninja to compile the tensor
    interface of Isaac Gym.
    """
    variables = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    variables["PYTHONFAULTHANDLER"] = "1"  # last words of a crash
    _prepend(variables, "PATH", os.path.dirname(path))
    if lib_dir:
        _prepend(variables, "LD_LIBRARY_PATH", lib_dir)
    return variables


def _prepend(variables: dict[str, str], name: str, folder: str) -> None:
    before = variables.get(name)
    variables[name] = folder + (os.pathsep + before if before else "")


def _wrong_sizes(setup: Setup, sizes: dict, expected: dict) -> str:
    differing = [name for name in expected if sizes[name] != expected[name]]
    wrong = [f"{name}: {sizes[name]} instead of {expected[name]}" for name in differing]
    return (
        f"{setup.task.isaac_name} of the checkout {setup.checkout!r} has other sizes than the benchmark's: "
        f"{'; '.join(wrong)}. Use the benchmark's own settings: copies of it may ask for point clouds "
        "(observationType: point_cloud instead of full_state in cfg), split the hands into more agents "
        "(handAgentIndex), or set another episode length (resetTime)."
    )


def _open_log() -> BinaryIO:
    """A file without a name, to which the simulator appends."""
    log = tempfile.TemporaryFile()  # noqa: SIM115 - closed when the process has ended
    flags = fcntl.fcntl(log, fcntl.F_GETFL)
    fcntl.fcntl(log, fcntl.F_SETFL, flags | os.O_APPEND)
    return log


def _shorten(log: BinaryIO) -> None:
    """Empties the log once it is too long to keep."""
    if os.fstat(log.fileno()).st_size > LOG_LIMIT_BYTES:
        os.ftruncate(log.fileno(), 0)


def _last_words(log: BinaryIO) -> str:
    size = os.fstat(log.fileno()).st_size
    return os.pread(log.fileno(), LAST_WORDS_BYTES, max(0, size - LAST_WORDS_BYTES)).decode(errors="replace")


def _quote(words: str) -> str:
    return f"\nIts last words:\n{words.strip()}" if words.strip() else "\nIt said nothing."


def _exit(process: subprocess.Popen) -> str:
    code = process.returncode
    if code is not None and code < 0:
        return f"killed by {signal.Signals(-code).name}"
    return f"with exit code {code}"


def _kill(process: subprocess.Popen) -> None:
    """Ends a process and all it has started, now."""
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def _end_process(process: subprocess.Popen, connection: socket.socket, log: BinaryIO) -> str:
    """Ends the worker, which ends by itself once the connection is closed; returns its last words."""
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)  # also for copies of it in forks of this process
    connection.close()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(CLOSING_TIME_S)
    _kill(process)
    with contextlib.suppress(subprocess.TimeoutExpired):  # a process stuck in a driver cannot be ended
        process.wait(CLOSING_TIME_S)
    with log:
        return _last_words(log)
