"""Which of RLlib's settings are read here, what to set instead of others, and the rules for values."""

from __future__ import annotations

import numbers
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import gymnasium as gym
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.callbacks.callbacks import RLlibCallback

from rllib_dima.learning.learner import TeamLearner
from rllib_dima.reporting.episode_stats import STATS_CLASSES
from rllib_dima.sampling.env_runner import TeamEnvRunner

# What algorithms here read of RLlib's settings. Setting any other one is an error, also one that a new release of Ray
# brings; setting it to its default, too, where that can be told (`training()`, `update_from_dict()`).
READ_SETTINGS = frozenset(
    (
        *("algo_class", "env", "env_config", "explore", "seed"),
        *("placement_strategy", "num_cpus_for_main_process", "custom_resources_for_main_process", "local_gpu_idx"),
        *("extra_python_environs_for_driver", "extra_python_environs_for_worker"),
        *("enable_rl_module_and_learner", "enable_env_runner_and_connector_v2", "framework_str", "input_"),
        # environment runners
        *("env_runner_cls", "num_env_runners", "num_envs_per_env_runner", "gym_env_vectorize_mode"),
        *("num_cpus_per_env_runner", "num_gpus_per_env_runner", "custom_resources_per_env_runner"),
        *("create_env_on_local_worker", "validate_env_runners_after_construction", "episodes_to_numpy"),
        *("sample_timeout_s", "max_requests_in_flight_per_env_runner", "episode_lookback_horizon"),
        *("merge_env_runner_states", "broadcast_env_runner_states", "sync_filters_on_rollout_workers_timeout_s"),
        # what happens when they fail
        *("restart_failed_env_runners", "ignore_env_runner_failures", "max_num_env_runner_restarts"),
        *("delay_between_env_runner_restarts_s", "num_consecutive_env_runner_failures_tolerance"),
        *("env_runner_health_probe_timeout_s", "env_runner_restore_timeout_s", "restart_failed_sub_environments"),
        # learners
        *("_learner_class", "learner_config_dict", "num_learners", "max_requests_in_flight_per_learner"),
        *("num_cpus_per_learner", "num_gpus_per_learner", "custom_resources_per_learner"),
        # evaluation
        *("evaluation_interval", "evaluation_duration", "evaluation_duration_unit", "evaluation_config"),
        *("evaluation_num_env_runners", "evaluation_parallel_to_training", "evaluation_sample_timeout_s"),
        *("evaluation_auto_duration_min_env_steps_per_sample", "evaluation_auto_duration_max_env_steps_per_sample"),
        *("evaluation_force_reset_envs_before_iteration", "evaluation_unhealthy_workers_timeout_s"),
        *("evaluation_error_after_n_consecutive_skips", "custom_evaluation_function"),
        # callbacks and reports
        *("callbacks_class", "callbacks_on_algorithm_init", "callbacks_on_checkpoint_loaded"),
        *("callbacks_on_env_runners_recreated", "callbacks_on_environment_created", "callbacks_on_sample_end"),
        *("callbacks_on_episode_created", "callbacks_on_episode_start", "callbacks_on_episode_step"),
        *("callbacks_on_episode_end", "callbacks_on_evaluate_start", "callbacks_on_evaluate_end"),
        *("callbacks_on_train_result", "metrics_num_episodes_for_smoothing", "stats_cls_lookup"),
        *("min_time_s_per_iteration", "min_train_timesteps_per_iteration", "min_sample_timesteps_per_iteration"),
        *("log_level", "log_sys_usage"),
        # RLlib's own notes
        *("_fake_gpus", "_is_atari", "_is_frozen", "_is_online", "_prior_exploration_config", "_validate_config"),
        *("_dont_auto_sync_env_runner_states", "_use_msgpack_checkpoints", "in_evaluation", "simple_optimizer"),
    )
)

