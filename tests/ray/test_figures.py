"""Reported figures: statistics are over exactly the episodes that ended, and evaluations over exactly theirs."""

import json
import pathlib
import sys

import numpy as np
import pytest
import ray
from gymnasium.spaces import Box
from ray.rllib.env.multi_agent_env import MultiAgentEnv
from ray.rllib.utils.metrics.metrics_logger import MetricsLogger
from support.team import make_runner, team_config

from rllib_dima import DIMA
from rllib_dima.reporting.episode_stats import STATS_CLASSES

pytestmark = pytest.mark.usefixtures("ray_running")

ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])


class Known(MultiAgentEnv):
    """Episodes of 2, 5 or 30 steps, the longer the worse; every one that ends is written to a file in `folder`."""

    def __init__(self, config):
        super().__init__()
        self.agents = self.possible_agents = ["left", "right"]
        self.observation_spaces = dict.fromkeys(self.agents, Box(-99, 99, (1,), np.float32))
        self.action_spaces = dict.fromkeys(self.agents, Box(-1, 1, (1,), np.float32))
        self.random = np.random.default_rng()
        self.fails = config.get("fails_in_worker") == config.worker_index
        self.fails_once = pathlib.Path(config["folder"]) / "fail"
        self.file = pathlib.Path(config["folder"]) / f"{config.worker_index}_{config.vector_index}"

    def reset(self, *, seed=None, options=None):
        if seed is not None:
            self.random = np.random.default_rng(seed)
        self.length = int(self.random.choice([2, 5, 30]))
        self.reward, self.steps = self.random.uniform() - self.length, 0
        return self._observations(), {}

    def step(self, actions):
        if self.fails or self.fails_once.exists():
            self.fails_once.unlink(missing_ok=True)
            raise RuntimeError("it broke")
        self.steps += 1
        if self.steps == self.length:
            with self.file.open("a") as file:
                file.write(json.dumps({"length": self.length, "return": self.length * self.reward}) + "\n")
        flags = dict.fromkeys([*self.agents, "__all__"], self.steps == self.length)
        return self._observations(), dict.fromkeys(self.agents, self.reward), flags, dict.fromkeys(flags, False), {}

    def _observations(self):
        return dict.fromkeys(self.agents, np.array([self.steps], np.float32))


def known_config(folder, fails_in_worker=None, **changes):
    folder.mkdir(exist_ok=True)
    return team_config({"folder": str(folder), "fails_in_worker": fails_in_worker}, **changes).environment(Known)


def ended(folder):
    """All episodes that ended, by environment."""
    files = sorted(pathlib.Path(folder).iterdir())
    return {file.name: [json.loads(line) for line in file.read_text().splitlines()] for file in files}


def check(reported, episodes):
    """The statistics that are reported are those of these episodes."""
    returns, lengths = ([episode[name] for episode in episodes] for name in ("return", "length"))
    expected = {"return_mean": np.mean(returns), "return_min": min(returns), "return_max": max(returns)}
    expected |= {"len_mean": np.mean(lengths), "len_min": min(lengths), "len_max": max(lengths)}
    assert {name: reported[f"episode_{name}"] for name in expected} == pytest.approx(expected)
    agents = dict.fromkeys(["left", "right"], np.mean(returns))
    assert reported["agent_episode_returns_mean"] == pytest.approx(agents)
    assert reported["module_episode_returns_mean"] == pytest.approx({"shared_policy": np.mean(returns)})
    assert reported["agent_steps"] == pytest.approx(dict.fromkeys(agents, np.mean(lengths)))


def report(algorithm, *runners):
    """What an algorithm's logger reports after runners, asked in turn, told of episodes with these numbers."""
    for numbers in runners:
        runner = MetricsLogger(stats_cls_lookup=STATS_CLASSES)
        for number in numbers:
            for statistic in ("mean", "min", "max"):
                runner.log_value(statistic, number, reduce=f"episode_{statistic}", window=3)
        algorithm.aggregate([runner.reduce()], key="runners")
    reported = algorithm.compile().get("runners", {})
    return [reported[statistic] for statistic in ("mean", "min", "max") if statistic in reported]


def new_logger():
    return MetricsLogger(root=True, stats_cls_lookup=STATS_CLASSES)


def test_every_episode_counts_once_whoever_tells_of_it():
    assert report(new_logger(), [10, 12, 14, 12], [4], []) == pytest.approx([52 / 5, 4, 14])
    assert report(new_logger()) == []


def test_window_holds_the_last_episodes_and_all_of_this_report():
    algorithm = new_logger()
    assert report(algorithm, [8, 1], [2]) == pytest.approx([11 / 3, 1, 8])
    assert report(algorithm, [], []) == pytest.approx([11 / 3, 1, 8])
    assert report(algorithm, [6]) == [3, 1, 6]
    assert report(algorithm, [5, 4], [3, 2], [1]) == [3, 1, 5]
    restored = new_logger()
    restored.set_state(json.loads(json.dumps(algorithm.get_state())))
    assert report(algorithm, [7]) == report(restored, [7]) == pytest.approx([10 / 3, 1, 7])


def train_and_check(algo, folder, iterations):
    """Every report is over the episodes that ended since the last one."""
    counted = {}
    for _ in range(iterations):
        result = algo.train()["env_runners"]
        new = [episode for env, episodes in ended(folder).items() for episode in episodes[counted.get(env, 0) :]]
        counted = {env: len(episodes) for env, episodes in ended(folder).items()}
        assert result["num_episodes"] == len(new)
        assert result["num_episodes_lifetime"] == sum(counted.values())
        if new:
            check(result, new)
    assert sum(counted.values()) > iterations


