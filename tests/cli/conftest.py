"""Commands start a Ray of their own, so that none may run before."""

import pytest
import ray


@pytest.fixture(autouse=True, scope="module")
def no_ray_running():
    """Stops the one that modules of another folder have left."""
    ray.shutdown()
