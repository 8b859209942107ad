"""Streams of random numbers: whose they are, and who is left alone."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from support.core import UNEQUAL, new_trainer, random_trajectory, tiny

from rllib_dima.core.training.random_numbers import own_random_numbers


def test_numbers_depend_on_the_seed_alone_and_the_global_stream_is_left_alone():
    torch.manual_seed(5)
    expected = torch.rand(6)
    torch.manual_seed(5)
    drawn = [torch.rand(3)]
    for seed in (1, 2, 1):
        with own_random_numbers(seed):
            drawn.append(torch.rand(3))
    assert torch.equal(torch.cat([drawn[0], torch.rand(3)]), expected)
    assert torch.equal(drawn[1], drawn[3]) and not torch.equal(drawn[1], drawn[2])
    torch.manual_seed(1)
    assert torch.equal(torch.rand(3), drawn[1])


def test_gpus_are_not_seeded_by_a_training_on_the_cpu(monkeypatch):
    trainer = new_trainer(UNEQUAL, tiny())
    trainer.add([random_trajectory(UNEQUAL, 20)])
    monkeypatch.setattr(torch.cuda, "manual_seed_all", lambda seed: pytest.fail("every GPU was seeded"))
    monkeypatch.setattr(torch.cuda, "manual_seed", lambda seed: pytest.fail("a GPU was seeded"))
    trainer.train_iteration()


def test_trainings_in_two_threads_are_what_they_are_one_after_the_other():
    hp = tiny(reward_dropout=0.3)

    def run(trainer):
        return [{**metrics, "time": None} for metrics in (trainer.train_iteration() for _ in range(6))]

    def trainers():
        built = [new_trainer(UNEQUAL, hp, seed=seed) for seed in (1, 2)]
        for trainer in built:
            trainer.add([random_trajectory(UNEQUAL, 40)])
        return built

    torch.manual_seed(3)
    before = torch.get_rng_state()
    with ThreadPoolExecutor(2) as threads:
        together = list(threads.map(run, trainers()))
    assert together == list(map(run, trainers()))
    torch.manual_seed(3)
    assert torch.equal(torch.get_rng_state(), before)
