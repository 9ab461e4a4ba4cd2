"""Forensic features beside RGB: small branches over fixed transforms, fused late with what a backbone sees.

A branch turns the pixels into maps or figures from which the face is gone (noise residuals, a spectrum, local texture),
and a small network into 64 numbers. They stand beside the backbone's pooled features, and one linear layer reads all of
them: whatever the branches add, the backbone's part is the same as without them. A generator, a blend and a resampler
each leave their own residual, which a network that was trained on ImageNet has learnt to look past.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from classifier.models.backbones import Backbone, head, pooled
from core.errors import UserError

WIDTH = 64  # of what each branch adds to the head's input
NONE = "none"
RINGS = 32
BLOCK = 8  # side of JPEG's blocks
_FLOOR = 1 / 12  # variance of rounding to whole grey levels: below it there is nothing to see
_CORNER = 0.5**0.5  # the highest frequency, in cycles a pixel
SRM_MAPS, TEXTURE_MAPS = 30, 11
TRUNCATION = 3.0  # grey levels; beyond it a residual is an edge and no noise (Ye et al. 2017, truncated linear unit)

# Steps (row, column) to the eight neighbours, clockwise from the right one.
_DIRECTIONS = ((0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1), (-1, 0), (-1, 1))
_SQUARE_3 = ((-1, 2, -1), (2, -4, 2), (-1, 2, -1))
_SQUARE_5 = ((-1, 2, -2, 2, -1), (2, -6, 8, -6, 2), (-2, 8, -12, 8, -2), (2, -6, 8, -6, 2), (-1, 2, -2, 2, -1))
# ITU-R BT.601: grey, and the two colour differences.
_YCC = ((0.299, 0.587, 0.114), (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312))


class ForensicNetwork(nn.Module):
    """Normalised images [B, 3, S, S] -> [B, 1], as a timm network, and with the parts of its interface that we use.

    Attributes:
        backbone: the timm network, its classifier taken off.
        branches: by kind.
        classifier: the head, [F + 64 * branches] -> [1].
    """

    mean: Tensor
    std: Tensor

    def __init__(self, backbone: nn.Module, kinds: Iterable[str], row: Backbone, image_size: int) -> None:
        super().__init__()
        plain = head(backbone)
        backbone.reset_classifier(0)  # type: ignore[operator]
        self.backbone = backbone
        self.branches = nn.ModuleDict({kind: BRANCHES[kind](image_size) for kind in kinds})
        self.classifier = nn.Linear(plain.in_features + WIDTH * len(self.branches), 1)
        nn.init.normal_(self.classifier.weight, std=0.01)
        with torch.no_grad():
            self.classifier.weight[:, : plain.in_features] = plain.weight
            assert plain.bias is not None
            self.classifier.bias.copy_(plain.bias)
        self.register_buffer("mean", torch.tensor(row.mean).reshape(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(row.std).reshape(3, 1, 1), persistent=False)

    def fused(self, seen: Tensor, images: Tensor) -> Tensor:
        """[B, F + 64 * branches] input of the head, of the backbone's features [B, F] and normalised images."""
        if torch.is_autocast_enabled(images.device.type):
            with torch.autocast(images.device.type, enabled=False):  # residuals are finer than bfloat16's steps
                fixed = self._fixed(images.float())
        else:  # a program that is exported has no autocast, and may not name it
            fixed = self._fixed(images)
        branches = [cast("_Branch", branch)(each) for branch, each in zip(self.branches.values(), fixed, strict=True)]
        return torch.cat([seen.float(), *(each.float() for each in branches)], dim=1)

    def _fixed(self, images: Tensor) -> list[Tensor]:
        pixels = (images * self.std + self.mean) * 255
        return [cast("_Branch", branch).transform(pixels) for branch in self.branches.values()]

    def forward_features(self, images: Tensor) -> Tensor:
        """[B, F + 64 * branches] input of the head."""
        return self.fused(pooled(self.backbone, images), images)

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        """The logit [B, 1], or the head's input as it is."""
        return features if pre_logits else cast("Tensor", self.classifier(features))

    def forward(self, images: Tensor) -> Tensor:
        """See the class."""
        return self.forward_head(self.forward_features(images))

    def get_classifier(self) -> nn.Module:
        """The head."""
        return self.classifier


def kinds_of(text: str) -> tuple[str, ...]:
    """The branches that "none", "srm" or "srm+texture" names, in the order of BRANCHES.

    Raises:
        UserError: there is no such branch, or one is named twice.
    """
    named = [] if text == NONE else text.split("+")
    for kind in named:
        if kind not in BRANCHES or named.count(kind) > 1:
            raise UserError(
                f"forensics {text!r} is not to be had: give none, or some of {', '.join(BRANCHES)} joined by +"
            )
    return tuple(kind for kind in BRANCHES if kind in named)


