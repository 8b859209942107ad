"""From environment to trajectory: what runners collect and what the learner makes of it; and a toy team for all."""

import gc
import sys
from dataclasses import replace

import numpy as np
import pytest
import ray
import ray.tune
import torch
from ray.rllib.core.columns import Columns
from ray.rllib.env.multi_agent_env_runner import MultiAgentEnvRunner
from ray.rllib.utils.metrics.metrics_logger import MetricsLogger
from ray.tune.utils import flatten_dict
from support.fragile import fragile_config
from support.team import Team, make_runner, team_config, trajectories

from rllib_dima.envs import CooperativeEnv
from rllib_dima.envs.mamujoco.env import MAMuJoCo
from rllib_dima.learning.trajectories import to_trajectory
from rllib_dima.sampling.env_runner import LAYOUT_KEY, TeamEnvRunner


@pytest.mark.parametrize("num_envs", [1, 2])
def test_chunks_of_an_episode_join_without_gap_or_overlap(num_envs):
    runner = make_runner(team_config({"terminates": True}).env_runners(num_envs_per_env_runner=num_envs))
    chunks = {}
    for _ in range(6):
        for trajectory in trajectories(runner, 10):
            chunks.setdefault(trajectory.episode_id, []).append(trajectory)
    finished = [parts for parts in chunks.values() if parts[-1].terminated]
    assert len(finished) >= 6 and any(len(parts) > 1 for parts in finished)
    for parts in finished:
        assert [part.is_start for part in parts] == [True] + [False] * (len(parts) - 1)
        assert not any(part.terminated for part in parts[:-1]) and not any(part.truncated for part in parts)
        steps = np.concatenate([part.states[:-1, 0] for part in parts])
        assert steps.tolist() == list(range(7)) and parts[-1].states[-1, 0] == 7
        np.testing.assert_array_equal(np.concatenate([part.observations[:, 0, 0] for part in parts]), steps)
        assert np.concatenate([part.rewards for part in parts]).tolist() == [1.0] * 7
        assert all(len(np.unique(part.states[:, 1])) == 1 for part in parts)


def test_time_limit_is_a_truncation_and_not_a_termination():
    done = [t for t in trajectories(make_runner(team_config()), 7) if t.terminated or t.truncated]
    assert [(t.terminated, t.truncated) for t in done] == [(False, True)]


def test_trajectories_hold_padded_observations_with_agent_ids_and_executed_actions():
    (trajectory,) = trajectories(make_runner(team_config()), 6)
    assert trajectory.states.shape == (7, 4) and trajectory.observations.shape == (6, 2, 5)
    np.testing.assert_array_equal(trajectory.observations[:, 0, 3:], [[1, 0]] * 6)
    np.testing.assert_array_equal(trajectory.observations[:, 1, 1:], [[1, 0, 0, 1]] * 6)
    assert trajectory.actions.shape == (6, 2, 2) and np.abs(trajectory.actions).max() <= 1
    columns = (trajectory.states, trajectory.observations, trajectory.actions, trajectory.rewards)
    assert all(column.dtype == np.float32 for column in columns)


def test_the_environment_is_given_the_stored_actions_to_the_last_bit(monkeypatch):
    received = []
    step = CooperativeEnv.step
    monkeypatch.setattr(CooperativeEnv, "step", lambda env, actions: received.append(actions) or step(env, actions))
    stored = np.concatenate([t.actions for t in trajectories(make_runner(team_config(initial_log_std=9.0)), 70)])
    given = np.array([[actions["left"], actions["right"]] for actions in received])
    np.testing.assert_array_equal(stored, given.clip(-1, 1))
    assert (np.abs(given) > 1).any() and (np.abs(given) < 0.1).any()  # RLlib's unsquashing would round these


def test_an_environment_that_does_not_clip_is_learnt_from_and_played_in_alike():
    """What it is charged for is what is stored, and what the policy does elsewhere."""
    runner = make_runner(team_config(initial_log_std=9.0))
    layout = replace(runner.get_spaces()[LAYOUT_KEY], clips_actions=False)
    stored = [to_trajectory(episode, layout) for episode in runner.sample(num_timesteps=70)]
    for part in stored:
        np.testing.assert_array_equal(part.actions, part.drawn_actions * layout.action_mask().numpy())
    assert max(np.abs(part.actions).max() for part in stored) > 1
    assert not CooperativeEnv(MAMuJoCo("HalfCheetah", "2x3", clip_actions=False)).layout.clips_actions
    assert CooperativeEnv(MAMuJoCo("HalfCheetah", "2x3")).layout.clips_actions


