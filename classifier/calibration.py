"""From logits to probabilities that mean what they say, and the threshold that turns them into a verdict.

Both are fitted on the val split and then stay fixed; the test split never comes here.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize_scalar
from scipy.special import expit, log_expit

_TEMPERATURES = (0.02, 50.0)


def fit_temperature(logits: ArrayLike, targets: ArrayLike) -> float:
    """The T > 0 for which sigmoid(logits / T) has the lowest cross-entropy (Guo et al. 2017, eq. 9, for two classes).

    The targets are Platt's (1999, section 2.2): (N+ + 1)/(N+ + 2) for fake and 1/(N- + 2) for real instead of 1 and 0,
    so that T stays finite and modest where val happens to be separated perfectly.

    Args:
        logits: [N] of P(fake), finite.
        targets: [N] fake = 1, real = 0.

    Returns:
        T in [0.02, 50]; 1.0 where only one class is there, which says nothing about it.
    """
    scores, fake = checked(logits, targets)
    n_fake = int(fake.sum())
    n_real = len(fake) - n_fake
    if n_fake == 0 or n_real == 0:
        return 1.0
    soft = np.where(fake, (n_fake + 1) / (n_fake + 2), 1 / (n_real + 2))

    def cross_entropy(log_temperature: float) -> float:
        scaled = scores / np.exp(log_temperature)
        return float(-np.mean(soft * log_expit(scaled) + (1 - soft) * log_expit(-scaled)))

    bounds = np.log(_TEMPERATURES).tolist()
    found = minimize_scalar(cross_entropy, bounds=bounds, method="bounded", options={"xatol": 1e-6})
    return float(np.exp(found.x))


def probabilities(logits: ArrayLike, temperature: float) -> NDArray[np.float32]:
    """[N] calibrated P(fake) = sigmoid(logits / temperature)."""
    return np.asarray(expit(np.asarray(logits, dtype=np.float64) / temperature), dtype=np.float32)


def fit_threshold(scores: ArrayLike, targets: ArrayLike) -> float:
    """The threshold at the equal error rate: scores >= it are called fake.

    Chosen rather than Youden's J (the maximum of recall - FPR), since a crossing of two curves moves less from one val
    split to the next than the place of a maximum, and both kinds of error count alike. Where several thresholds are as
    good, it is the middle of them, so separated classes are cut halfway between.

    Args:
        scores: [N] P(fake).
        targets: [N] fake = 1, real = 0.

    Returns:
        A threshold in (0, 1); 0.5 where only one class is there, or all scores are the same.
    """
    probability, fake = checked(scores, targets)
    values = np.unique(probability)
    if fake.all() or not fake.any() or len(values) == 1:
        return 0.5
    cuts = (values[:-1] + values[1:]) / 2
    false_positive, false_negative = _error_rates(probability, fake, cuts)
    gap = np.abs(false_positive - false_negative)
    best = cuts[gap <= gap.min() + 1e-12]
    return float((best[0] + best[-1]) / 2)


def _error_rates(
    probability: NDArray[np.float64], fake: NDArray[np.bool_], cuts: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """At each threshold, the share of the reals that are called fake, and of the fakes that are not."""
    reals, fakes = np.sort(probability[~fake]), np.sort(probability[fake])
    return 1 - np.searchsorted(reals, cuts) / len(reals), np.searchsorted(fakes, cuts) / len(fakes)


def checked(scores: ArrayLike, targets: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """[N] scores, and [N] whether each is of a fake; raises ValueError where they are no two finite vectors."""
    values = np.asarray(scores, dtype=np.float64)
    fake = np.asarray(targets) == 1
    if values.shape != fake.shape or values.ndim != 1 or not np.isfinite(values).all():
        raise ValueError(f"scores {values.shape} and targets {fake.shape} must be two finite vectors of one length")
    return values, fake


ERROR = 0.05


class Band(NamedTuple):
    """No verdict where low <= P(fake) < high; real below it, fake from `high` on. Empty where both are the same."""

    low: float
    high: float


def fit_band(scores: ArrayLike, targets: ArrayLike, threshold: float, error: float = ERROR) -> Band:
    """The narrowest band about the threshold beside which each class has at most `error` wrong verdicts on these rows.

    It is empty where the threshold alone keeps to that, and where there is one class only.

    Args:
        scores: [N] P(fake).
        targets: [N] fake = 1, real = 0.
        threshold: of the verdict without a band; it lies in the band or bounds it.
        error: share in [0, 1) of the reals that may be called fake, and of the fakes that may be called real.
    """
    probability, fake = checked(scores, targets)
    if fake.all() or not fake.any():
        return Band(threshold, threshold)
    values = np.unique(probability)
    cuts = np.unique([0.0, *(values[:-1] + values[1:]) / 2, threshold, np.nextafter(1.0, 2.0)])
    false_positive, false_negative = _error_rates(probability, fake, cuts)
    high = cuts[(false_positive <= error + 1e-12) & (cuts >= threshold)][0]
    low = cuts[(false_negative <= error + 1e-12) & (cuts <= threshold)][-1]
    return Band(float(low), float(high))


def abstention(table: pd.DataFrame, band: Band) -> pd.DataFrame:
    """What the band does on other rows: one row a dataset, each share nan where there is nothing to take it of.

    Args:
        table: a score table, by frame or by source; columns dataset, label and score are read.

    Returns:
        Columns dataset, rows, abstained (share of the rows), and of those with a verdict `fpr` (share of the reals that
        are called fake) and `recall` (share of the fakes that are).
    """
    found = []
    for name, of in table.groupby("dataset", sort=True):
        scores = of["score"].to_numpy(dtype=np.float64)
        fake = (of["label"] == "fake").to_numpy()
        called, decided = scores >= band.high, (scores < band.low) | (scores >= band.high)
        found.append(
            {
                "dataset": str(name),
                "rows": len(of),
                "abstained": 1 - float(decided.mean()),
                "fpr": _share(called, decided & ~fake),
                "recall": _share(called, decided & fake),
            }
        )
    return pd.DataFrame(found, columns=["dataset", "rows", "abstained", "fpr", "recall"])


def _share(what: np.ndarray, among: np.ndarray) -> float:
    return float(what[among].mean()) if among.any() else float("nan")
