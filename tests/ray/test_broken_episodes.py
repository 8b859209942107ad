"""Episodes in which the simulator breaks down: what is collected, learnt, counted and reported of them."""

import contextlib
from types import SimpleNamespace

import numpy as np
import pytest
import ray
from support.fragile import ALWAYS, Fragile, fragile_config
from support.team import make_runner, trajectories

from rllib_dima.cli import episodes
from rllib_dima.cli.errors import RunError
from rllib_dima.core.replay.buffer import ReplayBuffer
from rllib_dima.envs import SimulationError, check_env
from rllib_dima.sampling.broken_episodes import MAX_BROKEN, RECENT_EPISODES, BreakdownLimit, breakdown
from rllib_dima.sampling.env_runner import LAYOUT_KEY


@pytest.mark.parametrize("discrete", [False, True])
@pytest.mark.parametrize("asked", [10, 2, 1])
def test_the_broken_step_is_in_no_trajectory_and_the_episode_is_truncated_before_it(asked, discrete):
    """In chunks of two steps, the broken third one is the first of its chunk; in chunks of one, all that there is."""
    runner = make_runner(fragile_config({0: 3}, terminates=True, discrete=discrete))
    episode = [t for _ in range(10 // asked) for t in trajectories(runner, asked)]
    parts = [part for part in episode if part.episode_id == episode[0].episode_id]
    assert [(part.terminated, part.truncated) for part in parts] == [(False, False)] * (len(parts) - 1) + [
        (False, True)
    ]
    assert [part.is_at_time_limit for part in parts] == [False] * len(parts)
    assert np.concatenate([part.states[:-1, 0] for part in parts]).tolist() == [0, 1]
    assert parts[-1].states[-1, 0] == 2 and sum(map(len, parts)) == 2
    for part in parts:
        assert len(part.states) - 1 == len(part.observations) == len(part.actions) == len(part.rewards)
    layout = runner.get_spaces()[LAYOUT_KEY]
    buffer = ReplayBuffer(layout, 100)
    for part in parts:
        buffer.add(part)
    assert len(buffer) == 2 and not buffer.terminated[: len(buffer)].any() and not buffer._open_episodes
    np.testing.assert_array_equal(buffer.next_states[:2, 0], [1, 2])  # the last good state can be valued
    np.testing.assert_array_equal(buffer.rewards[:2], [1, 1])


@pytest.mark.parametrize("num_envs", [1, 2])
def test_broken_episodes_are_counted_and_in_no_statistics(num_envs, caplog):
    caplog.set_level("WARNING", logger="ray.rllib")  # which the command sets for its process
    runner = make_runner(fragile_config({1: 3}).env_runners(num_envs_per_env_runner=num_envs))
    episodes = [episode for _ in range(4) for episode in runner.sample(num_timesteps=5 * num_envs)]  # 7 + 3 + 7 + 3
    metrics = runner.get_metrics()
    assert sum(map(len, episodes)) == 20 * num_envs
    assert metrics["num_env_steps_sampled"].peek() == metrics["num_env_steps_sampled_lifetime"].peek() == 19 * num_envs
    assert metrics["num_episodes"].peek() == 3 * num_envs
    assert metrics["num_broken_episodes"].peek() == metrics["num_broken_episodes_lifetime"].peek() == num_envs
    for name in ("episode_return_mean", "episode_return_min", "episode_len_min", "episode_len_max"):
        assert metrics[name].peek() == 7
    assert not runner._ongoing_episodes_for_metrics.keys() - {e.id_ for e in episodes if not e.is_done}
    assert "Fragile'> broke down, and the episode is truncated: the door exploded" in caplog.text


def test_an_evaluation_ends_with_its_episodes_however_many_break():
    runner = make_runner(fragile_config({0: 3, 2: 1}))
    episodes = runner.sample(num_episodes=4, explore=False)
    assert [breakdown(episode) is not None for episode in episodes] == [True, False, True, False]
    assert runner.get_metrics()["episode_return_mean"].peek() == 7
    runner = make_runner(fragile_config(ALWAYS))
    assert all(map(breakdown, runner.sample(num_episodes=3, explore=False)))
    assert "episode_return_mean" not in runner.get_metrics()


def ended(reason):
    infos = SimpleNamespace(data=[{}, {"__simulation_error__": reason} if reason else {}])
    agents = {"a": SimpleNamespace(infos=infos), "b": SimpleNamespace(infos=SimpleNamespace(data=[{}, {}]))}
    return SimpleNamespace(is_done=True, is_truncated=True, agent_episodes=agents)


def test_a_run_stops_when_more_than_ten_of_the_last_hundred_episodes_broke_down():
    assert (MAX_BROKEN, RECENT_EPISODES) == (10, 100)
    limit = BreakdownLimit("my_hands")
    for _ in range(5):  # 10% for ever
        limit.check([ended("door")] * 10 + [ended(None)] * 90)
    limit.check([ended("door")] * 10 + [ended(None)] * 89)
    with pytest.raises(SimulationError, match=r"'my_hands' broke down in 11 of the last 100 .*time: the cap"):
        limit.check([ended("the cap")])
    limit = BreakdownLimit("my_hands")
    limit.check([ended("door")] * 10)
    with pytest.raises(SimulationError, match="11 of the last 11 episodes"):
        limit.check([ended("door")])


def test_check_env_says_what_training_will_do_and_lets_it_be_trained_on():
    report = check_env(lambda env_config: Fragile(ray.rllib.env.env_context.EnvContext({"breaks": {0: 3, 5: 2}}, 0)))
    assert report.ok, report
    (warning,) = [finding for finding in report.findings if finding.check == "simulation"]
    assert "in step 3 of episode 1, the simulator broke down: the door exploded" in str(warning)


@pytest.mark.parametrize(("breaks", "returns"), [({1: 3}, [7.0, 7.0]), (ALWAYS, None)])
def test_evaluate_says_which_episodes_broke_and_leaves_them_out(breaks, returns, monkeypatch, capsys):
    config = fragile_config(breaks)
    monkeypatch.setattr(episodes, "_runner", lambda *_: contextlib.nullcontext(make_runner(config)))
    if returns is None:
        with pytest.raises(RunError, match="broke down in all 3 episodes: the door exploded"):
            episodes.run_episodes(None, config, 3)
    else:
        assert episodes.run_episodes(None, config, 3) == returns
        lines = capsys.readouterr().out.splitlines()
        assert ["broken" in line for line in lines] == [False, True, False] and "episode   3 " in lines[2]
