"""The probe: its AUC and interval against references, and what it finds and does not."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from classifier.evaluation import per_source, score_table
from faces.audit.probe import BOOSTING, LOGISTIC, NOTHING, auc_by_source, probe
from metrics.intervals import bootstrap_all


def test_auc_and_interval_are_those_of_a_detector_with_the_same_scores() -> None:
    random = np.random.default_rng(0)
    targets, sources = np.repeat([0, 1], 120), np.repeat(np.arange(60), 4)
    groups = sources // 3
    scores = np.clip(0.5 + 0.2 * random.normal(size=240) + 0.2 * targets, 0, 1)
    rows = pd.DataFrame(
        {
            "sha256": [str(row) for row in range(240)],
            "dataset": "d",
            "label": np.where(targets == 1, "fake", "real"),
            "method": np.where(targets == 1, "swap", "pristine"),
            "identity": groups.astype(str),
            "source": sources.astype(str),
        }
    )
    judged = per_source(score_table(rows, scores))
    interval = bootstrap_all(judged["label"] == "fake", judged["score"], judged["group"])["auc"]
    found = auc_by_source(targets, scores, groups, sources)
    assert found == pytest.approx((interval.value, interval.low, interval.high), abs=1e-12)
    assert auc_by_source(targets, scores, groups)[0] == pytest.approx(roc_auc_score(targets, scores), abs=1e-12)


def test_too_few_groups_give_no_probe() -> None:
    targets = np.repeat([0, 1], 10)
    found, scores = probe(np.zeros((20, 1)), targets, targets)
    assert math.isnan(found.auc)
    assert (scores == 0.5).all()


@pytest.fixture
def grouped() -> tuple[np.ndarray, np.ndarray, np.random.Generator]:
    return np.tile([0, 1], 150), np.repeat(np.arange(60), 5), np.random.default_rng(3)


def test_a_shift_is_found_by_the_line_and_a_ring_by_the_trees(
    grouped: tuple[np.ndarray, np.ndarray, np.random.Generator],
) -> None:
    targets, groups, random = grouped
    shift, _ = probe(random.normal(size=(300, 3)) + targets[:, None], targets, groups)
    assert shift.model == LOGISTIC
    assert shift.low > 0.75
    ring, _ = probe(random.normal(size=(300, 2)) * (1 + 3 * targets[:, None]), targets, groups)
    assert ring.model == BOOSTING
    assert ring.low > 0.7


def test_a_group_s_own_mark_is_of_no_use(grouped: tuple[np.ndarray, np.ndarray, np.random.Generator]) -> None:
    """Groups of one label with a number each: rows of a group that trained would be known by it."""
    _, groups, random = grouped
    targets = (groups % 2).astype(int)
    mark = random.normal(size=60)[groups][:, None]
    found, _ = probe(mark, targets, groups)
    assert found.low < 0.5
    assert probe(mark, targets, np.arange(300))[0].auc > 0.9  # what it would be without groups


def test_it_is_deterministic_and_takes_gaps(grouped: tuple[np.ndarray, np.ndarray, np.random.Generator]) -> None:
    targets, groups, random = grouped
    values = random.normal(size=(300, 2))
    values[(random.random(300) < 0.8) & (targets == 1), 0] = np.nan  # what is missing says something
    first, second = probe(values, targets, groups), probe(values, targets, groups)
    assert first[0] == second[0]
    assert (first[1] == second[1]).all()
    assert first[0].low > 0.8
    assert probe(np.zeros((300, 0)), targets, groups)[0].model == NOTHING
