"""Attention over agents against PyTorch's encoder layers, and what agents may and may not influence."""

import math

import pytest
import torch
from support.core import randomize
from torch import nn

from rllib_dima.core.agent_attention import AgentAttention, sinusoidal_code


def attention(**changes):
    return AgentAttention(
        **{"num_agents": 3, "width": 8, "num_heads": 2, "num_layers": 2, "feedforward_width": 12} | changes
    )


def torchs_layer(ours, pre_norm):
    """PyTorch's layer with the weights of one of ours."""
    theirs = nn.TransformerEncoderLayer(8, 2, 12, dropout=0.0, norm_first=pre_norm, batch_first=True)
    pairs = {
        theirs.linear1: ours.linear1, theirs.linear2: ours.linear2, theirs.norm1: ours.norm1,
        theirs.norm2: ours.norm2, theirs.self_attn.out_proj: ours.output,
    }  # fmt: skip
    for their, our in pairs.items():
        their.load_state_dict(our.state_dict())
    theirs.self_attn.in_proj_weight, theirs.self_attn.in_proj_bias = ours.queries_keys_values.parameters()
    return theirs


@pytest.mark.parametrize("pre_norm", [False, True])
def test_it_equals_pytorchs_encoder(pre_norm):
    model, x = randomize(attention(pre_norm=pre_norm)), torch.randn(5, 4, 3, 8)
    expected = (x + sinusoidal_code(3, 8)).flatten(0, 1)
    for layer in model.layers:
        expected = torchs_layer(layer, pre_norm)(expected)
    assert torch.allclose(model(x).flatten(0, 1), expected, atol=1e-5)


def test_code_is_sine_and_cosine_of_falling_frequencies():
    code = sinusoidal_code(5, 7)
    for agent in range(5):
        for entry in range(7):
            angle = agent / 10_000 ** (2 * (entry // 2) / 7)
            assert math.isclose(code[agent, entry], (math.cos if entry % 2 else math.sin)(angle), abs_tol=1e-6)


def test_order_of_agents_matters_to_the_code_alone():
    x, order = torch.randn(4, 3, 8), torch.tensor([2, 0, 1])
    model = randomize(attention())
    assert not torch.allclose(model(x)[:, order], model(x[:, order]), atol=1e-5)
    model.code.zero_()
    assert torch.allclose(model(x)[:, order], model(x[:, order]), atol=1e-5)


def test_everybody_hears_everybody_and_teams_do_not_hear_each_other():
    model, x = randomize(attention()), torch.randn(4, 3, 8)
    before = model(x)
    for agent in range(3):
        changed = x.clone()
        changed[2, agent] += 1
        after = model(changed)
        assert torch.equal(after[[0, 1, 3]], before[[0, 1, 3]])
        assert ((after[2] - before[2]).abs().amax(-1) > 1e-3).all()


def test_dropout_is_for_training_alone():
    model, x = randomize(attention(dropout=0.5)), torch.randn(4, 3, 8)
    assert not torch.equal(model(x), model(x))
    still = randomize(attention())
    assert torch.equal(model.eval()(x), still(x))


def test_heads_that_cannot_share_the_width_are_refused():
    with pytest.raises(ValueError, match="width 8 cannot be shared by 3 heads"):
        attention(num_heads=3)
