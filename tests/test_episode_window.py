"""Episode statistics across iterations."""

import math

import pytest

from rllib_dima.episode_window import EpisodeWindow


def iteration(*returns):
    """`env_runners` results of one iteration in which episodes with these returns ended."""
    if not returns:
        return {"num_episodes": math.nan, "episode_return_mean": math.nan, "num_env_steps_sampled": 200}
    mean = sum(returns) / len(returns)
    results = {"num_episodes": len(returns), "episode_return_mean": mean, "num_env_steps_sampled": 200}
    results |= {"episode_return_min": min(returns), "episode_return_max": max(returns)}
    return results | {"agent_episode_returns_mean": {"a": mean, "b": mean + 1}}


def test_means_weigh_every_episode_the_same_and_extremes_span_the_window():
    window = EpisodeWindow(10)
    window.smooth(iteration(1.0))
    smoothed = window.smooth(iteration(4.0, 7.0))
    assert smoothed["episode_return_mean"] == pytest.approx((1 + 4 + 7) / 3)
    assert (smoothed["episode_return_min"], smoothed["episode_return_max"]) == (1.0, 7.0)
    assert smoothed["agent_episode_returns_mean"] == pytest.approx({"a": 4.0, "b": 5.0})


def test_iterations_without_an_episode_repeat_the_window_and_count_none():
    window = EpisodeWindow(10)
    assert "episode_return_mean" not in window.smooth({"num_env_steps_sampled": 200})
    window.smooth(iteration(3.0))
    smoothed = window.smooth(iteration())
    assert smoothed["episode_return_mean"] == 3.0
    assert smoothed["num_episodes"] == 0
    assert smoothed["num_env_steps_sampled"] == 200


def test_old_episodes_leave_the_window():
    window = EpisodeWindow(2)
    for value in (1.0, 2.0, 6.0):
        smoothed = window.smooth(iteration(value))
    assert smoothed["episode_return_mean"] == 4.0
    assert window.smooth(iteration(10.0, 20.0, 30.0))["episode_return_mean"] == 20.0
