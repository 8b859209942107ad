"""The ring buffer against a plain list of all transitions ever written."""

import os
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from support.core import DISCRETE, UNEQUAL, random_trajectory

from rllib_dima.core.layout import AgentLayout
from rllib_dima.core.replay.buffer import ReplayBuffer, free_memory
from rllib_dima.core.replay.data import Trajectory, states_to_count

LAYOUT = AgentLayout(("a", "b"), 2, (1, 1), (1, 1))


def numbered(episode, first, length, terminated=False, truncated=False):
    """Steps first..first + length - 1 of an episode, whose every value tells the episode and the step."""
    steps = np.arange(first, first + length + 1, dtype=np.float32)
    number = 1000.0 * episode + steps
    return Trajectory(
        episode_id=str(episode),
        states=np.stack([number, steps], axis=1).astype(np.float32),
        observations=np.stack([number + 0.25, number + 0.5], axis=1)[:-1, :, None].astype(np.float32),
        actions=np.stack([number - 0.25, number - 0.5], axis=1)[:-1, :, None].astype(np.float32),
        rewards=(number[:-1] + 0.75).astype(np.float32),
        terminated=terminated,
        truncated=truncated,
        is_start=first == 0,
    )


def add_random_chunks(buffer, written, count, seed):
    """Writes chunks of several episodes in turns, noting (episode, step, is last step, terminated) in `written`."""
    random = np.random.default_rng(seed)
    running, unused = {}, 1 + max((row[0] for row in written), default=0)
    for _ in range(count):
        while len(running) < 3:
            running[unused], unused = 0, unused + 1
        episode = int(random.choice(list(running)))
        length, ending = int(random.integers(1, 8)), random.choice(["no", "no", "terminated", "truncated"])
        first = running[episode]
        buffer.add(numbered(episode, first, length, ending == "terminated", ending == "truncated"))
        for step in range(first, first + length):
            is_last = ending != "no" and step == first + length - 1
            written.append((episode, step, is_last, is_last and ending == "terminated"))
        running[episode] += length
        if ending != "no":
            del running[episode]


def check_against(buffer, written, past=4, future=6):
    """Every position of every window is the true neighbour of its anchor, valid where that is still stored."""
    stored = written[-buffer.capacity :]
    rows = {row[:2]: (len(written) - len(stored) + i) % buffer.capacity for i, row in enumerate(stored)}
    terminated = {row[:2]: row[3] for row in stored}
    assert len(buffer) == len(stored)
    window = buffer.windows(torch.tensor(list(rows.values())), past, future)
    for b, (episode, step) in enumerate(rows):
        for position, offset in enumerate(range(-past, future + 1)):
            neighbour = (episode, step + offset)
            assert window.valid[b, position] == (neighbour in rows), (episode, step, offset)
            if neighbour not in rows:
                continue
            number = 1000.0 * episode + step + offset
            assert window.states[b, position].tolist() == [number, step + offset]
            assert window.next_states[b, position].tolist() == [number + 1, step + offset + 1]
            assert window.observations[b, position, :, 0].tolist() == [number + 0.25, number + 0.5]
            assert window.actions[b, position, :, 0].tolist() == [number - 0.25, number - 0.5]
            assert window.rewards[b, position] == number + 0.75
            assert window.terminated[b, position] == terminated[neighbour]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("capacity", [23, 60])
def test_windows_hold_true_neighbours_while_the_ring_is_overwritten(capacity, seed):
    buffer, written = ReplayBuffer(LAYOUT, capacity), []
    for round_ in range(8):
        add_random_chunks(buffer, written, 5, seed=100 * seed + round_)
        check_against(buffer, written)
    assert len(written) > 2 * capacity


def test_windows_of_one_episode_stop_at_its_start_and_end():
    buffer = ReplayBuffer(LAYOUT, 20)
    buffer.add(numbered(1, 0, 3, truncated=True))
    buffer.add(numbered(2, 0, 4, terminated=True))
    window = buffer.windows(torch.tensor([0, 2, 3, 6]), past=2, future=1)
    assert window.valid.int().tolist() == [[0, 0, 1, 1], [1, 1, 1, 0], [0, 0, 1, 1], [1, 1, 1, 0]]
    assert window.terminated[window.valid].tolist() == [False] * 5 + [False] * 4 + [True]


