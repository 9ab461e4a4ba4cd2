"""How far two sets of pictures are apart, given their features; and the frequencies of one. Formulas only.

Both sets always have to be equal in number, and came through the same resize and the same rounding to 8 bits.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import linalg
from scipy.spatial.distance import cdist

from core.errors import UserError
from metrics.binary import Floats, Ints

Array = NDArray[np.floating]
SUBSETS = 100
NEIGHBOURS = 3


class Estimate(NamedTuple):
    """A mean and a standard deviation."""

    mean: float
    sd: float


def kernel_distance(real: Array, fake: Array, *, subset: int | None = None, seed: int = 0) -> Estimate:
    """Squared maximum mean discrepancy with the kernel (x.y / d + 1)^3, unbiased (KID, Binkowski et al. 2018).

    Unbiased means that two sets from one distribution give 0 on average, whatever n: it may be below 0.

    Args:
        real, fake: [N, d] and [M, d], N and M at least 4.
        subset: pictures of each side in one of the 100 subsets; half of the smaller side, 1000 at most, by default.
        seed: of the subsets.

    Returns:
        Mean over the subsets, and their standard deviation.

    Raises:
        UserError: fewer than 4 pictures on a side.
    """
    fewest = min(len(real), len(fake))
    if fewest < 4:
        raise UserError(f"{fewest} pictures are too few for a kernel distance: give at least 4 of each side")
    size = subset or min(1000, fewest // 2)
    x, y = np.asarray(real, np.float64), np.asarray(fake, np.float64)
    xx, yy, xy = ((a @ b.T / real.shape[1] + 1.0) ** 3 for a, b in ((x, x), (y, y), (x, y)))
    random = np.random.default_rng(seed)
    estimates = []
    for _ in range(SUBSETS):
        i, j = random.permutation(len(x))[:size], random.permutation(len(y))[:size]
        within = sum((k.sum() - np.trace(k)) for k in (xx[np.ix_(i, i)], yy[np.ix_(j, j)])) / (size * (size - 1))
        estimates.append(within - 2 * xy[np.ix_(i, j)].mean())
    return Estimate(float(np.mean(estimates)), float(np.std(estimates)))


def frechet_distance(real: Array, fake: Array) -> float:
    """|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)), the distance of two Gaussians (FID, Heusel et al. 2017).

    It is biased upwards, the more the fewer the pictures: compare it at equal N only, beside its floor.

    Args:
        real, fake: [N, d], N above d, or else the covariances are singular.

    Raises:
        UserError: too few pictures for the width of their features.
    """
    count, width = min(len(real), len(fake)), real.shape[1]
    if count <= width:
        raise UserError(
            f"{count} pictures are too few for a Fréchet distance in {width} dimensions: give more than {width}"
        )
    x, y = np.asarray(real, np.float64), np.asarray(fake, np.float64)
    first, second = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    # The eigenvalues of C1 C2 are those of the symmetric C1^(1/2) C2 C1^(1/2): real, and none below 0.
    values, vectors = linalg.eigh(first)
    root = (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T
    middle = linalg.eigvalsh(root @ second @ root)
    shared = np.sqrt(np.clip(middle, 0, None)).sum()
    difference = x.mean(axis=0) - y.mean(axis=0)
    return float(difference @ difference + np.trace(first) + np.trace(second) - 2 * shared)


def precision_recall(real: Array, fake: Array, neighbours: int = NEIGHBOURS) -> tuple[float, float]:
    """Share of fakes within the reals' manifold, and of reals within the fakes' (Kynkäänniemi et al. 2019).

    A manifold is the union of the balls that reach from each picture to its k-th nearest neighbour on its own side.

    Args:
        real, fake: [N, d] and [M, d], more than `neighbours` of each.
        neighbours: k.
    """

    def radii(points: Array) -> Array:
        own = cdist(points, points)
        return np.partition(own, neighbours, axis=1)[:, neighbours]  # place 0 is the point itself

    between = cdist(real, fake)
    precision = (between <= radii(real)[:, None]).any(axis=0).mean()
    recall = (between <= radii(fake)[None, :]).any(axis=1).mean()
    return float(precision), float(recall)


def nearest(queries: Array, references: Array, *, itself: bool = False) -> tuple[Ints, Array]:
    """Nearest reference of each query.

    Args:
        queries, references: [N, d] and [M, d].
        itself: the two are one set, and no picture is its own neighbour.

    Returns:
        Indices [N] into the references, and Euclidean distances [N].
    """
    distance = cdist(queries, references)
    if itself:
        np.fill_diagonal(distance, np.inf)
    index = distance.argmin(axis=1)
    return index, distance[np.arange(len(index)), index]


def radial_frequencies(height: int, width: int, *, half: bool = True) -> Floats:
    """Distance of each bin of a 2D Fourier transform from zero, in cycles per pixel, at most sqrt(1/2).

    Returns:
        [height, width // 2 + 1], the bins of `rfft2`; with half=False [height, width], those of `fft2`.
    """
    across = np.fft.rfftfreq(width) if half else np.fft.fftfreq(width)
    return np.hypot(np.fft.fftfreq(height)[:, None], across[None])


def ring_means(values: NDArray[np.floating], rings: Ints) -> Floats:
    """[K] azimuthal mean: the mean of the values in each ring 0..K-1; both arrays have one shape, no ring is empty."""
    flat = rings.ravel()
    return np.bincount(flat, values.ravel()) / np.bincount(flat)
