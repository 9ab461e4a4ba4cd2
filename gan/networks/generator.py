"""The generator: a mapping network and a synthesis network with output skips (StyleGAN2, figure 7b)."""

from __future__ import annotations

import copy
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn

from gan.networks.layers import Linear, ModulatedConv, StyledConv, ToRGB, upsample


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
        count = 1 if first else 2
        self.layers = nn.ModuleList(StyledConv(inputs if i == 0 else outputs, outputs, w_width) for i in range(count))
        self.to_rgb = ToRGB(outputs, w_width)

    def forward(self, x: Tensor, ws: list[Tensor], noises: list[Tensor | None]) -> tuple[Tensor, Tensor]:
        """x: [B, inputs, H, W]; a w and a noise a layer, and one more w for the colours -> activations, RGB."""
        x = self.layers[0](x, ws[0], noises[0])
        if len(self.layers) > 1:
            x = self.layers[1](upsample(x), ws[1], noises[1])
        return x, self.to_rgb(x, ws[len(self.layers)])


class Generator(nn.Module):
    """Latents and noise to pictures. A pure function of its arguments: it draws no random numbers itself.

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
        self.image_size = image_size
        self.z_width, self.w_width = z_width, w_width
        self.noise_inputs = noise_inputs
        self.resolutions = [2**power for power in range(2, image_size.bit_length())]
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
        """Pictures of latents.

        Args:
            z: [B, z_width], standard normal.
            noise: [B, noise_count], standard normal, or None for none at all.
            psi: truncation (StyleGAN, Karras et al. 2019, appendix B): 1 leaves w alone, 0 gives the average face.

        Returns:
            [B, 3, image_size, image_size] float32, in about [-1, 1].
        """
        w = self.mapping(z)
        if psi != 1.0:
            w = torch.lerp(self.w_average, w, psi)
        return self.synthesise(w[:, None].expand(-1, self.layer_count, -1), noise)

    def condition(self, w: Tensor, labels: Tensor | None) -> Tensor:
        """w of some labels: moved by the label's offset (after Shahbazi et al. 2022, arXiv:2201.06578, equation 3).

        Args:
            w: [B, w_width].
            labels: [B] int64; ignored by a generator that knows none, and None leaves w alone.

        Returns:
            [B, w_width].
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
        """Pictures of intermediate latents.

        Args:
            ws: [B, layer_count, w_width], one w a layer.
            noise: [B, noise_count] or None.

        Returns:
            [B, 3, image_size, image_size] float32, in about [-1, 1].
        """
        batch = ws.shape[0]
        styles = list(ws.unbind(dim=1))
        noises = self._split(noise)
        x = self.constant.expand(batch, -1, -1, -1).contiguous(memory_format=torch.channels_last)
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

    def _split(self, noise: Tensor | None) -> list[Tensor | None]:
        if noise is None or not self.noise_inputs:
            return [None] * len(self.noise_sizes)
        parts = torch.split(noise, [size**2 for size in self.noise_sizes], dim=1)
        return [part.view(-1, 1, size, size) for part, size in zip(parts, self.noise_sizes, strict=True)]

    @torch.no_grad()
    def set_w_average(self, samples: int = 4096) -> None:
        """Measure the mean w over fixed latents: exact, repeatable, and cheaper than tracking it in training."""
        generator = torch.Generator().manual_seed(0)
        z = torch.randn(samples, self.z_width, generator=generator).to(self.constant.device)
        self.w_average.copy_(self.mapping(z).mean(dim=0))


def mix_styles(w: Tensor, other: Tensor, crossover: Tensor, layer_count: int) -> Tensor:
    """Style mixing: w for the layers before the crossover, `other` from there on (StyleGAN, section 3.1).

    Args:
        w, other: [B, w_width].
        crossover: [B] int64 in [1, layer_count]; `layer_count` mixes nothing.
        layer_count: layers of the synthesis network.

    Returns:
        [B, layer_count, w_width].
    """
    own = torch.arange(layer_count, device=w.device)[None, :] < crossover[:, None]
    return torch.where(own[:, :, None], w[:, None], other[:, None])
