"""The action-set encoder: hidden tokens have exactly no influence."""

import torch
from support.core import DISCRETE, UNEQUAL, random_actions, randomize
from torch.nn.functional import silu

from rllib_dima.core.dima.action_encoder import SumActionEncoder


def encoder(layout, steps=3):
    return randomize(SumActionEncoder(steps, layout.num_agents, layout.action_mask(), 6, 5))


def test_encoding_equals_a_loop_over_visible_tokens():
    model, actions = encoder(UNEQUAL), random_actions(UNEQUAL, 4, 3)
    visible = torch.rand(4, 3, 2, generator=torch.Generator().manual_seed(0)) < 0.5
    encoded = model(actions, visible)
    for b in range(4):
        sums = torch.zeros(3, 6)
        for t in range(3):
            for i in range(2):
                if visible[b, t, i]:
                    hidden = silu(model.action_in.weight @ actions[b, t, i] + model.action_in.bias
                                  + model.agent_embedding[i])  # fmt: skip
                    sums[t] += silu(model.token_out.weight @ hidden + model.token_out.bias)
        expected = model.project.weight @ (sums / 2**0.5).flatten() + model.project.bias
        assert torch.allclose(encoded[b], expected, atol=1e-5)


def test_hidden_actions_have_exactly_no_influence():
    model, actions = encoder(DISCRETE), random_actions(DISCRETE, 8, 3)
    visible = torch.rand(8, 3, 3, generator=torch.Generator().manual_seed(1)) < 0.5
    disturbed = torch.where(visible.unsqueeze(-1), actions, torch.randn_like(actions) * 1e3)
    assert torch.equal(model(actions, visible), model(disturbed, visible))


def test_every_visible_action_has_an_influence():
    model, actions = encoder(UNEQUAL), random_actions(UNEQUAL, 1, 3)
    visible = torch.ones(1, 3, 2, dtype=torch.bool)
    for t in range(3):
        for i in range(2):
            disturbed = actions.clone()
            disturbed[0, t, i, 0] += 0.5
            assert not torch.allclose(model(actions, visible), model(disturbed, visible), atol=1e-4)


def test_padded_action_entries_have_exactly_no_influence():
    model, actions = encoder(UNEQUAL), random_actions(UNEQUAL, 5, 3)
    visible = torch.ones(5, 3, 2, dtype=torch.bool)
    disturbed = torch.where(UNEQUAL.action_mask(), actions, torch.tensor(7.0))
    assert not torch.equal(actions, disturbed)
    assert torch.equal(model(actions, visible), model(disturbed, visible))


def test_agents_and_time_steps_are_told_apart():
    layout = DISCRETE
    model, actions = encoder(layout), torch.zeros(1, 3, 3, 4)
    actions[..., 0] = 1
    encodings = []
    for t in range(3):
        for i in range(3):
            visible = torch.zeros(1, 3, 3, dtype=torch.bool)
            visible[0, t, i] = True
            encodings.append(model(actions, visible)[0])
    distances = torch.cdist(torch.stack(encodings), torch.stack(encodings)) + torch.eye(9)
    assert distances.min() > 1e-3
