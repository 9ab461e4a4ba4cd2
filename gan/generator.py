"""The generator: a mapping network and a synthesis network with output skips (StyleGAN2, figure 7b)."""

from __future__ import annotations

from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn

from gan.layers import Linear, StyledConv, ToRGB, upsample


class Mapping(nn.Module):
    """z -> w: normalise, then `depth` fully connected layers trained at a hundredth of the learning rate."""

    def __init__(self, z_width: int, w_width: int, depth: int) -> None:
        super().__init__()
        widths = [z_width] + [w_width] * depth
        self.layers = nn.Sequential(*(Linear(a, b, rate=0.01, activate=True) for a, b in pairwise(widths)))

    def forward(self, z: Tensor) -> Tensor:
        """z: [B, z_width] -> w: float32 [B, w_width]."""
        # A hundredth of an output is lost in bfloat16's 8 bits, and these layers cost next to nothing.
        with torch.autocast(z.device.type, enabled=False):
            z = z * torch.rsqrt(z.square().mean(dim=1, keepdim=True) + 1e-8)
            w: Tensor = self.layers(z)
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

    Attributes:
        layer_count: how many w a picture takes.
        noise_count: how many normal numbers of noise a picture takes.
        w_average: [w_width], the mean of w over z, towards which truncation pulls.
    """

    w_average: Tensor

    def __init__(
        self,
        image_size: int,
        channels: dict[int, int],
        *,
        z_width: int,
        w_width: int,
        mapping_depth: int,
        noise_inputs: bool = True,
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
