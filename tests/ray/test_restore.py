"""Restoring: from everywhere a checkpoint can be, and without a trace where it is refused."""

import copy
import os
import pathlib
import pickle

import numpy as np
import pyarrow.fs
import pytest
import torch
import tree
from ray import tune
from ray.rllib.algorithms.ppo import PPO
from support.results import reported_numbers
from support.team import Team, of_learners, team_config, weights

from rllib_dima import DIMA, Policy
from rllib_dima.checkpoint import MANIFEST_FILE_NAME, CheckpointError, write_manifest
from rllib_dima.core.dima.hyperparameters import DIMAHyperparameters
from rllib_dima.learning.learner_group import LearnerError

pytestmark = pytest.mark.usefixtures("ray_running")

LOCAL = pyarrow.fs.LocalFileSystem()


def save(config, path, iterations=1):
    algo = config.build()
    for _ in range(iterations):
        algo.train()
    algo.save_to_path(path)
    algo.stop()
    return path


def everything(algo):
    """Numbers of the next iteration, and what training depends on after it."""
    result = algo.train()
    learner = algo.learner_group._learner
    replay = learner.trainer.replay.state_dict()
    columns = {name: column.numpy() for name, column in replay["columns"].items()}
    counters = {name: result[name] for name in ("training_iteration", "iterations_since_restore")}
    return {
        "result": dict(reported_numbers(result)),
        "counters": counters,
        "modules": weights(learner),
        "columns": columns,
    }


class Numbered(Team):
    """Agents that are no strings."""

    def __init__(self, config=None):
        super().__init__(config)
        self.ids = {"left": 0, "right": ("right", 1)}
        self.agents = self.possible_agents = list(self.ids.values())
        for spaces in (self.observation_spaces, self.action_spaces):
            spaces.update({self.ids[name]: spaces.pop(name) for name in ("left", "right")})

    def _observations(self):
        return {self.ids[name]: value for name, value in super()._observations().items()}


def test_callbacks_may_save_restore_and_evaluate_as_soon_as_the_algorithm_is_there(ray_running, tmp_path):
    """A usual warm start: RLlib calls `on_algorithm_init` within the constructor."""
    seen = []

    def start(algorithm, **kwargs):
        algorithm.save_to_path(tmp_path / "first")
        algorithm.restore_from_path(tmp_path / "first")
        seen.append(algorithm.evaluate()["env_runners"]["episode_return_mean"])

    algo = team_config().callbacks(on_algorithm_init=start).build()
    assert np.isfinite(seen).all() and len(seen) == 1
    assert algo.train()["training_iteration"] == 1
    algo.stop()