def backbone_of(module: nn.Module) -> nn.Module:
    """The timm network that looks at RGB: the backbone of a ForensicNetwork, any other network itself."""
    return module.backbone if isinstance(module, ForensicNetwork) else module


class _Branch(nn.Module):
    """A fixed transform of the pixels [B, 3, S, S] in [0, 255], and a network over it that learns: [B, 64]."""

    network: nn.Module

    def transform(self, pixels: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, fixed: Tensor) -> Tensor:
        return cast("Tensor", self.network(fixed))


class _Maps(_Branch):
    """Maps of the same size as the picture, and three convolutions over them."""

    kernels: Tensor

    def __init__(self, maps: Callable[[Tensor, Tensor], Tensor], channels: int) -> None:
        super().__init__()
        self.maps = maps
        self.register_buffer("kernels", srm_kernels(), persistent=False)
        layers: list[nn.Module] = []
        for before, after in pairwise((channels, 32, 48, WIDTH)):
            layers += [nn.Conv2d(before, after, 3, 2, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
        self.network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())

    def transform(self, pixels: Tensor) -> Tensor:
        return self.maps(pixels, self.kernels)


class _Frequencies(_Branch):
    """Figures of the spectrum, each standardised over the faces, and a layer over them."""

    def __init__(self, image_size: int) -> None:
        super().__init__()
        self.spectrum = Spectrum(image_size)
        width = self.spectrum.width
        self.network = nn.Sequential(_Standardised(width), nn.Linear(width, WIDTH), nn.ReLU())

    def transform(self, pixels: Tensor) -> Tensor:
        return cast("Tensor", self.spectrum(grey(pixels)))


class _Standardised(nn.BatchNorm1d):
    """Batch norm that takes a batch of one face by the statistics so far, where torch's refuses it."""

    def forward(self, x: Tensor) -> Tensor:
        if self.training and len(x) == 1:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        return super().forward(x)


def srm_kernels() -> Tensor:
    """[30, 1, 5, 5] linear filters of the spatial rich model (Fridrich & Kodovsky 2012, figure 1).

    8 differences of the first order, 4 of the second, 8 of the third, the square and 4 edges of 3 x 3, and the same of
    5 x 5; each divided by the size of its weight at the centre, as the model does it.
    """
    kernels = [_along(direction, {0: -1, 1: 1}, 1) for direction in _DIRECTIONS]
    kernels += [_along(direction, {-1: 1, 0: -2, 1: 1}, 2) for direction in _DIRECTIONS[:4]]
    kernels += [_along(direction, {-1: 1, 0: -3, 1: 3, 2: -1}, 3) for direction in _DIRECTIONS]
    for square, size in ((torch.tensor(_SQUARE_3), 4), (torch.tensor(_SQUARE_5), 12)):
        whole = F.pad(square.float() / size, (2 - len(square) // 2,) * 4)
        edge = whole.clone()
        edge[3:] = 0  # the centre's row and those above it
        kernels += [whole, *(torch.rot90(edge, turns) for turns in range(4))]
    return torch.stack(kernels)[:, None]


def srm_maps(pixels: Tensor, kernels: Tensor) -> Tensor:
    """[B, 30, H, W] residuals in [-1, 1] of pixels [B, 3, H, W] in [0, 255]: truncated, then divided by the bound."""
    padded = F.pad(grey(pixels), (2,) * 4, mode="reflect")
    return F.conv2d(padded, kernels).clamp(-TRUNCATION, TRUNCATION) / TRUNCATION


def texture_maps(pixels: Tensor, kernels: Tensor) -> Tensor:
    """[B, 11, H, W] of pixels [B, 3, H, W] in [0, 255]: eight bits of a local binary pattern, and three gradients.

    The bits (Ojala et al. 2002: is the neighbour brighter than the centre?) are softened to d / (1 + |d|) in (-1, 1),
    d in grey levels, so that gradients flow through them. The gradients are log(1 + magnitude) of grey and of both
    colour differences, by central differences.

    Args:
        pixels: see above.
        kernels: those of `srm_kernels`, the first eight of which are the differences to the neighbours.
    """
    planes = F.pad(_ycc(pixels), (2,) * 4, mode="reflect")
    differences = F.conv2d(planes[:, :1], kernels[:8])
    bits = differences / (1 + differences.abs())
    inner = planes[:, :, 1:-1, 1:-1]
    across = (inner[:, :, 1:-1, 2:] - inner[:, :, 1:-1, :-2]) / 2
    down = (inner[:, :, 2:, 1:-1] - inner[:, :, :-2, 1:-1]) / 2
    # The tiny addend gives the root a slope at zero.
    return torch.cat([bits, torch.log1p((across.square() + down.square() + 1e-6).sqrt())], dim=1)


def grey(pixels: Tensor) -> Tensor:
    """[B, 1, H, W] luma of RGB [B, 3, H, W], in the same range."""
    return _ycc(pixels)[:, :1]


def _ycc(pixels: Tensor) -> Tensor:
    matrix = torch.tensor(_YCC, dtype=pixels.dtype, device=pixels.device)
    return F.conv2d(pixels, matrix[:, :, None, None])


def _along(direction: tuple[int, int], weights: dict[int, int], size: int) -> Tensor:
    """[5, 5] with weights / size at so many steps from the centre."""
    kernel = torch.zeros(5, 5)
    for steps, weight in weights.items():
        kernel[2 + steps * direction[0], 2 + steps * direction[1]] = weight / size
    return kernel


class Spectrum(nn.Module):
    """Grey [B, 1, S, S] in [0, 255] -> [B, width], all logarithms.

    For each ring of frequencies the mean log power, and by how much the log of the mean power lies above it (0 for a
    flat ring; large where few frequencies carry it, as periodic artefacts do). For each of the 63 coefficients of an
    8 x 8 block but the mean, the mean log magnitude over the blocks.
    """

    cosine: Tensor
    sine: Tensor
    window: Tensor
    rings: Tensor
    basis: Tensor

    def __init__(self, image_size: int) -> None:
        super().__init__()
        places = torch.arange(image_size, dtype=torch.float64)
        angle = 2 * math.pi / image_size * (torch.outer(places, places) % image_size)
        hann = torch.sin(math.pi * (places + 0.5) / image_size).square()
        window = torch.outer(hann, hann)
        half = image_size // 2 + 1  # of a real picture the other columns are the same again
        ring, count = _rings(image_size, half)
        weights = F.one_hot(ring.flatten(), count).T.double()
        tables = {
            "cosine": angle.cos(),
            "sine": angle.sin(),
            "window": window / window.square().sum().sqrt(),  # white noise of variance v has the mean power v
            "rings": weights / weights.sum(dim=1, keepdim=True),
            "basis": dct_basis(),
        }
        for name, table in tables.items():
            self.register_buffer(name, table.float(), persistent=False)
        self.columns = half
        self.width = 2 * count + BLOCK * BLOCK - 1

    def forward(self, grey: Tensor) -> Tensor:
        """See the class."""
        power = self.power(grey).flatten(1)
        mean_of_log = torch.log(power + _FLOOR) @ self.rings.T
        log_of_mean = torch.log(power @ self.rings.T + _FLOOR)
        blocks = torch.log(F.conv2d(grey, self.basis, stride=BLOCK).abs() + _FLOOR**0.5).mean(dim=(2, 3))
        return torch.cat([mean_of_log, log_of_mean - mean_of_log, blocks[:, 1:]], dim=1)

    def power(self, grey: Tensor) -> Tensor:
        """[B, S, S // 2 + 1] |F|^2 of the windowed picture without its mean: what `torch.fft.rfft2` would give."""
        x = (grey[:, 0] - grey.mean(dim=(1, 2, 3))[:, None, None]) * self.window
        cosine, sine = x @ self.cosine[:, : self.columns], x @ self.sine[:, : self.columns]
        real = self.cosine @ cosine - self.sine @ sine
        imaginary = self.cosine @ sine + self.sine @ cosine
        return real.square() + imaginary.square()


def dct_basis() -> Tensor:
    """[64, 1, 8, 8] float64 orthonormal basis of the two-dimensional DCT-II, in the order of rows and columns."""
    steps = torch.arange(BLOCK, dtype=torch.float64)
    line = torch.cos(math.pi / BLOCK * torch.outer(steps, steps + 0.5)) * math.sqrt(2 / BLOCK)
    line[0] /= math.sqrt(2)
    return torch.einsum("ux,vy->uvxy", line, line).reshape(BLOCK * BLOCK, 1, BLOCK, BLOCK)


def _rings(image_size: int, half: int) -> tuple[Tensor, int]:
    """[S, half] the ring that each frequency falls into, and how many rings there are, none of them empty."""
    down = torch.fft.fftfreq(image_size, dtype=torch.float64)
    across = torch.arange(half, dtype=torch.float64) / image_size
    radius = torch.hypot(down[:, None], across[None])
    most = min(RINGS, image_size // 2)
    ring = (radius / _CORNER * most).long().clamp(max=most - 1)
    kept, ring = torch.unique(ring, return_inverse=True)
    return ring, len(kept)


BRANCHES: dict[str, Callable[[int], _Branch]] = {
    "srm": lambda _: _Maps(srm_maps, SRM_MAPS),
    "spectrum": _Frequencies,
    "texture": lambda _: _Maps(texture_maps, TEXTURE_MAPS),
}