def test_truncation_is_stored_as_no_termination():
    buffer = ReplayBuffer(LAYOUT, 20)
    buffer.add(numbered(1, 0, 3, truncated=True))
    assert not buffer.windows(torch.arange(3)).terminated.any()
    buffer.add(numbered(2, 0, 3, terminated=True))
    assert buffer.windows(torch.arange(6)).terminated.flatten().tolist() == [False] * 5 + [True]


def test_an_ended_episode_is_not_continued_and_an_unknown_beginning_stays_unknown():
    buffer = ReplayBuffer(LAYOUT, 20)
    buffer.add(numbered(1, 0, 3, terminated=True))
    buffer.add(numbered(1, 3, 2))  # its predecessor has ended
    buffer.add(numbered(2, 7, 2))  # its beginning was never seen
    assert buffer.windows(torch.tensor([3, 5]), past=1).valid.tolist() == [[False, True]] * 2


def test_an_empty_final_chunk_ends_its_episode():
    buffer = ReplayBuffer(LAYOUT, 20)
    buffer.add(numbered(1, 0, 3))
    buffer.add(numbered(1, 3, 0, truncated=True))
    buffer.add(numbered(1, 3, 2))
    assert len(buffer) == 5 and not buffer.windows(torch.tensor([3]), past=1).valid[0, 0]


def test_a_chunk_that_overwrites_its_own_predecessor_is_not_linked_to_it():
    buffer = ReplayBuffer(LAYOUT, 4)
    buffer.add(numbered(1, 0, 3))
    buffer.add(numbered(1, 3, 4))
    check_against(buffer, [(1, step, False, False) for step in range(7)])


def test_an_open_episode_whose_rows_were_overwritten_goes_on_as_unknown():
    buffer = ReplayBuffer(LAYOUT, 8)
    buffer.add(numbered(1, 0, 2))
    buffer.add(numbered(2, 0, 8))
    buffer.add(numbered(1, 2, 3))
    order = [(1, 0), (1, 1), *((2, step) for step in range(8)), (1, 2), (1, 3), (1, 4)]
    check_against(buffer, [(*row, False, False) for row in order])


@pytest.mark.parametrize(("capacity", "steps"), [(50, 20), (20, 33)])
def test_sampling_is_uniform_over_stored_rows(capacity, steps):
    buffer = ReplayBuffer(LAYOUT, capacity)
    for first in range(0, steps, 3):
        buffer.add(numbered(1, first, min(3, steps - first)))
    torch.manual_seed(0)
    drawn = buffer.sample(20_000).states[:, 0, 1].long()
    counts = torch.bincount(drawn, minlength=steps)[-20:].float()
    assert drawn.min() >= steps - 20
    chi_square = ((counts - 1000).square() / 1000).sum()
    assert chi_square < 43.8  # 99.9% quantile for 19 degrees of freedom


def test_recency_is_the_density_of_the_age_rank():
    buffer = ReplayBuffer(LAYOUT, 20, recency=3.0)
    buffer.add(numbered(1, 0, 20))
    buffer.add(numbered(1, 20, 7))
    torch.manual_seed(0)
    age = 26 - buffer.sample(20_000).states[:, 0, 1]
    for limit in (1, 2, 5, 10, 19):
        expected = (limit / 20) ** (1 / 3)  # P(20 u^3 < limit)
        assert abs((age < limit).float().mean() - expected) < 0.015


def test_an_empty_buffer_refuses_to_be_sampled():
    with pytest.raises(ValueError, match="replay buffer is empty"):
        ReplayBuffer(LAYOUT, 20).sample(1)


