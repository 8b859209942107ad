"""`TeamConfig`: what the configurations of all algorithms here have in common.

A hyperparameter left at None follows the presets of `recipe` and `model_size`, then the environment's task or benchmark
family, then the algorithm's default; `hyperparameters()` returns the resolved values. Names that do not exist, and
settings of RLlib that are not read here, are refused rather than silently accepted.
"""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np
import ray
import torch
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig, NotProvided
from ray.rllib.connectors.connector_v2 import ConnectorV2
from ray.rllib.connectors.env_to_module import EnvToModulePipeline
from ray.rllib.connectors.learner import LearnerConnectorPipeline
from ray.rllib.connectors.module_to_env import ModuleToEnvPipeline
from ray.rllib.core.learner.learner import Learner
from ray.rllib.core.learner.learner_group import LearnerGroup
from ray.rllib.core.rl_module.multi_rl_module import MultiRLModuleSpec
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.env import INPUT_ENV_SINGLE_SPACES
from ray.tune.result import TRIAL_INFO
from ray.tune.search.sample import Domain
from ray.util import log_once
from typing_extensions import Self

from rllib_dima.core.hyperparameters import Hyperparameters
from rllib_dima.core.layout import AgentLayout
from rllib_dima.core.names import check_name
from rllib_dima.core.trainer import Trainer
from rllib_dima.envs import env_family, require_registered
from rllib_dima.envs.creation import require_creator
from rllib_dima.learning.rl_modules import POLICY_ID, TeamMultiRLModule, TeamNetwork, TeamPolicy, module_id
from rllib_dima.reporting.episode_stats import STATS_CLASSES
from rllib_dima.sampling.connectors import ModuleToTeam, TeamToModule
from rllib_dima.sampling.env_runner import LAYOUT_KEY, TeamEnvRunner
from rllib_dima.settings import (
    ALTERNATIVES,
    CHANGED_FOR_EVALUATION,
    OF_PPO,
    OF_TRAINING_ALONE,
    READ_SETTINGS,
    RULES,
    check_value,
)

NOT_PROVIDED: Any = NotProvided  # RLlib's default of what was not given, which annotations leave out
PRESETS = ("model_size", "recipe")
COMMON_SETTINGS = (*PRESETS, "checkpoint_replay", "progress", "sample_async")


def map_agent(agent_id: Any, episode: Any, **kwargs: Any) -> str:
    """The module that acts for an agent: the shared policy. (At module level, so that configs pickle.)"""
    return POLICY_ID


