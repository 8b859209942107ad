"""`DIMAConfig`: names, values, what it refuses, and how it travels. No algorithm is built here."""

import inspect
import pathlib
import pickle
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box
from ray import tune
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.callbacks.callbacks import RLlibCallback
from ray.rllib.connectors.env_to_module import MeanStdFilter
from ray.rllib.env.multi_agent_env_runner import MultiAgentEnvRunner
from support.team import Team, team_config

import rllib_dima
from rllib_dima import DIMA, DIMAConfig
from rllib_dima.core.dima.hyperparameters import DIMAHyperparameters
from rllib_dima.learning.learner import TeamLearner
from rllib_dima.settings import ALTERNATIVES, READ_SETTINGS

UNIT = Box(-1, 1, (1,), np.float32)


def ant():
    return DIMAConfig().environment("mamujoco_ant_4x2")


def nano_ant():
    return ant().training(model_size="nano")


def test_values_follow_user_then_preset_then_paper():
    assert ant().hyperparameters().gamma == 0.99
    assert ant().hyperparameters().actor_hidden_size == 128
    nano = ant().training(model_size="nano", actor_hidden_size=32).hyperparameters()
    assert (nano.actor_hidden_size, nano.critic_hidden_size) == (32, 128)
    undone = ant().training(gamma=0.5).training(gamma=None)
    assert undone.hyperparameters().gamma == 0.99
    for undone in (nano_ant().training(model_size=None), nano_ant().update_from_dict({"model_size": None})):
        assert undone.model_size == "paper" and undone.hyperparameters() == ant().hyperparameters()
    assert nano_ant().training(gamma=0.5).model_size == "nano"


def test_help_shows_every_hyperparameter_with_text_and_symbol():
    assert {"model_size", "recipe", *DIMAHyperparameters.names()} == set(
        inspect.signature(DIMAConfig().training).parameters
    )
    text = inspect.getdoc(DIMAConfig.training)
    assert "imagination_horizon [H] = 15: Steps of an imagined rollout" in text
    assert all(f"{name} " in text for name in DIMAHyperparameters.names())


