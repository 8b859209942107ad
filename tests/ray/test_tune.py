"""Ray Tune: early stopping, population-based training, interruption, and the files that come out."""

import json
import os
import pathlib
import re
import signal
import sys

import pytest
import ray
import torch
from ray import tune
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.callbacks.callbacks import RLlibCallback
from support.metrics import undocumented
from support.team import TINY, Team, team_config

from rllib_dima import DIMA
from rllib_dima.core.dima.steps import PREFIXES
from rllib_dima.core.policy.data import PPOBatch

sys.path.insert(0, str(pathlib.Path(__file__).parents[2] / "examples"))
import tune_asha
import tune_pbt

pytestmark = pytest.mark.usefixtures("ray_running")

ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # the callback below is run by remote actors


class ReportSettingsInUse(RLlibCallback):
    """Adds to every result what the learner really uses."""

    def on_train_result(self, *, algorithm, result, **kwargs):
        trainer = algorithm.learner_group._learner.trainer
        groups = {f"{PREFIXES.get(n, n)}_lr": o._optimizer.param_groups for n, o in trainer.optimizers.items()}
        result["in_use"] = {name: [group["lr"] for group in groups] for name, groups in groups.items()}
        result["in_use"]["entropy_coeff"] = entropy_weight(trainer.actor)
        result["in_use"]["seed"] = [trainer.seed]


def entropy_weight(actor):
    """Weight of the entropy in the actor's loss, which without advantages is just -weight * entropy."""
    observations = torch.zeros(1, actor.layout.num_agents, actor.layout.observation_size)
    policy, zero = actor(observations), torch.zeros(1)
    actions = policy.deterministic()
    batch = PPOBatch(zero, observations, actions, policy.log_prob(actions), zero, zero, zero)
    loss, metrics = actor.loss(batch)
    return -(loss / metrics["entropy"]).item()


# The return of a `Team` is the length of its episodes, so trials rank as they are listed.
@pytest.mark.parametrize(
    ("lengths", "comparisons"), [([3, 9], 1), pytest.param([3, 5, 7, 9], 3, marks=pytest.mark.slow)]
)
def test_pbt_mutations_reach_the_optimisers_and_the_loss(tmp_path, lengths, comparisons):
    space = {**tune_pbt.build_space(), "env": Team, "callbacks": ReportSettingsInUse}
    space["env_config"] = {"length": tune.grid_search(lengths)}
    space |= {**TINY, "num_steps_before_learning": 0, "dynamics_lr_warmup_updates": 0}
    space |= {"min_sample_timesteps_per_iteration": 20}
    tuner = tune_pbt.build_tuner(space, trials=1, iterations=1 + comparisons, perturb_every=1, storage=tmp_path)
    results = tuner.fit()
    assert not results.errors and len(results) == len(lengths)
    for result in results:
        for _, row in result.metrics_dataframe.iterrows():
            for name in ("actor_lr", "critic_lr", "dynamics_lr"):
                assert set(row[f"in_use/{name}"]) == {row[f"config/{name}"]}
            assert row["in_use/entropy_coeff"] == pytest.approx(row["config/entropy_coeff"], rel=1e-4)
    check_mutations(pathlib.Path(results.experiment_path), results, comparisons)


def check_mutations(experiment, results, comparisons):
    """Every comparison replaces the worst trial by the best one, with other settings, which it then trains with."""
    mutations = [json.loads(line) for line in (experiment / "pbt_global.txt").read_text().splitlines()]
    assert len(mutations) == len(tune_pbt.describe_mutations(experiment)) == comparisons
    last = {}
    for target, _, _, _, source, new in mutations:
        assert source["env_config"]["length"] == new["env_config"]["length"] == 9
        assert all(new[name] != source[name] for name in tune_pbt.MUTATIONS)
        last[int(re.match(r"\d+", target).group())] = new
    for trial, new in last.items():
        result = results[trial]
        assert result.metrics["env_runners"]["episode_return_mean"] == 9.0
        assert result.metrics["num_env_steps_sampled_lifetime"] == 20 * (1 + comparisons)
        for name in tune_pbt.MUTATIONS:
            assert result.config[name] == new[name]
            in_use = result.metrics["in_use"][name]
            assert (in_use if name == "entropy_coeff" else in_use[0]) == pytest.approx(new[name], rel=1e-4)


