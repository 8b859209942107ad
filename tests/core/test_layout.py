"""Sizes and masks of a team."""

import numpy as np
import pytest
import torch
from support.core import DISCRETE, UNEQUAL

from rllib_dima.core.layout import AgentLayout, joined_mask, usable_blocks


def test_sizes_are_the_largest_agents_and_the_id_is_appended():
    assert (UNEQUAL.num_agents, UNEQUAL.observation_size, UNEQUAL.action_size) == (2, 3 + 2, 2)
    assert (DISCRETE.num_agents, DISCRETE.observation_size, DISCRETE.action_size) == (3, 3 + 3, 4)
    assert AgentLayout(("a", "b"), 1, (3, 2), (2, 1)).observation_size == 3
    assert DISCRETE.is_discrete and not UNEQUAL.is_discrete


def test_masks_mark_own_entries_and_the_id():
    assert UNEQUAL.observation_mask().int().tolist() == [[1, 1, 1, 1, 1], [1, 1, 0, 1, 1]]
    assert UNEQUAL.own_observation_mask().int().tolist() == [[1, 1, 1, 0, 0], [1, 1, 0, 0, 0]]
    assert UNEQUAL.action_mask().int().tolist() == [[1, 1], [1, 0]]
    assert DISCRETE.action_mask().int().tolist() == [[1, 1, 1, 0], [1, 1, 0, 0], [1, 1, 1, 1]]
    assert AgentLayout(("a", "b"), 1, (3, 2), (2, 1)).observation_mask().int().tolist() == [[1, 1, 1], [1, 1, 0]]


def test_agent_is_recognised_by_its_id_even_when_standardised():
    observations = torch.randn(7, 3, 6) * 5
    observations[..., -3:] = torch.eye(3)
    standardised = (observations - observations.mean(-1, keepdim=True)) / observations.std(-1, keepdim=True)
    expected = torch.arange(3).expand(7, 3)
    assert torch.equal(DISCRETE.agent_index(observations), expected)
    assert torch.equal(DISCRETE.agent_index(standardised), expected)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"agent_ids": ("a",)}, "at least 2 agents, but was given 1"),
        ({"observation_sizes": (1,)}, "observation_sizes must hold one size"),
        ({"action_sizes": (1, 0)}, "action_sizes must hold one size"),
        ({"state_size": 0}, "state_size must be at least 1, but is 0"),
        ({"action_kind": "both"}, "Unknown action_kind 'both'. Known: continuous, discrete"),
        ({"action_kind": "multi_discrete"}, "sums of action_choices must be"),
        ({"masks_actions": True, "action_kind": "discrete"}, "must end in an appended agent id"),
        ({"masks_actions": True, "appends_agent_id": True}, "Only discrete actions can be masked"),
    ],
)
def test_impossible_teams_are_refused(changes, message):
    sizes = {"agent_ids": ("a", "b"), "state_size": 1, "observation_sizes": (1, 1), "action_sizes": (1, 1)}
    with pytest.raises(ValueError, match=message):
        AgentLayout(**{**sizes, **changes})


@pytest.mark.parametrize("mask", [(1, 0, 1, 1, 0), [1, 0, 1, 1, 0], (np.array([1, 0]), [1, 1, 0])])
def test_masks_are_joined_in_every_form(mask):
    assert np.asarray(joined_mask(mask)).tolist() == [1, 0, 1, 1, 0]
    assert usable_blocks(np.asarray(joined_mask(mask)) > 0, (2, 3))
    assert not usable_blocks(np.asarray(joined_mask(mask)) > 0, (1, 1, 3)) and usable_blocks(
        np.array([False, True]), (2,)
    )