def test_discrete_actions_are_stored_one_hot():
    (trajectory,) = trajectories(make_runner(team_config({"discrete": True})), 6)
    assert trajectory.actions.shape == (6, 2, 3)
    np.testing.assert_array_equal(trajectory.actions.sum(-1), 1)


def test_learner_refuses_episodes_without_state():
    runner = make_runner(team_config())
    (episode,) = runner.sample(num_timesteps=3)
    for info in episode.agent_episodes["left"].infos.data:
        info.clear()
    with pytest.raises(ValueError, match="without the global state"):
        to_trajectory(episode, runner.get_spaces()[LAYOUT_KEY])


def test_return_is_the_teams_and_not_the_sum_over_agents():
    runner = make_runner(team_config())
    runner.sample(num_timesteps=10)
    runner.sample(num_timesteps=11)
    metrics = runner.get_metrics()
    for key in ("episode_return_mean", "episode_return_min", "episode_return_max"):
        assert metrics[key].peek() == 7.0
    assert metrics["module_episode_returns_mean"]["shared_policy"].peek() == 7.0
    assert metrics["episode_len_mean"].peek() == 7


@pytest.mark.parametrize("num_envs", [1, 2])
def test_steps_and_episodes_are_counted_as_rllib_counts_them_at_every_step(num_envs, monkeypatch):
    def counts():
        runner = make_runner(team_config().env_runners(num_envs_per_env_runner=num_envs))
        collected = []
        for _ in range(3):
            runner.sample(num_timesteps=10)
            metrics = flatten_dict(MetricsLogger.peek_results(runner.get_metrics()))
            collected.append({k: v for k, v in metrics.items() if ("steps_sampled" in k or "num_ep" in k) and v > 0})
        return collected

    ours = counts()
    monkeypatch.setattr(TeamEnvRunner, "_increase_sampled_metrics", MultiAgentEnvRunner._increase_sampled_metrics)
    assert ours == counts()
    assert ours[0]["num_module_steps_sampled/shared_policy"] == 20


def test_unseeded_runners_start_differently_and_seeded_ones_as_seeded():
    def first_number(seed, worker_index):
        config = team_config().debugging(seed=seed)
        return trajectories(make_runner(config, worker_index), 2)[0].states[0, 1]

    assert first_number(None, 1) != first_number(None, 2)
    assert first_number(5, 1) == first_number(5, 1) != first_number(5, 2)


def test_environments_and_noise_of_runs_with_neighbouring_seeds_are_their_own():
    starts, draws = [], []
    for seed in (5, 6, 7):
        for worker_index in (0, 1, 2):
            config = team_config().debugging(seed=seed).env_runners(num_envs_per_env_runner=3)
            runner = make_runner(config, worker_index)
            with runner._own_noise(None):
                draws.append(torch.rand(()).item())
            starts += [trajectory.states[0, 1] for trajectory in trajectories(runner, 3)]
    assert len(set(starts)) == len(starts) == 27 and len(set(draws)) == len(draws) == 9


def test_a_restored_runner_plays_on_where_whole_episodes_were_asked_for_before():
    config = fragile_config({}).env_runners(num_envs_per_env_runner=2)
    runner, twin = make_runner(config), make_runner(config)
    for other in (runner, twin):
        other.sample(num_timesteps=6)
    saved = runner.get_sampling_state()
    runner.sample(num_episodes=3)
    assert runner.env.resting == [False, True]
    runner.set_sampling_state(saved)
    for ours, expected in zip(trajectories(runner, 30), trajectories(twin, 30), strict=True):
        np.testing.assert_array_equal(ours.states, expected.states)


def test_samples_on_one_thread_and_restores_the_number():
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        (trajectory,) = trajectories(make_runner(team_config()), 4)
        assert set(trajectory.states[:, 2]) == {1.0} and torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)


def test_sampling_noise_is_private_reproducible_and_new_in_every_call():
    def two_samples():
        runner = make_runner(team_config({"length": 100}))
        return [trajectories(runner, 3)[0].actions for _ in range(2)]

    runner = make_runner(team_config())
    before = torch.get_rng_state()
    runner.sample(num_timesteps=3)
    assert torch.equal(before, torch.get_rng_state())
    first, second = two_samples()
    np.testing.assert_array_equal(first, two_samples()[0])
    assert not np.array_equal(first, second)