class TeamConfig(AlgorithmConfig):
    """Configuration of an algorithm that trains teams.

    A subclass names the algorithm's hyperparameters and trainer. One that adds other settings must declare them as
    class attributes, because assigning to unknown names is refused.

    Attributes:
        hyperparameter_class: its fields are what `training()` takes.
        trainer_class: what learners train with; its NETWORKS become RLlib's modules.
        alternatives: what to set instead of settings of RLlib that the algorithm does not read.
        shown_losses: losses shown at the top of every result, beside the return, with the modules they belong to.
    """

    hyperparameter_class: ClassVar[type[Hyperparameters]]
    trainer_class: ClassVar[type[Trainer]]
    alternatives: ClassVar[dict[str, str]] = ALTERNATIVES
    shown_losses: ClassVar[dict[str, str]] = {}

    # RLlib's, which declares that they may be None; `validate()` refuses that.
    num_env_runners: int
    num_envs_per_env_runner: int
    num_learners: int
    max_requests_in_flight_per_learner: int
    sample_timeout_s: float
    evaluation_num_env_runners: int
    evaluation_duration_unit: str
    num_consecutive_env_runner_failures_tolerance: int

    def __init__(self, algo_class: type | None = None) -> None:
        super().__init__(algo_class=algo_class)
        for name in self.hyperparameter_class.names():
            setattr(self, name, None)
        self.model_size = "paper"
        self.recipe = "paper"
        self.checkpoint_replay = True
        self.progress = False
        self.sample_async = False

        self.policies = {POLICY_ID}
        self.policy_mapping_fn = map_agent
        self.env_runner_cls = TeamEnvRunner
        self.evaluation_config = {"explore": False}
        self.rollout_fragment_length = "auto"
        self.normalize_actions = False  # they are in [-1, 1] already
        self.stats_cls_lookup = STATS_CLASSES
        self.metrics_num_episodes_for_smoothing = 10  # of 1,000 steps each, that is 50 iterations
        # RLlib's environment check resets with seed 42, after which all unseeded runners draw the same.
        self.disable_env_checking = True
        # One iteration is seconds: RLlib's default of 60 s would stall the run for a minute.
        self.delay_between_env_runner_restarts_s = 1.0
        self.num_gpus_per_learner = 1 if torch.cuda.is_available() else 0

    def training(
        self, *, model_size: str | None = NOT_PROVIDED, recipe: str | None = NOT_PROVIDED, **hyperparameters: Any
    ) -> Self:
        """Sets hyperparameters; those not given stay as they are, and None undoes a setting.

        Args:
            model_size: preset that scales all networks: "paper" or a smaller one, such as "nano"; None is "paper".
            recipe: preset of how things are learnt: "paper", or another one of the algorithm's; None is "paper".
            **hyperparameters: any of those below, or a search space of Ray Tune for them.

        Returns:
            This config.

        Raises:
            ValueError: on an unknown name, with the nearest known ones. Values are checked by `validate()`.
        """
        for name in hyperparameters:
            known = self.hyperparameter_class.names()
            for setting in () if name in known else (name, f"_{name}"):  # RLlib keeps some under another name
                if setting in _unused_settings(type(self)) or setting in OF_PPO:
                    raise ValueError(self.not_used(setting))
            if name not in known and (method := _method_that_sets(name)):
                raise ValueError(f"{name!r} is no hyperparameter: set it with config.{method}({name}=...).")
            check_name(name, known, "hyperparameter")
        presets = {"model_size": model_size, "recipe": recipe}
        given = {name: value for name, value in presets.items() if value is not NOT_PROVIDED}
        for name, value in {**given, **hyperparameters}.items():
            setattr(self, name, value)
        return self

    def environment(
        self,
        env: str | Callable | None = NOT_PROVIDED,
        *,
        env_config: dict[str, Any] = NOT_PROVIDED,
        **kwargs: Any,
    ) -> Self:
        """Sets the environment.

        Args:
            env: an id known to Ray or gymnasium, or a class or function. These are called with the `env_config`, as in
                RLlib, or with keywords from it, if their first argument is not called something like "config".
            env_config: settings of the environment, added to those that were given before.
            **kwargs: RLlib's own settings.

        Returns:
            This config.

        Raises:
            TypeError: if `env_config` is no dict.
        """
        if env_config is not NOT_PROVIDED:
            check_value("env_config", env_config)
        return super().environment(env, env_config=env_config, **kwargs)

    def checkpointing(self, *, checkpoint_replay: bool = NOT_PROVIDED, **kwargs: Any) -> Self:
        """Sets what checkpoints hold.

        Args:
            checkpoint_replay: whether they hold the replay buffer (a full one of Ant-4x2 takes about 0.2 GB).
                Without it a restored run collects anew before it learns as well as before.
            **kwargs: RLlib's own settings.

        Returns:
            This config.
        """
        super().checkpointing(**kwargs)
        if checkpoint_replay is not NOT_PROVIDED:
            self.checkpoint_replay = checkpoint_replay
        return self

    def reporting(self, *, progress: bool = NOT_PROVIDED, **kwargs: Any) -> Self:
        """Sets what is reported.

        Args:
            progress: whether every `train()` prints a line: iteration, steps, return, losses, seconds.
            **kwargs: RLlib's own settings.

        Returns:
            This config.
        """
        super().reporting(**kwargs)
        if progress is not NOT_PROVIDED:
            self.progress = progress
        return self

    def env_runners(self, *, sample_async: bool = NOT_PROVIDED, **kwargs: Any) -> Self:
        """Sets how real experience is collected.

        Args:
            sample_async: whether runners collect the next iteration's steps while the learners learn. An iteration
                then takes as long as the longer of the two instead of their sum, and its steps are those of the
                policy before the last update. Needs `num_env_runners` of 1 or more.
            **kwargs: RLlib's own settings.

        Returns:
            This config.
        """
        super().env_runners(**kwargs)
        if sample_async is not NOT_PROVIDED:
            self.sample_async = sample_async
        return self

    def evaluation(
        self, *, evaluation_config: dict[str, Any] | AlgorithmConfig | None = NOT_PROVIDED, **kwargs: Any
    ) -> Self:
        """Sets how the policy is evaluated.

        Args:
            evaluation_config: settings that are others in evaluation, added to those that were given before. It plays
                the policy as it is trained, so hyperparameters cannot be among them.
            **kwargs: RLlib's own settings.

        Returns:
            This config.

        Raises:
            TypeError: if `evaluation_config` is no dict.
        """
        if evaluation_config is not NOT_PROVIDED:
            check_value("evaluation_config", evaluation_config)
        return super().evaluation(evaluation_config=evaluation_config, **kwargs)

    def hyperparameters(self) -> Hyperparameters:
        """The values that a run with this config uses.

        Raises:
            ValueError: on a value out of its range, or an unknown preset.
            TypeError: on a value of the wrong type, such as an unresolved search space.
        """
        user, own = {name: getattr(self, name) for name in self.hyperparameter_class.names()}, self.hyperparameter_class
        task = self.env if isinstance(self.env, str) and self.env in own.FAMILIES else None  # with settings of its own
        return own.resolve(user, task or env_family(self.env), self.model_size, self.recipe)

    def trainer_settings(self) -> dict[str, Any]:
        """What the algorithm's trainer takes beyond what every trainer does, by the names of its arguments."""
        return {}

    def validate(self) -> None:
        """Checks all settings, without side effects.

        Raises:
            ValueError: on an unknown environment, a value out of its range, or a setting that would be ignored.
            TypeError: on a value of the wrong type.
        """
        log_once(f"{self.algo_class.__name__}_on_new_api_stack")  # RLlib's notice concerns older algorithms only
        self._check_each_setting()
        super().validate()
        if not self.evaluation_force_reset_envs_before_iteration and self.evaluation_duration != "auto":
            raise ValueError(
                "evaluation_force_reset_envs_before_iteration=False needs evaluation_duration='auto': an evaluation of "
                f"{self.evaluation_duration!r} plays episodes of its own from their start. Leave it at True."
            )
        if self.sample_async and not self.num_env_runners and not self.in_evaluation:
            raise ValueError(
                "sample_async=True lets runners collect while the learners learn, but with num_env_runners=0 this "
                "process collects itself. Set num_env_runners=1 or more, or leave sample_async at False."
            )
        if self.sample_async and self.trainer_class.ON_POLICY:
            raise ValueError(
                f"sample_async=True collects with the policy before the present one, but {self.algo_class.__name__} "
                "learns from the present policy's steps alone: leave it at False."
            )
        if not self.explore and not self.in_evaluation and self.trainer_class.ON_POLICY:
            raise ValueError(
                f"explore=False collects the likeliest actions, but {self.algo_class.__name__} learns from drawn ones: "
                "leave it at True, and set explore in evaluation_config for evaluation."
            )
        self._check_step_split(self.hyperparameters().env_steps_per_iteration)
        self._check_evaluation_config()

    def build_algo(self, env: str | Callable | None = None, use_copy: bool = True) -> Any:
        """The algorithm, ready to train. Starts Ray quietly if it is not running; call `ray.init()` before to choose.

        Args:
            env: environment id or class, if not set before.
            use_copy: whether the algorithm gets a copy of this config.

        Raises:
            ValueError: see `validate()`; also if the algorithm cannot train on the environment.
        """
        if env is not None:
            self.environment(env)
        self.validate()
        self._start_ray()
        return super().build_algo(use_copy=use_copy)

    def build(self, *args: Any, **kwargs: Any) -> Any:
        """The same as `build_algo()`."""
        return self.build_algo(*args, **kwargs)

    def update_from_dict(self, config_dict: dict[str, Any]) -> Self:
        """Sets what a dict names, as Ray Tune and the command line do.

        Raises:
            ValueError: on an unknown key, with the nearest known ones, or one that is not used.
        """
        settings = dict(config_dict)
        for key in settings:
            if key not in ("multiagent", TRIAL_INFO):
                self._check_setting(self._translate_special_keys(key, warn_deprecated=False))
        if not self._is_whole(settings):
            for name in settings.keys() & _unused_settings(type(self)):
                raise ValueError(self.not_used(name))
        for key in ("model", "optimizer"):  # RLlib would pass these to training(), which is for hyperparameters
            if key in settings:
                setattr(self, key, settings.pop(key))
        return super().update_from_dict(settings)

    def get_state(self) -> dict[str, Any]:
        """All settings. RLlib leaves out those equal to -1, which is a legal value of some hyperparameters."""
        return {**super().get_state(), **{name: getattr(self, name) for name in self._own_settings()}}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Self:
        """A configuration from what `get_state` returned, whose "class" RLlib would leave among the settings."""
        config = super().from_state(state)
        del vars(config)["class"]
        return config

    def get_default_rl_module_spec(self) -> RLModuleSpec:
        """The policy's module."""
        return RLModuleSpec(module_class=TeamPolicy)

    def get_default_learner_class(self) -> type[Learner]:
        """`TeamLearner`."""
        from rllib_dima.learning.learner import TeamLearner

        return TeamLearner

    def build_env_to_module_connector(self, env: Any = None, spaces: Any = None, device: Any = None) -> ConnectorV2:
        """Observations to the policy's batch, in one piece; arguments as in RLlib."""
        return EnvToModulePipeline(*_spaces(env, spaces), connectors=[TeamToModule()])

    def build_module_to_env_connector(self, env: Any = None, spaces: Any = None) -> ConnectorV2:
        """What the policy returns to actions, in one piece; arguments as in RLlib."""
        return ModuleToEnvPipeline(*_spaces(env, spaces), connectors=[ModuleToTeam()])

    def build_learner_connector(
        self, input_observation_space: Any, input_action_space: Any, device: Any = None
    ) -> ConnectorV2:
        """Nothing, as learners receive episodes directly; arguments as in RLlib."""
        return LearnerConnectorPipeline(input_observation_space, input_action_space, connectors=[])

    def get_multi_rl_module_spec(
        self, *, env: Any = None, spaces: dict[str, Any] | None = None, inference_only: bool = False, **kwargs: Any
    ) -> MultiRLModuleSpec:
        """The policy for runners; all networks of the trainer for learners.

        Args:
            env: a runner's vectorised environments.
            spaces: what `TeamEnvRunner.get_spaces()` returned.
            inference_only: whether a runner asks.
            **kwargs: as in RLlib.

        Raises:
            ValueError: if neither `env` nor `spaces` tells the layout of the agents.
        """
        spec = super().get_multi_rl_module_spec(env=env, spaces=spaces, inference_only=inference_only, **kwargs)
        common = {"layout": _layout(env, spaces), "hyperparameters": self.hyperparameters()}
        policy, networks = spec.rl_module_specs[POLICY_ID], dict(self.trainer_class.NETWORKS)
        acting = {"network": networks.pop("actor"), "records_log_probs": self.trainer_class.ON_POLICY}
        assert isinstance(policy.model_config, dict), "its other form is for modules of RLlib's own"
        policy.model_config = {**policy.model_config, **common, **acting}
        spec.multi_rl_module_class = TeamMultiRLModule
        for name, network in () if inference_only else networks.items():
            model_config = {**policy.model_config, "network": network}
            module = dataclasses.replace(policy, module_class=TeamNetwork, model_config=model_config, learner_only=True)
            spec.add_modules({module_id(name): module})
        return spec

    def build_learner_group(
        self, *, env: Any = None, spaces: dict[str, Any] | None = None, rl_module_spec: Any = None, **kwargs: Any
    ) -> LearnerGroup:
        """A `TeamLearnerGroup`; arguments as in RLlib."""
        from rllib_dima.learning.learner_group import TeamLearnerGroup

        spec = rl_module_spec or self.get_multi_rl_module_spec(env=env, spaces=spaces)
        return TeamLearnerGroup(config=self.copy(), module_spec=spec, **kwargs)

    @property
    def total_train_batch_size(self) -> int:
        """Real steps per iteration, however many learners there are."""
        return self.hyperparameters().env_steps_per_iteration

    def __setattr__(self, key: str, value: Any) -> None:
        self._check_setting(key)
        super().__setattr__(key, _plain(key, value) if key in self._own_settings() else value)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "hyperparameter_class" in vars(cls):
            _document_training(cls)

    def __setitem__(self, key: str, value: Any) -> None:
        if key == "multiagent":
            super().__setitem__(key, value)
        setattr(self, self._translate_special_keys(key), value)

    def _check_each_setting(self) -> None:
        self._check_search_spaces()
        self._check_environment()
        self._check_unused_settings()
        for name in filter(vars(self).__contains__, RULES):
            check_value(name, getattr(self, name))

    def _check_search_spaces(self) -> None:
        for name in _search_spaces(vars(self)):
            raise TypeError(
                f"{name} must be a value, but is a search space, from which only Ray Tune draws: set a "
                f'value, or give the configuration to tune.Tuner("{self.algo_class.__name__}", param_space=config).'
            )

    def _check_evaluation_config(self) -> None:
        """The settings that evaluation changes, after all others."""
        try:
            evaluation = self.get_evaluation_config_object()
            if isinstance(evaluation, TeamConfig):  # no other class, and None in evaluation itself
                evaluation._check_each_setting()
        except (ValueError, TypeError) as error:
            kind = TypeError if isinstance(error, TypeError) else ValueError
            raise kind(f"In evaluation_config: {error}") from error
        given = self.evaluation_config or {}
        for key in () if self._is_whole(given) else given:
            if (name := self._translate_special_keys(key, warn_deprecated=False)) in OF_TRAINING_ALONE:
                raise ValueError(
                    f"In evaluation_config: evaluation does not read {name.lstrip('_')!r}. {OF_TRAINING_ALONE[name]}"
                )
        for name in () if evaluation is None else self._own_settings():
            if getattr(evaluation, name) != getattr(self, name):
                raise ValueError(
                    f"In evaluation_config: {name} is set to {getattr(evaluation, name)!r}, but evaluation plays the "
                    "policy as it is trained: leave it out."
                )

    def _check_environment(self) -> None:
        env = self.env
        if env is None:
            config, algorithm = type(self).__name__, self.algo_class.__name__
            raise ValueError(f'{algorithm} needs an environment: {config}().environment("mamujoco_ant_4x2").')
        if isinstance(env, str):
            require_registered(env)
        else:
            require_creator(env)

    def _check_unused_settings(self) -> None:
        defaults = _defaults(type(self))
        for name in _unused_settings(type(self)):
            if self.in_evaluation and name in CHANGED_FOR_EVALUATION:
                continue
            if getattr(self, name) != defaults[name]:
                raise ValueError(self.not_used(name))

    def not_used(self, name: str) -> str:
        """The error message for a setting that the algorithm does not use."""
        algorithm = self.algo_class.__name__
        advice = {**OF_PPO, **self.alternatives}.get(name, "Leave it out.")
        return f"{algorithm} does not use {name.lstrip('_')!r}, which was set. {advice}"

    @classmethod
    def _own_settings(cls) -> tuple[str, ...]:
        return *cls.hyperparameter_class.names(), *COMMON_SETTINGS

    def _is_whole(self, settings: Mapping[str, Any]) -> bool:
        """Whether they are a whole configuration, as of `to_dict()`, which holds all that are not read, too."""
        return settings.keys() >= self.alternatives.keys()

    def _check_setting(self, name: str) -> None:
        """Raises ValueError if `name` is no setting: neither RLlib's, nor one of this class."""
        known = _known_settings(type(self))
        if name.startswith("_") or name in known:
            return
        config, declared = type(self).__name__, getattr(type(self), name, None)
        if inspect.isfunction(declared):
            raise ValueError(f"{name!r} is a method of {config}: call config.{name}(...) instead of assigning to it.")
        if not hasattr(type(self), name):
            near = difflib.get_close_matches(name.lower(), known, cutoff=0.5)
            check_name(name, known if near else self._own_settings(), f"setting of {config}")

    def _check_step_split(self, steps: int) -> None:
        """Vectorised environments step together, so a number that does not divide evenly cannot be met exactly."""
        envs = self.num_envs_per_env_runner
        runners = max(1, self.num_env_runners)
        if not self.in_evaluation and (steps % envs or steps < envs * runners):
            raise ValueError(
                f"env_steps_per_iteration ({steps}) must be a multiple of num_envs_per_env_runner ({envs}) and at "
                f"least one step for each of the {envs * runners} environments. The nearest that fits is "
                f"{max(round(steps / envs), runners) * envs}."
            )

    def _start_ray(self) -> None:
        """Starts Ray without its banner, unless it runs already or RAY_ADDRESS names a cluster."""
        if not ray.is_initialized() and "RAY_ADDRESS" not in os.environ:
            has_actors = self.num_env_runners + self.num_learners + self.evaluation_num_env_runners > 0
            ray.init(include_dashboard=False, logging_level=logging.ERROR, log_to_driver=has_actors)


