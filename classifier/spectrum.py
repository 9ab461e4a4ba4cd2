"""A face in frequencies: rings of its Fourier spectrum, and the 63 alternating coefficients of JPEG's blocks.

Upsampling inside a generator bends the fall of the spectrum and leaves peaks in it (Durall et al. 2020, Frank et al.
2020). Both transforms are written as products of matrices, which every runtime of ONNX knows.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

RINGS = 32
BLOCK = 8  # side of JPEG's blocks
_FLOOR = 1 / 12  # variance of rounding to whole grey levels: below it there is nothing to see
_CORNER = 0.5**0.5  # the highest frequency, in cycles a pixel


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
