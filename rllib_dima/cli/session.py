"""RLlib and Ray in the process of a command: imported, quiet, started, stopped, and asked for enough resources."""

from __future__ import annotations

import logging
import os
import socket
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import ray
import ray.rllib  # sets its log level

import rllib_dima
from rllib_dima.algorithms.resources import lacking
from rllib_dima.cli.errors import RunError, UsageError, failing_as
from rllib_dima.cli.experiment.files import import_code

_CONNECT_TIMEOUT_S = 10.0


def prepare(verbosity: int, imports: Iterable[str]) -> None:
    """Registers DIMA, imports what the user names, and sets how much Ray writes (errors, information, everything)."""
    rllib_dima.register()
    level = (logging.ERROR, logging.INFO, logging.DEBUG)[min(verbosity, 2)]
    for library in ("ray.tune", "ray.rllib", "ray.train", "ray.air"):
        logging.getLogger(library).setLevel(level)
    if verbosity == 0:  # this command reports failed trials itself
        for module in ("ray.tune.tune", "ray.tune.execution.tune_controller"):
            logging.getLogger(module).setLevel(logging.CRITICAL)
        os.environ["RAY_AIR_NEW_OUTPUT"] = "0"  # Tune's tables, which verbose=0 does not silence
        warnings.filterwarnings("ignore", module="gymnasium")
    for name in imports:
        import_code(name)


def is_cluster(address: str | None) -> bool:
    """Whether Ray was started elsewhere, where it may grow while trials wait."""
    return bool(address or os.environ.get("RAY_ADDRESS"))


@contextmanager
def ray_session(address: str | None, is_verbose: bool, has_dashboard: bool, machine: dict[str, Any]) -> Iterator[None]:
    """Ray, connected to or started as the flags say; stopped afterwards, unless it ran before.

    Args:
        address: of a running Ray.
        is_verbose: whether Ray reports, and prints what trials print.
        has_dashboard: whether a Ray that is started here has one.
        machine: what a Ray that is started here may use of this machine, by the names of `ray.init`.
    """
    if ray.is_initialized():
        yield
        return
    if machine and is_cluster(address):
        given = ", ".join(f"--ray-{name.replace('_', '-')}" for name in machine)
        raise UsageError(f"{given} is about a Ray started on this machine, but an address of a running Ray is given.")
    level = logging.INFO if is_verbose else logging.ERROR
    with failing_as(RunError, f"Could not {f'connect to Ray at {address}' if address else 'start Ray'}: "):
        _check_reachable(address)
        ray.init(address, include_dashboard=has_dashboard, logging_level=level, log_to_driver=is_verbose, **machine)
    try:
        yield
    finally:
        ray.shutdown()


def _check_reachable(address: str | None) -> None:
    """Raises at once where nothing answers; Ray would try for many minutes."""
    host, colon, port = (address or "").rpartition(":")
    if colon and port.isdecimal() and "://" not in host:
        socket.create_connection((host, int(port)), timeout=_CONNECT_TIMEOUT_S).close()


def require_resources(algorithm: Any, config: dict[str, Any]) -> None:
    """Refuses to start a trial that would wait for ever, because Ray has too few CPUs or GPUs for it."""
    if what := lacking(algorithm.default_resource_request(config).bundles):
        raise RunError(f"A trial needs {what}. Lower num_env_runners, num_learners or num_gpus_per_learner in config.")
