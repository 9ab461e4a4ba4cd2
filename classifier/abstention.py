"""Leaving the doubtful to a person: between two thresholds that are fixed on val, a detector gives no verdict.

Error against rejection is Chow's trade-off (1970, "On optimum recognition error and reject tradeoff"); here each side
of the band has its own threshold, so that neither reals nor fakes pay for the other.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from classifier.calibration import checked

ERROR = 0.05


class Band(NamedTuple):
    """No verdict where low <= P(fake) < high; real below it, fake from `high` on. Empty where both are the same."""

    low: float
    high: float


def described_band(described: Mapping[str, Any]) -> Band | None:
    """The band of a detector's `config.json`; None in those of before there were bands."""
    found = described.get("band")
    return None if found is None else Band(float(found[0]), float(found[1]))


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
    reals, fakes = np.sort(probability[~fake]), np.sort(probability[fake])
    false_positive = 1 - np.searchsorted(reals, cuts, side="left") / len(reals)
    false_negative = np.searchsorted(fakes, cuts, side="left") / len(fakes)
    high = cuts[(false_positive <= error + 1e-12) & (cuts >= threshold)][0]
    low = cuts[(false_negative <= error + 1e-12) & (cuts <= threshold)][-1]
    return Band(float(low), float(high))


def abstention(table: pd.DataFrame, band: Band) -> pd.DataFrame:
    """What the band does on other rows: one row a data set, each share nan where there is nothing to take it of.

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
