"""Observations in any units: statistics, the actor and the decoder that read through them."""

import numpy as np
import pytest
import torch
from support.core import DISCRETE, UNEQUAL, new_trainer, random_observations, random_trajectory, tiny

from rllib_dima.core.dima.hyperparameters import DIMAHyperparameters
from rllib_dima.core.policy.observation_normalizer import ObservationNormalizer
from rllib_dima.core.running_statistics import RunningStatistics


@pytest.mark.parametrize("layout", [UNEQUAL, DISCRETE])
def test_every_agents_entries_get_mean_zero_and_deviation_one_and_ids_stay(layout):
    normalizer, agents = ObservationNormalizer(layout), layout.num_agents
    observations = random_observations(layout, 400)
    scale = torch.logspace(-3, 3, layout.observation_size - agents)
    observations[..., :-agents] = observations[..., :-agents] * scale + 5 * scale
    observations = observations * layout.observation_mask()
    for part in observations.split(150):
        normalizer.update(part)
    normalized = normalizer(observations)
    real = layout.observation_mask()[:, :-agents]
    own = normalized[..., :-agents]
    assert torch.allclose(own.mean(0)[real], torch.zeros(()), atol=1e-3)
    assert torch.allclose(own.std(0, correction=0)[real], torch.ones(()), atol=0.05)
    assert torch.equal(normalized[..., -agents:], observations[..., -agents:])
    assert torch.allclose(normalizer.denormalize(normalized), observations, rtol=1e-3, atol=1e-3)
    rows = torch.arange(400) % agents
    mixed = normalizer(observations[torch.arange(400), rows], rows)
    assert torch.equal(mixed, normalized[torch.arange(400), rows])
    far = observations.clone()
    far[..., :-agents] += 1e9
    assert normalizer(far)[..., :-agents].abs().max() == 10


def scaled(trajectory, factor):
    trajectory.observations[..., : -UNEQUAL.num_agents] *= factor
    return trajectory


def trained(factor, **settings):
    trainer = new_trainer(UNEQUAL, tiny(num_world_model_warmup_iterations=0, **settings))
    trainer.add([scaled(random_trajectory(UNEQUAL, 60, seed=seed), factor) for seed in range(2)])
    metrics = trainer.train_iteration()
    observations = scaled(random_trajectory(UNEQUAL, 5, seed=7), factor).observations
    with torch.no_grad():
        return metrics, trainer.actor(torch.as_tensor(observations)).deterministic()


def test_learning_and_policy_do_not_depend_on_the_observations_units():
    (metrics, actions), (other_metrics, other_actions) = trained(1.0), trained(64.0)
    assert torch.allclose(actions, other_actions, atol=1e-4)
    assert metrics["world_model"]["decoder_loss"] == pytest.approx(other_metrics["world_model"]["decoder_loss"], 1e-3)
    (_, actions), (_, other_actions) = (trained(factor, normalize_observations=False) for factor in (1.0, 64.0))
    assert not torch.allclose(actions, other_actions, atol=1e-4)


def test_decoder_predicts_observations_in_the_environments_units():
    settings = {"decoder_updates_per_iteration": 400, "decoder_lr": 3e-3, "dynamics_updates_per_iteration": 1}
    trainer = new_trainer(UNEQUAL, tiny(**settings, reward_updates_per_iteration=1, decoder_num_tokens=8))
    chunk = random_trajectory(UNEQUAL, 100)
    chunk.observations[:, 0, :3] = chunk.states[:-1, :3] * 1000.0
    trainer.add([chunk])
    trainer.train_iteration()
    model = trainer.world_model
    with torch.no_grad():
        predicted = model.state_decoder(model.normalizer(torch.as_tensor(chunk.states[:-1])))
    error = (predicted[:, 0, :3].numpy() - chunk.observations[:, 0, :3]).std(0)
    assert np.all(error < 0.5 * chunk.observations[:, 0, :3].std(0))


def test_statistics_are_counted_in_float64_and_networks_are_float32():
    trainer = new_trainer(UNEQUAL, tiny(dynamics_target="change"))
    modules = (*trainer.actor.modules(), *trainer.world_model.modules())
    counting = [module for module in modules if isinstance(module, RunningStatistics)]
    assert len(counting) == 7 and all(m.sum_of_squares.dtype == m.mean.dtype == torch.float64 for m in counting)
    assert all(p.dtype == torch.float32 for n in (trainer.actor, trainer.world_model) for p in n.parameters())


def test_statistics_follow_every_real_step_once_and_the_papers_tasks_have_none():
    trainer, chunks = new_trainer(UNEQUAL, tiny()), [random_trajectory(UNEQUAL, 9, seed=seed) for seed in range(3)]
    trainer.add(chunks[:2])
    trainer.add(chunks[2:])
    everything = np.concatenate([chunk.observations for chunk in chunks])
    for normalizer in (trainer.actor.normalizer, trainer.world_model.state_decoder.normalizer):
        assert [statistics.count for statistics in normalizer.statistics] == [27, 27]
        assert torch.allclose(normalizer.shift[0, :3], torch.as_tensor(everything[:, 0, :3].mean(0)), atol=1e-5)
    for family, enabled in (("mamujoco", False), ("bidexhands", False), (None, True)):
        assert DIMAHyperparameters.resolve({}, family).normalize_observations is enabled
