"""The algorithm in one process: what it trains and reports, evaluation, seeds, checkpoints and errors."""

import copy
import dataclasses
import json
import math
import pathlib
import re
import subprocess
import sys
import time

import numpy as np
import pyarrow.fs
import pytest
import torch
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.rl_module import RLModule
from support.team import TINY, Team, team_config, weights

from rllib_dima import DIMA, DIMAConfig, Policy
from rllib_dima.checkpoint import CheckpointError
from rllib_dima.core.dima.trainer import DIMATrainer
from rllib_dima.core.policy.networks import Critic
from rllib_dima.core.trainer import NonFiniteLossError
from rllib_dima.learning.learner import TeamLearner
from rllib_dima.reporting.progress_line import progress_line

pytestmark = pytest.mark.usefixtures("ray_running")

MODULES = ("shared_policy", "critic", "world_model")


@pytest.fixture
def algo():
    algo = team_config().build()
    yield algo
    algo.stop()


def learner(algo) -> TeamLearner:
    return algo.learner_group._learner


def parameters(algo):
    return weights(learner(algo))


def same(left, right):
    return all(np.array_equal(left[name], right[name]) for name in left)


def runner_has_the_learners_policy(algo):
    weights = algo.env_runner.module["shared_policy"].get_state()
    return all(np.array_equal(weights[k], v) for k, v in learner(algo).module["shared_policy"].get_state().items())


def test_an_iteration_trains_every_network_and_reports_finite_numbers(algo):
    before = parameters(algo)
    result = algo.train()
    after = parameters(algo)
    trained = [name for name in before if "norm" not in name]
    unchanged = [name for name in trained if np.array_equal(before[name], after[name])]
    for module in MODULES:
        assert any(name.startswith(module) and name not in unchanged for name in trained)
    trainable = dict(learner(algo).module["world_model"].named_parameters())
    parts = {name.split(".")[1] for name in trainable if f"world_model/{name}" not in unchanged}
    assert parts == {"state_decoder", "dynamics", "reward_termination"}
    for module in MODULES:
        values = result["learners"][module]
        assert np.isfinite(list(values.values())).all() and any("loss" in name for name in values)
    assert result["env_runners"]["episode_return_mean"] == 7.0
    assert result["num_env_steps_sampled_lifetime"] == 20 == learner(algo).trainer.num_env_steps
    assert result["learners"]["__all_modules__"]["num_env_steps_trained"] == 20
    assert runner_has_the_learners_policy(algo)


def test_step_counts_and_timers_are_those_of_the_iteration(algo):
    results = [algo.train() for _ in range(3)]
    assert [r["num_env_steps_sampled_lifetime"] for r in results] == [20, 40, 60]
    trained = [r["learners"]["__all_modules__"] for r in results]
    assert [t["num_env_steps_trained_lifetime"] for t in trained] == [20, 40, 60]
    assert len({t["num_trainable_parameters"] for t in trained}) == 1
    assert all(t["time_dynamics_s"] > 0 and t["time_imagination_s"] > 0 for t in trained)
    for phase in ("collect_s", "learn_s", "send_policy_s"):
        assert len({float(r["timers"][phase]) for r in results}) == 3


def test_only_the_policy_is_sent_to_runners(algo):
    state = learner(algo).get_state(components="rl_module", inference_only=True)
    assert list(state["rl_module"]) == ["shared_policy"] and "optimizer" not in state
    assert set(learner(algo).get_state()["rl_module"]) == set(MODULES)


def test_nothing_but_the_world_model_is_trained_before_its_warmup_is_over():
    algo = team_config(num_world_model_warmup_iterations=1, num_steps_before_learning=40).build()
    learners = [algo.train()["learners"] for _ in range(3)]
    assert ["decoder_loss" in parts["world_model"] for parts in learners] == [False, True, True]
    assert ["policy_loss" in parts["shared_policy"] for parts in learners] == [False, False, True]
    algo.stop()


