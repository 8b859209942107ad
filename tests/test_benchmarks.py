"""Benchmarks measure every phase that an iteration has."""

import argparse
import pathlib
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "benchmarks"))
import epoch
import scaling

from rllib_dima.core.dima.hyperparameters import DIMAHyperparameters


def test_scaling_measures_the_phases_of_an_iteration():
    args = argparse.Namespace(device="cpu", model_size="nano", updates=1)
    point = next(scaling.repeats_of_core(args, "agents", 2))
    assert point["seconds"].keys() == set(epoch.PHASES) - {"reward_data"}  # which only recipe "swift" has
    assert min(point["seconds"].values()) > 0


@pytest.mark.parametrize("recipe", DIMAHyperparameters.RECIPES)
def test_no_phase_is_left_out(recipe):
    hp, _ = epoch.shortened(DIMAHyperparameters.resolve({}, "mamujoco", "nano", recipe), 1)
    seconds = epoch.run_once(epoch.build(epoch.TASKS["halfcheetah_2x3"], hp, "cpu", epoch.EPISODE), 0)
    assert seconds.keys() <= {*epoch.PHASES, "metrics"}
