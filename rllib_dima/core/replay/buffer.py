"""Replay of real experience: preallocated tensors on the training device, sampled without a Python loop.

Which values belong together. One row is one transition:

    row t:   states[t] = s_t    observations[t] = o_t    actions[t] = a_t    rewards[t] = r_t    terminated[t]
             next_states[t] = s_{t+1}                    (r_t and terminated[t] are the outcome of a_t in s_t)

Rows are written in a ring. `previous` and `following` link the rows of one episode, wherever its pieces were written
(several environments deliver their episodes in turns), and hold -1 where the episode begins, ends or is not known any
further; they have one more entry, which holds -1 for ever, so that index -1 leads to -1 again. A window is read by
following these links, so it can never cross the boundary of an episode:

    anchor row t, past = 2, future = 1:

        position      0      1      2      3
        row          t-2    t-1     t     t+1
        valid         0      1      1      0      for t the second step of an episode and its last one

`terminated` and `truncated` both end an episode's links, but only `terminated` is something to learn.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rllib_dima.core.layout import AgentLayout
from rllib_dima.core.replay.data import MultiStep, Trajectory, Window, check_finite, check_trajectory

_COLUMNS = tuple(field.name for field in fields(Window) if field.name != "valid")


class ReplayBuffer:
    """A ring of `capacity` transitions. In host memory a row takes up memory only once it is written.

    Args:
        layout: sizes of states, observations and actions.
        capacity: number of transitions.
        storage_device: where the rows live.
        output_device: where sampled windows are needed.
        recency: age rank of a drawn row = uniform ** recency (1: uniform).
        keeps_next_observations: whether `multi_step` is possible; `next_observations` take as much as `observations`.

    Raises:
        MemoryError: if the device has not enough free memory for that many transitions.
    """

    def __init__(
        self,
        layout: AgentLayout,
        capacity: int,
        storage_device: torch.device | str = "cpu",
        output_device: torch.device | str | None = None,
        recency: float = 1.0,
        keeps_next_observations: bool = False,
    ) -> None:
        self.layout, self.capacity, self.recency = layout, capacity, recency
        self.device = torch.device(storage_device)
        self.output_device = torch.device(output_device or storage_device)
        agents = layout.num_agents
        pin = self.device.type == "cpu" and self.output_device.type == "cuda"

        def rows(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
            with _untouched():
                return torch.empty((capacity, *shape), dtype=dtype, device=self.device, pin_memory=pin)

        _check_memory(layout, capacity, self.device, keeps_next_observations)
        self._columns = (*_COLUMNS, "next_observations") if keeps_next_observations else _COLUMNS
        self.states = rows(layout.state_size)
        self.next_states = rows(layout.state_size)
        self.observations = rows(agents, layout.observation_size)
        if keeps_next_observations:
            self.next_observations = rows(agents, layout.observation_size)
        self.actions = rows(agents, layout.action_size)
        self.rewards = rows()
        self.terminated = rows(dtype=torch.bool)
        self.previous, self.following = (
            torch.full((capacity + 1,), -1, dtype=torch.long, device=self.device, pin_memory=pin) for _ in range(2)
        )
        self._size = torch.zeros((), dtype=torch.long, device=self.device)  # a tensor: sampling never syncs
        self._newest = torch.zeros((), dtype=torch.long, device=self.device)
        self._num_written = 0
        self._open_episodes: dict[str, int] = {}  # episode id -> its last row, while it may continue

    def __len__(self) -> int:
        return min(self._num_written, self.capacity)

    @staticmethod
    def bytes_needed(layout: AgentLayout, capacity: int, keeps_next_observations: bool = False) -> int:
        """Memory of a buffer's rows in bytes."""
        observation_size = layout.observation_size * (2 if keeps_next_observations else 1)
        per_agent = layout.num_agents * (observation_size + layout.action_size)
        return capacity * (4 * (2 * layout.state_size + per_agent + 1) + 1) + 2 * 8 * (capacity + 1)

    @property
    def num_written(self) -> int:
        """Transitions added since the buffer was empty, those that others have overwritten included."""
        return self._num_written

    def largest(self) -> str:
        """The largest magnitude of what the environment has delivered, by name, in words."""
        columns = {name: getattr(self, name)[: len(self)] for name in ("states", "observations", "rewards")}
        return ", ".join(f"{name} {float(column.abs().max()):.3g}" for name, column in columns.items())

    def clear(self) -> None:
        """Empties the buffer."""
        self._num_written = 0
        self._size.zero_()
        self._newest.zero_()
        for links in (self.previous, self.following):
            links.fill_(-1)
        self.close_episodes()

    def close_episodes(self) -> None:
        """Lets no episode continue, for example because its environment went back to an earlier step."""
        self._open_episodes = {}

    def add(self, trajectory: Trajectory) -> None:
        """Appends a chunk of an episode and links it to the chunk before it, if that is still stored.

        Raises:
            ValueError: see `check`.
        """
        self.check(trajectory)
        length = len(trajectory)
        if not length:
            self._close(trajectory)
            return
        rows = (self._num_written + torch.arange(length)) % self.capacity
        predecessor = -1 if trajectory.is_start else self._open_episodes.get(trajectory.episode_id, -1)
        if predecessor in rows:
            predecessor = -1  # it is being overwritten right now
        self._forget(rows)
        self._write(rows.to(self.device), trajectory, predecessor)
        self._num_written += length
        self._size.fill_(len(self))
        self._newest.fill_((self._num_written - 1) % self.capacity)
        self._open_episodes[trajectory.episode_id] = int(rows[-1])
        self._close(trajectory)

    def extend(self, trajectories: Sequence[Trajectory]) -> None:
        """Appends chunks in their order: all of them, or none if one does not fit.

        Raises:
            ValueError: see `check`.
        """
        for trajectory in trajectories:
            self.check(trajectory)
        for trajectory in trajectories:
            self.add(trajectory)

    def check(self, trajectory: Trajectory) -> None:
        """Looks at what `add` would store.

        Raises:
            ValueError: if the shapes do not fit the layout, the trajectory is longer than the buffer, or a value is NaN
                or beyond float32.
        """
        check_trajectory(trajectory, self.layout)
        length = len(trajectory)
        if "next_observations" in self._columns and trajectory.last_observations is None:
            raise ValueError("A trajectory lacks last_observations, which a buffer with next_observations stores.")
        if length > self.capacity:
            raise ValueError(
                f"A trajectory of {length} steps does not fit a replay buffer of {self.capacity} transitions: "
                "raise replay_capacity."
            )

    def sample(self, batch_size: int, past: int = 0, future: int = 0) -> Window:
        """Draws windows around `batch_size` anchors, with replacement.

        Args:
            batch_size: B.
            past: steps before the anchor.
            future: steps after the anchor.

        Raises:
            ValueError: if the buffer is empty.
        """
        return self.windows(self._draw(batch_size), past, future)

    def multi_step(self, batch_size: int, num_steps: int, gamma: float) -> MultiStep:
        """Draws stretches of up to `num_steps` steps that begin at `batch_size` rows, with replacement.

        Args:
            batch_size: B.
            num_steps: n.
            gamma: discount per step.

        Raises:
            ValueError: if the buffer is empty.
        """
        first = self._draw(batch_size)
        rows = torch.stack([first, *_follow(self.following, first, num_steps - 1)], dim=1)  # (B, n), -1 after an end
        valid = rows >= 0
        lengths = valid.sum(1)
        last = rows.gather(1, lengths.unsqueeze(1) - 1).squeeze(1)
        discounts = gamma ** torch.arange(num_steps + 1, device=self.device)
        rewards = torch.where(valid, self.rewards[rows], 0.0) * discounts[:-1]
        stretch = MultiStep(
            self.states[first], self.observations[first], self.actions[first], rewards.sum(1), discounts[lengths],
            self.next_states[last], self.next_observations[last], self.terminated[last],
        )  # fmt: skip
        return MultiStep(**{name: self._out(column) for name, column in vars(stretch).items()})

    def _draw(self, batch_size: int) -> torch.Tensor:
        """(B,) rows."""
        if not self._num_written:
            raise ValueError("The replay buffer is empty: collect environment steps before drawing from it.")
        age_rank = torch.rand(batch_size, device=self.device, dtype=torch.float64)
        if self.recency != 1:
            age_rank = age_rank**self.recency
        age = (age_rank * self._size).long().clamp(max=self.capacity - 1)
        return (self._newest - age) % self._size

    def newest(self, count: int) -> torch.Tensor:
        """The row numbers of the last `count` transitions that were added, (count,)."""
        return (self._num_written - 1 - torch.arange(count, device=self.device)) % self.capacity

    def windows(self, anchors: torch.Tensor, past: int = 0, future: int = 0) -> Window:
        """The windows around given rows.

        Args:
            anchors: (B,) row numbers.
            past: steps before the anchor.
            future: steps after the anchor.
        """
        backward = _follow(self.previous, anchors, past)
        forward = _follow(self.following, anchors, future)
        rows = torch.stack([*reversed(backward), anchors, *forward], dim=1)  # (B, W)
        valid = rows >= 0
        rows = torch.where(valid, rows, anchors.unsqueeze(1))
        columns = {name: self._out(getattr(self, name)[rows]) for name in _COLUMNS}
        return Window(**columns, valid=self._out(valid))

    def state_dict(self) -> dict[str, Any]:
        """All stored transitions and the bookkeeping, as tensors on the CPU."""
        names = (*self._columns, "previous", "following")
        columns = {name: getattr(self, name)[: len(self)].to("cpu", copy=True) for name in names}
        return {
            "columns": columns,
            "capacity": self.capacity,
            "num_written": self._num_written,
            "open_episodes": dict(self._open_episodes),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` returned.

        Raises:
            ValueError: if the stored transitions have another capacity or other shapes, or hold NaN or infinity. The
                buffer is as it was then.
        """
        if state["capacity"] != self.capacity:
            raise ValueError(
                f"The saved replay buffer holds {state['capacity']} transitions, this one {self.capacity}: "
                "set replay_capacity to the saved value."
            )
        for name, saved in state["columns"].items():
            expected = getattr(self, name).shape[1:]
            if saved.shape[1:] != expected:
                raise ValueError(
                    f"The saved replay buffer's {name} have shape {tuple(saved.shape[1:])} per transition, but this "
                    f"environment needs {tuple(expected)}: it was saved from another environment."
                )
            check_finite(name, saved, "The saved replay buffer")
        self.clear()
        for name, saved in state["columns"].items():
            getattr(self, name)[: len(saved)] = saved.to(self.device)
        self._num_written = state["num_written"]
        self._size.fill_(len(self))
        self._newest.fill_((self._num_written - 1) % self.capacity)
        self._open_episodes = dict(state["open_episodes"])

    def save(self, path: str | Path) -> None:
        """Writes the buffer to a file."""
        torch.save(self.state_dict(), path)

    def load(self, path: str | Path) -> None:
        """Reads a file written by `save`; raises ValueError if it does not fit this buffer."""
        self.load_state_dict(torch.load(path, map_location="cpu", weights_only=True, mmap=True))

    def _out(self, values: torch.Tensor) -> torch.Tensor:
        return values.to(self.output_device, non_blocking=True)

    def _write(self, rows: torch.Tensor, trajectory: Trajectory, predecessor: int) -> None:
        """Copies the steps of `trajectory` into `rows` and links them."""
        steps = {
            "states": trajectory.states[:-1],
            "next_states": trajectory.states[1:],
            "observations": trajectory.observations,
            "actions": trajectory.actions,
            "rewards": trajectory.rewards,
        }
        if "next_observations" in self._columns:
            following = [*trajectory.observations[1:], trajectory.last_observations]
            steps["next_observations"] = np.stack(following)  # pyright: ignore[reportArgumentType]: checked
        for name, values in steps.items():
            getattr(self, name)[rows] = torch.as_tensor(values, dtype=torch.float32).to(self.device)
        self.terminated[rows] = False
        self.terminated[rows[-1]] = trajectory.terminated
        self.previous[rows[1:]] = rows[:-1]
        self.previous[rows[0]] = predecessor
        self.following[rows[:-1]] = rows[1:]
        self.following[rows[-1]] = -1
        if predecessor >= 0:
            self.following[predecessor] = rows[0]

    def _forget(self, rows: torch.Tensor) -> None:
        """Unlinks the steps that are about to be overwritten; their successors then begin at the ring's edge."""
        if self._num_written + len(rows) <= self.capacity:
            return
        lost = set(rows.tolist())  # still on the host, so this waits for nothing
        rows = rows.to(self.device)
        successors = self.following[rows]
        self.previous[torch.where(successors >= 0, successors, rows)] = -1  # those without a successor are rewritten
        self._open_episodes = {name: row for name, row in self._open_episodes.items() if row not in lost}

    def _close(self, trajectory: Trajectory) -> None:
        """Ends the episode's links if the trajectory ended it."""
        if trajectory.terminated or trajectory.truncated:
            self._open_episodes.pop(trajectory.episode_id, None)


@contextmanager
def _untouched() -> Iterator[None]:
    """Inside, `torch.empty` writes nothing: the system backs pages of host memory when they are first touched.

    Under deterministic algorithms, which RLlib turns on for a seeded run on a CPU, it would fill everything with NaN.
    """
    settings: Any = torch.utils.deterministic
    filling, settings.fill_uninitialized_memory = settings.fill_uninitialized_memory, False
    try:
        yield
    finally:
        settings.fill_uninitialized_memory = filling


def free_memory(device: torch.device) -> float:
    """Bytes that can still be allocated there; infinite where the system does not tell (only Linux does)."""
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)  # PyTorch's own reserve
        return torch.cuda.mem_get_info(device)[0] + unused
    meminfo, limit = Path("/proc/meminfo"), Path("/sys/fs/cgroup/memory.max")
    free = 1024 * _entry(meminfo, "MemAvailable:") if meminfo.exists() else math.inf
    if limit.exists() and limit.read_text().strip() != "max":  # a container's
        free = min(free, int(limit.read_text()) - _entry(limit.with_name("memory.stat"), "anon"))
    return free


def replay_device(choice: str, bytes_needed: int, device: torch.device) -> torch.device:
    """Where a buffer lives: "cpu", the learner's own `device` ("learner"), or there if half of its memory suffices."""
    if choice == "cpu" or device.type != "cuda":
        return torch.device("cpu")
    return device if choice == "learner" or bytes_needed <= free_memory(device) / 2 else torch.device("cpu")


def _entry(file: Path, name: str) -> int:
    """The number after `name` in a file of lines like "name 123"."""
    return next(int(line.split()[1]) for line in file.read_text().splitlines() if line.split()[0] == name)


def _check_memory(layout: AgentLayout, capacity: int, device: torch.device, keeps_next_observations: bool) -> None:
    """Raises MemoryError before the system kills this process, or another one, for want of memory."""
    needed, free = ReplayBuffer.bytes_needed(layout, capacity, keeps_next_observations), free_memory(device)
    if needed > free:
        raise MemoryError(
            f"A replay buffer of {capacity} transitions takes {needed / 1e9:.1f} GB, but {str(device)!r} has "
            f"{free / 1e9:.1f} GB free, of which training itself needs some: set replay_capacity to at most "
            f"{int(0.8 * free / (needed / capacity))}."
        )


def _follow(links: torch.Tensor, rows: torch.Tensor, steps: int) -> list[torch.Tensor]:
    """Rows 1, 2, ..., `steps` links away from `rows` (B,); -1 from where a link is missing, as the last link is -1."""
    found = []
    for _ in range(steps):
        rows = links[rows]
        found.append(rows)
    return found