def test_every_hyperparameter_is_read_in_the_core():
    core = pathlib.Path(rllib_dima.__file__).parent / "core"
    files = [file for file in core.rglob("*.py") if file.name != "hyperparameters.py"]
    code = "\n".join(file.read_text() for file in files)
    read_elsewhere = {"num_denoising_steps": "denoising_steps", "env_steps_per_iteration": None}
    for name in DIMAHyperparameters.names():
        name = read_elsewhere.get(name, name)
        by_part = f'hp, f"{{part}}_{name.partition("_")[2]}"' if name else ""  # getattr(hp, f"{part}_...")
        assert name is None or re.search(rf"\.{name}\b", code) or by_part in code, f"no code in core reads {name}"
    assert ant().training(env_steps_per_iteration=40).total_train_batch_size == 40


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.training(dynamic_lr=1e-3), "Did you mean .*dynamics_lr"),
        (lambda c: c.training(lr=1e-3), "Set actor_lr"),
        (lambda c: c.update_from_dict({"dynamic_lr": 1e-3}), "Did you mean .*dynamics_lr"),
        (lambda c: c.update_from_dict({"evaluation_intervall": 1}), "evaluation_interval"),
        (lambda c: c.update_from_dict({"EVALUATION_INTERVALL": 1}), "evaluation_interval"),
        (lambda c: c.update_from_dict({"lr": c.lr, "gamma": 0.9}), "does not use 'lr'.*actor_lr"),
        (lambda c: c.update_from_dict({"grad_clip": None}), "does not use 'grad_clip'"),
        (lambda c: c.training(train_batch_size_per_learner=1), "does not use 'train_batch.*env_steps_per_iteration"),
        (lambda c: c.training(learner_connector=None), "does not use 'learner_connector'.*Learners receive episodes"),
        (lambda c: c.training(num_sgd_iter=3), "does not use 'num_sgd_iter'.*ppo_epochs"),
        (lambda c: c.training(learner_class=object), r"set it with config\.learners\(learner_class"),
        (lambda c: c.training(num_env_runners=2), r"set it with config\.env_runners\(num_env_runners"),
        (lambda c: setattr(c, "gama", 0.9), "Did you mean .*gamma"),
        (lambda c: c.__setitem__("gama", 0.9), "Did you mean .*gamma"),
        (lambda c: setattr(c, "learners", 2), r"call config\.learners"),
    ],
)
def test_unknown_names_are_refused_at_once(change, message):
    with pytest.raises(ValueError, match=message):
        change(ant())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.training(model_size="nan"), "Did you mean 'nano'"),
        (lambda c: c.training(replay_device="cuda"), r"Unknown replay_device 'cuda'\. Known: auto, cpu, learner\."),
        (lambda c: c.training(precision="fp16"), r"precision 'fp16'\. Known: bfloat16, float32, tf32\."),
        (lambda c: c.training(precision="bfloat"), r"Did you mean 'bfloat16'.*\? Known: bfloat16, float32, tf32\."),
        (lambda c: c.training(gamma=1.5), "gamma must be at least 0.0 and at most 1.0"),
        (lambda c: c.training(ppo_epochs=1.5), "ppo_epochs must be a whole number"),
        (
            lambda c: c.training(replay_capacity=5, env_steps_per_iteration=5),
            "replay_capacity .* must be at least",
        ),
        (lambda c: c.training(gamma=tune.uniform(0.9, 1.0)), "gamma .* search space.*param_space"),
        (lambda c: c.training(model_size=tune.grid_search(["nano", "paper"])), "model_size .*param_space"),
        (lambda c: c.environment(tune.grid_search(["mamujoco_ant_4x2"])), "env .*param_space"),
        (
            lambda c: c.environment(env_config={"a": [tune.choice([0, 1])]}),
            r"^env_config\.a\.0 .*param_space",
        ),
        (lambda c: c.update_from_dict({"lr": 1e-4}), "does not use 'lr'.*actor_lr"),
        (lambda c: c.update_from_dict({"train_batch_size": 4000}), "env_steps_per_iteration"),
        (lambda c: c.update_from_dict({"train_batch_size_per_learner": 9}), "env_steps_per_iteration"),
        (lambda c: c.update_from_dict({"minibatch_size": 4}), "ppo_minibatches"),
        (lambda c: c.update_from_dict({"num_epochs": 4}), "ppo_epochs"),
        (lambda c: c.update_from_dict({"grad_clip": 4.0}), "actor_grad_clip"),
        (lambda c: c.update_from_dict({"model": {"fcnet_hiddens": [4]}}), "model_size"),
        (lambda c: c.rl_module(model_config={"a": 1}), "model_size"),
        (lambda c: c.env_runners(rollout_fragment_length=50), "env_steps_per_iteration"),
        (lambda c: c.env_runners(batch_mode="complete_episodes"), "exactly env_steps_per_iteration"),
        (lambda c: c.multi_agent(policies={"a", "b"}), "share one policy"),
        (lambda c: c.env_runners(num_envs_per_env_runner=3), "must be a multiple .* 201"),
        (lambda c: c.env_runners(num_env_runners=201), "one step for each of the 201"),
        (lambda c: c.environment("mamujoco_ant_4x3"), "Did you mean .*mamujoco_ant_4x2"),
        (lambda c: c.environment("xyzzy"), r"^.{,30}'xyzzy'.{,300}register_env\(\).{,60}$"),
        (lambda c: c.environment("my.module.Env"), "Pass the class itself"),
        (lambda c: c.checkpointing(checkpoint_replay=1), "checkpoint_replay must be"),
        (lambda c: c.environment(env_config="x"), "env_config must be a dict .* but is 'x'"),
        (lambda c: c.update_from_dict({"env_config": "x"}), "env_config must be a dict .* but is 'x'"),
        (lambda c: c.environment(observation_space=UNIT), "does not use 'observation_space'.*observation_spaces"),
        (lambda c: c.environment(action_space=UNIT), "does not use 'action_space'.*action_spaces"),
        (lambda c: c.env_runners(observation_filter="MeanStdFilter"), "does not use 'observation_filter'"),
        (
            lambda c: c.env_runners(env_to_module_connector=MeanStdFilter),
            "'env_to_module_connector'.*Change observations",
        ),
        (lambda c: c.env_runners(module_to_env_connector=MeanStdFilter), "'module_to_env_connector'.*Change actions"),
        (
            lambda c: c.env_runners(add_default_connectors_to_env_to_module_pipeline=False),
            "does not use 'add_default_connectors_to_env_to_module_pipeline'",
        ),
        (
            lambda c: c.env_runners(add_default_connectors_to_module_to_env_pipeline=False),
            "does not use 'add_default_connectors_to_module_to_env_pipeline'",
        ),
        (
            lambda c: c.learners(add_default_connectors_to_learner_pipeline=False),
            "does not use 'add_default_connectors_to_learner_pipeline'",
        ),
        (lambda c: c.update_from_dict({"env_to_module_connector": MeanStdFilter}), "env_to_module_connector"),
        (lambda c: c.update_from_dict({"exploration_config": {"type": "EpsilonGreedy"}}), "'exploration_config'"),
        (lambda c: c.env_runners(compress_observations=True), "does not use 'compress_observations'"),
        (lambda c: c.env_runners(gym_env_vectorize_mode="async"), "gym_env_vectorize_mode must be 'sync'"),
        (lambda c: c.env_runners(num_env_runners=-1), "num_env_runners must be .* at least 0, but is -1"),
        (lambda c: c.env_runners(num_env_runners="2"), r"num_env_runners must be .* but is '2' \(str\)"),
        (lambda c: c.env_runners(sample_timeout_s=0), "sample_timeout_s must be a number of seconds above 0"),
        (lambda c: c.env_runners(sample_timeout_s=None), "sample_timeout_s must be .* but is None"),
        (lambda c: c.evaluation(evaluation_sample_timeout_s=-1), "evaluation_sample_timeout_s must be .* but is -1"),
        (lambda c: c.env_runners(num_env_runners=True), r"num_env_runners must be .* but is True \(bool\)"),
        (lambda c: c.learners(num_learners=-1), "num_learners must be .* at least 0, but is -1"),
        (lambda c: c.learners(max_requests_in_flight_per_learner=None), "at least 1, but is None"),
        (
            lambda c: c.fault_tolerance(num_consecutive_env_runner_failures_tolerance=None),
            "num_consecutive_env_runner_failures_tolerance must be .* at least 0, but is None",
        ),
        (lambda c: c.learners(num_learners="2"), r"num_learners must be .* but is '2' \(str\)"),
        (lambda c: c.learners(num_gpus_per_learner="1"), r"num_gpus_per_learner must be a number .* is '1' \(str\)"),
        (lambda c: c.learners(num_gpus_per_learner=-1), "num_gpus_per_learner must be .* but is -1"),
        (lambda c: c.learners(num_cpus_per_learner="1"), "num_cpus_per_learner must be 'auto' or a number .* is '1'"),
        (lambda c: c.learners(local_gpu_idx="0"), "local_gpu_idx must be a whole number"),
        (lambda c: c.learners(custom_resources_per_learner="x"), "custom_resources_per_learner must be a dict"),
        (lambda c: c.learners(learner_class=object), "^learner_class must be .*TeamLearner.* but is .*object"),
        (lambda c: c.env_runners(num_cpus_per_env_runner="1"), "num_cpus_per_env_runner must be a number"),
        (lambda c: c.env_runners(num_envs_per_env_runner=2.5), "num_envs_per_env_runner must be a whole number"),
        (lambda c: c.env_runners(explore="no"), "explore must be True or False"),
        (lambda c: c.env_runners(env_runner_cls=object), "env_runner_cls must be .*TeamEnvRunner"),
        (lambda c: c.env_runners(env_runner_cls=MultiAgentEnvRunner), "env_runner_cls must be .*TeamEnvRunner"),
        (lambda c: c.callbacks(object), "callbacks_class must be .*RLlibCallback"),
        (lambda c: c.callbacks([RLlibCallback, object]), "callbacks_class must be .*RLlibCallback"),
        (lambda c: c.callbacks(on_train_result=3), "callbacks_on_train_result must be .*function"),
        (lambda c: c.resources(num_cpus_for_main_process="1"), "num_cpus_for_main_process must be a number"),
        (lambda c: c.resources(placement_strategy="pack"), "placement_strategy must be 'PACK'"),
        (lambda c: c.fault_tolerance(restart_failed_env_runners="yes"), "restart_failed_env_runners must be True"),
        (lambda c: c.reporting(min_time_s_per_iteration="5"), "min_time_s_per_iteration must be None or a number"),
        (lambda c: c.evaluation(evaluation_duration="3"), "evaluation_duration must be 'auto' or .* is '3'"),
        (lambda c: c.evaluation(evaluation_config="x"), "evaluation_config must be .* dict .* but is 'x'"),
        (lambda c: c.update_from_dict({"evaluation_config": "x"}), "evaluation_config must be .* dict"),
        (lambda c: c.evaluation(evaluation_duration_unit="foo"), "must be 'episodes' or 'timesteps', but is 'foo'"),
        (lambda c: c.evaluation(evaluation_num_env_runners="1"), "evaluation_num_env_runners must be"),
        (lambda c: c.evaluation(evaluation_interval="1"), "evaluation_interval must be None or .* but is '1'"),
        (lambda c: c.reporting(imagination_report_interval=-1), "imagination_report_interval must be None or .* is -1"),
        (lambda c: c.reporting(imagination_report_figures=True), "nothing without an imagination_report_interval"),
        (lambda c: c.debugging(seed="a"), r"seed must be None or a whole number .* but is 'a' \(str\)"),
        (lambda c: c.debugging(seed=1.5), r"seed must be None or a whole number .* but is 1\.5 \(float\)"),
        (lambda c: c.debugging(seed=-1), "seed must be None or a whole number from 0 .* but is -1"),
        (lambda c: c.api_stack(False, False), "enable_rl_module_and_learner must be True, .* but is False"),
        (lambda c: c.offline_data(input_="/data"), "input_ must be 'sampler'"),
        (lambda c: c.offline_data(output="/data"), "does not use 'output', which was set. Leave it out."),
        (lambda c: c.environment(clip_actions=True), "does not use 'clip_actions'.*env_config"),
        (lambda c: c.environment(disable_env_checking=False), "does not use 'disable_env_checking'.*check_env"),
        (
            lambda c: c.evaluation(evaluation_force_reset_envs_before_iteration=False),
            "evaluation_force_reset_envs_before_iteration=False needs evaluation_duration='auto'",
        ),
        (lambda c: c.framework("tf2"), "framework_str must be 'torch', .* but is 'tf2'"),
        (lambda c: c.update_from_dict({"learning_starts": 5}), "does not use 'learning_starts'"),
        (lambda c: c.update_from_dict({"policy_map_capacity": 100}), "does not use 'policy_map_capacity'"),
    ],
)
def test_bad_settings_are_refused_before_training(change, message):
    with pytest.raises((ValueError, TypeError), match=message):
        change(ant()).validate()


def test_connectors_of_evaluation_alone_are_refused_as_well():
    config = ant().evaluation(evaluation_config={"_env_to_module_connector": MeanStdFilter})
    with pytest.raises(ValueError, match="Change observations"):
        config.get_evaluation_config_object().validate()


def test_learners_build_no_connectors_as_they_receive_episodes():
    assert len(ant().build_learner_connector(None, None)) == 0


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"gama": 1}, "'gama'. Did you mean 'gamma'"),
        ({"lr": 1e-3}, "does not use 'lr'"),
        ({"gamma": 7}, "gamma is set to 7, .* as it is trained"),
        ({"model_size": "small"}, "model_size is set to 'small', .* as it is trained"),
        ({"env": "mamujoco_ant_4x3"}, "Did you mean .*mamujoco_ant_4x2"),
        ({"env_config": "x"}, "env_config must be a dict"),
        ({"num_envs_per_env_runner": 2.5}, "num_envs_per_env_runner must be a whole number"),
        ({"explore": "no"}, "explore must be True or False"),
        ({"seed": tune.randint(0, 9)}, "seed .*param_space"),
        ({"num_env_runners": 2}, "does not read 'num_env_runners'.*evaluation_num_env_runners"),
        ({"num_gpus_per_learner": 0}, "does not read 'num_gpus_per_learner'"),
        ({"evaluation_duration": 3}, "does not read 'evaluation_duration'.*config.evaluation"),
        ({"callbacks_on_train_result": print}, "does not read 'callbacks_on_train_result'"),
    ],
)
def test_bad_settings_of_evaluation_alone_are_refused_before_training(overrides, message):
    with pytest.raises((ValueError, TypeError), match=f"evaluation_config.*{message}"):
        nano_ant().evaluation(evaluation_config=overrides).validate()


