"""The bootstrap over groups: which groups are drawn, and what the replicates say about the spread of a statistic.

A replicate gives each group the weight with which it was drawn. Groups are drawn with replacement within strata:
those that hold reals only, fakes only, and both. The number of real and fake groups is the design of a dataset and not
chance, and so no replicate loses a class. Where a stratum would have a single group, all are drawn together, and
replicates without one of the classes are drawn again.

The standard error is the statistic's standard deviation over the replicates, corrected by n / (n - 1) for each stratum
of n groups. The degrees of freedom are Satterthwaite's, with the measured fourth moment of the groups' influences
d_g = cov(weight of g, statistic) (Efron 2014, JASA 109, "Estimation and accuracy after model selection", theorem 1) in
place of the normal one:

    df = 2 (sum d²)² / (sum d⁴ - (sum d²)² / n), at most n - 1

They are few where a few groups decide, as near AUC = 1, and there percentile and BCa intervals are too short.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import inf, nan, sqrt

import numpy as np
from numpy.typing import NDArray

from core.progress import progress_bar
from metrics.binary import Floats, Ints

_CHUNK = 1 << 19  # weights held at once: 4 MB, so that a chunk stays in the processor's cache


class Draws:
    """How often each of G groups is drawn, replicate by replicate.

    Attributes:
        codes: [N] number 0..G-1 of the row's group.
        strata: the groups' numbers, by what is drawn together.
        possible: whether each class that is present is held by two groups or more.
        pairs: the number of independent trials that the groups amount to: disjoint pairs of a group with
            reals and a group with fakes; the number of groups where there is one class only.
    """

    def __init__(self, targets: Ints, groups: NDArray[np.generic], seed: int) -> None:
        if len(groups) != len(targets):
            raise ValueError(f"{len(groups)} groups for {len(targets)} rows")
        self.seed = seed
        names, self.codes = np.unique(groups, return_inverse=True)
        self.groups = len(names)
        self._fake = np.bincount(self.codes, weights=targets, minlength=self.groups) > 0
        self._real = np.bincount(self.codes, weights=1 - targets, minlength=self.groups) > 0
        held = [int(has.sum()) for has in (self._real, self._fake) if has.any()]
        self.possible = bool(held) and min(held) >= 2
        self.pairs = min(*held, self.groups // 2) if len(held) == 2 else self.groups
        pattern = 2 * self._fake + self._real
        strata = [np.flatnonzero(pattern == kind) for kind in np.unique(pattern)]
        self.strata = strata if all(len(s) >= 2 for s in strata) else [np.arange(self.groups)]

    def chunks(self, replicates: int) -> Iterator[Floats]:
        """Counts [b, G], as many at a time as fit the cache; `replicates` rows in all."""
        random = np.random.default_rng(self.seed)
        size = max(1, min(replicates, _CHUNK // max(len(self.codes), self.groups)))
        with progress_bar(replicates, "bootstrap", "", delay=3, leave=False) as bar:
            for start in range(0, replicates, size):
                counts = self._draw(random, min(size, replicates - start))
                yield counts
                bar.update(len(counts))

    def _draw(self, random: np.random.Generator, rows: int) -> Floats:
        counts = np.empty((rows, self.groups))
        for stratum in self.strata:
            n = len(stratum)
            cells = random.integers(0, n, (rows, n)) + n * np.arange(rows)[:, None]
            counts[:, stratum] = np.bincount(cells.ravel(), minlength=rows * n).reshape(rows, n)
        lost = np.zeros(rows, dtype=bool)
        for has in (self._real, self._fake):
            lost |= has.any() & ~(counts[:, has] > 0).any(axis=1)
        if lost.any():
            counts[lost] = self._draw(random, int(lost.sum()))
        return counts


class Spreads:
    """Standard error and degrees of freedom of several statistics, gathered chunk by chunk."""

    def __init__(self, draws: Draws) -> None:
        self._strata = draws.strata
        self._values: list[Floats] = []
        self._weights = np.zeros(draws.groups)
        self._products: Floats | float = 0.0

    def add(self, counts: Floats, values: Floats) -> None:
        """Counts [b, G] of one chunk, and the statistics [b, M] under them."""
        self._values.append(values)
        self._weights += counts.sum(axis=0)
        self._products = self._products + counts.T @ np.nan_to_num(values)

    def result(self) -> list[tuple[float, float]]:
        """(standard error, degrees of freedom) of each of M statistics; nan where one is undefined."""
        values = np.concatenate(self._values)
        mean, deviation = values.mean(axis=0), values.std(axis=0, ddof=1)
        influence = self._products / len(values) - np.outer(self._weights / len(values), mean)
        return [self._one(deviation[m], influence[:, m]) for m in range(values.shape[1])]

    def _one(self, deviation: float, influence: Floats) -> tuple[float, float]:
        if not deviation > 1e-12:  # nan, or the same in every replicate but for rounding
            return (0.0 if deviation <= 1e-12 else nan), inf
        second = corrected = fourth = 0.0
        most = 0
        for stratum in self._strata:
            n, d = len(stratum), influence[stratum] - influence[stratum].mean()
            square = float((d**2).sum())
            second += square
            corrected += square * n / (n - 1)
            fourth += max(float((d**4).sum()) - square**2 / n, 0.0)
            most += n - 1
        df = min(max(2 * second**2 / max(fourth, 1e-300), 1.0), most)
        return float(deviation) * sqrt(corrected / second), df
