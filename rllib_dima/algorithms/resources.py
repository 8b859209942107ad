"""Checks that Ray has the resources a run asks for; Ray itself would wait for them for ever."""

from __future__ import annotations

import logging
from collections import Counter

import ray
import ray._private.worker
import torch
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.algorithms.utils import _get_env_runner_bundles, _get_learner_bundles
from ray.util.placement_group import get_current_placement_group

Bundle = dict[str, float]
"""Resources of one process, by name."""

logger = logging.getLogger("ray.rllib")


def lacking(bundles: list[Bundle]) -> str:
    """Names the resources of which Ray has too little for all these processes at once; empty if there are none."""
    there, needed = Counter(ray.cluster_resources()), Counter()
    for bundle in bundles:
        needed.update(bundle)
    return " and ".join(
        f"{name}: {amount:g} (Ray has {there[name]:g})" for name, amount in needed.items() if amount > there[name]
    )


def check_resources(config: AlgorithmConfig, evaluation_config: AlgorithmConfig) -> None:
    """Refuses a run that can never be built. Trials of Ray Tune pass: their resources are reserved already.

    Raises:
        ValueError: this program's own Ray has too few CPUs, GPUs or other resources; or torch sees no such GPU. A
            cluster that was started elsewhere may grow, so there this is only a warning.
    """
    if get_current_placement_group() is not None:
        return
    _check_own_gpu(config)
    runners = _get_env_runner_bundles(config) + _get_env_runner_bundles(evaluation_config)
    if not (what := lacking(runners + _get_learner_bundles(config))):
        return
    message = (
        f"Runners and learners need {what}. Lower num_env_runners, evaluation_num_env_runners, num_learners or "
        "num_gpus_per_learner"
    )
    node = ray._private.worker._global_node
    if node is not None and node.is_head():
        raise ValueError(f"{message}, or start Ray with more: ray.init(num_cpus=..., num_gpus=...).")
    logger.warning(f"{message}; or building waits until the cluster has grown.")


def _check_own_gpu(config: AlgorithmConfig) -> None:
    """The learner of this process takes a GPU without asking Ray."""
    if config.num_learners == 0 and config.num_gpus_per_learner > 0:
        index, count = config.local_gpu_idx, torch.cuda.device_count()
        if index >= count:
            raise ValueError(
                f"num_gpus_per_learner={config.num_gpus_per_learner} asks for GPU {index} of this machine, but torch "
                f"sees {count} here. Set num_gpus_per_learner=0, or num_learners=1 to learn on another machine's GPU."
            )