# Those that are read of training alone, so that they would be ignored in `evaluation_config`, and what to do instead.
OF_TRAINING_ALONE: dict[str, str] = {
    "num_env_runners": "Set config.evaluation(evaluation_num_env_runners=...).",
    "sample_timeout_s": "Set config.evaluation(evaluation_sample_timeout_s=...).",
    **dict.fromkeys(
        [
            name
            for name in sorted(READ_SETTINGS)
            if name.startswith("evaluation_") or name == "custom_evaluation_function"
        ],
        "Set it with config.evaluation() itself.",
    ),
    **dict.fromkeys(
        (
            *("_learner_class", "learner_config_dict", "num_learners", "max_requests_in_flight_per_learner"),
            *("num_cpus_per_learner", "num_gpus_per_learner", "custom_resources_per_learner", "local_gpu_idx"),
            *("num_cpus_for_main_process", "custom_resources_for_main_process", "placement_strategy"),
            *("min_time_s_per_iteration", "min_train_timesteps_per_iteration", "min_sample_timesteps_per_iteration"),
            *("callbacks_on_algorithm_init", "callbacks_on_checkpoint_loaded", "callbacks_on_train_result"),
            *("callbacks_on_evaluate_start", "callbacks_on_evaluate_end", "log_sys_usage"),
        ),
        "Set it in the configuration itself, which it belongs to.",
    ),
}

# What to set instead of those that are not read.
ALTERNATIVES: dict[str, str] = {
    "lr": "Set the learning rates of the networks, such as actor_lr.",
    "grad_clip": "Set those of the networks, such as actor_grad_clip.",
    "grad_clip_by": "Gradients are clipped by the global norm of each network.",
    **dict.fromkeys(
        ("train_batch_size", "_train_batch_size_per_learner"),
        "Set env_steps_per_iteration, or the algorithm's own batch sizes.",
    ),
    "num_epochs": "Set ppo_epochs.",
    "minibatch_size": "Set ppo_minibatches, the number of minibatches per PPO epoch.",
    "shuffle_batch_per_epoch": "Batches are always shuffled.",
    **dict.fromkeys(
        ("model", "_model_config"), "Set model_size, or the sizes of the networks, such as actor_hidden_size."
    ),
    "_rl_module_spec": "The networks are fixed; set their sizes, such as actor_hidden_size.",
    "optimizer": "The optimisers are fixed; set their learning rates, such as actor_lr.",
    "observation_space": "The environment tells its spaces: set its observation_spaces.",
    "action_space": "The environment tells its spaces: set its action_spaces.",
    "observation_filter": "Scale observations in the environment.",
    "preprocessor_pref": "There are no preprocessors; change observations in the environment.",
    "observation_fn": "Change observations in the environment.",
    "compress_observations": "To save memory, set replay_capacity or replay_device.",
    "clip_actions": "Actions are clipped, unless the environment has clip_actions = False: set it in env_config.",
    "disable_env_checking": "Call rllib_dima.envs.check_env with what environment() is given.",
    "remote_worker_envs": "Set num_env_runners for environments in other processes.",
    "render_env": "Watch episodes with `rllib evaluate CHECKPOINT --render`.",
    "num_gpus": "Set num_gpus_per_learner.",
    # A connector may change what the policy sees or does, and the trained policy alone (`rllib_dima.Policy`) has none.
    "_env_to_module_connector": (
        "Change observations in the environment or a wrapper around it, which the trained policy's users have as well; "
        "to log, use callbacks."
    ),
    "_module_to_env_connector": (
        "Change actions in the environment or a wrapper around it, which the trained policy's users have as well; to "
        "log, use callbacks."
    ),
    **dict.fromkeys(
        ("add_default_connectors_to_env_to_module_pipeline", "add_default_connectors_to_module_to_env_pipeline"),
        "Runners have the connectors that the policy needs.",
    ),
    "exploration_config": "Exploration is sampling from the policy; evaluation_config has explore=False.",
    **dict.fromkeys(
        ("_learner_connector", "add_default_connectors_to_learner_pipeline", "num_aggregator_actors_per_learner"),
        "Learners receive episodes directly.",
    ),
    "clip_rewards": "Rewards are learnt as they are; clip them in the environment.",
    "rollout_fragment_length": "Set env_steps_per_iteration; runners share it evenly.",
    "batch_mode": "An iteration collects exactly env_steps_per_iteration steps and cuts episodes where needed.",
    "count_steps_by": "Environment steps are counted, in which all agents act at once.",
    "normalize_actions": "The policy acts in [-1, 1], which the environment's wrapper scales to its bounds.",
    **dict.fromkeys(
        ("policies", "policy_mapping_fn", "policies_to_train", "algorithm_config_overrides_per_module"),
        "All agents share one policy.",
    ),
    "create_local_env_runner": "The local runner is needed to restart remote ones with the policy alone.",
    "_torch_lr_scheduler_classes": "Learning rates are constant.",
    "torch_skip_nan_gradients": "A run stops with an error that names what became NaN.",
    "log_gradients": "Each network's gradient norm is logged.",
}