@pytest.mark.parametrize("count", [2, 40])
def test_a_restored_buffer_goes_on_like_the_original(tmp_path, count):
    original, written = ReplayBuffer(LAYOUT, 30), []
    add_random_chunks(original, written, count, seed=0)
    original.save(tmp_path / "replay.pt")
    restored, from_file = ReplayBuffer(LAYOUT, 30), ReplayBuffer(LAYOUT, 30)
    restored.add(numbered(9, 0, 30))
    restored.load_state_dict(original.state_dict())
    from_file.load(tmp_path / "replay.pt")
    last = written[-1][0] + 1000
    original.add(numbered(last, 0, 2))
    for buffer in (restored, from_file):
        buffer.add(numbered(last, 0, 2))
        torch.manual_seed(0)
        theirs = buffer.sample(50, 3, 3)
        torch.manual_seed(0)
        ours = original.sample(50, 3, 3)
        for name in ("valid", "states", "next_states", "observations", "actions", "rewards", "terminated"):
            mask = ours.valid.view(50, 7, *[1] * (getattr(ours, name).ndim - 2))
            assert torch.equal(getattr(ours, name) * mask, getattr(theirs, name) * mask)


def test_an_open_episode_goes_on_after_a_restore():
    original, restored = ReplayBuffer(LAYOUT, 30), ReplayBuffer(LAYOUT, 30)
    original.add(numbered(1, 0, 3))
    restored.load_state_dict(original.state_dict())
    restored.add(numbered(1, 3, 2))
    check_against(restored, [(1, step, False, False) for step in range(5)])


def test_a_saved_file_is_as_small_as_what_it_holds(tmp_path):
    buffer = ReplayBuffer(LAYOUT, 10_000)
    buffer.add(numbered(1, 0, 5))
    buffer.save(tmp_path / "replay.pt")
    assert (tmp_path / "replay.pt").stat().st_size < 20_000


def test_a_saved_state_does_not_change_with_further_experience():
    buffer = ReplayBuffer(LAYOUT, 6)
    buffer.add(numbered(1, 0, 6))
    saved = buffer.state_dict()["columns"]["rewards"]
    before = saved.clone()
    buffer.add(numbered(2, 0, 3))
    assert torch.equal(saved, before)


def test_restoring_refuses_another_capacity_and_another_environment():
    state = ReplayBuffer(LAYOUT, 30).state_dict()
    with pytest.raises(ValueError, match="holds 30 transitions, this one 31"):
        ReplayBuffer(LAYOUT, 31).load_state_dict(state)
    other = ReplayBuffer(UNEQUAL, 30)
    other.add(random_trajectory(UNEQUAL, 3))
    with pytest.raises(ValueError, match=r"states have shape \(4,\) per transition, but .* needs \(2,\)"):
        ReplayBuffer(LAYOUT, 30).load_state_dict(other.state_dict())


@pytest.mark.parametrize("name", ["states", "observations", "actions"])
def test_trajectories_of_other_shapes_are_refused(name):
    good, bad = random_trajectory(UNEQUAL, 5), random_trajectory(DISCRETE, 5)
    fields = {**vars(good), name: getattr(good, name)[:-1] if name == "states" else getattr(bad, name)}
    buffer = ReplayBuffer(UNEQUAL, 20)
    with pytest.raises(ValueError, match=f"A trajectory's {name} must have shape"):
        buffer.add(Trajectory(**fields))
    assert len(buffer) == 0


def test_a_trajectory_longer_than_the_buffer_is_refused():
    with pytest.raises(ValueError, match="21 steps does not fit a replay buffer of 20"):
        ReplayBuffer(LAYOUT, 20).add(numbered(1, 0, 21))


def test_states_are_counted_once_across_chunks():
    first, second = numbered(1, 0, 3), numbered(1, 3, 2, terminated=True)
    other = numbered(2, 0, 1)
    counted = states_to_count([first, other, second])
    assert sorted(counted[:, 0]) == [1000, 1001, 1002, 1003, 1004, 1005, 2000, 2001]


def test_needed_memory_is_that_of_the_rows():
    buffer = ReplayBuffer(UNEQUAL, 10)
    columns = [value for value in vars(buffer).values() if isinstance(value, torch.Tensor) and value.ndim]
    assert ReplayBuffer.bytes_needed(UNEQUAL, 10) == sum(x.numel() * x.element_size() for x in columns)


