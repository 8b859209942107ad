"""Means of metrics against NumPy's."""

import numpy as np
import pytest
import torch

from rllib_dima.core.training.metrics import RunningMeans, read_together

CPU = torch.device("cpu")


def test_means_are_those_of_numpy_in_double_precision_whatever_the_types():
    random, means = np.random.default_rng(0), RunningMeans(CPU)
    losses, counts = random.normal(1e4, 1.0, 1000).astype(np.float32), random.integers(0, 9, 1000)
    for loss, number in zip(losses, counts, strict=True):
        means.add({"loss": torch.tensor(loss, requires_grad=True), "number": torch.tensor(number)})
    names, values = means.read()
    assert names == ("loss", "number") and values.dtype == torch.float64
    assert np.allclose(values, [losses.astype(np.float64).mean(), counts.mean()], rtol=1e-12)  # float32's sum: 1e-6


def test_nothing_added_is_nan_and_counts_begin_anew():
    means = RunningMeans(CPU)
    assert not means.is_filled
    means.add({"loss": torch.tensor(3.0)})
    assert means.is_filled
    means.clear()
    assert not means.is_filled and means.read()[1].isnan().all()
    means.add({"loss": torch.tensor(5.0)})
    other = RunningMeans(CPU)
    other.add({"error": torch.tensor(2.0)})
    read = read_together({"a": means, "b": other}, {"norm": torch.tensor(7.0)})
    assert read == ({"a": {"loss": 5.0}, "b": {"error": 2.0}}, {"norm": 7.0})


def test_sets_of_metrics_keep_their_names():
    means = RunningMeans(CPU)
    means.add({"loss": torch.tensor(3.0)})
    with pytest.raises(AssertionError, match="keeps its names"):
        means.add({"error": torch.tensor(3.0)})
