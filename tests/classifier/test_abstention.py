"""The band of no verdict: as narrow as can be, each class wrong at most so often, and what it does on other rows."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from classifier.calibration import Band, abstention, fit_band, fit_threshold
from classifier.models.detector import read_calibration


def errors(scores: np.ndarray, targets: np.ndarray, band: Band) -> tuple[float, float]:
    return float((scores[targets == 0] >= band.high).mean()), float((scores[targets == 1] < band.low).mean())


@given(
    scores=st.lists(st.integers(0, 20).map(lambda n: n / 20), min_size=4, max_size=60),
    error=st.sampled_from([0.0, 0.05, 0.2]),
    seed=st.integers(0, 999),
)
def test_each_class_is_wrong_at_most_so_often_and_no_narrower_band_does_it(
    scores: list[float], error: float, seed: int
) -> None:
    values = np.array(scores)
    targets = np.random.default_rng(seed).integers(0, 2, len(values))
    targets[:2] = 0, 1
    threshold = fit_threshold(values, targets)
    band = fit_band(values, targets, threshold, error)
    assert band.low <= threshold <= band.high
    assert max(errors(values, targets, band)) <= error
    inside = (values >= band.low) & (values < band.high)
    for high in np.unique(values[(values >= threshold) & (values < band.high)]):  # every smaller upper bound
        assert (values[targets == 0] >= high).mean() > error
    for low in np.unique(values[(values < threshold) & (values >= band.low)]):  # every greater lower bound
        assert (values[targets == 1] <= low).mean() > error
    assert inside.any() == (max(errors(values, targets, Band(threshold, threshold))) > error)


def test_separated_classes_and_single_ones_need_no_band() -> None:
    assert fit_band([0.1, 0.2, 0.8, 0.9], [0, 0, 1, 1], 0.5) == Band(0.5, 0.5)
    assert fit_band([0.1, 0.9], [1, 1], 0.5) == Band(0.5, 0.5)
    with pytest.raises(ValueError, match="two finite vectors"):
        fit_band([0.1, float("nan")], [0, 1], 0.5)


def test_what_abstaining_does_by_data_set() -> None:
    rows = [("a", "real", 0.1), ("a", "real", 0.5), ("a", "real", 0.7), ("a", "fake", 0.7), ("a", "fake", 0.2)]
    rows += [("b", "fake", 0.5), ("b", "real", 0.3)]
    found = abstention(pd.DataFrame(rows, columns=["dataset", "label", "score"]), Band(0.4, 0.6)).set_index("dataset")
    assert found.loc["a"].tolist() == [5, pytest.approx(0.2), 0.5, 0.5]
    assert found.loc["b", "abstained"] == 0.5
    assert found.loc["b", "fpr"] == 0
    assert np.isnan(found.loc["b", "recall"])


def test_detectors_of_before_have_none() -> None:
    described = {"format": 1, "threshold": 0.5, "temperature": 1.0, "manifest_digest": "", "digest": ""}
    assert read_calibration(described)["band"] is None
    assert read_calibration(described | {"band": None})["band"] is None
    assert read_calibration(described | {"band": [0.25, 0.75]})["band"] == Band(0.25, 0.75)