@pytest.fixture(scope="module")
def asha(tmp_path_factory):
    """Four trials, the best ones first, so that the later ones are the worse half for certain."""
    config = team_config({"length": tune.grid_search([9, 7, 5, 3])}, actor_lr=tune.loguniform(1e-4, 1e-3))
    config.evaluation(evaluation_interval=1, evaluation_duration=2)
    storage = tmp_path_factory.mktemp("asha")
    return tune_asha.build_tuner(
        config, trials=1, iterations=4, grace=1, concurrent=2, storage=storage, trainable=DIMA
    ).fit()


def test_asha_stops_the_worse_trials_early(asha):
    assert not asha.errors
    reports = {result.config["env_config"]["length"]: result.metrics["training_iteration"] for result in asha}
    assert reports[9] == 4 and reports[5] == reports[3] == 1
    assert asha.get_best_result().config["env_config"]["length"] == 9


def test_trials_leave_results_checkpoints_and_tensorboard_files(asha):
    best = asha.get_best_result()
    folder = pathlib.Path(best.path)
    lines = [json.loads(line) for line in (folder / "result.json").read_text().splitlines()]
    assert [line["training_iteration"] for line in lines] == [1, 2, 3, 4]
    assert all(line["learners"]["world_model"]["dynamics_loss"] > 0 for line in lines)
    table = (folder / "progress.csv").read_text().splitlines()
    assert len(table) == 5 and "learners/critic/value_loss" in table[0].split(",")
    (events,) = folder.glob("events.out.tfevents.*")
    for metric in ("learners/shared_policy/entropy", tune_asha.METRIC):
        assert f"ray/tune/{metric}".encode() in events.read_bytes()
    assert best.metrics_dataframe["learners/world_model/reward_loss"].notna().all()
    algo = Algorithm.from_checkpoint(best.checkpoint.path)
    assert algo.iteration == 4 and algo.config.actor_lr == best.config["actor_lr"]
    algo.stop()


def test_everything_that_tune_reports_is_documented(asha):
    assert undocumented(asha.get_best_result().metrics) == []


class Interrupt(tune.Callback):
    """Ctrl-C after the second report, once."""

    def __init__(self, happened):
        self.happened = happened

    def on_trial_save(self, iteration, trials, trial, **info):
        if trial.last_result["training_iteration"] == 2 and not self.happened.exists():
            self.happened.touch()
            os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.slow
def test_an_interrupted_experiment_goes_on_where_it_stopped(tmp_path):
    tuner = tune.Tuner(
        "DIMA",
        param_space=team_config(critic_lr=tune.choice([2e-4])),
        run_config=tune.RunConfig(
            name="interrupted",
            storage_path=str(tmp_path),
            stop={"training_iteration": 4},
            checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=1),
            callbacks=[Interrupt(tmp_path / "happened")],
        ),
    )
    (before,) = tuner.fit()
    assert before.metrics["training_iteration"] == 2
    (result,) = tune.Tuner.restore(str(tmp_path / "interrupted"), trainable="DIMA").fit()
    assert result.error is None and result.config["critic_lr"] == 2e-4
    reports = result.metrics_dataframe
    assert reports["training_iteration"].tolist() == [1, 2, 3, 4]
    assert reports["num_env_steps_sampled_lifetime"].tolist() == [20, 40, 60, 80]
    assert reports["iterations_since_restore"].tolist() == [1, 2, 1, 2]
