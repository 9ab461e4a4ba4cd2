"""The discriminator: residual blocks and minibatch standard deviation (StyleGAN2, figure 7c, residual nets)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from gan.networks.layers import Conv, Linear, downsample, minibatch_deviation

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
        labels: how many labels a picture can have, or 0.

    Attributes:
        label_weight: scalar in [0, 1], how much a picture's label weighs in its logit.
    """

    label_weight: Tensor

    def __init__(self, image_size: int, channels: dict[int, int], *, blur: bool, labels: int = 0) -> None:
        super().__init__()
        sizes = [2**power for power in range(image_size.bit_length() - 1, 2, -1)]
        self.from_rgb = Conv(3, channels[image_size], 1, activate=True)
        self.blocks = nn.Sequential(*(ResidualBlock(channels[size], channels[size // 2], blur=blur) for size in sizes))
        self.last = Conv(channels[4] + 1, channels[4], 3, activate=True)
        self.hidden = Linear(channels[4] * 16, channels[4], activate=True)
        self.logit = Linear(channels[4], 1)
        self.label_directions: nn.Parameter | None = None
        if labels:
            self.label_directions = nn.Parameter(torch.zeros(labels, channels[4]))
            self.register_buffer("label_weight", torch.zeros(()))

    def forward(self, pictures: Tensor, labels: Tensor | None = None) -> Tensor:
        """Logits, which labels enter by a projection (Miyato & Koyama 2018, arXiv:1802.05637, equation 3).

        Args:
            pictures: [B, 3, S, S] in [-1, 1], B a multiple of GROUP_SIZE.
            labels: [B] int64; ignored by a discriminator that knows none.

        Returns:
            float32 [B].
        """
        x = self.blocks(self.from_rgb(pictures.contiguous(memory_format=torch.channels_last)))
        x = self.last(minibatch_deviation(x.to(self.logit.weight.dtype), GROUP_SIZE))
        # The end is small, and a loss on bfloat16's 8 bits is coarse: finish in the weights' precision.
        with torch.autocast(x.device.type, enabled=False):
            seen = self.hidden(x.to(self.logit.weight.dtype).flatten(1))
            logits: Tensor = self.logit(seen).squeeze(1)
            if self.label_directions is not None and labels is not None:
                agreement = (seen * self.label_directions[labels]).sum(dim=1) / math.sqrt(seen.shape[1])
                logits = logits + self.label_weight * agreement
        return logits
