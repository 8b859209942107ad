"""Ray, started once for all modules that ask for it, unless one leaves something running."""

import gc
import logging
import time

import pytest
import ray

NUM_CPUS = 4  # which may be more than the machine has
PATIENCE_S = 10.0


def is_free() -> bool:
    """Whether nothing holds a CPU of Ray's."""
    return ray.available_resources().get("CPU") == NUM_CPUS


@pytest.fixture(scope="module")
def ray_running():
    """Starting Ray and stopping it takes as long as many a test, so the next module goes on with it."""
    if ray.is_initialized() and not is_free():
        ray.shutdown()
    if not ray.is_initialized():
        ray.init(num_cpus=NUM_CPUS, include_dashboard=False, logging_level=logging.ERROR)
    yield
    gc.collect()  # actors end with the last reference to them
    end = time.monotonic() + PATIENCE_S
    while ray.is_initialized() and not is_free():
        if time.monotonic() > end:
            ray.shutdown()
        time.sleep(0.1)