def test_one_line_trains_without_a_word_also_after_ray_was_restarted():
    code = f"""
import ray
from rllib_dima import DIMAConfig
DIMAConfig().environment("mamujoco_ant_4x2").training(**{TINY}).build().train()
ray.shutdown()
ray.init(include_dashboard=False, logging_level="ERROR")
DIMAConfig().environment("mamujoco_ant_4x2").training(**{TINY}).build_algo().stop()
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")


def test_the_same_seed_gives_the_same_numbers_and_another_one_does_not():
    def run(seed, evaluate=False):
        algo = team_config().debugging(seed=seed).build()
        algo.train()
        if evaluate:
            algo.evaluate()
        algo.train()
        algo.stop()
        return parameters(algo)

    first = run(3)
    assert same(first, run(3))
    assert same(first, run(3, evaluate=True)), "evaluation must not change what training does"
    assert not same(first, run(4))


def test_evaluation_is_deterministic_and_leaves_the_training_episode_alone(algo):
    algo.train()
    episode = algo.env_runner._ongoing_episodes[0].id_
    first, second = algo.evaluate(), algo.evaluate()
    assert first["env_runners"]["episode_return_mean"] == 7.0 == second["env_runners"]["episode_return_mean"]
    assert algo.env_runner._ongoing_episodes[0].id_ == episode
    runner = algo.eval_env_runner
    assert runner is not algo.env_runner and runner.config.explore is False
    episodes = [runner.sample(num_episodes=1, seeds=[5])[0].agent_episodes["left"] for _ in range(2)]
    np.testing.assert_array_equal(episodes[0].get_actions(), episodes[1].get_actions())


def test_an_evaluation_too_short_for_an_episode_has_a_mean_return_of_nan():
    algo = team_config({"length": 30}).evaluation(evaluation_duration=5, evaluation_duration_unit="timesteps").build()
    assert math.isnan(algo.evaluate()["env_runners"]["episode_return_mean"])
    algo.stop()


def test_evaluation_results_are_reported_once():
    algo = team_config().evaluation(evaluation_interval=2, evaluation_duration=2).build()
    assert ["evaluation" in algo.train() for _ in range(4)] == [False, True, False, True]
    algo.stop()


def test_checkpoint_restores_networks_optimisers_counters_and_replay(algo, tmp_path):
    algo.train()
    algo.train()
    path = algo.save_to_path(tmp_path)
    assert list(tmp_path.glob("learner_group/learner/replay_buffer.pt"))
    restored = Algorithm.from_checkpoint(path)
    assert same(parameters(algo), parameters(restored)) and runner_has_the_learners_policy(restored)
    assert restored.iteration == 2 and len(learner(restored).trainer.replay) == 40
    ours, theirs = (learner(a).trainer.state_dict() for a in (algo, restored))
    assert (theirs["num_env_steps"], theirs["num_iterations"]) == (ours["num_env_steps"], ours["num_iterations"])
    np.testing.assert_equal(_moments(theirs), _moments(ours))
    assert restored.train()["num_env_steps_sampled_lifetime"] == 60
    restored.stop()


def _moments(trainer_state):
    """Adam's state of every parameter, as arrays."""
    return {
        (name, index, key): value.numpy()
        for name, part in trainer_state["optimizers"].items()
        for index, entry in part["optimizer"]["state"].items()
        for key, value in entry.items()
    }


def test_policy_checkpoint_holds_the_policy_alone_and_acts_the_same(algo, tmp_path):
    algo.train()
    folder = pathlib.Path(algo.save_to_path(tmp_path)) / "learner_group/learner/rl_module"
    policy = RLModule.from_checkpoint(folder / "shared_policy")
    batch = {Columns.OBS: torch.randn(4, 5)}
    expected = algo.get_module("shared_policy").forward_inference(batch)[Columns.ACTIONS]
    assert torch.equal(policy.forward_inference(batch)[Columns.ACTIONS], expected)
    everything = RLModule.from_checkpoint(folder)
    assert list(everything.get_state(inference_only=True)) == ["shared_policy"]


REFUSED = {
    "Policy": ("get_policy", "compute_single_action", "compute_actions"),
    "export": ("export_policy_model", "export_policy_checkpoint", "export_model"),
    "share one policy": ("add_policy", "remove_policy", "add_module", "remove_module"),
    "evaluate": ("evaluate_offline",),
}


def test_methods_of_rllib_that_cannot_work_say_what_to_use(algo):
    for advice, names in REFUSED.items():
        for name in names:
            with pytest.raises(NotImplementedError, match=rf"DIMA has no {name}\(\)\..*{advice}"):
                getattr(algo, name)("argument")


