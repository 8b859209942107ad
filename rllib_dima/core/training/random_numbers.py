"""Random numbers that depend on nothing but their seed, although torch draws them from generators everybody shares."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_TURN = threading.RLock()


@contextmanager
def own_random_numbers(seed: int, device: torch.device | str = "cpu") -> Iterator[None]:
    """Seeds torch's generators of the CPU and of `device`, and leaves them as they were found.

    Dropout, for one, takes its numbers from these generators only. So where several threads of a process train or
    collect, they take turns here.
    """
    on_gpu = torch.device(device).type == "cuda"
    with _TURN, torch.random.fork_rng(devices=[device] if on_gpu else []):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would reach every GPU
        if on_gpu:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield
