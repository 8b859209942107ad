"""From a file and a command line to what Tune runs: names then and now, precedence, search spaces, refusals."""

import contextlib
import io
import itertools

import pytest
from ray import tune
from ray.rllib.algorithms.dqn import DQN
from ray.rllib.algorithms.impala import IMPALA
from ray.rllib.algorithms.ppo import PPO
from ray.tune.schedulers import ASHAScheduler, PopulationBasedTraining

import rllib_dima
from rllib_dima import DIMA
from rllib_dima.cli.errors import UsageError
from rllib_dima.cli.experiment import make_experiment
from rllib_dima.cli.experiment.schedulers import make_scheduler
from rllib_dima.cli.experiment.search_space import DISTRIBUTIONS, variants, with_search_spaces
from rllib_dima.cli.experiment.settings import read_settings, settings_of
from rllib_dima.cli.vocabulary import REFUSED, RENAMED_METRICS, RENAMED_SETTINGS, translate_metric

pytestmark = pytest.mark.usefixtures("registered")
CARTPOLE = {"run": "PPO", "env": "CartPole-v1"}
ANT = {"run": "DIMA", "env": "mamujoco_ant_4x2", "config": {"model_size": "nano"}}


@pytest.fixture(scope="module")
def registered():
    """DIMA and its environments, also after another module has shut Ray down."""
    rllib_dima.register()


def make(spec, **flags):
    """The experiment, and what the user was told."""
    with contextlib.redirect_stderr(io.StringIO()) as notes:
        experiment = make_experiment("mine", spec, flags)
    return experiment, [note.removeprefix("rllib: note: ") for note in notes.getvalue().splitlines()]


def built(experiment):
    """The configuration that the algorithm makes of an experiment's settings."""
    config = experiment.algorithm.get_default_config().update_from_dict(next(variants(experiment.config)))
    config.validate()
    return config


def test_an_old_file_becomes_the_present_configuration():
    old = {
        "env": "CartPole-v1",
        "run": "PPO",
        "stop": {"sampler_results/episode_reward_mean": 150, "timesteps_total": 100_000, "training_iteration": 9},
        "local_dir": "/there",
        "checkpoint_freq": 3,
        "keep_checkpoints_num": 2,
        "checkpoint_score_attr": "min-episode_reward_mean",
        "config": {
            "framework": "torch",
            "num_workers": 2,
            "num_envs_per_worker": 3,
            "num_gpus": 0,
            "num_sgd_iter": 6,
            "sgd_minibatch_size": 64,
            "train_batch_size": 800,
            "lambda": 0.9,
            "lr": 3e-4,
            "model": {"fcnet_hiddens": [32], "vf_share_layers": True},
            "evaluation_num_workers": 1,
            "evaluation_config": {"num_envs_per_worker": 1, "explore": False},
        },
    }
    experiment, notes = make(old)
    config = built(experiment)
    assert (config.num_env_runners, config.num_envs_per_env_runner, config.num_gpus_per_learner) == (2, 3, 0)
    assert (config.num_epochs, config.minibatch_size, config.total_train_batch_size) == (6, 64, 800)
    assert (config.lambda_, config.lr, config.evaluation_num_env_runners) == (0.9, 3e-4, 1)
    assert config.model_config == {"fcnet_hiddens": [32], "vf_share_layers": True}
    assert config.evaluation_config == {"num_envs_per_env_runner": 1, "explore": False}
    assert experiment.stop == {
        "env_runners/episode_return_mean": 150,
        "num_env_steps_sampled_lifetime": 100_000,
        "training_iteration": 9,
    }
    assert experiment.checkpoint_config == {
        "checkpoint_at_end": True,
        "checkpoint_frequency": 3,
        "num_to_keep": 2,
        "checkpoint_score_attribute": "env_runners/episode_return_mean",
        "checkpoint_score_order": "min",
    }
    assert experiment.folder == "/there/mine"
    assert "num_workers is now num_env_runners: 2" in notes and "local_dir is now storage_path" in notes


@pytest.mark.parametrize(("old", "new"), RENAMED_SETTINGS.items())
def test_every_old_setting_has_a_present_one(old, new):
    known = settings_of(PPO) | settings_of(DQN) | settings_of(IMPALA)
    assert new in known and new not in REFUSED and new not in RENAMED_SETTINGS
    algorithm = next(algorithm for algorithm in (PPO, DQN, IMPALA) if new in settings_of(algorithm))
    value = {"fcnet_hiddens": [2]} if new == "model_config" else 1
    assert read_settings({old: value}, algorithm) == {"_model_config" if old == "model" else new: value}


@pytest.mark.parametrize("name", [name for name in REFUSED if not name.startswith("--")])
def test_settings_without_a_meaning_are_refused_with_advice(name):
    with pytest.raises(UsageError, match=f"config.{name} means nothing any more. [A-Z]"):
        read_settings({name: 1}, PPO)


def test_settings_that_rllib_dropped_are_refused():
    with pytest.raises(ValueError, match="Unknown setting in config: 'enable_connectors'"):
        read_settings({"enable_connectors": True}, PPO)


@pytest.mark.parametrize(("gpus", "new"), [(0, (0, 0)), (0.5, (0, 0.5)), (1, (0, 1)), (3, (3, 1))])
def test_the_drivers_gpus_are_the_learners(gpus, new):
    settings = read_settings({"num_gpus": gpus}, PPO)
    assert (settings.get("num_learners", 0), settings["num_gpus_per_learner"]) == new


def test_the_command_line_counts_more_than_the_file():
    spec = {
        **ANT,
        "stop": {"training_iteration": 9, "time_total_s": 1},
        "num_samples": 2,
        "checkpoint_config": {"checkpoint_frequency": 5, "num_to_keep": 1},
        "config": {
            "model_size": "nano",
            "gamma": 0.9,
            "dynamics_lr": {"grid_search": [1e-4, 1e-3]},
            "env_config": {"render_mode": "rgb_array", "team_reward": "shared"},
        },
    }
    experiment, _ = make(
        spec,
        config={
            "gamma": 0.8,
            "dynamics_lr": 2e-4,
            "actor_lr": {"choice": [1e-3]},
            "env_config": {"team_reward": "mean"},
        },
        stop={"training_iteration": 2},
        checkpoint_freq=7,
        num_samples=4,
    )
    config = built(experiment)
    assert (config.model_size, config.gamma, config.dynamics_lr, config.actor_lr) == ("nano", 0.8, 2e-4, 1e-3)
    assert config.env_config == {"render_mode": "rgb_array", "team_reward": "mean"}
    assert experiment.stop == {"training_iteration": 2}
    assert experiment.checkpoint_config == {"checkpoint_at_end": True, "checkpoint_frequency": 7, "num_to_keep": 1}
    assert experiment.options["num_samples"] == 4


def test_a_search_space_replaces_a_mapping_and_the_other_way_round():
    grid = {"grid_search": [{"render_mode": None}, {"render_mode": "rgb_array"}]}
    over, _ = make({**ANT, "config": {"env_config": {"team_reward": "mean"}}}, config={"env_config": grid})
    assert over.config["env_config"] == grid
    under, _ = make({**ANT, "config": {"env_config": grid}}, config={"env_config": {"team_reward": "mean"}})
    assert under.config["env_config"] == {"team_reward": "mean"}


def test_without_checkpoint_settings_there_is_one_at_the_end_and_the_newest_of_those_by_time():
    assert make(CARTPOLE)[0].checkpoint_config == {"checkpoint_at_end": True, "num_to_keep": 3}
    no_end = make(CARTPOLE, checkpoint_at_end=False, keep_checkpoints_num=5)[0]
    assert no_end.checkpoint_config == {"checkpoint_at_end": False, "num_to_keep": 5}
    every = make(CARTPOLE, checkpoint_freq=3)[0]  # all of which are kept
    assert every.checkpoint_config == {"checkpoint_at_end": True, "checkpoint_frequency": 3}
    assert make(CARTPOLE)[0].folder.endswith("/ray_results/mine") and make(CARTPOLE)[0].folder[0] == "/"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({**ANT, "runn": 1}, "mine: Unknown key 'runn'. Did you mean 'run'"),
        ({**ANT, "model_size": "nano"}, "'model_size' means nothing beside run: it belongs in config"),
        ({**ANT, "num_workers": 2}, "'num_workers' means nothing beside run: it belongs in config"),
        ({**ANT, "training_iteration": 2}, "'training_iteration' means nothing beside run: it belongs in stop"),
        ({**ANT, "config": {"num_samples": 2}}, "'num_samples' means nothing in config: it belongs beside run"),
        ({**ANT, "config": {"timesteps_total": 2}}, "'timesteps_total' means nothing in config: it belongs in stop"),
        ({**ANT, "config": {"learning_rate": 1}}, "Did you mean .*'actor_lr'"),
        ({**ANT, "run": "DIMO"}, "Unknown algorithm 'DIMO'. Did you mean 'DIMA'"),
        ({**ANT, "run": "MAPO"}, "Unknown algorithm 'MAPO'. Did you mean .*'MAPPO'"),
        ({"env": "CartPole-v1"}, "algorithm to train is missing"),
        ({**ANT, "resources_per_trial": {}}, "Set num_env_runners"),
        ({**ANT, "config": {"dynamic_lr": 1}}, "Did you mean 'dynamics_lr'"),
        ({**ANT, "config": {"lr": 1e-3}}, "DIMA does not use 'lr', .*actor_lr"),
        (
            {**ANT, "config": {"observation_filter": "MeanStdFilter"}},
            "DIMA does not use 'observation_filter', which was set. Scale",
        ),
        ({**ANT, "config": {"model": {"fcnet_hiddens": [1]}}}, "DIMA does not use 'model_config'"),
        ({**ANT, "config": {"gamma": {"grid_search": [0.9, 1.5]}}}, "gamma must be .* but is 1.5"),
        ({**ANT, "config": {"gamma": {"uniform": [0.9, 1.5]}}}, "gamma must be .* but is 1.5"),
        ({**ANT, "config": {"env_config": {"partitions": 1}}}, "cannot be built: .*partitions"),
        ({**ANT, "config": {"env_config": "x"}}, "mine: env_config must be a dict .* but is 'x'"),
        ({**ANT, "config": {"num_env_runners": -1}}, "mine: num_env_runners must be .* but is -1"),
        ({**ANT, "config": {"num_denoising_steps": 2}}, r"mine: num_denoising_steps \(2\) is smaller than"),
        ({**ANT, "config": {"num_denoising_steps": {"grid_search": [4, 3]}}}, r"num_denoising_steps \(3\) is smaller"),
        ({**ANT, "config": {"evaluation_config": {"explor": False}}}, "Did you mean 'explore'"),
        ({**ANT, "config": {"env": "CartPole-v1"}}, "Keep one of them"),
        ({**ANT, "config": []}, "config must be a mapping"),
        ({**ANT, "env": "mamujoco_ant_4x3"}, "Did you mean .*mamujoco_ant_4x2"),
        ({**ANT, "stop": {"training_iteration": "9"}}, "must be a number, but is '9'"),
        ({**ANT, "stop": 9}, "must map metrics"),
        ({**ANT, "num_samples": "9"}, "num_samples must be a number"),
        ({**ANT, "checkpoint_config": {"checkpoint_freq": 1}}, "Did you mean 'checkpoint_frequency'"),
        ({**ANT, "checkpoint_config": {"num_to_keep": 0}}, "num_to_keep"),
        ({**ANT, "restore": "/nowhere"}, "There is no folder /nowhere"),
        ({**ANT, "metric": "x"}, "Unknown key 'metric'"),
        ({**CARTPOLE, "env": "CartPole-v9"}, "Unknown environment 'CartPole-v9'. Did you mean 'CartPole-v1'"),
        ({**CARTPOLE, "config": {"num_worker": 1}}, "Did you mean 'num_learners'|Did you mean"),
        ({**CARTPOLE, "config": {"num_workers": 1, "num_env_runners": 1}}, "old name of num_env_runners"),
        ({**CARTPOLE, "config": {"model_config": {"fcnet_hidden": 1}}}, "Did you mean 'fcnet_hiddens'"),
        ({**CARTPOLE, "config": {"enable_rl_module_and_learner": False}}, "old API stack"),
        ({**CARTPOLE, "config": {"lr": {"loguniform": [0, 1]}}}, r"config\.lr: loguniform does not take \[0, 1\]"),
        ({**CARTPOLE, "config": {"lr": {"uniform": [1]}}}, "missing 1 required"),
        ({**CARTPOLE, "config": {"lr": {"grid_search": []}}}, "needs a list that is not empty"),
        ({**CARTPOLE, "config": {"lr": {"choice": 3}}}, "needs a list"),
    ],
)
def test_mistakes_are_refused_before_anything_runs(spec, message):
    with pytest.raises(UsageError, match=f"(?s)^mine: .*({message.removeprefix('mine: ')})"):
        make(spec)


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_distributions_are_those_of_tune(name):
    arguments = {"choice": [1, 2, 4], "randn": [0.0, 1.0], "qrandn": [0.0, 1.0, 0.5]}.get(name)
    if arguments is None:
        arguments = [2, 8, 2] if name.startswith("q") else [2, 8]
    domain = with_search_spaces({"a": {"b": {name: arguments}}})["a"]["b"]
    expected = tune.choice(arguments) if name == "choice" else getattr(tune, name)(*arguments)
    assert (type(domain), str(vars(domain).keys())) == (type(expected), str(vars(expected).keys()))
    assert type(domain.get_sampler()) is type(expected.get_sampler())


