"""Which of RLlib's settings are not read here, and the rules for the values of those that are."""

from __future__ import annotations

import numbers
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import gymnasium as gym

from rllib_dima.reporting.episode_stats import STATS_CLASSES

# Settings of RLlib that no algorithm here reads, and what to set instead. Setting one of them is an error; setting it
# to its default, too, where that can be told (`training()`, `update_from_dict()`).
UNUSED_SETTINGS: dict[str, str] = {
    "lr": "Set the learning rates of the networks, such as actor_lr.",
    "grad_clip": "Set those of the networks, such as actor_grad_clip.",
    "grad_clip_by": "Gradients are clipped by the global norm of each network.",
    "train_batch_size": "Set env_steps_per_iteration, or the algorithm's own batch sizes.",
    "_train_batch_size_per_learner": "Set env_steps_per_iteration, or the algorithm's own batch sizes.",
    "num_epochs": "Set ppo_epochs.",
    "minibatch_size": "Set ppo_minibatches, the number of minibatches per PPO epoch.",
    "shuffle_batch_per_epoch": "Batches are always shuffled.",
    "model": "Set model_size, or the sizes of the networks, such as actor_hidden_size.",
    "_model_config": "Set model_size, or the sizes of the networks, such as actor_hidden_size.",
    "_rl_module_spec": "The networks are fixed; set their sizes, such as actor_hidden_size.",
    "optimizer": "The optimisers are fixed; set their learning rates, such as actor_lr.",
    "observation_space": "The environment tells its spaces: set its observation_spaces.",
    "action_space": "The environment tells its spaces: set its action_spaces.",
    "observation_filter": "Scale observations in the environment.",
    "update_worker_filter_stats": "There are no observation filters; scale observations in the environment.",
    "use_worker_filter_stats": "There are no observation filters; scale observations in the environment.",
    "preprocessor_pref": "There are no preprocessors; change observations in the environment.",
    "observation_fn": "Change observations in the environment.",
    "compress_observations": "To save memory, set replay_capacity or replay_device.",
    "remote_worker_envs": "Set num_env_runners for environments in other processes.",
    "remote_env_batch_wait_ms": "Set num_env_runners for environments in other processes.",
    "render_env": "Watch episodes with `rllib evaluate CHECKPOINT --render`.",
    "num_gpus": "Set num_gpus_per_learner.",
    # Of connectors one cannot tell whether they change what the policy sees or does, which neither agent ids nor the
    # trained policy alone (`rllib_dima.Policy`) would know of.
    "_env_to_module_connector": (
        "Change observations in the environment or a wrapper around it, which the trained policy's users have as well; "
        "to log, use callbacks."
    ),
    "_module_to_env_connector": (
        "Change actions in the environment or a wrapper around it, which the trained policy's users have as well; to "
        "log, use callbacks."
    ),
    "add_default_connectors_to_env_to_module_pipeline": "The policy needs RLlib's connectors.",
    "add_default_connectors_to_module_to_env_pipeline": "The policy needs RLlib's connectors.",
    "exploration_config": "Exploration is sampling from the policy; evaluation_config has explore=False.",
    "_learner_connector": "Learners receive episodes directly.",
    "add_default_connectors_to_learner_pipeline": "Learners receive episodes directly.",
    "clip_rewards": "Rewards are learnt as they are; clip them in the environment.",
    "rollout_fragment_length": "Set env_steps_per_iteration; runners share it evenly.",
    "batch_mode": "An iteration collects exactly env_steps_per_iteration steps and cuts episodes where needed.",
    "count_steps_by": "Environment steps are counted, in which all agents act at once.",
    "normalize_actions": "The policy acts in [-1, 1], which the environment's wrapper scales to its bounds.",
    "policies": "All agents share one policy.",
    "policy_mapping_fn": "All agents share one policy.",
    "policies_to_train": "All agents share one policy.",
    "algorithm_config_overrides_per_module": "All agents share one policy.",
    "create_local_env_runner": "The local runner is needed to restart remote ones with the policy alone.",
    "num_aggregator_actors_per_learner": "Learners receive episodes directly.",
    "_torch_lr_scheduler_classes": "Learning rates are constant.",
    "_torch_grad_scaler_class": "Training goes without loss scaling.",
    "torch_compile_learner": "RLlib's switch does nothing for modules of several agents.",
    "torch_compile_worker": "RLlib's switch does nothing on the new API stack.",
    "torch_skip_nan_gradients": "A run stops with an error that names what became NaN.",
    "log_gradients": "Each network's gradient norm is logged.",
}


