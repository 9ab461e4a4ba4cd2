"""The discriminator: residual blocks and minibatch standard deviation (StyleGAN2, figure 7c, residual nets)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from gan.layers import Conv, Linear, downsample, minibatch_deviation

# Samples that one standard deviation is taken over; a batch is a multiple of it.
GROUP_SIZE = 4


class ResidualBlock(nn.Module):
    """Two convolutions and a shortcut, halving the resolution; the sum is scaled to keep its variance."""

    def __init__(self, inputs: int, outputs: int, *, blur: bool) -> None:
        super().__init__()
        half = math.sqrt(0.5)
        self.blur = blur
        self.first = Conv(inputs, inputs, 3, activate=True)
        self.second = Conv(inputs, outputs, 3, activate=True, gain=half)
        self.shortcut = Conv(inputs, outputs, 1, bias=False, gain=half)

    def forward(self, x: Tensor) -> Tensor:
        """x: [B, inputs, H, W] -> [B, outputs, H/2, W/2]."""
        y = self.second(downsample(self.first(x), blur=self.blur))
        return y + self.shortcut(downsample(x, blur=self.blur))


class Discriminator(nn.Module):
    """Pictures to logits, positive for real.

    Args:
        image_size: side of the picture, a power of two from 8.
        channels: resolution -> channels, for 4, 8, ..., `image_size`.
        blur: low-pass with [1, 3, 3, 1] before every halving instead of averaging 2x2.
    """

    def __init__(self, image_size: int, channels: dict[int, int], *, blur: bool) -> None:
        super().__init__()
        sizes = [2**power for power in range(image_size.bit_length() - 1, 2, -1)]
        self.from_rgb = Conv(3, channels[image_size], 1, activate=True)
        self.blocks = nn.Sequential(*(ResidualBlock(channels[size], channels[size // 2], blur=blur) for size in sizes))
        self.last = Conv(channels[4] + 1, channels[4], 3, activate=True)
        self.hidden = Linear(channels[4] * 16, channels[4], activate=True)
        self.logit = Linear(channels[4], 1)

    def forward(self, pictures: Tensor) -> Tensor:
        """pictures: [B, 3, S, S] in [-1, 1], B a multiple of GROUP_SIZE -> float32 logits [B]."""
        x = self.blocks(self.from_rgb(pictures.contiguous(memory_format=torch.channels_last)))
        # The end is small, and a loss on bfloat16's 8 bits is coarse: finish in the weights' precision.
        with torch.autocast(x.device.type, enabled=False):
            x = self.last(minibatch_deviation(x.to(self.logit.weight.dtype), GROUP_SIZE))
            logits: Tensor = self.logit(self.hidden(x.flatten(1)))
        return logits.squeeze(1)
