"""Distances against closed forms and brute force."""

from math import hypot

import numpy as np
import pytest

from core.errors import UserError
from metrics.distributions import (
    frechet_distance,
    kernel_distance,
    nearest,
    precision_recall,
    radial_frequencies,
    ring_means,
)


def _with_moments(mean: np.ndarray, root: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Points whose sample mean and covariance are exactly `mean` and `root @ root.T`."""
    points = np.random.default_rng(seed).normal(size=(count, len(mean)))
    points -= points.mean(axis=0)
    whitened = points @ np.linalg.inv(np.linalg.cholesky(np.cov(points, rowvar=False))).T
    return whitened @ root.T + mean


def test_gaussians_give_the_closed_form_of_frechet() -> None:
    d = 5
    same = _with_moments(np.zeros(d), np.eye(d), 50, 0)
    wider = _with_moments(np.full(d, 2.0), 3.0 * np.eye(d), 60, 1)
    # |m|^2 + d (s - 1)^2 for covariances I and s^2 I.
    assert frechet_distance(same, wider) == pytest.approx(4 * d + d * 4, rel=1e-9)
    assert frechet_distance(same, same) == pytest.approx(0, abs=1e-6)


def test_frechet_of_covariances_that_do_not_commute() -> None:
    from scipy.linalg import sqrtm

    random = np.random.default_rng(2)
    a, b = (np.linalg.cholesky(m @ m.T + np.eye(4)) for m in random.normal(size=(2, 4, 4)))
    first, second = a @ a.T, b @ b.T
    expected = np.trace(first + second - 2 * sqrtm(first @ second).real)
    points = _with_moments(np.ones(4), a, 40, 3), _with_moments(np.ones(4), b, 40, 4)
    assert frechet_distance(*points) == pytest.approx(expected, rel=1e-6)


def test_frechet_refuses_fewer_pictures_than_dimensions() -> None:
    with pytest.raises(UserError, match="8 pictures are too few for a Fréchet distance in 8 dimensions"):
        frechet_distance(np.zeros((8, 8)), np.zeros((9, 8)))


def test_the_kernel_distance_equals_its_definition() -> None:
    random = np.random.default_rng(0)
    x, y = random.normal(size=(6, 3)), random.normal(size=(6, 3)) + 1

    def k(a: np.ndarray, b: np.ndarray) -> float:
        return float((a @ b / 3 + 1) ** 3)

    pairs = [(i, j) for i in range(6) for j in range(6) if i != j]
    expected = sum(k(x[i], x[j]) + k(y[i], y[j]) for i, j in pairs) / 30
    expected -= 2 * sum(k(a, b) for a in x for b in y) / 36
    found = kernel_distance(x, y, subset=6)
    assert found.mean == pytest.approx(expected, rel=1e-12)
    assert found.sd == pytest.approx(0, abs=1e-12)


def test_the_kernel_distance_is_unbiased() -> None:
    """Sets of one distribution give 0 on average, at 10 pictures as at 100; the Fréchet distance does not."""
    random = np.random.default_rng(1)
    for count in (10, 100):
        draws = np.array([kernel_distance(*random.normal(size=(2, count, 4))).mean for _ in range(400)])
        assert abs(draws.mean()) < 3.5 * draws.std() / np.sqrt(len(draws))
    assert min(frechet_distance(*random.normal(size=(2, 10, 4))) for _ in range(20)) > 0.05


def test_a_kernel_distance_needs_pictures() -> None:
    with pytest.raises(UserError, match="3 pictures are too few"):
        kernel_distance(np.zeros((3, 2)), np.zeros((9, 2)))


def test_precision_and_recall_tell_lost_quality_from_lost_variety() -> None:
    random = np.random.default_rng(0)
    real = random.normal(size=(200, 2))
    assert min(precision_recall(real, random.normal(size=(200, 2)))) > 0.85
    narrow = random.normal(size=(200, 2)) * 0.1  # good pictures, little variety
    precision, recall = precision_recall(real, narrow)
    assert precision > 0.95
    assert recall < 0.2
    far = random.normal(size=(200, 2)) + 50  # variety of nothing
    assert precision_recall(real, far) == (0.0, 0.0)


def test_nearest_leaves_out_the_picture_itself() -> None:
    points = np.array([[0.0], [1.0], [5.0]])
    assert nearest(points, points)[1].tolist() == [0, 0, 0]
    index, distance = nearest(points, points, itself=True)
    assert index.tolist() == [1, 0, 1]
    assert distance.tolist() == [1, 1, 4]


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
