"""The tables of docs/metrics.md name every metric that training reports, when it does, and no other."""

from pathlib import Path

import numpy as np
import pytest
from support.metrics import documented, missing, undocumented
from support.team import team_config

pytestmark = pytest.mark.usefixtures("ray_running")


def test_every_report_holds_what_the_tables_promise_for_it_and_nothing_else():
    # 20 steps per report and episodes of 30: the second report is the first with an episode, the third learns a world
    # model, the fourth a policy; the second and the fourth evaluate.
    changes = {"num_steps_before_learning": 50, "num_world_model_warmup_iterations": 1, "imagination_horizon": 6}
    config = team_config({"length": 30}, **changes).evaluation(evaluation_interval=2, evaluation_duration=2)
    algo = config.reporting(imagination_report_interval=2, imagination_report_figures=True).build()
    results = [algo.train() for _ in range(5)]
    returns = [result["env_runners"]["episode_return_mean"] for result in results]
    assert np.isnan(returns[0]) and not np.isnan(returns[1:]).any()
    algo.stop()
    assert ["open_loop_error_5" in result["learners"]["world_model"] for result in results] == [False] * 4 + [True]
    (picture,) = Path(algo.logdir).glob("imagination_*.png")
    assert picture.name == "imagination_000000100.png" and picture.stat().st_size > 5_000
    learning = ("learning", "second learning")
    holds = [
        {"always"},
        {"always", "second", "episode", "evaluation"},
        {"always", "second", "episode", "evaluated", "learning"},
        {"always", "second", "episode", "evaluated", *learning, "policy", "evaluation", "second evaluation"},
        {"always", "second", "episode", "evaluated", *learning, "policy"},
    ]
    assert set(documented().values()) == set.union(*holds) | {"sometimes"}
    for number, (result, conditions) in enumerate(zip(results, holds, strict=True), start=1):
        expected = {path for path, when in documented().items() if when in conditions}
        possible = {path for path, when in documented().items() if when in {*conditions, "sometimes"}}
        assert undocumented(result, possible) == [], f"report {number} holds what no table promises for it"
        assert missing(result, expected) == [], f"report {number} lacks what the tables promise"


@pytest.mark.slow
def test_remote_processes_and_failing_environments_report_nothing_undocumented():
    config = team_config().env_runners(num_env_runners=1, num_envs_per_env_runner=2).learners(num_learners=1)
    config.evaluation(
        evaluation_num_env_runners=1,
        evaluation_interval=1,
        evaluation_duration=2,
        evaluation_parallel_to_training=True,
    )
    config.reporting(min_sample_timesteps_per_iteration=40)
    failing = team_config({"length": 30, "nan_at": 25}).fault_tolerance(restart_failed_sub_environments=True)
    for algo in (config.build(), failing.build()):
        assert [undocumented(algo.train()) for _ in range(3)] == [[]] * 3
        algo.stop()
