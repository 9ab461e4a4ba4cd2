"""Spectra: noise is flat at its known level, a wave is a peak at its frequency, and smoothing takes the top away."""

from __future__ import annotations

import cmath
import math

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from gan.visualise import azimuthal_log_power, high_frequency_gap, mean_spectrum, spectra_figure


def grey(values: NDArray[np.float64]) -> NDArray[np.uint8]:
    """[N, S, S] in [0, 255] -> uint8 [N, S, S, 3]."""
    return np.repeat(values.round().clip(0, 255).astype(np.uint8)[..., None], 3, axis=3)


def noise(count: int, size: int, seed: int = 0) -> NDArray[np.uint8]:
    return grey(np.random.default_rng(seed).normal(128, 30, (count, size, size)))


def test_white_noise_is_flat_at_the_level_that_its_variance_gives() -> None:
    spectrum = mean_spectrum(noise(500, 16))
    # |F|^2 of white noise is exponential, whose logarithm lies Euler's gamma below that of its mean on average.
    level = math.log10((30 / 255) ** 2) - np.euler_gamma / math.log(10)
    assert spectrum.mean == pytest.approx(np.full(8, level), abs=0.06)
    assert (spectrum.low < spectrum.mean).all()
    assert (spectrum.mean < spectrum.high).all()


@pytest.mark.parametrize(("across", "down"), [(5, 0), (0, 5), (3, 4), (4, -3)])
def test_a_wave_is_a_peak_at_its_frequency_whatever_its_direction(across: int, down: int) -> None:
    y, x = np.mgrid[:32, :32] / 32
    wave = 128 + 20 * np.cos(2 * np.pi * (across * x + down * y))
    spectrum = mean_spectrum(grey(np.random.default_rng(0).normal(wave, 1.0, (40, 32, 32))))
    above = spectrum.mean - np.median(spectrum.mean)
    assert spectrum.frequencies[above.argmax()] == 5 / 32
    assert np.sort(above)[-2] < 0.5 * above.max()


def test_a_picture_that_was_scaled_up_has_lost_its_high_frequencies() -> None:
    small = [Image.fromarray(picture) for picture in noise(40, 16)]
    scaled = np.stack([np.asarray(picture.resize((32, 32), Image.Resampling.BILINEAR)) for picture in small])
    real, fake = mean_spectrum(noise(40, 32)), mean_spectrum(scaled)
    assert high_frequency_gap(real, fake) < -1.0
    assert high_frequency_gap(real, mean_spectrum(noise(40, 32, seed=1))) == pytest.approx(0.0, abs=0.05)
    assert high_frequency_gap(fake, real) == -high_frequency_gap(real, fake)
    assert abs((fake.mean - real.mean)[0]) < abs((fake.mean - real.mean)[-1])


def test_spectrum_is_that_of_the_sums_written_out() -> None:
    size = 6
    picture = np.random.default_rng(3).integers(0, 256, (1, size, size, 3), dtype=np.uint8)
    luma = picture[0].astype(float) @ [0.299, 0.587, 0.114] / 255
    rings: dict[int, list[float]] = {}
    for u in range(-2, 4):
        for v in range(-2, 4):
            terms = (
                luma[y, x] * cmath.exp(-2j * math.pi * (u * x + v * y) / size) for y in range(size) for x in range(size)
            )
            rings.setdefault(round(math.hypot(u, v)), []).append(math.log10(abs(sum(terms)) ** 2 / size**2))
    expected = [sum(rings[k]) / len(rings[k]) for k in (1, 2, 3)]
    assert azimuthal_log_power(picture)[0] == pytest.approx(expected, abs=1e-3)


def test_figure_shows_both_sides_and_their_difference() -> None:
    real, fake = mean_spectrum(noise(20, 16)), mean_spectrum(noise(20, 16, seed=1))
    above, below = spectra_figure(real, fake, "title").axes
    assert [line.get_label() for line in above.lines] == ["real (n = 20)", "fake (n = 20)"]
    assert np.array_equal(below.lines[-1].get_ydata(), fake.mean - real.mean)
