"""What is left of a face when its content is taken away: noise residuals and local texture, as fixed maps of grey.

A generator, a blend and a resampler each leave their own residual, which a network that was trained on ImageNet has
learnt to look past.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

SRM_MAPS, TEXTURE_MAPS = 30, 11
TRUNCATION = 3.0  # grey levels; beyond it a residual is an edge and no noise (Ye et al. 2017, truncated linear unit)

# Steps (row, column) to the eight neighbours, clockwise from the right one.
_DIRECTIONS = ((0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1), (-1, 0), (-1, 1))
_SQUARE_3 = ((-1, 2, -1), (2, -4, 2), (-1, 2, -1))
_SQUARE_5 = ((-1, 2, -2, 2, -1), (2, -6, 8, -6, 2), (-2, 8, -12, 8, -2), (2, -6, 8, -6, 2), (-1, 2, -2, 2, -1))
# ITU-R BT.601: grey, and the two colour differences.
_YCC = ((0.299, 0.587, 0.114), (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312))


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