@pytest.mark.parametrize("capacity", [10**13, 5001])
def test_a_buffer_beyond_the_free_memory_is_refused_with_a_capacity_that_fits(capacity, monkeypatch):
    per_transition = ReplayBuffer.bytes_needed(LAYOUT, 10**6) / 10**6
    monkeypatch.setattr("rllib_dima.core.replay.buffer.free_memory", lambda device: 5000 * per_transition)
    with pytest.raises(
        MemoryError, match=rf"of {capacity} transitions takes .* replay_capacity to at most (3999|4000)\."
    ):
        ReplayBuffer(LAYOUT, capacity)
    assert ReplayBuffer(LAYOUT, 4000).capacity == 4000


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells")
def test_free_memory_is_the_machines_and_the_containers():
    free, pages = free_memory(torch.device("cpu")), os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert 0 < free < pages


@pytest.mark.skipif(sys.platform != "linux", reason="counts pages in /proc")
@pytest.mark.parametrize("deterministic", [False, True])  # RLlib turns it on for seeded runs on a CPU
def test_rows_take_up_memory_only_once_they_are_written(deterministic, request):
    request.addfinalizer(partial(torch.use_deterministic_algorithms, torch.are_deterministic_algorithms_enabled()))
    torch.use_deterministic_algorithms(deterministic)
    images = AgentLayout(("a", "b"), 20_000, (5_000, 5_000), (1, 1))

    def resident():
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    trajectory, before = random_trajectory(images, 100), resident()
    buffer = ReplayBuffer(images, 1000)
    buffer.add(trajectory)
    needed = ReplayBuffer.bytes_needed(images, 1000)
    assert needed > 200e6 and resident() - before < needed / 2  # a tenth is written; copies of it may stay allocated
    assert buffer.sample(5, past=2, future=2).states.isfinite().all()
    assert torch.utils.deterministic.fill_uninitialized_memory


@pytest.mark.parametrize("way", ["clear", "load"])
def test_a_used_buffer_that_starts_anew_keeps_the_windows_of_its_new_steps(way):
    buffer, other, new = ReplayBuffer(LAYOUT, 10), ReplayBuffer(LAYOUT, 10), numbered(3, 0, 8)
    for chunk in (numbered(1, 0, 8), numbered(2, 0, 2), numbered(1, 8, 2), numbered(2, 2, 2)):
        buffer.add(chunk)  # the last links row 9 to row 2
    if way == "clear":
        buffer.clear()
        buffer.add(new)
    else:
        other.add(new)
        buffer.load_state_dict(other.state_dict())
    buffer.add(numbered(4, 0, 3))  # overwrites row 9
    check_against(
        buffer, [(3, step, False, False) for step in range(8)] + [(4, step, False, False) for step in range(3)]
    )


def test_a_refused_buffer_leaves_what_was_there():
    buffer, other = ReplayBuffer(LAYOUT, 20), ReplayBuffer(LAYOUT, 20)
    buffer.add(numbered(1, 0, 7))
    other.add(numbered(2, 0, 9))
    other.rewards[4] = np.inf
    with pytest.raises(
        ValueError, match=r"saved replay buffer holds NaN or infinity .* in its rewards, first in step 4"
    ):
        buffer.load_state_dict(other.state_dict())
    check_against(buffer, [(1, step, False, False) for step in range(7)])


def test_an_empty_buffer_forgets_and_closed_episodes_go_on_as_new_ones():
    buffer = ReplayBuffer(LAYOUT, 20)
    buffer.add(numbered(1, 0, 4))
    buffer.close_episodes()
    buffer.add(numbered(1, 4, 3))
    assert buffer.following[3] == -1 and buffer.previous[4] == -1 and buffer.num_written == 7
    buffer.clear()
    assert len(buffer) == buffer.num_written == 0
    with pytest.raises(ValueError, match="empty"):
        buffer.sample(3)
    buffer.add(numbered(1, 7, 2))
    window = buffer.windows(torch.tensor([0, 1]), past=1, future=1)
    assert window.valid.tolist() == [[False, True, True], [True, True, False]] and len(buffer) == 2
