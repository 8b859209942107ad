"""Running statistics against one pass of numpy over the whole stream."""

import numpy as np
import torch

from rllib_dima.core.normalization import StateNormalizer, ValueNormalizer


def test_state_statistics_in_chunks_equal_one_pass():
    stream = np.random.default_rng(0).normal([1e4, -3, 0], [0.1, 20, 1], (500, 3)).astype(np.float32)
    normalizer = StateNormalizer(3)
    for chunk in np.split(stream, [1, 2, 50, 51, 300]):
        normalizer.update(torch.as_tensor(chunk))
    exact = stream.astype(np.float64)
    assert normalizer.count == 500
    np.testing.assert_allclose(normalizer.mean, exact.mean(0), rtol=1e-12)
    np.testing.assert_allclose(normalizer.sum_of_squares / 500, exact.var(0), rtol=1e-9)
    expected = (exact - exact.mean(0)) / np.sqrt(exact.var(0) + 1e-8)
    np.testing.assert_allclose(normalizer(torch.as_tensor(stream)), expected, atol=2e-2)  # float32 of 1e4 +- 0.1
    np.testing.assert_allclose(normalizer(torch.as_tensor(stream))[:, 1:], expected[:, 1:], atol=1e-5)


def test_constant_states_become_zero_and_no_statistics_change_nothing():
    normalizer = StateNormalizer(2)
    states = torch.tensor([[3.0, -1.0]])
    assert torch.equal(normalizer(states), states)
    normalizer.update(states.repeat(10, 1))
    assert torch.equal(normalizer(states), torch.zeros(1, 2))
    assert torch.allclose(normalizer(states + 1e-5), torch.full((1, 2), 1e-5 / np.sqrt(1e-8)), rtol=0.1)


def test_denormalize_inverts():
    normalizer = StateNormalizer(2)
    normalizer.update(torch.randn(50, 2) * 4 + 3)
    states = torch.randn(5, 7, 2)
    assert torch.allclose(normalizer.denormalize(normalizer(states)), states, atol=1e-5)


def test_state_statistics_are_part_of_a_checkpoint_and_never_trained():
    first, second = StateNormalizer(2), StateNormalizer(2)
    first.update(torch.randn(50, 2))
    second.load_state_dict(first.state_dict())
    for normalizer in (first, second):
        normalizer.update(torch.arange(8.0).view(4, 2))
    assert all(torch.equal(first.state_dict()[name], value) for name, value in second.state_dict().items())
    assert not list(first.parameters())


def test_value_statistics_equal_a_debiased_moving_average():
    random, beta = np.random.default_rng(0), 0.9
    normalizer, mean, square = ValueNormalizer(beta), 0.0, 0.0
    for update in range(1, 30):
        targets = random.normal(5, 2, (3, 4)).astype(np.float32)
        normalizer.update(torch.as_tensor(targets))
        mean = beta * mean + (1 - beta) * targets.mean(dtype=np.float64)
        square = beta * square + (1 - beta) * np.square(targets, dtype=np.float64).mean()
        debiased_mean, debiased_square = mean / (1 - beta**update), square / (1 - beta**update)
        std = np.sqrt(max(debiased_square - debiased_mean**2, 1e-2))
        np.testing.assert_allclose([float(x) for x in normalizer.statistics()], [debiased_mean, std], rtol=1e-6)
    values = torch.tensor([-1.0, 7.0])
    np.testing.assert_allclose(normalizer.normalize(values), (values.numpy() - debiased_mean) / std, rtol=1e-6)
    np.testing.assert_allclose(normalizer.denormalize(values), values.numpy() * std + debiased_mean, rtol=1e-6)


def test_value_statistics_are_exact_from_the_first_update_on_with_slow_decay():
    normalizer = ValueNormalizer(0.99999)
    assert [float(x) for x in normalizer.statistics()] == [0.0, 1.0]
    normalizer.update(torch.tensor([1000.0, 1004.0]))
    mean, std = normalizer.statistics()
    assert abs(mean - 1002) < 1e-3 and abs(std - 2) < 1e-3


def test_value_variance_has_a_floor():
    normalizer = ValueNormalizer(0.5)
    normalizer.update(torch.full((9,), 4.0))
    assert torch.allclose(torch.stack(normalizer.statistics()), torch.tensor([4.0, 0.1]))


def test_value_normalisation_can_be_switched_off():
    normalizer = ValueNormalizer(0.9, enabled=False)
    normalizer.update(torch.tensor([10.0, 30.0]))
    values = torch.tensor([3.0, 9.0])
    assert torch.equal(normalizer.normalize(values), values) and torch.equal(normalizer.denormalize(values), values)
    assert normalizer.weight == 0