def test_policy_of_the_running_algorithm_acts_and_its_weights_can_be_set(algo):
    policy = Policy(algo.get_module().net)
    observations = {"left": np.ones(3), "right": np.ones(2)}
    weights = algo.get_weights(["shared_policy"])
    algo.set_weights(
        {"shared_policy": {name: np.zeros_like(value) for name, value in weights["shared_policy"].items()}}
    )
    assert algo.get_module("shared_policy") is algo.get_module()
    assert all(not action.any() for action in policy.act(observations).values())
    algo.set_weights(weights)
    np.testing.assert_equal(algo.get_weights(["shared_policy"]), weights)
    assert any(action.any() for action in policy.act(observations).values())
    with pytest.raises(ValueError, match="Learners hold all networks"):
        algo.get_module("critic")


@pytest.mark.parametrize(
    "batch",
    [
        {},
        {Columns.OBS: {"left": torch.ones(3), "right": torch.ones(2)}},
        {Columns.OBS: np.ones((2, 5), np.float32)},
        {Columns.OBS: torch.ones(5)},
        {Columns.OBS: torch.ones(2, 3)},
        {Columns.OBS: torch.ones(2, 2, 5)},
    ],
)
@pytest.mark.parametrize("forward", ["forward_inference", "forward_exploration"])
def test_the_module_says_which_observations_it_takes(algo, batch, forward):
    module = algo.get_module()
    assert getattr(module, forward)({Columns.OBS: torch.ones(2, 5)})[Columns.ACTIONS].shape == (2, 2)
    with pytest.raises(ValueError, match=r"'obs' is a tensor of shape \(B, 5\).*rllib_dima\.Policy"):
        getattr(module, forward)(batch)


def test_a_result_holds_the_hyperparameters_that_were_used(algo):
    result = algo.train()
    used = dataclasses.asdict(algo.config.hyperparameters())
    assert result["hyperparameters"] == json.loads(json.dumps(used))
    assert result["config"]["gamma"] is None and result["hyperparameters"]["gamma"] == 0.99
    assert DIMAConfig.from_dict(result["config"]).hyperparameters() == algo.config.hyperparameters()


def test_replay_is_left_out_of_states_and_on_demand_of_checkpoints(tmp_path, caplog):
    algo = team_config().checkpointing(checkpoint_replay=False).build()
    algo.train()
    assert "replay" not in str(list(_keys(learner(algo).get_state())))
    path = algo.save_to_path(tmp_path)
    assert not list(tmp_path.glob("**/replay_buffer.pt"))
    restored = Algorithm.from_checkpoint(path)
    assert len(learner(restored).trainer.replay) == 0 and "no replay buffer" in caplog.text
    assert restored.train()["num_env_steps_sampled_lifetime"] == 40
    algo.train()
    algo.restore_from_path(path)  # what it has collected by itself goes, too
    assert len(learner(algo).trainer.replay) == 0
    algo.stop()
    restored.stop()


def test_without_its_replay_a_restored_run_collects_as_much_as_a_new_one_before_it_learns(tmp_path):
    config = team_config(num_steps_before_learning=40).checkpointing(checkpoint_replay=False)
    algo = config.build()
    assert [_iterations_that_learnt(algo) for _ in range(3)] == [0, 1, 2]
    algo.restore_from_path(algo.save_to_path(tmp_path))
    assert [_iterations_that_learnt(algo) for _ in range(3)] == [2, 3, 4]
    algo.stop()


def _iterations_that_learnt(algo):
    algo.train()
    return learner(algo).trainer.num_iterations


@pytest.mark.parametrize("way", ["set_state", "restore_from_path"])
def test_going_back_never_links_new_steps_behind_those_of_the_abandoned_future(tmp_path, way):
    class Restorable(Team):
        def get_state(self):
            return {"steps": self.steps, "number": self.number}

        def set_state(self, state):
            self.steps, self.number = state["steps"], state["number"]

    config = team_config().environment(Restorable, env_config={"length": 1000})
    algo = config.checkpointing(checkpoint_replay=False).build()
    algo.train()
    state, path = algo.get_state(), algo.save_to_path(tmp_path)
    algo.train()
    algo.set_state(state) if way == "set_state" else algo.restore_from_path(path)
    algo.train()
    replay = learner(algo).trainer.replay
    linked = torch.nonzero(replay.following[: len(replay)] >= 0).squeeze(1)
    assert len(replay) == (60 if way == "set_state" else 20) and len(linked) >= 19
    torch.testing.assert_close(replay.next_states[linked], replay.states[replay.following[linked]])
    algo.stop()


