"""Radial frequencies and ring means against loops over the bins."""

from __future__ import annotations

from math import hypot

import numpy as np
import pytest

from metrics.spectrum import radial_frequencies, ring_means


@pytest.mark.parametrize(("height", "width"), [(8, 8), (7, 9), (6, 5)])
def test_a_wave_stands_at_its_frequency(height: int, width: int) -> None:
    full, half = radial_frequencies(height, width, half=False), radial_frequencies(height, width)
    assert half.shape == (height, width // 2 + 1)
    y, x = np.mgrid[:height, :width]
    for v in range(-(height // 2) + 1, height // 2):
        for u in range(1, (width - 1) // 2 + 1):
            wave = np.cos(2 * np.pi * (v * y / height + u * x / width))
            for power, radius in ((np.abs(np.fft.fft2(wave)), full), (np.abs(np.fft.rfft2(wave)), half)):
                assert radius[power > power.max() / 2] == pytest.approx(hypot(v / height, u / width))


def test_ring_means_are_those_of_a_loop() -> None:
    random = np.random.default_rng(0)
    rings = random.permutation(np.arange(35) % 4).reshape(5, 7)
    values = random.normal(size=(5, 7))
    assert ring_means(values, rings) == pytest.approx([values[rings == ring].mean() for ring in range(4)])