def _spaces(env: Any, spaces: Any) -> tuple[Any, Any]:
    """Observations and actions of one environment: a runner's own, or as `TeamEnvRunner.get_spaces()` returned them."""
    if env is None:
        return spaces[INPUT_ENV_SINGLE_SPACES]
    return env.single_observation_space, env.single_action_space


def _layout(env: Any, spaces: dict[str, Any] | None) -> AgentLayout:
    if spaces is not None and LAYOUT_KEY in spaces:
        return spaces[LAYOUT_KEY]
    if env is not None and hasattr(env, "envs"):
        return env.envs[0].layout
    raise ValueError(
        "The networks need the layout of the agents, which TeamEnvRunner.get_spaces() tells: use it (or a subclass) "
        "as env_runner_cls, or pass `spaces` that hold it."
    )


def _plain(name: str, value: Any) -> Any:
    """The value to keep: presets are never None, and numbers never NumPy's, as configs are compared and printed."""
    if name in PRESETS and value is None:
        return "paper"
    if isinstance(value, np.generic):
        return value.item()
    return tuple(value.tolist()) if isinstance(value, np.ndarray) and value.ndim else value


def _search_spaces(settings: Any, path: str = "") -> Iterator[str]:
    """Paths of the search spaces of Ray Tune in nested settings."""
    if isinstance(settings, Domain) or (isinstance(settings, dict) and settings.keys() == {"grid_search"}):
        yield path
    elif isinstance(settings, (dict, list, tuple)):
        for key, value in settings.items() if isinstance(settings, dict) else enumerate(settings):
            yield from _search_spaces(value, f"{path}.{key}".removeprefix("."))


