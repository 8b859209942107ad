"""Ray, started once per module that asks for it."""

import logging

import pytest
import ray


@pytest.fixture(scope="module")
def ray_running():
    """Four of its CPUs, which may be more than the machine has."""
    ray.init(num_cpus=4, include_dashboard=False, logging_level=logging.ERROR, ignore_reinit_error=True)
    yield
    ray.shutdown()