class _Rule(NamedTuple):
    """Which values of a setting are right: in words, their types, and what else must hold."""

    expected: str
    types: tuple[type, ...]
    holds: Callable[[Any], bool] = lambda value: True


_COUNT = _Rule("a whole number of at least 0", (numbers.Integral,), lambda value: value >= 0)
_SECONDS = _Rule("a number of seconds above 0", (numbers.Real,), lambda value: value > 0)
_POSITIVE = _Rule("a whole number of at least 1", (numbers.Integral,), lambda value: value >= 1)
_SWITCH = _Rule("True or False", (bool,))
_NEW_STACK = _Rule("True, because the algorithms here run on RLlib's new API stack only", (bool,), bool)
_MAX_SEED = 4_000_000_000  # NumPy's is 2**32 - 1, and runners add their numbers, those of evaluation a million

# Settings of which wrong values would be ignored or misread, or fail somewhere in RLlib without a word about them.
RULES: dict[str, _Rule] = {
    **dict.fromkeys(("checkpoint_replay", "progress", "sample_async"), _SWITCH),
    **dict.fromkeys(("enable_rl_module_and_learner", "enable_env_runner_and_connector_v2"), _NEW_STACK),
    **dict.fromkeys(("num_env_runners", "num_learners", "evaluation_num_env_runners"), _COUNT),
    "num_consecutive_env_runner_failures_tolerance": _COUNT,
    **dict.fromkeys(("sample_timeout_s", "evaluation_sample_timeout_s"), _SECONDS),
    **dict.fromkeys(("num_envs_per_env_runner", "metrics_num_episodes_for_smoothing"), _POSITIVE),
    **dict.fromkeys(("max_requests_in_flight_per_env_runner", "max_requests_in_flight_per_learner"), _POSITIVE),
    "env_config": _Rule("a dict of the environment's settings", (Mapping,)),
    "seed": _Rule(
        f"None or a whole number from 0 to {_MAX_SEED}",
        (numbers.Integral, type(None)),
        lambda value: value is None or 0 <= value <= _MAX_SEED,
    ),
    "evaluation_interval": _Rule(
        "None or a whole number of at least 0",
        (numbers.Integral, type(None)),
        lambda value: value is None or value >= 0,
    ),
    "evaluation_duration_unit": _Rule("'episodes' or 'timesteps'", (str,), ("episodes", "timesteps").__contains__),
    "gym_env_vectorize_mode": _Rule(
        "'sync', because a runner here steps its environments one after the other (more runners do so in parallel: "
        "num_env_runners)",
        (str, gym.VectorizeMode),
        ("sync", gym.VectorizeMode.SYNC).__contains__,
    ),
    "stats_cls_lookup": _Rule(
        "a dict that holds those of rllib_dima.reporting.episode_stats.STATS_CLASSES",
        (dict,),
        lambda value: STATS_CLASSES.items() <= value.items(),
    ),
    "input_": _Rule(
        "'sampler', because algorithms here learn from steps that they collect themselves", (str,), "sampler".__eq__
    ),
}

# What RLlib itself changes in the configuration of evaluation runners.
CHANGED_FOR_EVALUATION = ("rollout_fragment_length", "batch_mode")


def check_value(name: str, value: Any) -> None:
    """Raises TypeError or ValueError if a setting breaks its rule."""
    rule = RULES[name]
    is_of_type = isinstance(value, rule.types) and (bool in rule.types or not isinstance(value, bool))
    if not is_of_type:
        raise TypeError(f"{name} must be {rule.expected}, but is {value!r} ({type(value).__name__}).")
    if not rule.holds(value):
        raise ValueError(f"{name} must be {rule.expected}, but is {value!r}.")
