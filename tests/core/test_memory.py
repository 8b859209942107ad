"""Memory that a training process keeps."""

import os
import platform
import resource
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries are left as they are")

PAGE_FAULTS = """
import ctypes
import resource
import torch
from tests.support.core import UNEQUAL, new_trainer, tiny

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for megabytes in (1, 3, 9, 40):
        for _ in range(5):
            torch.ones(megabytes << 18)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

ctypes.CDLL(None).prctl(41, 1, 0, 0, 0)  # PR_SET_THP_DISABLE: small pages, also where the system has large ones
faults()
before = faults()
new_trainer(UNEQUAL, tiny())
faults()
print(before, faults())
"""
PAGES_OF_THE_LARGEST = 5 * (40 << 20) // resource.getpagesize()


def page_faults(**environment):
    """Of a process that allocates and frees large tensors: before it has a trainer, and afterwards."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    code = [sys.executable, "-c", PAGE_FAULTS]
    done = subprocess.run(code, capture_output=True, text=True, env=clean | environment, check=True)
    return [int(number) for number in done.stdout.split()]


def test_a_process_that_trains_on_the_cpu_keeps_the_memory_that_it_frees():
    before, after = page_faults()
    assert before > PAGES_OF_THE_LARGEST  # every page of theirs anew; more of the smaller ones
    assert after < before / 100


@pytest.mark.parametrize(
    "setting",
    [{"MALLOC_MMAP_THRESHOLD_": "1000000"}, {"GLIBC_TUNABLES": "glibc.malloc.mmap_threshold=1000000"}],
    ids=lambda setting: next(iter(setting)),
)
def test_what_the_environment_sets_stays(setting):
    _, after = page_faults(**setting)
    assert after > PAGES_OF_THE_LARGEST
