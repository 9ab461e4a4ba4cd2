"""The fast layers against slow references in float64 that follow the papers word by word."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from gan.networks import (
    Conv,
    Linear,
    ModulatedConv,
    StyledConv,
    ToRGB,
    downsample,
    minibatch_deviation,
    upsample,
)


def modulate_weights(layer: ModulatedConv, x: Tensor, w: Tensor) -> Tensor:
    """StyleGAN2 as published: weights of every sample modulated and demodulated, then one grouped convolution."""
    batch, inputs, height, width = x.shape
    style = layer.affine(w)
    weight = layer.weight[None] * layer.gain * style[:, None, :, None, None]
    if layer.demodulate:
        weight = weight / (weight.square().sum(dim=(2, 3, 4), keepdim=True) + 1e-8).sqrt()
    outputs, kernel = weight.shape[1], weight.shape[-1]
    y = F.conv2d(
        x.reshape(1, batch * inputs, height, width),
        weight.reshape(batch * outputs, inputs, kernel, kernel),
        padding=kernel // 2,
        groups=batch,
    )
    return y.reshape(batch, outputs, height, width)


@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("demodulate", [True, False])
def test_scaling_activations_equals_modulating_weights(kernel: int, demodulate: bool) -> None:
    torch.manual_seed(0)
    layer = ModulatedConv(5, 7, kernel, 4, demodulate=demodulate).double()
    x, w = torch.randn(3, 5, 6, 6, dtype=torch.float64), torch.randn(3, 4, dtype=torch.float64)
    y, factor = layer(x, w)
    fast = y if factor is None else y * factor
    torch.testing.assert_close(fast, modulate_weights(layer, x, w))


def test_styled_convolution_is_modulation_noise_bias_and_gain() -> None:
    torch.manual_seed(0)
    layer = StyledConv(4, 6, 5).double()
    torch.nn.init.normal_(layer.bias)
    torch.nn.init.constant_(layer.noise_strength, 0.3)
    x, w = torch.randn(2, 4, 8, 8, dtype=torch.float64), torch.randn(2, 5, dtype=torch.float64)
    noise = torch.randn(2, 1, 8, 8, dtype=torch.float64)
    slow = modulate_weights(layer.convolution, x, w) + 0.3 * noise + layer.bias[None, :, None, None]
    slow = F.leaky_relu(slow, 0.2) * math.sqrt(2)
    torch.testing.assert_close(layer(x, w, noise), slow)


def test_gradients_of_scaling_equal_those_of_modulating() -> None:
    torch.manual_seed(0)
    layer = ModulatedConv(3, 4, 3, 2).double()
    x, w = torch.randn(2, 3, 4, 4, dtype=torch.float64), torch.randn(2, 2, dtype=torch.float64)
    y, factor = layer(x, w)
    assert factor is not None
    direction = torch.randn_like(y)
    fast = torch.autograd.grad((y * factor * direction).sum(), list(layer.parameters()))
    slow = torch.autograd.grad((modulate_weights(layer, x, w) * direction).sum(), list(layer.parameters()))
    for a, b in zip(fast, slow, strict=True):
        torch.testing.assert_close(a, b)


def test_demodulated_output_has_unit_variance() -> None:
    torch.manual_seed(0)
    layer = ModulatedConv(64, 64, 3, 8)
    y, factor = layer(torch.randn(4, 64, 16, 16), torch.randn(4, 8) * 5)
    assert factor is not None
    assert (y * factor)[:, :, 2:-2, 2:-2].std().item() == pytest.approx(1.0, abs=0.1)


def test_folded_gain_equals_gain_after_the_leaky_relu() -> None:
    torch.manual_seed(0)
    layer = Conv(3, 5, 3, activate=True, gain=0.7)
    torch.nn.init.normal_(layer.bias)
    x = torch.randn(2, 3, 6, 6)
    slow = F.conv2d(x, layer.weight / math.sqrt(27), layer.bias, padding=1)
    torch.testing.assert_close(layer(x), F.leaky_relu(slow, 0.2) * math.sqrt(2) * 0.7)


def test_learning_rate_multiplier_changes_no_output_at_the_start() -> None:
    torch.manual_seed(0)
    plain = Linear(6, 4, bias=0.5)
    torch.manual_seed(0)
    slow = Linear(6, 4, bias=0.5, rate=0.01)
    x = torch.randn(3, 6)
    torch.testing.assert_close(plain(x), slow(x))


def test_colours_come_out_in_float32_under_autocast() -> None:
    layer = ToRGB(4, 3)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(torch.randn(2, 4, 5, 5), torch.randn(2, 3)).dtype == torch.float32


def test_upsampling_is_the_published_filter_inside() -> None:
    x = torch.randn(1, 1, 6, 6, dtype=torch.float64)
    spread = torch.zeros(1, 1, 12, 12, dtype=torch.float64)
    spread[..., ::2, ::2] = x
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0], dtype=torch.float64) / 4
    slow = F.conv2d(F.pad(spread, (2, 1, 2, 1)), torch.outer(taps, taps)[None, None])
    torch.testing.assert_close(upsample(x)[..., 2:-2, 2:-2], slow[..., 2:-2, 2:-2])


def test_blurred_downsampling_is_the_published_filter_inside() -> None:
    x = torch.randn(1, 2, 12, 12, dtype=torch.float64)
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0], dtype=torch.float64) / 8
    kernel = torch.outer(taps, taps)[None, None].expand(2, 1, 4, 4)
    slow = F.conv2d(x, kernel, stride=2, padding=1, groups=2)
    torch.testing.assert_close(downsample(x, blur=True)[..., 1:-1, 1:-1], slow[..., 1:-1, 1:-1])


def test_minibatch_deviation_is_the_mean_deviation_of_each_group() -> None:
    x = torch.randn(8, 3, 2, 2, dtype=torch.float64)
    y = minibatch_deviation(x, 4)
    assert y.shape == (8, 4, 2, 2)
    torch.testing.assert_close(y[:, :3], x)
    for group in (slice(0, 4), slice(4, 8)):
        expected = x[group].std(dim=0, unbiased=False).mean()
        torch.testing.assert_close(y[group, 3], expected.expand(4, 2, 2), rtol=1e-5, atol=1e-6)