def test_seconds_of_a_phase_are_added_up_within_an_iteration_and_not_beyond(algo):
    start = time.perf_counter()
    for _ in range(2):
        with algo._timed("collect"):
            time.sleep(0.1)
    waited = time.perf_counter() - start
    results = [algo.train() for _ in range(4)]
    assert results[0]["timers"]["collect_s"] >= 0.2
    spent = sum(result["timers"][f"{phase}_s"] for result in results for phase in ("collect", "learn", "send_policy"))
    assert spent <= results[-1]["time_total_s"] + waited


def _keys(nested):
    for key, value in nested.items():
        yield key
        if isinstance(value, dict):
            yield from _keys(value)


@pytest.mark.parametrize("way", ["set_state", "restore_from_path"])
def test_going_back_to_an_older_state_reaches_learner_and_runner(algo, tmp_path, way):
    algo.train()
    old = parameters(algo)
    state, path = algo.get_state(), algo.save_to_path(tmp_path)
    for _ in range(2):
        algo.train()
    assert not same(old, parameters(algo))
    algo.set_state(state) if way == "set_state" else algo.restore_from_path(path)
    assert same(old, parameters(algo)) and runner_has_the_learners_policy(algo)
    algo.train()
    assert not same(old, parameters(algo)) and runner_has_the_learners_policy(algo)


def test_policy_alone_can_be_restored(algo, tmp_path):
    algo.train()
    component = "learner_group/learner/rl_module/shared_policy"
    path = pathlib.Path(algo.save_to_path(tmp_path)) / component
    old = parameters(algo)
    algo.train()
    algo.restore_from_path(path, component=component)
    restored = parameters(algo)
    assert all(np.array_equal(old[n], restored[n]) == n.startswith("shared") for n in old if n.startswith("s"))
    assert runner_has_the_learners_policy(algo) and not same(old, restored)
    assert len(learner(algo).trainer.replay) == 40


def test_restoring_applies_the_learning_rates_of_the_new_config(algo, tmp_path):
    algo.train()
    path = algo.save_to_path(tmp_path)
    other = team_config(actor_lr=7e-3).build()
    other.restore_from_path(path)
    assert _actor_lr(other) == 7e-3
    other.train()
    assert _actor_lr(other) == 7e-3 and _actor_lr(algo) != 7e-3
    other.stop()


def _after_restoring(path, seed):
    """Networks and what is in replay, an iteration after a checkpoint was restored under that seed."""
    algo = team_config().debugging(seed=seed).build()
    algo.restore_from_path(path)
    algo.train()
    states = learner(algo).trainer.replay.states[: len(learner(algo).trainer.replay)].clone()
    algo.stop()
    return parameters(algo), states[20:, 1]  # the number that an episode draws at its reset


def test_restoring_under_another_seed_draws_other_episodes_and_updates(tmp_path):
    algo = team_config().build()  # seed 1
    algo.train()
    path = algo.save_to_path(tmp_path)
    algo.stop()
    results = [_after_restoring(path, seed) for seed in (1, 2, 1, 2)]
    for (networks, episodes), (networks_again, episodes_again) in zip(results[:2], results[2:], strict=True):
        assert same(networks, networks_again) and torch.equal(episodes, episodes_again)
    assert not same(results[0][0], results[1][0]) and not set(results[0][1].tolist()) & set(results[1][1].tolist())


def _actor_lr(algo):
    return learner(algo).trainer.optimizers["actor"]._optimizer.param_groups[0]["lr"]


def test_checkpoint_on_another_file_system(algo, tmp_path):
    elsewhere = pyarrow.fs.SubTreeFileSystem(str(tmp_path), pyarrow.fs.LocalFileSystem())
    algo.train()
    old = parameters(algo)
    algo.save_to_path("run/checkpoint", filesystem=elsewhere)
    assert list(tmp_path.glob("run/checkpoint/learner_group/learner/replay_buffer.pt"))
    algo.train()
    algo.restore_from_path("run/checkpoint", filesystem=elsewhere)
    assert same(old, parameters(algo)) and runner_has_the_learners_policy(algo)
    assert len(learner(algo).trainer.replay) == 20


def test_state_in_memory_does_not_change_while_training_goes_on(algo):
    algo.train()
    state = algo.get_state(components="learner_group")["learner_group"]["learner"]
    before = copy.deepcopy(state)
    algo.train()
    np.testing.assert_equal(state["rl_module"], before["rl_module"])
    np.testing.assert_equal(_moments(state["optimizer"]), _moments(before["optimizer"]))


