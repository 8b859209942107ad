"""Running statistics against one pass of numpy over the whole stream."""

import copy
from itertools import pairwise

import numpy as np
import pytest
import torch
from support.core import UNEQUAL, randomize, tiny

from rllib_dima.core.dima.normalization import OUTLIER_DEVIATIONS, RewardNormalizer, StateNormalizer
from rllib_dima.core.policy.networks import Critic
from rllib_dima.core.policy.value_normalizer import ValueNormalizer


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


def test_entries_that_vary_in_whole_numbers_are_rounded_and_no_others():
    normalizer = StateNormalizer(4)
    places = torch.arange(0, 40) % 7
    states = torch.stack([places, places * 0.5, places * 0 + 3, places * 100.0 - 5], dim=1)  # a constant is not rounded
    normalizer.update(states[:20])
    normalizer.update(states[20:])
    assert normalizer.is_whole.tolist() == [True, False, False, True]
    predicted = normalizer(torch.tensor([[2.4, 2.4, 2.4, 295.4], [2.6, 2.6, 2.6, 294.6]]))
    rounded = normalizer.denormalize(normalizer.rounded(predicted))
    torch.testing.assert_close(rounded[:, [0, 3]], torch.tensor([[2.0, 295.0], [3.0, 295.0]]), atol=1e-4, rtol=0)
    assert torch.equal(normalizer.rounded(predicted)[:, 1:3], predicted[:, 1:3])
    normalizer.update(torch.tensor([[2.5, 0, 3, 0]]))
    assert normalizer.is_whole.tolist() == [False, False, False, True]


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


def stream_with(outliers, length=500, seed=0):
    """(length, 2) normal numbers of deviations 2 and 30, with single values replaced: {row: value} in entry 0."""
    stream = np.random.default_rng(seed).normal([5, -7], [2, 30], (length, 2)).astype(np.float32)
    for row, value in outliers.items():
        stream[row, 0] = value
    return torch.as_tensor(stream)


@pytest.mark.parametrize("batches", [[0, 500], [0, 200, 400, 500], [0, 36, 500]])
@pytest.mark.parametrize("value", [1e6, -1e30])
def test_a_lone_outlier_neither_flattens_its_entry_nor_reaches_a_network(batches, value):
    normalizer, clean = StateNormalizer(2), stream_with({}).double()
    stream = stream_with({35: value})
    for first, last in pairwise(batches):
        normalizer.update(stream[first:last])
    assert normalizer.num_outliers == 1
    # Clipped at k deviations it adds k^2 / n variances.
    assert (
        1 < normalizer.sum_of_squares[0] / normalizer.count / clean[:, 0].var() < 1 + 1.5 * OUTLIER_DEVIATIONS**2 / 36
    )
    others = torch.cat([normalizer(stream)[:35], normalizer(stream)[36:]])
    assert others[:, 0].std() > 0.05 and abs(others[:, 1].std() - 1) < 0.01
    assert normalizer(stream)[35, 0].abs() <= OUTLIER_DEVIATIONS
    before = others[:, 0].std()
    for seed in range(1, 40):
        normalizer.update(stream_with({}, seed=seed))
    assert normalizer(stream_with({}))[:, 0].std() > max(0.8, before) and normalizer.num_outliers == 1


@pytest.mark.parametrize(
    "change",
    [
        lambda rows: rows * 1e4,  # of another size
        lambda rows: rows + 1e5,  # elsewhere
        lambda rows: rows * (torch.arange(len(rows)) % 20 == 0).unsqueeze(1) * 1e4,  # large now and then
    ],
    ids=["scale", "place", "bursts"],
)
def test_a_distribution_that_changes_counts_in_full(change):
    normalizer, parts = StateNormalizer(2), [stream_with({}), change(stream_with({}, length=200, seed=1))]
    for part in parts:
        normalizer.update(part)
    stream = torch.cat(parts).double()
    assert normalizer.num_outliers == 0
    np.testing.assert_allclose(normalizer.mean, stream.mean(0), rtol=1e-9)
    np.testing.assert_allclose(normalizer.sum_of_squares / 700, stream.var(0, correction=0), rtol=1e-9)


def test_an_entry_that_was_constant_counts_in_full_when_it_varies():
    normalizer = StateNormalizer(1)
    normalizer.update(torch.full((500, 1), 3.0))
    values = torch.full((200, 1), 3.0)
    values[-1] = 4.0
    normalizer.update(values)
    np.testing.assert_allclose(normalizer.sum_of_squares, np.r_[np.full(699, 3.0), 4.0].var() * 700, rtol=1e-9)
    assert normalizer.num_outliers == 0


def test_rare_values_that_keep_coming_count_in_full_in_the_end():
    normalizer, random = StateNormalizer(1), np.random.default_rng(0)
    for _ in range(400):
        values = random.normal(size=(200, 1))
        values[random.integers(200)] = 1e4  # once in 200, that is more often than once in 100^2
        normalizer.update(torch.as_tensor(values))
    assert abs(normalizer.sum_of_squares / normalizer.count / (1e8 / 200) - 1) < 0.1


