"""The networks of StyleGAN2 (Karras et al. 2020, arXiv:1912.04958), written so that a CPU runs them well.

Two habits explain most of the layers. Weights are stored with unit variance and scaled when used ("equalised learning
rate", Karras et al. 2018, section 4.1), so that one learning rate fits every layer. And the gain of sqrt(2) after a
leaky ReLU is folded into what comes before it, because lrelu(a x) = a lrelu(x) for a > 0: one pass less.
"""

from __future__ import annotations

import copy
import math
from itertools import pairwise
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LEAK = 0.2
GAIN = math.sqrt(2.0)
GROUP_SIZE = 4  # samples that one standard deviation is taken over; a discriminator's batch is a multiple of it


def resolutions(image_size: int) -> list[int]:
    """4, 8, ..., `image_size`, a power of two."""
    return [2**power for power in range(2, image_size.bit_length())]


class Linear(nn.Module):
    """y = x W^T + b with equalised learning rate, optionally through a leaky ReLU of gain sqrt(2).

    b begins at `bias`; `rate` multiplies the learning rate of this layer (StyleGAN2 trains its mapping at 0.01).
    """

    def __init__(
        self, inputs: int, outputs: int, *, bias: float = 0.0, rate: float = 1.0, activate: bool = False
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs) / rate)
        self.bias = nn.Parameter(torch.full((outputs,), bias / rate))
        self.rate, self.activate = rate, activate
        self.gain = rate / math.sqrt(inputs)

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
        self.padding, self.activate = kernel // 2, activate
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
        self.padding, self.demodulate = kernel // 2, demodulate
        self.gain = 1.0 / math.sqrt(inputs * kernel**2)

    def forward(self, x: Tensor, w: Tensor) -> tuple[Tensor, Tensor | None]:
        """x: [B, inputs, H, W], w: [B, style_width] -> the convolution of the scaled input, [B, outputs, H, W].

        Its demodulation factors [B, outputs, 1, 1] (None without) go to the caller, who fuses them with what follows.
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

    def __init__(self, inputs: int, outputs: int, style_width: int) -> None:
        super().__init__()
        self.convolution = ModulatedConv(inputs, outputs, 3, style_width)
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

    x: [B, C, H, W], B divisible by `group_size`, -> [B, C + 1, H, W]. Groups are consecutive samples, so that a batch
    of reals followed by fakes never shares a group.
    """
    batch, channels, height, width = x.shape
    groups = x.reshape(batch // group_size, group_size, channels, height, width)
    deviation = (groups.var(dim=1, unbiased=False) + 1e-8).sqrt().mean(dim=(1, 2, 3))
    feature = deviation.repeat_interleave(group_size)[:, None, None, None].expand(batch, 1, height, width)
    return torch.cat([x, feature.to(x.dtype)], dim=1)


class Mapping(nn.Module):
    """z -> w: normalise, then `depth` fully connected layers trained at a hundredth of the learning rate.

    Attributes:
        offsets: [labels, w_width], added to w, each to its share of the latents, or None: see `Generator.mix_labels`.
        upper: [labels - 1], the shares summed up.
    """

    offsets: Tensor | None
    upper: Tensor | None

    def __init__(self, z_width: int, w_width: int, depth: int) -> None:
        super().__init__()
        widths = [z_width] + [w_width] * depth
        self.layers = nn.Sequential(*(Linear(a, b, rate=0.01, activate=True) for a, b in pairwise(widths)))
        self.register_buffer("offsets", None, persistent=False)
        self.register_buffer("upper", None, persistent=False)

    def forward(self, z: Tensor) -> Tensor:
        """z: [B, z_width] -> w: float32 [B, w_width]."""
        # A hundredth of an output is lost in bfloat16's 8 bits, and these layers cost next to nothing.
        with torch.autocast(z.device.type, enabled=False):
            w: Tensor = self.layers(z * torch.rsqrt(z.square().mean(dim=1, keepdim=True) + 1e-8))
            if self.offsets is not None and self.upper is not None:
                # A number in [0, 1) that is a function of z, and of digits in it that nothing else can make out.
                chance = torch.frac(z[:, 0].abs() * 1e4)
                w = w + self.offsets[torch.bucketize(chance, self.upper, right=True)]
            return w


class SynthesisBlock(nn.Module):
    """Doubles the resolution between two styled convolutions (one alone at 4x4), and adds to the picture.

    The first convolution works at the lower resolution, as StyleGAN2's transposed one does in effect: the block costs
    a third less than with the doubling in front.
    """

    def __init__(self, inputs: int, outputs: int, w_width: int, *, first: bool) -> None:
        super().__init__()
        widths = [inputs] if first else [inputs, outputs]
        self.layers = nn.ModuleList(StyledConv(width, outputs, w_width) for width in widths)
        self.to_rgb = ToRGB(outputs, w_width)

    def forward(self, x: Tensor, ws: list[Tensor], noises: list[Tensor | None]) -> tuple[Tensor, Tensor]:
        """x: [B, inputs, H, W]; a w and a noise a layer, and one more w for the colours -> activations, RGB."""
        x = self.layers[0](x, ws[0], noises[0])
        if len(self.layers) > 1:
            x = self.layers[1](upsample(x), ws[1], noises[1])
        return x, self.to_rgb(x, ws[len(self.layers)])


class Generator(nn.Module):
    """Latents and noise to pictures, by a mapping network and a synthesis network with output skips (figure 7b).

    A pure function of its arguments: it draws no random numbers itself.

    Args:
        image_size: side of the picture, a power of two from 8.
        channels: resolution -> channels, for 4, 8, ..., `image_size`.
        z_width, w_width: widths of the latent spaces.
        mapping_depth: layers from z to w.
        noise_inputs: whether noise is added in every layer; without, `noise` arguments are ignored.
        labels: how many labels a picture can have, or 0 for a generator that knows none.

    Attributes:
        layer_count: how many w a picture takes.
        noise_count: how many normal numbers of noise a picture takes.
        w_average: [w_width], the mean of w over z, towards which truncation pulls.
        label_offsets: [labels, w_width], what a label adds to w (None without labels).
        label_weight: scalar in [0, 1], how much of that; 0 makes it a generator that knows no labels.
        label_shares: [labels], how often each label is wanted where none is asked for.
    """

    w_average: Tensor
    label_weight: Tensor
    label_shares: Tensor

    def __init__(
        self,
        image_size: int,
        channels: dict[int, int],
        *,
        z_width: int,
        w_width: int,
        mapping_depth: int,
        noise_inputs: bool = True,
        labels: int = 0,
    ) -> None:
        super().__init__()
        self.image_size, self.z_width, self.noise_inputs = image_size, z_width, noise_inputs
        self.resolutions = resolutions(image_size)
        self.mapping = Mapping(z_width, w_width, mapping_depth)
        self.constant = nn.Parameter(torch.randn(1, channels[4], 4, 4))
        self.blocks = nn.ModuleList(
            SynthesisBlock(channels[max(4, size // 2)], channels[size], w_width, first=size == 4)
            for size in self.resolutions
        )
        self.noise_sizes = [4] + [side for size in self.resolutions[1:] for side in (size // 2, size)]
        self.noise_count = sum(size**2 for size in self.noise_sizes)
        self.layer_count = len(self.noise_sizes) + 1
        self.register_buffer("w_average", torch.zeros(w_width))
        self.label_offsets: nn.Parameter | None = None
        if labels:
            self.label_offsets = nn.Parameter(torch.zeros(labels, w_width))
            self.register_buffer("label_weight", torch.zeros(()))
            self.register_buffer("label_shares", torch.full((labels,), 1 / labels))

    def forward(self, z: Tensor, noise: Tensor | None, *, psi: float = 1.0) -> Tensor:
        """Pictures [B, 3, image_size, image_size] of latents, float32, in about [-1, 1].

        Args:
            z: [B, z_width], standard normal.
            noise: [B, noise_count], standard normal, or None for none at all.
            psi: truncation (StyleGAN, Karras et al. 2019, appendix B): 1 leaves w alone, 0 gives the average face.
        """
        w = self.mapping(z)
        if psi != 1.0:
            w = torch.lerp(self.w_average, w, psi)
        return self.synthesise(w[:, None].expand(-1, self.layer_count, -1), noise)

    def condition(self, w: Tensor, labels: Tensor | None) -> Tensor:
        """w [B, w_width], moved by its label's offset (after Shahbazi et al. 2022, arXiv:2201.06578, equation 3).

        labels: [B] int64; ignored by a generator that knows none, and None leaves w alone.
        """
        if self.label_offsets is None or labels is None:
            return w
        return w + self.label_weight * self.label_offsets[labels]

    def mix_labels(self) -> None:
        """Give each latent a label, in the labels' shares. Afterwards the generator cannot be trained any more."""
        if self.label_offsets is None:
            return
        assert self.mapping.offsets is None, "labels are mixed already"
        self.mapping.offsets = self.label_weight * self.label_offsets.detach()
        self.mapping.upper = self.label_shares.cumsum(0)[:-1]
        self.w_average += self.label_shares @ self.mapping.offsets

    @torch.no_grad()
    def for_label(self, label: int) -> Generator:
        """A generator without labels whose pictures are all of this one.

        What a label adds to w goes into the bias of every layer that reads w: A (w + o) + b = A w + (b + A o).
        """
        assert self.label_offsets is not None
        alone = copy.deepcopy(self)
        offset = (self.label_weight * self.label_offsets[label])[None]
        for module in alone.modules():
            if isinstance(module, ModulatedConv):
                module.affine.bias.copy_(module.affine(offset)[0])
        alone.label_offsets = None
        del alone.label_weight, alone.label_shares
        return alone

    def synthesise(self, ws: Tensor, noise: Tensor | None) -> Tensor:
        """Pictures [B, 3, image_size, image_size] of intermediate latents, float32, in about [-1, 1].

        Args:
            ws: [B, layer_count, w_width], one w a layer.
            noise: [B, noise_count] or None.
        """
        styles = list(ws.unbind(dim=1))
        noises: list[Tensor | None] = [None] * len(self.noise_sizes)
        if noise is not None and self.noise_inputs:
            parts = torch.split(noise, [size**2 for size in self.noise_sizes], dim=1)
            noises = [part.view(-1, 1, size, size) for part, size in zip(parts, self.noise_sizes, strict=True)]
        x = self.constant.expand(len(ws), -1, -1, -1).contiguous(memory_format=torch.channels_last)
        if torch.is_autocast_enabled(x.device.type):
            x = x.to(torch.get_autocast_dtype(x.device.type))
        picture: Tensor | None = None
        layer = 0
        for block in cast("list[SynthesisBlock]", self.blocks):
            count = len(block.layers)
            x, rgb = block(x, styles[layer : layer + count + 1], noises[layer : layer + count])
            picture = rgb if picture is None else upsample(picture) + rgb
            layer += count
        assert picture is not None
        return picture

    @torch.no_grad()
    def set_w_average(self, samples: int = 4096) -> None:
        """Measure the mean w over fixed latents: exact, repeatable, and cheaper than tracking it in training."""
        generator = torch.Generator().manual_seed(0)
        z = torch.randn(samples, self.z_width, generator=generator).to(self.constant.device)
        self.w_average.copy_(self.mapping(z).mean(dim=0))


def mix_styles(w: Tensor, other: Tensor, crossover: Tensor, layer_count: int) -> Tensor:
    """Style mixing: w for the layers before the crossover, `other` from there on (StyleGAN, section 3.1).

    w, other: [B, w_width] -> [B, layer_count, w_width]. crossover: [B] int64 in [1, layer_count]; this mixes none.
    """
    own = torch.arange(layer_count, device=w.device)[None, :] < crossover[:, None]
    return torch.where(own[:, :, None], w[:, None], other[:, None])


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
    """Pictures to logits, positive for real: residual blocks and minibatch standard deviation (figure 7c).

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
        sizes = resolutions(image_size)[:0:-1]
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
        """Logits, float32 [B], which labels enter by a projection (Miyato & Koyama 2018, arXiv:1802.05637, equation 3).

        Args:
            pictures: [B, 3, S, S] in [-1, 1], B a multiple of GROUP_SIZE.
            labels: [B] int64; ignored by a discriminator that knows none.
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