def test_incomplete_checkpoint_is_an_error(algo, tmp_path, monkeypatch):
    monkeypatch.setattr(TeamLearner, "save_to_path", lambda self, path, **kwargs: str(path))
    with pytest.raises(RuntimeError, match=r"could not be saved to .*: the learner did not write"):
        algo.save_to_path(tmp_path)


def test_checkpoint_at_a_name_that_holds_one_is_replaced_and_another_environments_is_refused(algo, tmp_path):
    path = algo.save_to_path(tmp_path / "run")
    (tmp_path / "run" / "curve.csv").write_text("mine")
    algo.train()
    assert algo.save_to_path(tmp_path / "run") == path
    assert Algorithm.from_checkpoint(path).iteration == 1 and (tmp_path / "run" / "curve.csv").exists()
    other = team_config(actor_hidden_size=12).build()
    with pytest.raises(ValueError, match=r"does not fit this Actor.*recipe, model_size or network sizes"):
        other.restore_from_path(path)
    other.stop()
    (tmp_path / "run" / "algorithm_state.pkl").write_bytes(b"")
    for restore in (algo.restore_from_path, DIMA.from_checkpoint):
        with pytest.raises(CheckpointError, match=r"not whole: algorithm_state\.pkl is damaged"):
            restore(path)


def test_progress_of_an_iteration_without_any_steps():
    result = {"training_iteration": 1, "time_this_iter_s": 60.0, "env_runners": {"num_episodes": 0}, "learners": {}}
    assert "steps        0   return         -" in progress_line(result)


def test_progress_is_printed_on_demand(capsys):
    algo = team_config().reporting(progress=True).build()
    algo.train()
    algo.config = algo.config.copy(copy_frozen=False).reporting(progress=False)
    algo.train()
    algo.stop()
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "iteration" in line]
    assert re.match(r"iteration    1   steps       20   return       7\.0   losses: decoder .* value .* s$", line), line


def test_nan_stops_the_run_with_its_name_and_leaves_the_last_checkpoint_whole(tmp_path):
    algo = team_config().build()
    algo.train()
    good, path = parameters(algo), algo.save_to_path(tmp_path)
    with torch.no_grad():
        next(iter(learner(algo).module["world_model"].net.dynamics.parameters())).fill_(float("nan"))
    with pytest.raises(NonFiniteLossError, match="world_model/dynamics"):
        algo.train()
    algo.stop()
    restored = Algorithm.from_checkpoint(path)
    assert same(good, parameters(restored))
    restored.train()
    restored.stop()


def test_a_function_makes_teams_as_a_class_does(tmp_path):
    algo = team_config().environment(lambda env_config: Team(env_config)).build()
    algo.train()
    algo.save_to_path(str(tmp_path))
    algo.stop()
    restored = DIMA.from_checkpoint(str(tmp_path))
    assert restored.train()["training_iteration"] == 2
    restored.stop()


def test_unsuitable_environments_are_explained():
    with pytest.raises(ValueError, match="simulator is not installed"):
        team_config({"broken": True}).build()
    with pytest.raises(TypeError, match=r"single-agent gymnasium\.Env.*PPO or SAC"):
        team_config().environment("CartPole-v1").build()


def test_runners_that_never_deliver_stop_the_run(monkeypatch):
    algo = team_config().fault_tolerance(num_consecutive_env_runner_failures_tolerance=1).build()
    monkeypatch.setattr(algo, "_collect", list)
    algo.train()
    with pytest.raises(RuntimeError, match="No environment runner returned a step in 2 iterations"):
        algo.train()
    algo.stop()


def test_network_that_cannot_be_built_is_reported_as_such(monkeypatch):
    class Faulty(Critic):
        def __init__(self, layout, hyperparameters):
            raise AttributeError("no such layer")

    monkeypatch.setitem(DIMATrainer.NETWORKS, "critic", Faulty)
    with pytest.raises(RuntimeError, match="The network Faulty could not be built: no such layer"):
        team_config().build()


def test_losses_per_batch_are_not_offered(algo):
    with pytest.raises(RuntimeError, match=r"Call TeamLearner\.update"):
        learner(algo).compute_losses(fwd_out={}, batch={})
    with pytest.raises(RuntimeError, match=r"not trained through forward_train"):
        learner(algo).module["critic"].forward_train({})