@pytest.mark.parametrize(("deviation", "mean"), [(0.08, 0.0), (0.4, -3.0), (1.0, 14.0), (14.0, -14.0)])
def test_ordinary_rewards_are_learnt_exactly_as_they_are(deviation, mean):
    normalizer, rewards = RewardNormalizer(), torch.randn(400, generator=torch.Generator().manual_seed(0))
    for part in (rewards * deviation + mean).split(100):
        assert [float(x) for x in normalizer.update(part)] == [1, 0]
    assert torch.equal(normalizer(rewards), rewards) and torch.equal(normalizer.denormalize(rewards), rewards)


@pytest.mark.parametrize("exponent", [-40, -14, -8, 9, 17, 60])
def test_the_reward_scale_is_a_power_of_two_near_the_deviation_and_exact(exponent):
    unit, rewards = RewardNormalizer(), torch.randn(400, generator=torch.Generator().manual_seed(0)) * 0.9
    normalizer, scaled = RewardNormalizer(), rewards * 2.0**exponent
    for part in scaled.split(100):
        normalizer.update(part)
    assert normalizer.scale == 2.0**exponent and normalizer.offset == 0
    assert torch.equal(normalizer(scaled), unit(rewards)) and torch.equal(normalizer.denormalize(rewards), scaled)


def test_reward_scale_and_offset_stay_until_rewards_are_far_from_them():
    normalizer, rewards, seen = RewardNormalizer(), torch.randn(1000, generator=torch.Generator().manual_seed(0)), []
    for size in (1e-3, 3e-3, 1e-2, 2e-2, 1.0, 1.0):
        normalizer.update(rewards * size)
        seen.append(float(normalizer.scale))
    assert seen == [2**-10] * 4 + [2**-1] * 2  # (1 + 4 * 1e-4 ...) / 5 and / 6 of variance 1
    normalizer = RewardNormalizer()
    for part, mean in ((rewards[:50] + 1000, 1000), (rewards[:50] + 1020, 1000), (rewards + 1040, 1037)):
        normalizer.update(part)
        assert abs(normalizer.offset - mean) < 1 and normalizer.scale == 1


def test_changing_scale_and_offset_tells_how_to_keep_what_was_learnt():
    normalizer = RewardNormalizer()
    generator = torch.Generator().manual_seed(0)
    for size, mean in ((1e-3, 0), (1, 100), (1e5, -1e6)):
        outputs, before = torch.randn(5, generator=generator), copy.deepcopy(normalizer)
        factor, shift = normalizer.update(torch.randn(1000, generator=generator) * size + mean)
        expected = before.denormalize(outputs)
        assert torch.allclose(normalizer.denormalize(factor * outputs + shift), expected, rtol=1e-3, atol=1e-6)
        assert factor != 1


def test_rewards_that_never_vary_keep_the_scale():
    for constant, offset in ((0.0, 0.0), (15.0, 0.0), (1e5, 1e5)):
        normalizer = RewardNormalizer()
        normalizer.update(torch.full((300,), constant))
        assert normalizer.scale == 1 and normalizer.offset == offset


def test_rare_rewards_of_one_are_not_small():
    normalizer, rewards = RewardNormalizer(), torch.zeros(100_000)
    rewards[70_000] = 1.0
    for part in rewards.split(500):
        normalizer.update(part)
    assert normalizer.scale == 1 and normalizer.num_outliers == 0


def test_a_lone_outlier_leaves_the_reward_scale_alone():
    normalizer, rewards = RewardNormalizer(), torch.randn(500, generator=torch.Generator().manual_seed(0))
    rewards[35] = 1e6
    normalizer.update(rewards)
    assert normalizer.scale == 1 and normalizer.offset == 0 and normalizer.num_outliers == 1


def test_value_statistics_follow_a_change_of_scale():
    first, second = ValueNormalizer(0.9), ValueNormalizer(0.9)
    targets = torch.randn(50, generator=torch.Generator().manual_seed(0)) + 2
    first.update(targets * 8)
    second.update(targets)
    second.rescale(torch.tensor(8.0))
    assert first.statistics() == second.statistics()


@pytest.mark.parametrize("normalizes", [True, False])
def test_a_critics_values_follow_a_change_of_scale(normalizes):
    critic = randomize(Critic(UNEQUAL, tiny(normalize_values=normalizes)))
    states = torch.randn(6, 4)

    def values():
        return critic.value_normalizer.denormalize(critic(states))

    critic.value_normalizer.update(3 * torch.randn(50) + 1)
    before = values()
    critic.rescale(torch.tensor(0.25))
    assert torch.allclose(values(), 0.25 * before, atol=1e-5)


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