def test_runner_holds_the_policy_alone_and_acts_deterministically_without_exploration():
    runner = make_runner(team_config())
    assert list(runner.module.keys()) == ["shared_policy"]
    policy = runner.module["shared_policy"]
    assert not policy.training
    batch = {Columns.OBS: torch.randn(6, 5)}
    first, again = (policy.forward_inference(batch)[Columns.ACTIONS] for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, policy.forward_exploration(batch, t=0)[Columns.ACTIONS])


def test_error_in_an_environment_names_environment_and_cause():
    runner = make_runner(team_config({"nan_at": 3}))
    with pytest.raises(RuntimeError, match=r"Team.*failed in step.*reward of agent 'left' became NaN"):
        runner.sample(num_timesteps=5)


def test_error_in_the_first_reset_names_environment_and_cause_and_the_runner_goes_on():
    runner = make_runner(team_config())
    reset, runner.env.envs[0].env.reset = runner.env.envs[0].env.reset, None
    with pytest.raises(RuntimeError, match=r"Team.*failed in reset\(\): 'NoneType'"):
        runner.sample(num_timesteps=3)
    runner.env.envs[0].env.reset = reset
    assert len(runner.sample(num_timesteps=3)[0]) == 3


def test_what_starts_anew_in_mid_run_does_not_repeat_the_first_episodes():
    def first_numbers(worker_index):
        runner = make_runner(team_config({"nan_at": 3}), worker_index)
        numbers = [trajectories(runner, 2)[0].states[0, 1]]
        for _ in range(2):
            with pytest.raises(RuntimeError, match="became NaN"):
                runner.sample(num_timesteps=5)
            numbers.append(trajectories(runner, 2)[0].states[0, 1])
        return numbers

    numbers = first_numbers(1)
    assert len(set(numbers)) == 3 and numbers == first_numbers(1)


def test_environments_built_anew_after_a_failure_begin_other_episodes():
    runner = make_runner(team_config())
    seeds = [runner._env_seed(5)]
    for _ in range(2):
        runner.make_env()
        seeds.append(runner._env_seed(5))
    assert seeds[0] == 5 and len(set(seeds)) == 3


def test_failed_sub_environment_is_rebuilt_if_asked():
    runner = make_runner(team_config({"nan_at": 6}).fault_tolerance(restart_failed_sub_environments=True))
    assert len(trajectories(runner, 5)[0]) == 5
    assert len(trajectories(runner, 5)[0]) == 5


@pytest.mark.parametrize("method", ["reset", "step"])
def test_environments_that_always_fail_are_not_built_anew_for_ever(method, monkeypatch):
    def explode(self, *args, **kwargs):
        built.append(self)
        raise OSError("no simulator answers")

    built = []
    runner = make_runner(team_config().fault_tolerance(restart_failed_sub_environments=True))
    monkeypatch.setattr(Team, method, explode)
    with pytest.raises(RuntimeError, match=r"is not built anew .*10 times.*no simulator answers"):
        runner.sample(num_timesteps=5)
    assert len(built) == 11
    monkeypatch.undo()
    assert len(trajectories(runner, 5)[0]) == 5


def test_environments_that_break_their_contract_are_not_built_anew(monkeypatch):
    runner = make_runner(team_config().fault_tolerance(restart_failed_sub_environments=True))
    monkeypatch.setattr(Team, "state", lambda self: np.zeros(3, np.float32))
    with pytest.raises(RuntimeError, match=r"; 0 times in this call\): .*\(3,\)"):
        runner.sample(num_timesteps=5)


def test_environments_that_cannot_be_built_leave_nothing_behind(monkeypatch):
    class SecondFails(Team):
        closed = 0

        def __init__(self, config=None):
            super().__init__(config)
            if config.vector_index == 1:
                raise ValueError("too many simulators")

        def close(self):
            SecondFails.closed += 1

    ignored = []
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: ignored.append(str(unraisable.exc_value)))
    config = team_config().environment(SecondFails).env_runners(num_envs_per_env_runner=2)
    with pytest.raises(ValueError, match="too many simulators"):
        make_runner(config)
    gc.collect()
    assert SecondFails.closed == 1 and ignored == []


def test_environment_registered_by_the_user():
    ray.tune.register_env("users_team", lambda config: Team(config))
    config = team_config().environment("users_team", env_config={"length": 3})
    config.validate()
    assert [t.truncated for t in trajectories(make_runner(config), 4)] == [True, False]


def test_team_reward_setting_reaches_the_wrapper_and_not_the_environment():
    runner = make_runner(team_config({"team_reward": "sum"}))
    assert trajectories(runner, 3)[0].rewards.tolist() == [2.0] * 3
    assert "team_reward" not in runner.env.envs[0].env.config
    assert runner.env.envs[0].env.worker_index == 0
