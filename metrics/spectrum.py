"""Frequencies of a picture by their distance from zero, whatever their direction."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from metrics.binary import Floats, Ints


def radial_frequencies(height: int, width: int, *, half: bool = True) -> Floats:
    """Distance of each bin of a 2D Fourier transform from zero, in cycles per pixel, at most sqrt(1/2).

    Returns:
        [height, width // 2 + 1], the bins of `rfft2`; with half=False [height, width], those of `fft2`.
    """
    across = np.fft.rfftfreq(width) if half else np.fft.fftfreq(width)
    return np.asarray(np.hypot(np.fft.fftfreq(height)[:, None], across[None]))


def ring_means(values: NDArray[np.floating], rings: Ints) -> Floats:
    """[K] azimuthal mean: the mean of the values in each ring 0..K-1; both arrays have one shape, no ring is empty."""
    flat = rings.ravel()
    return np.asarray(np.bincount(flat, values.ravel()) / np.bincount(flat))