def test_mappings_with_other_keys_are_no_search_spaces():
    settings = {"a": {"choice": [1], "b": 2}, "c": {}, "d": [{"uniform": [0, 1]}], "e": {"grid": [1]}}
    assert with_search_spaces(settings) == settings


def test_every_value_of_a_search_space_is_checked():
    config = {
        "a": {"grid_search": [1, 2, 3]},
        "b": {"c": tune.uniform(0.25, 0.5), "d": "fixed"},
        "e": tune.choice("xy"),
        "f": tune.randint(3, 8),
        "g": tune.sample_from(lambda spec: 1),
        "h": 5,
    }
    tried = list(variants(config))
    axes = {"a": [1, 2, 3], "c": [0.25, 0.5], "e": ["x", "y"], "f": [3, 7]}
    seen = {"a": [t["a"] for t in tried], "c": [t["b"]["c"] for t in tried]}
    seen |= {name: [t[name] for t in tried] for name in "ef"}
    assert {name: sorted(set(values)) for name, values in seen.items()} == axes
    assert len(tried) == 1 + sum(len(values) - 1 for values in axes.values())
    first = tried[0]
    for other in tried[1:]:
        flat = [(t["a"], t["b"]["c"], t["e"], t["f"]) for t in (first, other)]
        assert sum(x != y for x, y in zip(*flat, strict=True)) == 1
    assert all("g" not in t and t["h"] == 5 and t["b"]["d"] == "fixed" for t in tried)
    assert len(list(variants({"a": 1}))) == 1


def test_equal_runs_are_noticed():
    fixed = {**CARTPOLE, "num_samples": 2, "config": {"seed": 0}}
    assert any("all samples have seed 0" in note for note in make(fixed)[1])
    for different in ({"lr": {"uniform": [0.1, 0.2]}}, {"seed": {"grid_search": [0, 1]}}, {"seed": None}):
        assert not make({**fixed, "config": {"seed": 0, **different}})[1]
    assert not make(fixed, num_samples=1)[1]


@pytest.mark.parametrize("folder", ["", "sampler_results/", "evaluation/", "evaluation/sampler_results/"])
def test_old_metrics_are_found_in_their_old_folders(folder):
    place = "evaluation/" if "evaluation" in folder else ""
    for old in ("episode_reward_mean", "episode_return_mean"):
        assert translate_metric(folder + old) == f"{place}env_runners/episode_return_mean"
    assert translate_metric(f"{folder}episode_len_min") == f"{place}env_runners/episode_len_min"
    assert translate_metric("env_runners/episode_reward_max") == "env_runners/episode_return_max"
    assert {old: translate_metric(old) for old in RENAMED_METRICS} == RENAMED_METRICS


@pytest.mark.parametrize(
    "name",
    [
        *RENAMED_METRICS.values(),
        "evaluation/env_runners/episode_return_mean",
        "env_runners/num_env_steps_sampled",
        "x/y",
    ],
)
def test_present_metrics_stay_as_they_are(name, capsys):
    assert translate_metric(name) == name and not capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("training_iterations", "training_iteration"),
        ("trainng_iteration", "training_iteration"),
        ("time_total", "time_total_s"),
        ("env_steps_sampled_lifetime", "num_env_steps_sampled_lifetime"),
        ("env_runners/episode_return_men", "env_runners/episode_return_mean"),
        ("env_runners/episode_return", "env_runners/episode_return_mean"),
        ("evaluation/env_runner/episode_return_mean", "evaluation/env_runners/episode_return_mean"),
        ("episode_rewards_mean", "episode_reward_mean"),
    ],
)
def test_metrics_that_are_almost_right_are_refused(name, near):
    with pytest.raises(UsageError, match=f"mine: stop: no run reports '{name}'. Did you mean .*'{near}'"):
        make({**CARTPOLE, "stop": {"time_total_s": 9, name: 2}})
    with pytest.raises(UsageError, match=f"checkpoint_score_attribute: .*Did you mean .*'{near}'"):
        make(CARTPOLE, checkpoint_score_attr=f"min-{name}")