@pytest.mark.parametrize(
    ("runners", "envs", "reporting"),
    [(0, 1, {}), (0, 4, {"min_sample_timesteps_per_iteration": 80}), (2, 2, {"min_time_s_per_iteration": 0.2})],
)
def test_training_reports_exactly_the_episodes_that_ended(tmp_path, runners, envs, reporting):
    config = known_config(tmp_path, num_steps_before_learning=10**6)
    config.reporting(metrics_num_episodes_for_smoothing=1, **reporting)
    algo = config.env_runners(num_env_runners=runners, num_envs_per_env_runner=envs).build()
    train_and_check(algo, tmp_path, 6)
    algo.stop()


def test_episodes_that_were_collected_ahead_count_when_their_steps_do(tmp_path):
    """Both runners take 10 steps per iteration, and have taken those of the next iteration at the end of each."""
    config = known_config(tmp_path, num_steps_before_learning=10**6)
    config.reporting(metrics_num_episodes_for_smoothing=1)
    algo = config.env_runners(num_env_runners=2, sample_async=True).build()
    for iteration in range(8):
        result, new = algo.train()["env_runners"], []
        for episodes in ended(tmp_path).values():
            ends = np.cumsum([episode["length"] for episode in episodes])
            new += [e for e, end in zip(episodes, ends, strict=True) if 0 < end - 10 * iteration <= 10]
        assert result["num_episodes"] == len(new)
        if new:
            check(result, new)
    algo.stop()


EVALUATIONS = {  # evaluation runners, environments of each, runner that fails
    "alone": (0, 1),
    "vector": (0, 4),
    "more environments than episodes": (0, 10),
    "remote": (2, 2),
    "one fails": (2, 1, 1),
}


@pytest.fixture(scope="module")
def three_evaluations(tmp_path_factory):
    """Every way to evaluate -> returns of the episodes of each of its evaluations, which are checked."""
    return {way: evaluate(tmp_path_factory.mktemp("known"), *numbers) for way, numbers in EVALUATIONS.items()}


def evaluate(folder, runners, envs, fails_in_worker=None):
    config = known_config(folder, fails_in_worker).env_runners(num_envs_per_env_runner=envs)
    config.reporting(metrics_num_episodes_for_smoothing=2)
    algo = config.evaluation(evaluation_num_env_runners=runners, evaluation_duration=9).build()
    evaluations, counted = [], {}
    for _ in range(3):
        result = json.loads(json.dumps(algo.evaluate()))["env_runners"]
        new = [episode for env, episodes in ended(folder).items() for episode in episodes[counted.get(env, 0) :]]
        counted = {env: len(episodes) for env, episodes in ended(folder).items()}
        assert result["num_episodes"] == len(new) == 9
        assert result["num_env_steps_sampled"] == sum(episode["length"] for episode in new)
        check(result, new)
        evaluations.append(sorted(episode["return"] for episode in new))
    algo.stop()
    return evaluations


@pytest.mark.parametrize("way", EVALUATIONS)
def test_evaluation_is_over_exactly_its_episodes_whoever_plays_them(three_evaluations, way):
    assert three_evaluations[way] == three_evaluations["alone"]


def test_every_evaluation_plays_other_episodes(three_evaluations):
    first, second, third = three_evaluations["alone"]
    assert not {*first} & {*second} and not {*second} & {*third}


def test_a_resumed_run_evaluates_as_the_uninterrupted_one(tmp_path):
    for seed in (1, None):
        config = known_config(tmp_path / "episodes").evaluation(evaluation_duration=3).debugging(seed=seed)
        algo = config.build()
        first = algo.evaluate()
        resumed = DIMA.from_checkpoint(algo.save_to_path(tmp_path / "checkpoint"))
        means = [a.evaluate()["env_runners"]["episode_return_mean"] for a in (algo, resumed)]
        assert means[0] == means[1] != first["env_runners"]["episode_return_mean"]


def test_episodes_are_played_again_with_other_seeds_where_environments_fail(tmp_path):
    config = known_config(tmp_path).env_runners(num_envs_per_env_runner=3)
    runner = make_runner(config.fault_tolerance(restart_failed_sub_environments=True))
    runner.env.envs[0].env.fails_once.touch()
    runner.sample(num_episodes=7, seeds=list(range(7)))
    metrics = MetricsLogger.peek_results(runner.get_metrics())
    played = ended(tmp_path)
    assert [len(played[f"0_{index}"]) for index in range(3)] == [3, 2, 2]
    check(metrics, [episode for episodes in played.values() for episode in episodes])
    assert metrics["num_episodes"] == 7


def numbers(results):
    """All entries but text, switches, settings and what RLlib adds about the machine."""
    for key, value in results.items():
        if isinstance(value, dict):
            yield from numbers(value) if key not in ("config", "hyperparameters", "perf") else ()
        elif not isinstance(value, (str, bool)):
            yield value


def test_return_and_loss_are_on_top_of_every_report_and_all_numbers_are_plain():
    algo = team_config({"length": 30}, num_steps_before_learning=60).evaluation(evaluation_interval=1).build()
    results = [algo.train() for _ in range(3)]
    algo.stop()
    assert [list(result)[:2] for result in results] == [["episode_return_mean", "dynamics_loss"]] * 3
    np.testing.assert_equal([result["episode_return_mean"] for result in results], [np.nan, 30.0, 30.0])
    assert [result["dynamics_loss"] > 0 for result in results] == [False, False, True]
    assert {type(number) for result in results for number in numbers(result)} == {int, float}
