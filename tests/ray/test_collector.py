"""Who is asked for steps, and whose steps count, when runners fail or are late: without runners."""

from types import SimpleNamespace

import pytest
from ray.rllib.utils.actor_manager import FaultTolerantActorManager

from rllib_dima.sampling import collector as collector_module
from rllib_dima.sampling.collector import Collector
from rllib_dima.sampling.runner_manager import RunnerManager


class Group:
    """Two runners; what they have ready is put into `ready`."""

    def __init__(self):
        self.healthy, self.ready, self.asked = [1, 2], [], []
        self.in_flight = 0

    def num_remote_env_runners(self):
        return 2

    def healthy_env_runner_ids(self):
        return list(self.healthy)

    def num_in_flight_async_reqs(self, tag):
        return self.in_flight

    def foreach_env_runner_async(self, calls, tag, remote_worker_ids):
        self.asked.append(remote_worker_ids)
        self.in_flight += len(calls)

    def fetch_ready_async_reqs(self, tags, timeout_seconds):
        ready, self.ready = self.ready, []
        self.in_flight -= len(ready)
        return ready


@pytest.fixture
def collecting(monkeypatch):
    monkeypatch.setattr(collector_module, "num_good_steps", len)
    group = Group()
    config = SimpleNamespace(env="env", total_train_batch_size=10, num_envs_per_env_runner=1, sample_timeout_s=0.01)
    collector = Collector(group, config)
    collector._breakdowns = SimpleNamespace(check=lambda episodes: None, recent=[])
    return collector, group


def share(length):
    return [[0] * length], {}


def test_a_runner_that_failed_beside_one_that_hangs_is_asked_again_once_it_is_back(collecting):
    collector, group = collecting
    collector.begin()
    group.healthy = [2]  # 1 failed, 2 hangs
    assert not collector._receive()
    group.healthy = [1, 2]  # 1 was restarted; the request to 2 is still in flight
    collector.begin()
    assert group.asked == [[1, 2], [1]]


def test_a_late_share_from_before_a_restore_does_not_count(collecting):
    collector, group = collecting
    saved = collector.get_state()
    collector.begin()
    group.ready = [(1, share(5))]
    collector._receive()  # 2 is late
    collector.set_state(saved)
    group.ready = [(2, share(5))]
    collector._receive()
    assert not collector._shares
    collector.begin()
    group.ready = [(1, share(5)), (2, share(5))]
    collector._receive()
    assert len(collector._shares) == 2, "later ones do"


@pytest.mark.parametrize(("evaluates", "setting"), [(False, "sample_timeout_s"), (True, "evaluation_sample_timeout_s")])
def test_runners_hang_by_the_time_out_of_what_they_do(evaluates, setting):
    config = SimpleNamespace(
        max_requests_in_flight_per_env_runner=1,
        sample_timeout_s=60,
        evaluation_sample_timeout_s=300,
        in_evaluation=evaluates,
        restart_failed_env_runners=True,
        ignore_env_runner_failures=False,
    )
    manager = RunnerManager(SimpleNamespace(_worker_manager=FaultTolerantActorManager([])), config)
    assert (manager._setting, manager._patience_s) == (setting, getattr(config, setting))
