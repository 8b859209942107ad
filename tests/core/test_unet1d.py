"""The U-Net's parts against torch's own layers, and the whole against a second implementation."""

import math

import pytest
import torch
from support.core import randomize, tiny
from torch.nn import functional

from rllib_dima.core.dima import unet1d
from rllib_dima.core.dima.denoisers import FourierFeatures
from rllib_dima.core.dima.unet1d import Conv3, Downsample, UNet1d, Upsample


def as_conv1d(conv, x, stride=1):
    """torch's convolution with the weights of a Conv3, on channels-last x."""
    weight = conv.weight.unflatten(1, (3, -1)).transpose(1, 2)  # (out, in, 3)
    return functional.conv1d(x.transpose(1, 2), weight, conv.bias, stride=stride, padding=1).transpose(1, 2)


def values_and_gradients(function, inputs):
    output = function()
    weights = torch.randn(output.shape, generator=torch.Generator().manual_seed(3))
    return output, torch.autograd.grad((output * weights).sum(), inputs)


@pytest.mark.parametrize("length", [1, 2, 3, 5])
def test_conv3_equals_conv1d_in_value_and_gradient(length):
    conv, x = randomize(Conv3(4, 6)), torch.randn(7, length, 4, requires_grad=True)
    inputs = [x, conv.weight, conv.bias]
    ours, our_gradients = values_and_gradients(lambda: conv(x), inputs)
    theirs, their_gradients = values_and_gradients(lambda: as_conv1d(conv, x), inputs)
    assert torch.allclose(ours, theirs, atol=1e-5)
    for our, their in zip(our_gradients, their_gradients, strict=True):
        assert torch.allclose(our, their, atol=1e-5)


def test_conv3_is_initialised_as_conv1d_is_and_zero_on_request():
    torch.manual_seed(0)
    conv = Conv3(4, 6)
    torch.manual_seed(0)
    reference = torch.nn.Conv1d(4, 6, 3, padding=1)
    x = torch.randn(2, 5, 4)
    assert torch.allclose(conv(x), reference(x.transpose(1, 2)).transpose(1, 2), atol=1e-6)
    assert not Conv3(4, 6, zero=True)(x).any()


