"""The probe: its AUC and interval against references, and what it finds and does not."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from faces.audit.probe import BOOSTING, LOGISTIC, NOTHING, clustered_auc, probe


def delong(targets: np.ndarray, scores: np.ndarray) -> float:
    """The standard error of DeLong et al. 1988, by the definition."""
    wins = (scores[targets == 1][:, None] > scores[targets == 0]) + 0.5 * (
        scores[targets == 1][:, None] == scores[targets == 0]
    )
    m, n = wins.shape
    return math.sqrt(wins.mean(1).var(ddof=1) / m + wins.mean(0).var(ddof=1) / n)


def test_single_rows_give_delong_s_error() -> None:
    random = np.random.default_rng(0)
    targets = (random.random(400) < 0.4).astype(int)
    scores = np.round(random.normal(size=400) + targets, 1)  # with ties
    auc, low, high = clustered_auc(targets, scores, np.arange(400))
    assert auc == pytest.approx(roc_auc_score(targets, scores), abs=1e-12)
    half = (math.log(high / (1 - high)) - math.log(low / (1 - low))) / 2
    assert half * auc * (1 - auc) == pytest.approx(1.97 * delong(targets, scores), rel=0.01)


def test_rows_that_are_repeated_say_nothing_more() -> None:
    random = np.random.default_rng(1)
    targets = np.repeat([0, 1], 60)
    scores = random.normal(size=120) + targets
    once = clustered_auc(targets, scores, np.arange(120))
    again = clustered_auc(np.tile(targets, 5), np.tile(scores, 5), np.tile(np.arange(120), 5))
    assert again == pytest.approx(once)


def test_the_interval_holds_the_truth_where_groups_have_both_classes() -> None:
    random, held = np.random.default_rng(2), 0
    for _ in range(300):
        groups = np.repeat(np.arange(30), 6)
        targets = np.tile([0, 1], 90)
        scores = targets * 1.0 + random.normal(size=30)[groups] + random.normal(size=180)
        _, low, high = clustered_auc(targets, scores, groups)
        held += low <= 0.6915 <= high  # Phi(1 / sqrt(2 * 2))
    assert 0.92 <= held / 300 <= 0.98


def test_faultless_and_too_few() -> None:
    targets = np.repeat([0, 1], 10)
    assert clustered_auc(targets, targets.astype(float), np.arange(20)) == (1.0, pytest.approx(0.025**0.1), 1.0)
    assert math.isnan(clustered_auc(targets, targets.astype(float), targets)[1])
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