def _method_that_sets(name: str) -> str | None:
    """The method of RLlib's configuration that takes a setting which is no hyperparameter."""
    methods = ("environment", "env_runners", "learners", "evaluation", "callbacks", "reporting", "debugging")
    methods += ("fault_tolerance", "checkpointing", "resources")
    takes = (method for method in methods if name in inspect.signature(getattr(AlgorithmConfig, method)).parameters)
    return next(takes, None)


@lru_cache
def _known_settings(config_class: type[TeamConfig]) -> frozenset[str]:
    """Public settings of RLlib and of an algorithm. (`worker_index` is what RLlib sets on runners' configs.)"""
    of_rllib = {name for name in vars(AlgorithmConfig()) if name[0] != "_"}
    return frozenset({*of_rllib, *config_class._own_settings(), "worker_index"})


@lru_cache
def _unused_settings(config_class: type[TeamConfig]) -> frozenset[str]:
    """Settings of RLlib that an algorithm does not read."""
    return frozenset(vars(AlgorithmConfig()).keys() - READ_SETTINGS - {*config_class._own_settings()})


@lru_cache
def _defaults(config_class: type[TeamConfig]) -> dict[str, Any]:
    return vars(config_class())


def _document_training(cls: type[TeamConfig]) -> None:
    """Gives a class a `training` with the signature and the text of every hyperparameter."""

    def training(self: TeamConfig, **settings: Any) -> TeamConfig:
        super(cls, self).training(**settings)
        return self

    keyword, hyperparameters = inspect.Parameter.KEYWORD_ONLY, cls.hyperparameter_class
    parameters = [
        inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD),
        *(inspect.Parameter(name, keyword, default=None, annotation="str | None") for name in PRESETS),
    ]
    sizes, recipes = ", ".join(hyperparameters.MODEL_SIZES), ", ".join(hyperparameters.RECIPES)
    lines = [
        TeamConfig.training.__doc__.rstrip(),
        "",
        f"        Presets of model_size: {sizes}; of recipe: {recipes}.",
        "",
    ]
    lines.append("        Hyperparameters, with their defaults:")
    for field in dataclasses.fields(hyperparameters):
        parameters.append(inspect.Parameter(field.name, keyword, default=None, annotation=f"{field.type} | None"))
        symbol = f" [{field.metadata['symbol']}]" if field.metadata["symbol"] else ""
        lines.append(f"            {field.name}{symbol} = {field.default!r}: {field.metadata['doc']}")
    training.__signature__ = inspect.Signature(parameters)
    training.__doc__, training.__qualname__ = "\n".join(lines), f"{cls.__qualname__}.training"
    cls.training = training
