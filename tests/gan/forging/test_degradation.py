"""What is measured is what was put in, and matched samples stand nearer to the reals than raw ones in every measure."""

from __future__ import annotations

import io

import cv2
import numpy as np
import pytest
from PIL import Image

from faces.orl import _read
from gan.forging.degradation import Matcher, log_spectrum, measure, noise_level, read_picture, to_ycc


@pytest.mark.parametrize("sigma", [1.0, 4.0, 10.0])
def test_noise_is_measured_over_edges_and_slopes(sigma: float) -> None:
    random = np.random.default_rng(0)
    y, x = np.mgrid[:128, :128].astype(np.float32)
    scene = np.repeat((60 + 0.5 * x + 60 * (y > 64))[..., None], 3, axis=2).astype(np.float32)
    noisy = scene + random.normal(0, sigma, scene.shape).astype(np.float32)
    assert noise_level(noisy) == pytest.approx((sigma,) * 3, rel=0.05)
    assert max(noise_level(scene)) < 0.01


def test_the_spectrum_of_a_wave_stands_at_its_frequency() -> None:
    x = np.arange(64, dtype=np.float32)
    wave = np.tile(100 + 20 * np.cos(2 * np.pi * 9 * x / 64), (64, 1))
    spectrum = log_spectrum(np.repeat(wave[..., None], 3, axis=2))
    assert spectrum.shape == (3, 33)
    assert spectrum[0].argmax() == 9
    white = log_spectrum(np.random.default_rng(0).normal(0, 3, (256, 256, 3)).astype(np.float32))
    assert np.exp(white[:, 20:]).mean() == pytest.approx(9, rel=0.05)  # white noise has its variance everywhere


@pytest.fixture(scope="module")
def photographs() -> list[np.ndarray]:
    return [np.asarray(Image.fromarray(pixels[10:102]).convert("RGB")) for pixels in _read()[::10]]


@pytest.fixture(scope="module")
def reals(photographs: list[np.ndarray]) -> list[bytes]:
    """Noisy JPEGs of three qualities and two sizes."""
    random = np.random.default_rng(0)
    files = []
    for number, pixels in enumerate(photographs):
        noisy = np.clip(pixels + random.normal(0, 4, pixels.shape), 0, 255).astype(np.uint8)
        buffer = io.BytesIO()
        image = Image.fromarray(noisy).resize([(92, 92), (72, 80)][number % 2])
        image.save(buffer, "JPEG", quality=[70, 85, 95][number % 3])
        files.append(buffer.getvalue())
    return files


@pytest.fixture(scope="module")
def samples(photographs: list[np.ndarray]) -> list[np.ndarray]:
    """As a generator makes them: 32 pixels, too soft, no noise."""
    soft = [cv2.GaussianBlur(pixels, (0, 0), 1.5) for pixels in photographs[::-1]]
    return [cv2.resize(pixels, (32, 32), interpolation=cv2.INTER_AREA) for pixels in soft]


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def test_matched_samples_are_nearer_to_the_reals_in_every_measure(
    reals: list[bytes], samples: list[np.ndarray]
) -> None:
    goal = measure(reals, 32)
    matcher = Matcher(goal, samples)
    matched = [
        matcher.match(sample, goal.traces[number], np.random.default_rng(number))
        for number, sample in enumerate(samples)
    ]
    raw, got = measure([png(sample) for sample in samples], 32), measure(matched, 32)

    def off(spectrum: np.ndarray) -> float:
        return float(np.abs(spectrum - goal.spectrum)[0, 1:].mean())

    assert off(got.spectrum) < 0.25 * off(raw.spectrum)
    noise, raw_noise, wanted = (np.mean([t.noise[0] for t in set_.traces]) for set_ in (got, raw, goal))
    assert abs(noise - wanted) < 0.6 * abs(raw_noise - wanted)
    for mine, theirs in zip(got.traces, goal.traces, strict=True):
        assert (mine.width, mine.height, mine.encoding.tables) == (theirs.width, theirs.height, theirs.encoding.tables)


def test_the_same_random_numbers_give_the_same_file(reals: list[bytes], samples: list[np.ndarray]) -> None:
    goal = measure(reals[:4], 32)
    matcher = Matcher(goal, samples)
    files = [matcher.match(samples[0], goal.traces[0], np.random.default_rng(seed)) for seed in (0, 0, 1)]
    assert files[0] == files[1] != files[2]
    assert read_picture(files[0])[0].std() > 5


def test_luma_and_chroma_of_grey_are_the_grey_and_nothing() -> None:
    grey = np.full((4, 4, 3), 77, np.uint8)
    ycc = to_ycc(grey)
    np.testing.assert_allclose(ycc[..., 0], 77, atol=1e-3)
    assert np.ptp(ycc[..., 1:]) < 1e-3