def test_settings_that_are_read_exist_and_those_of_a_new_ray_are_refused(monkeypatch):
    original = AlgorithmConfig.__init__
    of_rllib = vars(AlgorithmConfig()).keys()
    assert of_rllib >= READ_SETTINGS and of_rllib - READ_SETTINGS >= ALTERNATIVES.keys()

    def with_one_more(self, *args, **kwargs):
        original(self, *args, **kwargs)
        self.new_in_ray = 1

    monkeypatch.setattr(AlgorithmConfig, "__init__", with_one_more)

    class Tomorrows(DIMAConfig):
        """A class of its own, for which nothing is remembered yet."""

    config = Tomorrows().environment("mamujoco_ant_4x2")
    config.validate()
    config.new_in_ray = 2
    with pytest.raises(ValueError, match="does not use 'new_in_ray', which was set"):
        config.validate()


def test_environment_is_required():
    with pytest.raises(ValueError, match="DIMA needs an environment"):
        DIMAConfig().validate()


def test_valid_configs_pass_for_classes_registered_ids_and_evaluation():
    team_config().validate()
    tune.register_env("my_team", lambda config: Team(config))
    DIMAConfig().environment("my_team").validate()
    config = ant().evaluation(evaluation_interval=2, evaluation_config={"env_config": {"a": 1}})
    config.validate()
    evaluation = config.get_evaluation_config_object()
    evaluation.validate()
    ant().evaluation(evaluation_config=None).validate()
    ant().evaluation(evaluation_config=ant().env_runners(num_envs_per_env_runner=2)).validate()
    ant().env_runners(gym_env_vectorize_mode="sync").debugging(seed=np.int64(3)).validate()
    ant().environment(env_config={"eval": "1"}).validate()
    ant().env_runners(num_cpus_per_env_runner=0.5).learners(learner_class=TeamLearner).validate()
    ant().callbacks([RLlibCallback], on_train_result=[print, print]).validate()
    assert evaluation.explore is False and evaluation.env_config == {"a": 1} and config.explore is True


