"""Augmentation of what the discriminator sees, real and fake alike, so that few faces cannot be learnt by heart.

Every operation happens to each picture with probability p. While p stays below about 0.8 the generator does not learn
to imitate the augmentation (Karras et al. 2020, arXiv:2006.06676, section 2.2). All geometry is one affine map and one
resampling, all colour is one 3x4 matrix: a batch costs a few operations, and gradients pass through.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

# Grey, the axis of luminance, in RGB.
_GREY = 1.0 / math.sqrt(3.0)


class Rows(NamedTuple):
    """Which rows of a larger batch the pictures are: theirs are the random numbers that they would get within it."""

    picked: Tensor  # [B] int64, on the pictures' device
    total: int


def adaptive(pictures: Tensor, probability: float, generator: torch.Generator, rows: Rows | None = None) -> Tensor:
    """ADA's pipeline of flips, affine maps, colour and cutout (Karras et al. 2020, appendix B; 'bgc' and cutout).

    Left out: quarter turns (a face is never seen on its side) and the 6-tap wavelet resampling (bilinear here).

    Args:
        pictures: [B, 3, S, S] in [-1, 1]; the result is differentiable in them.
        probability: p in [0, 1] of each operation on each picture; 0 returns the pictures as they are.
        generator: random numbers, on the pictures' device.
        rows: of which larger batch these pictures are a part; none by default.
    """
    if probability <= 0.0:
        return pictures
    draw = _Draw(pictures, probability, generator, rows)
    flip = draw.where(torch.sign(draw.uniform() - 0.5), 1.0)
    scale = draw.where(torch.exp2(0.2 * draw.normal()), 1.0)
    stretch = draw.where(torch.exp2(0.2 * draw.normal()), 1.0)
    angle = draw.where((draw.uniform() * 2 - 1) * math.pi, 0.0, draw.probability_of_two)
    angle_after = draw.where((draw.uniform() * 2 - 1) * math.pi, 0.0, draw.probability_of_two)
    # In units of half a picture. Whole-pixel and fractional translations of the paper in one.
    shift_x = draw.where(0.25 * draw.normal(), 0.0)
    shift_y = draw.where(0.25 * draw.normal(), 0.0)
    stretched = torch.diag_embed(torch.stack([flip * scale * stretch, scale / stretch], 1))
    matrix = _rotation(angle) @ stretched @ _rotation(angle_after)
    pictures = _warp(pictures, matrix, torch.stack([shift_x, shift_y], 1))

    brightness = draw.where(0.2 * draw.normal(), 0.0)
    contrast = draw.where(torch.exp2(0.5 * draw.normal()), 1.0)
    luma_flip = draw.where(torch.sign(draw.uniform() - 0.5), 1.0)
    hue = draw.where((draw.uniform() * 2 - 1) * math.pi, 0.0)
    saturation = draw.where(torch.exp2(draw.normal()), 1.0)
    pictures = _recolour(pictures, _colour(contrast, luma_flip, hue, saturation), brightness * 2)

    return _cut(pictures, draw.where(torch.full_like(brightness, 0.5), 0.0), draw.uniform(), draw.uniform())


def diffaugment(pictures: Tensor, generator: torch.Generator, rows: Rows | None = None) -> Tensor:
    """DiffAugment's colour, translation and cutout, on every picture (Zhao et al. 2020, arXiv:2006.10738, section 4).

    The arguments are those of `adaptive`.
    """
    draw = _Draw(pictures, 1.0, generator, rows)
    brightness = draw.uniform() - 0.5
    saturation = draw.uniform() * 2
    contrast = draw.uniform() + 0.5
    ones = torch.ones_like(brightness)
    # Contrast goes about the picture's own mean here, about grey in ADA.
    mean = pictures.mean(dim=(1, 2, 3))
    colour = _colour(contrast, ones, 0 * ones, saturation)
    pictures = _recolour(pictures, colour, brightness + mean * (1 - contrast))
    side = pictures.shape[-1]
    reach = side // 8
    shift = torch.stack([torch.floor(draw.uniform() * (2 * reach + 1)) - reach for _ in range(2)], dim=1) * 2 / side
    pictures = _warp(pictures, torch.eye(2, device=shift.device).expand(len(shift), 2, 2), shift, padding="zeros")
    return _cut(pictures, ones * 0.5, draw.uniform(), draw.uniform())


def next_probability(
    probability: float, overfitting: float, *, target: float, pictures: int, kimg_from_0_to_1: float
) -> float:
    """ADA's controller: one fixed step up if the discriminator overfits, else down (Karras et al. 2020, section 3).

    Args:
        probability: p in [0, 1].
        overfitting, target: r_t in [-1, 1], as measured and to steer for.
        pictures: real pictures shown since the last adjustment.
        kimg_from_0_to_1: how long a climb from 0 to 1 takes, in thousands of pictures.
    """
    step = pictures / (kimg_from_0_to_1 * 1000)
    return min(1.0, max(0.0, probability + math.copysign(step, overfitting - target)))


class _Draw:
    """Random numbers for a batch, [B] each."""

    def __init__(self, pictures: Tensor, probability: float, generator: torch.Generator, rows: Rows | None) -> None:
        self.device, self.generator = pictures.device, generator
        self.total = rows.total if rows else pictures.shape[0]
        self.picked = rows.picked if rows else slice(None)
        self.probability = probability
        # Two rotations, before and after the stretch, that together happen with p (ADA, appendix B).
        self.probability_of_two = 1.0 - math.sqrt(1.0 - probability)

    def uniform(self) -> Tensor:
        return torch.rand(self.total, device=self.device, generator=self.generator)[self.picked]

    def normal(self) -> Tensor:
        return torch.randn(self.total, device=self.device, generator=self.generator)[self.picked]

    def where(self, value: Tensor, otherwise: float, probability: float | None = None) -> Tensor:
        chance = self.probability if probability is None else probability
        return torch.where(self.uniform() < chance, value, otherwise)


def _rotation(angle: Tensor) -> Tensor:
    cos, sin = angle.cos(), angle.sin()
    return torch.stack([torch.stack([cos, -sin], 1), torch.stack([sin, cos], 1)], 1)


def _warp(pictures: Tensor, matrix: Tensor, shift: Tensor, padding: str = "reflection") -> Tensor:
    """Under the affine maps [B, 2, 2] and shifts [B, 2], in units of half a picture."""
    grid = F.affine_grid(torch.cat([matrix, shift[:, :, None]], dim=2), list(pictures.shape), align_corners=False)
    return F.grid_sample(pictures, grid, mode="bilinear", padding_mode=padding, align_corners=False)


def _colour(contrast: Tensor, luma_flip: Tensor, hue: Tensor, saturation: Tensor) -> Tensor:
    """[B, 3, 3]: contrast, flip of luminance, hue (a turn about the grey axis) and saturation, in that order."""
    batch, device = contrast.shape[0], contrast.device
    grey = torch.full((3, 1), _GREY, device=device)
    project = (grey @ grey.T).expand(batch, 3, 3)
    eye = torch.eye(3, device=device).expand(batch, 3, 3)
    cross = torch.tensor([[0.0, -1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]], device=device) * _GREY
    cos, sin = hue.cos()[:, None, None], hue.sin()[:, None, None]
    turn = cos * eye + sin * cross + (1 - cos) * project  # Rodrigues' formula
    flip = eye - (1 - luma_flip)[:, None, None] * project
    saturate = project + saturation[:, None, None] * (eye - project)
    return saturate @ turn @ flip * contrast[:, None, None]


def _recolour(pictures: Tensor, matrix: Tensor, offset: Tensor) -> Tensor:
    """Each picture's colours times a matrix [B, 3, 3], plus an offset [B] of all three channels."""
    flat = torch.baddbmm(offset[:, None, None].expand(-1, 3, 1), matrix, pictures.flatten(2))
    return flat.view_as(pictures)


def _cut(pictures: Tensor, size: Tensor, centre_x: Tensor, centre_y: Tensor) -> Tensor:
    """Blank a square of `size` (share of the side, 0 for none) around a centre in [0, 1]."""
    side = pictures.shape[-1]
    axis = (torch.arange(side, device=pictures.device) + 0.5) / side
    outside_x = (axis[None] - centre_x[:, None]).abs() >= size[:, None] / 2
    outside_y = (axis[None] - centre_y[:, None]).abs() >= size[:, None] / 2
    keep = outside_x[:, None, None, :] | outside_y[:, None, :, None]
    return pictures * keep
