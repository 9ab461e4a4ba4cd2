"""The layers of StyleGAN2 (Karras et al. 2020, arXiv:1912.04958), written so that a CPU runs them well.

Two habits explain most of this file. Weights are stored with unit variance and scaled when used ("equalised learning
rate", Karras et al. 2018, section 4.1), so that one learning rate fits every layer. And the gain of sqrt(2) after a
leaky ReLU is folded into what comes before it, because lrelu(a x) = a lrelu(x) for a > 0: one pass less.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LEAK = 0.2
GAIN = math.sqrt(2.0)


class Linear(nn.Module):
    """y = x W^T + b with equalised learning rate, optionally through a leaky ReLU of gain sqrt(2).

    Args:
        inputs, outputs: widths.
        bias: initial value of the bias.
        rate: multiplies the learning rate of this layer (StyleGAN2 trains its mapping network at 0.01).
        activate: apply the leaky ReLU.
    """

    def __init__(
        self, inputs: int, outputs: int, *, bias: float = 0.0, rate: float = 1.0, activate: bool = False
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs) / rate)
        self.bias = nn.Parameter(torch.full((outputs,), bias / rate))
        self.rate = rate
        self.gain = rate / math.sqrt(inputs)
        self.activate = activate

    def forward(self, x: Tensor) -> Tensor:
        """x: [B, inputs] -> [B, outputs]."""
        # The gain goes to the input: the weights can be a thousand times as many.
        y = F.linear(x * self.gain, self.weight, self.bias * self.rate)
        return F.leaky_relu(y, LEAK) * GAIN if self.activate else y


class Conv(nn.Module):
    """Convolution with equalised learning rate and same-size padding, optionally through a leaky ReLU."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, *, activate: bool = False, bias: bool = True, gain: float = 1.0
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None
        self.padding = kernel // 2
        self.activate = activate
        self.bias_gain = gain * (GAIN if activate else 1.0)
        self.gain = self.bias_gain / math.sqrt(inputs * kernel**2)

    def forward(self, x: Tensor) -> Tensor:
        """x: [B, inputs, H, W] -> [B, outputs, H, W]."""
        bias = None if self.bias is None else self.bias * self.bias_gain
        y = F.conv2d(x, self.weight * self.gain, bias, padding=self.padding)
        return F.leaky_relu(y, LEAK) if self.activate else y


class ModulatedConv(nn.Module):
    """Convolution whose weights are scaled per sample by a style and demodulated (StyleGAN2, equations 1-3).

    The published layer makes weights w'_oik = s_i w_oik / sqrt(sum_ik (s_i w_oik)^2 + eps) for every sample, which
    needs a grouped convolution. Both factors commute with the convolution: scaling input channel i by s_i and output
    channel o by the root gives the same result with one ordinary convolution, 2-3 times as fast on a CPU.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, style_width: int, *, demodulate: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, kernel, kernel))
        self.affine = Linear(style_width, inputs, bias=1.0)
        self.padding = kernel // 2
        self.demodulate = demodulate
        self.gain = 1.0 / math.sqrt(inputs * kernel**2)

    def forward(self, x: Tensor, w: Tensor) -> tuple[Tensor, Tensor | None]:
        """Convolve the scaled input; leave the factor of the output to the caller, who fuses it with what follows.

        Args:
            x: [B, inputs, H, W].
            w: [B, style_width].

        Returns:
            The convolution [B, outputs, H, W], and its demodulation factors [B, outputs, 1, 1] (None without).
        """
        weight = self.weight * self.gain
        factor = None
        # What is as small as a style costs nothing in full precision, and is felt by every pixel.
        with torch.autocast(x.device.type, enabled=False):
            style = self.affine(w)
            if self.demodulate:
                power = style.square() @ weight.square().sum(dim=(2, 3)).T
                factor = torch.rsqrt(power + 1e-8)[:, :, None, None]
        return F.conv2d(x * style.to(x.dtype)[:, :, None, None], weight, padding=self.padding), factor


class StyledConv(nn.Module):
    """Modulated convolution, noise, bias and leaky ReLU: one layer of the synthesis network (StyleGAN2, figure 2c)."""

    def __init__(self, inputs: int, outputs: int, style_width: int, *, kernel: int = 3) -> None:
        super().__init__()
        self.convolution = ModulatedConv(inputs, outputs, kernel, style_width)
        self.noise_strength = nn.Parameter(torch.zeros(()))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor, w: Tensor, noise: Tensor | None) -> Tensor:
        """x: [B, inputs, H, W], w: [B, style_width], noise: [B, 1, H, W] or None -> [B, outputs, H, W]."""
        y, factor = self.convolution(x, w)
        bias = (self.bias * GAIN)[None, :, None, None]
        y = torch.addcmul(bias.to(y.dtype), y, (factor * GAIN).to(y.dtype))
        if noise is not None:
            y = y + (noise * (self.noise_strength * GAIN)).to(y.dtype)
        return F.leaky_relu(y, LEAK)


class ToRGB(nn.Module):
    """1x1 modulated convolution to three channels, without demodulation (StyleGAN2, section 4.1)."""

    def __init__(self, inputs: int, style_width: int) -> None:
        super().__init__()
        self.convolution = ModulatedConv(inputs, 3, 1, style_width, demodulate=False)
        self.bias = nn.Parameter(torch.zeros(3))

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        """x: [B, inputs, H, W], w: [B, style_width] -> [B, 3, H, W] in the weights' precision."""
        y: Tensor = self.convolution(x, w)[0]
        return y.to(self.bias.dtype) + self.bias[:, None, None]


def upsample(x: Tensor) -> Tensor:
    """[B, C, H, W] -> [B, C, 2H, 2W], bilinear, which is StyleGAN2's [1, 3, 3, 1] filter (but for the border)."""
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)


def downsample(x: Tensor, *, blur: bool = False) -> Tensor:
    """[B, C, H, W] -> [B, C, H/2, W/2] by averaging 2x2 pixels, or with `blur` by StyleGAN2's [1, 3, 3, 1] filter.

    That filter is three boxes of width 2 one after another, and boxes are fast where depthwise convolutions are not.
    """
    if blur:
        x = F.avg_pool2d(F.avg_pool2d(x, 2, stride=1, padding=1), 2, stride=1)
    return F.avg_pool2d(x, 2)


def minibatch_deviation(x: Tensor, group_size: int) -> Tensor:
    """Append one channel: the mean standard deviation over groups of samples (Karras et al. 2018, section 3).

    Groups are consecutive samples, so that a batch of reals followed by fakes never shares a group.

    Args:
        x: [B, C, H, W], B divisible by `group_size`.
        group_size: samples a group.

    Returns:
        [B, C + 1, H, W].
    """
    batch, channels, height, width = x.shape
    groups = x.reshape(batch // group_size, group_size, channels, height, width)
    deviation = (groups.var(dim=1, unbiased=False) + 1e-8).sqrt().mean(dim=(1, 2, 3))
    feature = deviation.repeat_interleave(group_size)[:, None, None, None].expand(batch, 1, height, width)
    return torch.cat([x, feature.to(x.dtype)], dim=1)