# Hyperparameters of RLlib's own PPO, which users may try here.
OF_PPO: dict[str, str] = {
    "num_sgd_iter": "Set ppo_epochs.",
    **dict.fromkeys(("kl_coeff", "kl_target", "use_kl_loss"), "PPO clips the probability ratio: set clip_param."),
    "vf_loss_coeff": "The critic is a network of its own: set critic_lr.",
    "vf_clip_param": "Set value_clip_param.",
    **dict.fromkeys(("use_gae", "use_critic"), "Advantages always come from the critic: set lambda_."),
}


class _Rule(NamedTuple):
    """The legal values of a setting: in words, by type, and by a condition."""

    expected: str
    types: tuple[type, ...]
    holds: Callable[[Any], bool] = lambda value: True


_COUNT = _Rule("a whole number of at least 0", (numbers.Integral,), lambda value: value >= 0)
_AMOUNT = _Rule("a number of at least 0", (numbers.Real,), lambda value: value >= 0)
_LIMIT = _Rule("None or a number of at least 0", (numbers.Real, type(None)), lambda value: value is None or value >= 0)
_SECONDS = _Rule("a number of seconds above 0", (numbers.Real,), lambda value: value > 0)
_POSITIVE = _Rule("a whole number of at least 1", (numbers.Integral,), lambda value: value >= 1)
_INTERVAL = _Rule(
    "None or a whole number of at least 0",
    (numbers.Integral, type(None)),
    lambda value: value is None or value >= 0,
)
_SWITCH = _Rule("True or False", (bool,))
_FUNCTIONS = _Rule(
    "None, a function, or a list of functions",
    (object,),
    lambda value: value is None or all(map(callable, _listed(value))),
)
_NEW_STACK = _Rule("True, because the algorithms here run on RLlib's new API stack only", (bool,), bool)
_MAX_SEED = 4_000_000_000  # NumPy allows 2**32 - 1; runners add their number, and those of evaluation a million


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _rules_by_default() -> dict[str, _Rule]:
    """A setting of RLlib that is a switch, a number or a dict by default must stay one."""
    kinds = {bool: _SWITCH, int: _COUNT, float: _AMOUNT, dict: _Rule("a dict", (Mapping,))}
    public = {
        name: value for name, value in vars(AlgorithmConfig()).items() if name in READ_SETTINGS and name[0] != "_"
    }
    return {name: kinds[type(value)] for name, value in public.items() if type(value) in kinds and value != -1}