@pytest.mark.parametrize("length", [2, 4, 6])
def test_downsample_equals_conv1d_of_stride_2(length):
    layer, x = randomize(Downsample(4)), torch.randn(3, length, 4)
    assert layer(x).shape == (3, length // 2, 4)
    assert torch.allclose(layer(x), as_conv1d(layer.conv, x, stride=2), atol=1e-5)


@pytest.mark.parametrize("length", [1, 2, 3])
def test_upsample_equals_nearest_neighbour_then_conv1d(length):
    layer, x = randomize(Upsample(4)), torch.randn(3, length, 4)
    doubled = functional.interpolate(x.transpose(1, 2), scale_factor=2, mode="nearest").transpose(1, 2)
    assert torch.allclose(layer(x), as_conv1d(layer.conv, doubled), atol=1e-5)


@pytest.mark.parametrize(("groups", "length"), [(1, 4), (2, 4), (4, 1), (2, 1)])
def test_group_norm_equals_torchs_in_value_and_gradient(groups, length):
    x = (torch.randn(5, length, 8) * 3 + 1).requires_grad_()
    ours, our_gradients = values_and_gradients(lambda: unet1d.group_norm(x, groups), [x])
    reference = torch.nn.GroupNorm(groups, 8, eps=1e-5, affine=False)
    theirs, their_gradients = values_and_gradients(lambda: reference(x.transpose(1, 2)).transpose(1, 2), [x])
    assert torch.allclose(ours, theirs, atol=1e-5)
    assert torch.allclose(our_gradients[0], their_gradients[0], atol=1e-5)


def test_adaptive_group_norm_scales_by_one_plus_scale_and_shifts():
    x, scale, shift = torch.randn(5, 4, 8), torch.randn(5, 8), torch.randn(5, 8)
    normed = functional.group_norm(x.transpose(1, 2), 2, eps=1e-5).transpose(1, 2)
    expected = normed * (1 + scale[:, None]) + shift[:, None]
    assert torch.allclose(unet1d.adaptive_group_norm(x, 2, torch.cat([scale, shift], 1)), expected, atol=1e-5)


def second_implementation(net, x, condition):
    """The U-Net written channels first, with torch's own layers and one modulation per norm."""
    group_norm = lambda y, groups: functional.group_norm(y.transpose(1, 2), groups, eps=1e-5).transpose(1, 2)  # noqa: E731
    modulation, position = condition @ net.modulation.weight.T + net.modulation.bias, 0

    def modulated(y, groups):
        nonlocal position
        channels = y.shape[-1]
        scale = modulation[:, None, position : position + channels]
        shift = modulation[:, None, position + channels : position + 2 * channels]
        position += 2 * channels
        return functional.silu(group_norm(y, groups) * (1 + scale) + shift)

    def residual(block, y):
        hidden = as_conv1d(block.conv1, modulated(y, y.shape[-1] // 4))
        return block.skip(y) + as_conv1d(block.conv2, modulated(hidden, 2))

    x = as_conv1d(net.conv_in, x)
    levels = []
    for number, blocks in enumerate(net.down):
        skips = [x]
        for block in blocks:
            skips.append(x := residual(block, x))
        levels.append(skips)
        if number + 1 < len(net.down):
            x = as_conv1d(net.downsample[number].conv, x, stride=2)
    for block in net.middle:
        x = residual(block, x)
    for number, (blocks, skips) in enumerate(zip(net.up, reversed(levels), strict=True)):
        if number:
            x = as_conv1d(net.upsample[number - 1].conv, torch.repeat_interleave(x, 2, dim=1))
        for block, skip in zip(blocks, reversed(skips), strict=True):
            x = residual(block, torch.cat([x, skip], dim=-1))
    assert position == modulation.shape[1]
    return as_conv1d(net.conv_out, functional.silu(group_norm(x, 2) * net.scale_out + net.shift_out))


@pytest.mark.parametrize(("levels", "blocks"), [(1, 1), (2, 1), (3, 2)])
def test_unet_equals_a_second_implementation(levels, blocks):
    net = randomize(UNet1d(5, tiny(dynamics_num_levels=levels, dynamics_blocks_per_level=blocks)))
    x, condition = torch.randn(6, 4, 5), torch.randn(6, 8)
    assert torch.allclose(net(x, condition), second_implementation(net, x, condition), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("length", [2, 3, 5, 6])
def test_unet_pads_short_sequences_with_zeros_in_the_past(length):
    net = randomize(UNet1d(5, tiny(dynamics_num_levels=3)))
    x, condition = torch.randn(6, length, 5), torch.randn(6, 8)
    padded = torch.cat([torch.zeros(6, -length % 4, 5), x], dim=1)
    assert net(x, condition).shape == x.shape
    assert torch.allclose(net(x, condition), net(padded, condition)[:, -length:])


def test_unet_starts_at_zero_and_has_no_zero_gradient_forever():
    torch.manual_seed(0)
    net = UNet1d(5, tiny())
    x, condition = torch.randn(6, 4, 5), torch.randn(6, 8)
    assert not net(x, condition).any()
    randomize(net)(x, condition).square().sum().backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in net.parameters())


def test_samples_of_a_batch_do_not_mix():
    net = randomize(UNet1d(5, tiny()))
    x, condition = torch.randn(6, 4, 5), torch.randn(6, 8)
    together = net(x, condition)
    for b in range(6):
        assert torch.allclose(together[b], net(x[b : b + 1], condition[b : b + 1])[0], atol=1e-5)


def test_fourier_features_are_cosines_and_sines_of_fixed_frequencies():
    features, c = FourierFeatures(8), torch.tensor([-1.5, 0.0, 0.3])
    encoded = features(c)
    for b, value in enumerate(c.tolist()):
        for k, frequency in enumerate(features.frequencies.tolist()):
            assert math.isclose(encoded[b, k], math.cos(2 * math.pi * value * frequency), abs_tol=1e-5)
            assert math.isclose(encoded[b, 4 + k], math.sin(2 * math.pi * value * frequency), abs_tol=1e-5)
    assert "frequencies" in features.state_dict() and not list(features.parameters())
