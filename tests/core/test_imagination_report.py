"""Imagination measured while training goes on: when, on what, and that training is the same without."""

import numpy as np
import pytest
import torch
from support.core import UNEQUAL, new_trainer, random_trajectory, tiny

HP = tiny(imagination_horizon=6)


def learn(trainer, iterations, first=0, length=9):
    """The metrics of so many iterations on chunks of one episode."""
    results = []
    for number in range(first, first + iterations):
        trainer.add([random_trajectory(UNEQUAL, length, seed=number, episode_id="e", is_start=number == 0)])
        results.append(trainer.train_iteration()["world_model"])
    return results


def new_names(metrics):
    return {name for name in metrics if name.endswith(("_5", "_15", "end_rate"))}


def test_every_interval_reports_and_training_is_the_same_to_the_bit():
    plain, reporting = new_trainer(UNEQUAL, HP), new_trainer(UNEQUAL, HP, imagination_report_interval=2)
    torch.manual_seed(5)
    without = learn(plain, 5)
    torch.manual_seed(5)
    given = learn(reporting, 5)
    assert [bool(new_names(metrics)) for metrics in given] == [False, False, True, False, True]
    for metrics, same in zip(given, without, strict=True):
        assert {name: metrics[name] for name in metrics.keys() - new_names(metrics)} == same
    for name in plain.NETWORKS:
        for key, value in getattr(plain, name).state_dict().items():
            assert torch.equal(value, getattr(reporting, name).state_dict()[key]), key


def test_it_measures_the_steps_that_were_added_last_before_they_are_learnt_from(monkeypatch):
    trainer = new_trainer(UNEQUAL, HP, imagination_report_interval=1)
    learn(trainer, 1, length=40)
    monkeypatch.setattr(trainer.world_model.dynamics, "sample", lambda context, *rest: torch.zeros_like(context[:, 0]))
    chunk = random_trajectory(UNEQUAL, 9, seed=1, episode_id="e", is_start=False)
    trainer.add([chunk])
    z = trainer.world_model.normalizer(torch.as_tensor(chunk.states)).double().abs().numpy()
    expected = np.stack([z[1 + step :].mean(axis=0) for step in range(6)])
    report = trainer.imagination_report
    np.testing.assert_allclose(report.errors, expected, rtol=1e-5)
    assert report.num_env_steps == 49
    assert trainer.train_iteration()["world_model"]["open_loop_error_5"] == pytest.approx(expected[4].mean())
    trainer.add([])
    assert trainer.imagination_report is None


def test_it_tells_how_often_steps_end_really_and_in_imagination(monkeypatch):
    trainer = new_trainer(UNEQUAL, HP, imagination_report_interval=1)
    learn(trainer, 1, length=40)
    monkeypatch.setattr(
        trainer.world_model.reward_termination, "extend", lambda states, *rest: 2 * (torch.zeros_like(states[..., 0]),)
    )
    chunks = [random_trajectory(UNEQUAL, length, seed=length, terminated=length != 7) for length in (4, 7, 9)]
    trainer.add(chunks)
    report = trainer.imagination_report
    reached = sum(
        min(6, length - step) for length in (4, 7, 9) for step in range(length)
    )  # of segments from every step
    assert report.real_end_rate == pytest.approx((4 + 6) / reached) and report.end_rate == pytest.approx(0.5)
    metrics = trainer.train_iteration()["world_model"]
    assert metrics["open_loop_end_rate"] == report.end_rate and metrics["real_end_rate"] == report.real_end_rate


def test_a_resumed_run_reports_the_same():
    whole, first = (new_trainer(UNEQUAL, HP, imagination_report_interval=2) for _ in range(2))
    expected = learn(whole, 3)[-1]
    learn(first, 2)
    second = new_trainer(UNEQUAL, HP, network_seed=9, imagination_report_interval=2)
    for name in second.NETWORKS:
        getattr(second, name).load_state_dict(getattr(first, name).state_dict())
    second.load_state_dict(first.state_dict())
    second.replay.load_state_dict(first.replay.state_dict())
    assert learn(second, 1, first=2)[-1] == expected and len(new_names(expected)) == 4


def test_steps_that_no_segment_reaches_are_left_out():
    trainer = new_trainer(UNEQUAL, HP, imagination_report_interval=1)
    learn(trainer, 1)
    (metrics,) = learn(trainer, 1, first=1, length=4)
    assert new_names(metrics) == {
        "open_loop_end_rate",
        "real_end_rate",
    } and trainer.imagination_report.errors.shape == (4, 4)
