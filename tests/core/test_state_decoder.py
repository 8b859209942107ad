"""State decoders: codes and straight-through gradient of the FSQ autoencoder, the MLP, and the loss of both."""

import math

import pytest
import torch
from support.core import UNEQUAL, random_observations, randomize, tiny

from rllib_dima.core.dima.state_decoder import STATE_DECODERS
from rllib_dima.core.layout import AgentLayout

NETWORKS = ("fsq", "mlp")


def new(**changes):
    hp = tiny(**changes)
    return randomize(STATE_DECODERS[hp.decoder_network](UNEQUAL, hp))


def test_codes_lie_on_their_levels():
    model = randomize(new(decoder_fsq_levels=(8, 6, 5)), scale=1.0)
    codes = model.encode(torch.randn(5000, 4) * 3)
    assert codes.shape == (5000, 2, 3) and codes.abs().max() <= 1
    for channel, levels in enumerate((8, 6, 5)):
        values = codes[..., channel].unique()
        assert len(values) == levels
        steps = values * (levels // 2)
        assert torch.allclose(steps, steps.round(), atol=1e-5)  # whole numbers over floor(L / 2)
        assert torch.allclose(steps.diff(), torch.ones(levels - 1), atol=1e-4)


def test_gradient_passes_straight_through_the_rounding():
    model, states = new(decoder_fsq_levels=(8, 6, 5)), torch.randn(7, 4)
    tokens = model.encoder(states).detach().view(7, 2, 3).requires_grad_()
    weights = torch.randn(7, 2, 3)
    (model.quantizer(tokens)[0] * weights).sum().backward()
    again = tokens.detach().clone().requires_grad_()
    total = 0.0
    for channel, levels in enumerate((8, 6, 5)):  # the bounding function alone, without rounding
        half, offset = (levels - 1) * 1.001 / 2, 0.5 if levels % 2 == 0 else 0.0
        bounded = torch.tanh(again[..., channel] + math.atanh(offset / half)) * half - offset
        total = total + (bounded / (levels // 2) * weights[..., channel]).sum()
    total.backward()
    assert torch.allclose(tokens.grad, again.grad, atol=1e-5) and tokens.grad.abs().max() > 0.01


@pytest.mark.parametrize("network", NETWORKS)
def test_all_layers_are_trained(network):
    model = new(decoder_network=network)
    model.loss(torch.randn(9, 4), random_observations(UNEQUAL, 9))[0].backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in model.parameters())


def test_networks_have_the_papers_shape():
    model = new(decoder_num_layers=3, decoder_hidden_size=16)
    for network, size_in, size_out in ((model.encoder, 4, 6), (model.decoder, 6, 10)):
        assert [type(layer).__name__ for layer in network] == ["Linear", "GELU", "Linear", "GELU", "Linear"]
        assert [layer.out_features for layer in network[::2]] == [16, 16, size_out]
        assert network[0].in_features == size_in
    assert len(new(decoder_num_layers=1).encoder) == 1


def test_the_mlp_adds_to_what_is_linear_in_the_state():
    hp = tiny(decoder_network="mlp", decoder_hidden_size=6, decoder_num_blocks=2)
    model, states, mask = STATE_DECODERS["mlp"](UNEQUAL, hp), torch.randn(7, 4), UNEQUAL.observation_mask()
    assert not model(states).any()  # at the start
    randomize(model)
    h = states @ model.mlp.linear_in.weight.T + model.mlp.linear_in.bias
    for block in model.mlp.blocks:
        h = h + block.linear2(torch.nn.functional.silu(block.linear1(torch.nn.functional.silu(block.norm(h)))))
    added = model.mlp.linear_out(torch.nn.functional.silu(model.mlp.norm_out(h)))
    linear = states @ model.linear.weight.T + model.linear.bias
    assert len(model.mlp.blocks) == 2
    assert torch.allclose(model(states), (linear + added).view(7, 2, 5) * mask, atol=1e-5)


def test_copies_of_a_large_state_are_decoded_well_only_without_a_code():
    layout = AgentLayout(("a", "b"), 60, (40, 40), (1, 1), "continuous", appends_agent_id=True)
    errors = {}
    for network in NETWORKS:
        torch.manual_seed(0)
        hp = tiny(decoder_network=network, decoder_hidden_size=32, decoder_num_tokens=12, decoder_fsq_levels=(8, 6, 5))
        model = STATE_DECODERS[network](layout, hp)
        optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
        for _ in range(400):
            states = torch.randn(128, 60)
            parts = torch.stack([states[:, :40], states[:, 20:]], 1)
            observations = torch.cat([parts, torch.eye(2).expand(128, 2, 2)], -1)
            optimizer.zero_grad()
            loss, _ = model.loss(states, observations)
            loss.backward()
            optimizer.step()
        errors[network] = float(loss)
    assert errors["mlp"] < 0.02 and errors["fsq"] > 0.3, errors


@pytest.mark.parametrize("kind", ["squared", "absolute"])
@pytest.mark.parametrize("network", NETWORKS)
def test_loss_is_the_mean_error_over_real_entries(network, kind):
    model, states, observations = (
        new(decoder_network=network, decoder_loss=kind),
        torch.randn(6, 4),
        random_observations(UNEQUAL, 6),
    )
    loss, metrics = model.loss(states, observations)
    predicted, errors = model(states), []
    for b in range(6):
        for agent, entries in enumerate([[0, 1, 2, 3, 4], [0, 1, 3, 4]]):  # agent b has 2 of 3 entries, and the id
            for entry in entries:
                errors.append(float(predicted[b, agent, entry] - observations[b, agent, entry]))
    expected = sum(e**2 if kind == "squared" else abs(e) for e in errors) / len(errors)
    assert math.isclose(loss, expected, rel_tol=1e-5) and metrics["decoder_loss"] == loss


@pytest.mark.parametrize("network", NETWORKS)
def test_padded_entries_are_zero_and_have_exactly_no_influence_on_the_loss(network):
    model, states, observations = new(decoder_network=network), torch.randn(6, 4), random_observations(UNEQUAL, 6)
    disturbed = torch.where(UNEQUAL.observation_mask(), observations, torch.tensor(9.0))
    assert not torch.equal(disturbed, observations)
    assert torch.equal(model.loss(states, observations)[0], model.loss(states, disturbed)[0])
    assert not model(states)[:, ~UNEQUAL.observation_mask()].any()


@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (2, 3, 2)])
@pytest.mark.parametrize("network", NETWORKS)
def test_any_leading_axes_give_the_same_observations(network, shape):
    model, states = new(decoder_network=network), torch.randn(*shape, 4)
    decoded = model(states)
    assert decoded.shape == (*shape, 2, 5)
    assert torch.allclose(decoded.reshape(-1, 2, 5), model(states.reshape(-1, 4)), atol=1e-5)


@pytest.mark.parametrize("normalizes", [False, True])
def test_unexplained_variance_is_the_error_beside_that_of_the_mean(normalizes):
    model, states = new(decoder_network="mlp", normalize_observations=normalizes), torch.randn(30, 4)
    observations, mask = random_observations(UNEQUAL, 30) * 3 + 1, UNEQUAL.observation_mask()
    scale = torch.ones(2, 5)
    if normalizes:
        model.normalizer.update(observations)
        scale = model.normalizer.denormalize(torch.ones(2, 5)) - model.normalizer.denormalize(torch.zeros(2, 5))
    parts = [
        ((model(states) - observations) / scale)[:, mask],
        ((observations - observations.mean(0)) / scale)[:, mask],
    ]
    error, variation = (float(part.square().sum()) for part in parts)
    disturbed = torch.where(mask, observations, torch.tensor(9.0))  # padding counts for nothing
    assert float(model.unexplained_variance(states, disturbed)) == pytest.approx(error / variation, rel=1e-4)
    assert math.isfinite(model.unexplained_variance(states, observations[:1].expand(30, 2, 5)))  # nothing to explain