# Settings whose wrong values RLlib would ignore, misread, or fail on without naming them.
RULES: dict[str, _Rule] = {
    **_rules_by_default(),
    **dict.fromkeys(("checkpoint_replay", "progress", "sample_async", "imagination_report_figures"), _SWITCH),
    **dict.fromkeys(("enable_rl_module_and_learner", "enable_env_runner_and_connector_v2"), _NEW_STACK),
    **dict.fromkeys(("num_cpus_for_main_process", "num_cpus_per_env_runner", "num_gpus_per_env_runner"), _AMOUNT),
    "num_gpus_per_learner": _AMOUNT,
    "num_cpus_per_learner": _Rule(
        "'auto' or a number of at least 0",
        (numbers.Real, str),
        lambda value: value == "auto" if isinstance(value, str) else value >= 0,
    ),
    "placement_strategy": _Rule(
        "'PACK', 'SPREAD', 'STRICT_PACK' or 'STRICT_SPREAD'",
        (str,),
        ("PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD").__contains__,
    ),
    **dict.fromkeys(("min_sample_timesteps_per_iteration", "min_train_timesteps_per_iteration"), _LIMIT),
    "min_time_s_per_iteration": _LIMIT,
    "env_runner_cls": _Rule(
        "rllib_dima.sampling.env_runner.TeamEnvRunner or a subclass",
        (type,),
        lambda value: issubclass(value, TeamEnvRunner),
    ),
    "_learner_class": _Rule(
        "None, rllib_dima.learning.learner.TeamLearner or a subclass",
        (type, type(None)),
        lambda value: value is None or issubclass(value, TeamLearner),
    ),
    "callbacks_class": _Rule(
        "a subclass of ray.rllib.callbacks.callbacks.RLlibCallback, or a list of them",
        (type, list),
        lambda value: all(isinstance(one, type) and issubclass(one, RLlibCallback) for one in _listed(value)),
    ),
    **dict.fromkeys([name for name in sorted(READ_SETTINGS) if name.startswith("callbacks_on_")], _FUNCTIONS),
    "evaluation_config": _Rule(
        "None or a dict of the settings that evaluation changes", (Mapping, AlgorithmConfig, type(None))
    ),
    "evaluation_duration": _Rule(
        "'auto' or a whole number of at least 1",
        (numbers.Integral, str),
        lambda value: value == "auto" if isinstance(value, str) else value >= 1,
    ),
    **dict.fromkeys(("sample_timeout_s", "evaluation_sample_timeout_s"), _SECONDS),
    **dict.fromkeys(("num_envs_per_env_runner", "metrics_num_episodes_for_smoothing"), _POSITIVE),
    **dict.fromkeys(("max_requests_in_flight_per_env_runner", "max_requests_in_flight_per_learner"), _POSITIVE),
    "env_config": _Rule("a dict of the environment's settings", (Mapping,)),
    "seed": _Rule(
        f"None or a whole number from 0 to {_MAX_SEED}",
        (numbers.Integral, type(None)),
        lambda value: value is None or 0 <= value <= _MAX_SEED,
    ),
    **dict.fromkeys(("evaluation_interval", "imagination_report_interval"), _INTERVAL),
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
    "framework_str": _Rule("'torch', because all networks are PyTorch's", (str,), "torch".__eq__),
    "input_": _Rule(
        "'sampler', because algorithms here learn from steps that they collect themselves", (str,), "sampler".__eq__
    ),
}

# Settings that RLlib itself changes for evaluation runners.
CHANGED_FOR_EVALUATION = ("rollout_fragment_length", "batch_mode")


def check_value(name: str, value: Any) -> None:
    """Raises TypeError or ValueError if a setting breaks its rule."""
    rule, name = RULES[name], name.removeprefix("_")
    is_of_type = isinstance(value, rule.types) and (bool in rule.types or not isinstance(value, bool))
    if not is_of_type:
        raise TypeError(f"{name} must be {rule.expected}, but is {value!r} ({type(value).__name__}).")
    if not rule.holds(value):
        raise ValueError(f"{name} must be {rule.expected}, but is {value!r}.")