def test_minus_one_is_a_value_like_any_other():
    config = ant().training(noise_log_mean=-1.0, initial_log_std=-1)
    again = DIMAConfig.from_state(config.get_state())
    assert again.hyperparameters() == config.hyperparameters()
    assert again.hyperparameters().noise_log_mean == -1.0


def test_numpy_values_become_pythons():
    config = ant().training(
        gamma=np.float64(0.9), ppo_epochs=np.int64(2), normalize_values=np.bool_(0), decoder_fsq_levels=np.array([4, 3])
    )
    hyperparameters = DIMAConfig.from_state(config.get_state()).hyperparameters()
    assert hyperparameters.gamma == 0.9 and hyperparameters.normalize_values is False
    assert hyperparameters.decoder_fsq_levels == (4, 3)


def test_config_survives_pickle_copy_dict_and_tunes_search_spaces():
    config = ant().training(dynamics_lr=tune.loguniform(1e-4, 1e-3), model_size="nano")
    for again in (pickle.loads(pickle.dumps(config)), config.copy(), DIMAConfig.from_state(config.get_state())):
        assert isinstance(again.dynamics_lr, type(tune.loguniform(1e-4, 1e-3))) and again.model_size == "nano"
    merged = DIMAConfig().update_from_dict({**config.to_dict(), "dynamics_lr": 2e-4, "lambda": 0.9})
    merged.validate()
    assert (merged.hyperparameters().dynamics_lr, merged.hyperparameters().lambda_) == (2e-4, 0.9)
    assert DIMAConfig.from_dict({"env": "mamujoco_ant_4x2", "gamma": 0.5}).hyperparameters().gamma == 0.5


def test_whole_configurations_pass_with_the_settings_that_are_not_used():
    merged = DIMAConfig().update_from_dict({**ant().to_dict(), "gamma": 0.9})
    merged.validate()
    assert merged.hyperparameters().gamma == 0.9


def test_subclasses_declare_their_own_settings():
    class Mine(DIMAConfig):
        my_setting = None

    config = Mine(algo_class=DIMA)
    config.my_setting = 3
    assert DIMAConfig().algo_class is DIMA and isinstance(config, AlgorithmConfig)


@pytest.mark.parametrize("runners", [0, 1, 2, 3])
def test_runners_share_the_steps_of_an_iteration_exactly(runners):
    config = ant().env_runners(num_env_runners=runners).learners(num_learners=2)
    shares = [config.get_rollout_fragment_length(index) for index in range(bool(runners), runners + 1)]
    assert sum(shares) == 200


def test_learner_uses_a_gpu_if_there_is_one():
    assert DIMAConfig().num_gpus_per_learner == int(torch.cuda.is_available())


def test_core_works_where_ray_is_not_installed():
    code = (
        "import sys; sys.modules['ray'] = None; import rllib_dima.core.dima.trainer; import rllib_dima; print('fine')"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "fine\n"
    with pytest.raises(AttributeError, match=r"it offers .*DIMA, .*DIMAConfig"):
        rllib_dima.DIMO  # noqa: B018
