"""Processes of a test, and waiting for them."""

import contextlib
import pathlib
import signal
import subprocess
import time


def descendants(pid):
    """Process ids of the children of `pid`, and of theirs."""
    parents = {}
    for status in pathlib.Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parents[int(status.parent.name)] = int(status.read_text().rpartition(")")[2].split()[1])
    found, generation = set(), {pid}
    while generation:
        generation = {child for child, parent in parents.items() if parent in generation}
        found |= generation
    return found


def wait_until(condition, seconds=180):
    """Fails the test if it takes longer."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"Not within {seconds} seconds."
        time.sleep(0.02)


def output_of(process, seconds):
    """All that a process writes until it ends. Fails the test, with the stacks of its threads, if it takes longer.

    It must have been started with PYTHONFAULTHANDLER=1, and its stderr must be its stdout.
    """
    try:
        return process.communicate(timeout=seconds)[0]
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGABRT)
        output, _ = process.communicate()
    raise AssertionError(f"Not ended within {seconds} seconds: {output}")