def test_places_of_an_algorithms_checkpoint(tmp_path, monkeypatch):
    """With agents that are no strings, which the policy's description must survive."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    elsewhere = pyarrow.fs.SubTreeFileSystem(str(tmp_path), LOCAL)
    algo = team_config().environment(Numbered).build()
    algo.train()
    assert algo.save_to_path("run/") == str(tmp_path / "run")
    assert algo.save_to_path(f"file://{tmp_path}/uri/") == str(tmp_path / "uri")
    assert algo.save_to_path("deep/run", filesystem=elsewhere) == "deep/run"
    by_tune = algo.save("~/by_tune")
    assert sorted(os.listdir(tmp_path)) == ["by_tune", "deep", "run", "uri"]
    with pytest.raises(CheckpointError, match="save_to_path"):
        algo.save(tune.Checkpoint("deep/run", elsewhere))
    observations = {0: np.zeros(3), ("right", 1): np.ones(2)}
    expected = Policy.from_checkpoint("run").act(observations)
    algo.train()
    ways = ["run", pathlib.Path("~/run/"), f"file://{tmp_path}/uri", by_tune, tune.Checkpoint("deep/run", elsewhere)]
    for way in ways:
        for restore in (algo.restore, algo.restore_from_path):
            algo.train()
            restore(way)
            assert algo.iteration == 1, way
        np.testing.assert_equal(Policy.from_checkpoint(way).act(observations), expected)
    algo.restore_from_path("deep/run", filesystem=elsewhere)
    algo.restore_from_path(f"file://{tmp_path}/uri/learner_group/learner", component="learner_group/learner")
    algo.stop()
    for way in (ways[0], ways[-1]):
        restored = DIMA.from_checkpoint(way)
        assert restored.iteration == 1
        restored.stop()


def _rewrite(name, content):
    """A checkpoint that is whole by its manifest, with a file that cannot be read."""

    def rewrite(path):
        (path / name).write_bytes(content)
        (path / MANIFEST_FILE_NAME).unlink()
        write_manifest(path, "DIMA")

    return rewrite


def _make_foreign(path):
    (path / MANIFEST_FILE_NAME).unlink()
    (path / "class_and_ctor_args.pkl").write_bytes(pickle.dumps({"class": PPO}))


REFUSALS = {
    "missing": (team_config(), lambda path: path.rename(path.with_name("moved")), CheckpointError),
    "without manifest": (team_config(), lambda path: (path / MANIFEST_FILE_NAME).unlink(), CheckpointError),
    "damaged": (team_config(), lambda path: (path / "algorithm_state.pkl").write_bytes(b""), CheckpointError),
    "foreign": (team_config(), _make_foreign, CheckpointError),
    "other policy": (team_config(actor_hidden_size=12), None, ValueError),
    "other critic": (team_config(critic_hidden_size=12), None, ValueError),
    "other world model": (team_config(reward_embedding_size=16), None, ValueError),
    "other capacity": (team_config(replay_capacity=400), None, ValueError),
    "other actions": (team_config({"discrete": True}), None, ValueError),
    "other agents": (team_config().environment(Numbered), None, ValueError),
    "broken replay": (team_config(), _rewrite("learner_group/learner/replay_buffer.pt", b"x"), Exception),
    "broken optimisers": (team_config(), _rewrite("learner_group/learner/state.pkl", b"x"), pickle.UnpicklingError),
    "broken runner": (team_config(), _rewrite("env_runner/state.pkl", b"x"), pickle.UnpicklingError),
    "broken state": (team_config(), _rewrite("algorithm_state.pkl", b"x"), pickle.UnpicklingError),
    "wrong state": (team_config(), _rewrite("algorithm_state.pkl", pickle.dumps({"collected": {}})), KeyError),
}


@pytest.fixture(scope="module")
def twins():
    """Two algorithms that train alike."""
    pair = [team_config().build() for _ in range(2)]
    for algo in pair:
        algo.train()
    yield pair
    for algo in pair:
        algo.stop()


@pytest.mark.parametrize("case", REFUSALS)
def test_refused_restore_leaves_no_trace(twins, case, tmp_path):
    """Episodes are in flight, which this environment could not restore, and replay links them to their next steps."""
    config, damage, error = REFUSALS[case]
    path = save(config.copy(copy_frozen=False), tmp_path / "run", iterations=2)
    if damage is not None:
        damage(path)
    tried, untouched = twins
    times = tried._time_total, tried._time_since_restore
    for restore in (tried.restore, tried.restore_from_path):
        with pytest.raises(error):
            restore(path)
        assert (tried._time_total, tried._time_since_restore) == times
    np.testing.assert_equal(everything(tried), everything(untouched))


def test_presets_that_are_no_longer_those_of_the_saved_run_are_named(tmp_path, caplog):
    """As after an update that changed a recipe. What is set is meant to be other."""
    caplog.set_level("WARNING", logger="ray.rllib")
    path = save(team_config(gamma=0.5, entropy_coeff=0.25), tmp_path / "run")
    algo = team_config(entropy_coeff=0.125).build()
    for restored in (algo, DIMA.from_checkpoint(path)):
        restored.restore_from_path(path)
        restored.stop()
    (said,) = (text for text in caplog.messages if "now stand for" in text)
    assert said.count("'gamma': 0.5") == 2 and "'gamma': 0.99" in said and "entropy" not in said


def test_a_run_from_before_a_preset_changed_goes_on_as_it_was(tmp_path, monkeypatch, caplog):
    """The recipe had other learning rates then, and the one network there was, so that the setting did not exist."""
    caplog.set_level("WARNING", logger="ray.rllib")
    now, then = DIMAHyperparameters.RECIPES, copy.deepcopy(DIMAHyperparameters.RECIPES)
    then["swift"][""] |= {"decoder_network": "fsq", "actor_lr": 7e-4, "decoder_lr": 1e-3}
    monkeypatch.setattr(DIMAHyperparameters, "RECIPES", then)
    algo = team_config(recipe="swift", critic_lr=3e-4).build()
    algo.train()
    known = algo._hyperparameters()
    del known["decoder_network"]
    monkeypatch.setattr(algo, "_hyperparameters", lambda: known)
    algo.save_to_path(tmp_path / "run")
    monkeypatch.setattr(DIMAHyperparameters, "RECIPES", now)
    assert DIMAHyperparameters.resolve({}, recipe="swift").decoder_network == "mlp"
    restored = DIMA.from_checkpoint(tmp_path / "run")
    assert restored._hyperparameters() == {**known, "decoder_network": "fsq"}
    (said,) = (text for text in caplog.messages if "Presets have changed" in text)
    assert "'actor_lr': 0.0007" in said and "'decoder_network': 'fsq'" in said and "critic_lr" not in said
    again = DIMA.from_checkpoint(restored.save_to_path(tmp_path / "again"))
    assert again._hyperparameters() == restored._hyperparameters()
    for one in (algo, restored, again):
        one.stop()


def test_refused_restore_leaves_no_trace_in_remote_actors(tmp_path):
    path = save(team_config(critic_hidden_size=12), tmp_path / "run", iterations=2)
    algo = team_config().env_runners(num_env_runners=1).learners(num_learners=1).build()
    algo.train()
    before = in_remote_actors(algo)
    with pytest.raises(LearnerError, match="another environment, recipe, model_size or network sizes"):
        algo.restore_from_path(path)
    np.testing.assert_equal(in_remote_actors(algo), before)
    assert algo.train()["num_env_steps_sampled_lifetime"] == 40
    algo.stop()


def in_remote_actors(algo):
    """All that the learner and the runner hold."""
    state = {
        "learner": of_learners(algo, lambda learner: (learner.get_state(), learner.trainer.replay.state_dict())),
        "runner": algo.env_runner_group.foreach_env_runner(lambda runner: runner.get_state(), local_env_runner=False),
    }
    return tree.map_structure(lambda value: value.numpy() if isinstance(value, torch.Tensor) else value, state)