@pytest.mark.parametrize(
    "name",
    [
        "env_runners/agent_episode_returns_mean/0",
        "env_runners/module_episode_returns_mean/p",
        "env_runners/episode_len_max",
        "env_runners/num_agent_steps_sampled/a",
        "evaluation/env_runners/episode_duration_sec_mean",
        "learners/world_model/decoder_loss",
        "timers/learn_s",
        "my_metric",
    ],
)
def test_metrics_that_only_some_runs_have_are_accepted(name):
    assert make({**CARTPOLE, "stop": {name: 2}})[0].stop == {name: 2}


def test_nested_stop_criteria_are_joined():
    stop = {"evaluation": {"env_runners": {"episode_return_mean": 5}}, "time_total_s": 1.5}
    expected = {"evaluation/env_runners/episode_return_mean": 5, "time_total_s": 1.5}
    assert make({**CARTPOLE, "stop": stop})[0].stop == expected


STEPS = {"num_env_steps_sampled_lifetime": 30_000}


def test_schedulers_end_trials_by_the_stop_criterion_unless_told_otherwise():
    asha = make_scheduler("ASHA", {"reduction_factor": 2}, STEPS, DIMA)
    assert isinstance(asha, ASHAScheduler)
    assert (asha._time_attr, asha._max_t) == ("num_env_steps_sampled_lifetime", 30_000)
    assert (asha.metric, asha._metric_op) == ("episode_return_mean", 1.0)  # in every report of ours, NaN at first
    assert make_scheduler("asha", {}, STEPS, PPO).metric == "env_runners/episode_return_mean"
    own = make_scheduler("async_hyperband", {"max_t": 7, "metric": "m", "mode": "min"}, STEPS, DIMA)
    assert (own._time_attr, own._max_t, own.metric, own._metric_op) == ("training_iteration", 7, "m", -1.0)
    by_time = make_scheduler("asha", {"time_attr": "time_total_s"}, {"time_total_s": 60, **STEPS}, DIMA)
    assert (by_time._time_attr, by_time._max_t) == ("time_total_s", 60)
    pbt = make_scheduler("pbt", {"hyperparam_mutations": {"lr": [1e-3, 1e-4]}, "perturbation_interval": 2}, STEPS, DIMA)
    assert isinstance(pbt, PopulationBasedTraining) and pbt._perturbation_interval == 2
    assert make_scheduler(None, {}, None, DIMA) is None and make_scheduler(asha, {}, None, DIMA) is asha


@pytest.mark.parametrize(
    ("name", "arguments", "stop", "message"),
    [
        ("ashaa", {}, STEPS, "Did you mean 'asha'"),
        ("asha", {"grace": 1}, STEPS, "grace_period"),
        ("asha", {}, {"env_runners/episode_return_mean": 1}, "give max_t"),
        ("asha", {"grace_period": 40_000}, STEPS, "scheduler asha: "),
        ("pbt", {}, STEPS, "scheduler pbt: "),
        (None, {"max_t": 1}, STEPS, "needs the name of a scheduler"),
    ],
)
def test_wrong_schedulers_are_refused(name, arguments, stop, message):
    with pytest.raises(UsageError, match=message):
        make_scheduler(name, arguments, stop, DIMA)


def test_search_spaces_of_a_scheduler_are_tunes_own():
    mutations = {"hyperparam_mutations": {"actor_lr": {"loguniform": [1e-5, 1e-3]}, "seed": [0, 1]}}
    both = {"scheduler": "pbt", "scheduler_config": mutations, "stop": STEPS}
    found = make_experiment("a", {**ANT, **both}, {}).scheduler._hyperparam_mutations
    assert found["actor_lr"].lower == 1e-5 and found["seed"] == [0, 1]


def test_settings_of_dima_are_its_hyperparameters_and_rllibs():
    known = settings_of(DIMA)
    assert {"dynamics_lr", "model_size", "checkpoint_replay", "num_env_runners", "evaluation_interval", "seed"} <= known
    assert not known & {"dynamic_lr", "algo_class", "buffer_size", "_model_config"}


def test_variants_of_a_grid_are_all_reached_by_tune():
    config = {"a": {"grid_search": [1, 2]}, "b": {"grid_search": [3, 4]}}
    from ray.tune.search.variant_generator import generate_variants

    reached = [spec["config"] for _, spec in generate_variants({"config": config})]
    assert sorted((c["a"], c["b"]) for c in reached) == list(itertools.product([1, 2], [3, 4]))
    assert all(variant in reached for variant in variants(config))
