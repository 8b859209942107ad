"""What can be compared between the results of two runs."""

import numpy as np

TIMES = (
    "_s",
    "_timer",
    "_sec_mean",
    "timestamp",
    "pid",
    "since_restore",
    "env_runners/sample",
    "time_between_sampling",
    "num_outstanding_async_reqs",  # how many of the runner's answers were still on their way at that moment
)
NOT_COMPARED = ("config/", "timers/", "perf/", "_throughput/", "env_to_module_connector/", "module_to_env_connector/")


def reported_numbers(result, path=""):
    """Reported numbers by path, without those that depend on the moment and the machine."""
    for key, value in result.items():
        if f"{path}{key}/".endswith(NOT_COMPARED):
            continue
        if isinstance(value, dict):
            yield from reported_numbers(value, f"{path}{key}/")
        elif isinstance(value, int | float | np.number) and not f"{path}{key}".endswith(TIMES):
            yield f"{path}{key}", value
