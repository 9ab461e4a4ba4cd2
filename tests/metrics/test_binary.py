"""Metrics against scikit-learn, against loops, and against closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm
from sklearn import metrics as sk

from metrics.binary import (
    NAMES,
    RANKED,
    Ranking,
    compute,
    confusion,
    ece,
    eer,
    equal_mass_bins,
    validated,
)


def sample(n: int = 400, seed: int = 0, *, decimals: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Targets and overlapping scores, rounded so that many are equal."""
    random = np.random.default_rng(seed)
    targets = random.integers(0, 2, n)
    return targets, np.round(np.clip(0.3 + 0.3 * targets + 0.2 * random.normal(size=n), 0, 1), decimals)


@pytest.mark.parametrize("seed", range(3))
def test_compute_agrees_with_scikit_learn(seed: int) -> None:
    t, s = sample(seed=seed)
    threshold = 0.37
    called = (s >= threshold).astype(int)
    expected = {
        "auc": sk.roc_auc_score(t, s),
        "ap": sk.average_precision_score(t, s),
        "accuracy": sk.accuracy_score(t, called),
        "precision": sk.precision_score(t, called),
        "recall": sk.recall_score(t, called),
        "f1": sk.f1_score(t, called),
        "fpr": 1 - sk.recall_score(1 - t, 1 - called),
        "brier": sk.brier_score_loss(t, s),
        "log_loss": sk.log_loss(t, s),
    }
    found = compute(t, s, threshold)
    assert tuple(found) == NAMES
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-12)
    np.testing.assert_array_equal(confusion(t, s, threshold), sk.confusion_matrix(t, called))


@pytest.mark.parametrize("name", RANKED)
def test_ranked_agrees_with_compute(name: str) -> None:
    t, s = sample()
    assert RANKED[name](Ranking(t, s, 0.4)())[0] == pytest.approx(compute(t, s, 0.4)[name], abs=1e-12)


@pytest.mark.parametrize("name", RANKED)
@pytest.mark.parametrize("decimals", [1, 8])
def test_integer_weights_are_repeated_samples(name: str, decimals: int) -> None:
    t, s = sample(60, decimals=decimals)
    weights = np.random.default_rng(1).integers(0, 4, (20, 60))
    found = RANKED[name](Ranking(t, s, 0.4)(weights.astype(float)))
    expected = [compute(np.repeat(t, w), np.repeat(s, w), 0.4)[name] for w in weights]
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_fractional_weights_agree_with_scikit_learn() -> None:
    t, s = sample(80, decimals=1)
    weights = np.random.default_rng(1).random((10, 80))
    ranked = Ranking(t, s)(weights)
    np.testing.assert_allclose(ranked.auc(), [sk.roc_auc_score(t, s, sample_weight=w) for w in weights])
    np.testing.assert_allclose(ranked.ap(), [sk.average_precision_score(t, s, sample_weight=w) for w in weights])
    np.testing.assert_allclose(ranked.accuracy(), [sk.accuracy_score(t, s >= 0.5, sample_weight=w) for w in weights])


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 4), st.integers(0, 3)), min_size=1, max_size=12))
def test_auc_under_weights_counts_ties_as_halves(rows: list[tuple[int, int, int]]) -> None:
    t, s, w = (np.array(column) for column in zip(*rows, strict=True))
    wins = pairs = 0.0
    for i in np.flatnonzero(t == 1):
        for j in np.flatnonzero(t == 0):
            pairs += w[i] * w[j]
            wins += w[i] * w[j] * (float(s[i] > s[j]) + 0.5 * float(s[i] == s[j]))
    found = Ranking(t, s / 4)(w[None, :].astype(float)).auc()[0]
    assert math.isnan(found) if pairs == 0 else found == pytest.approx(wins / pairs)


def test_weights_in_the_ranking_s_own_order() -> None:
    t, s = sample(50)
    ranking = Ranking(t, s)
    weights = np.random.default_rng(0).random((3, 50))
    np.testing.assert_array_equal(ranking(weights).auc(), ranking(weights[:, ranking.order], in_order=True).auc())


@pytest.mark.parametrize(
    ("targets", "scores", "expected"),
    [
        ([0, 0, 1, 1], [0.1, 0.2, 0.8, 0.9], 0.0),
        ([0, 0, 1, 1], [0.8, 0.9, 0.1, 0.2], 1.0),
        ([0, 1, 0, 1], [0.5, 0.5, 0.5, 0.5], 0.5),
        ([0, 0, 0, 0, 1, 1, 1, 1], [0.1, 0.2, 0.3, 0.7, 0.4, 0.8, 0.9, 0.95], 0.25),
        # (fpr, tpr) from (0, 0.5) to (1, 1) by one tie: FPR = 1 - TPR at 1/3
        ([0, 0, 1, 1], [0.5, 0.5, 0.5, 0.9], 1 / 3),
    ],
)
def test_eer_of_small_samples(targets: list[int], scores: list[float], expected: float) -> None:
    assert eer(targets, scores) == pytest.approx(expected)


def test_two_normal_distributions_have_the_known_auc_and_eer() -> None:
    n, d = 200_000, 1.5
    t = np.repeat([0, 1], n)
    s = 1 / (1 + np.exp(-(np.random.default_rng(0).normal(size=2 * n) + d * t)))
    assert eer(t, s) == pytest.approx(norm.cdf(-d / 2), abs=0.003)
    assert Ranking(t, s)().auc()[0] == pytest.approx(norm.cdf(d / math.sqrt(2)), abs=0.003)


@pytest.mark.parametrize("label", [0, 1])
def test_one_class_leaves_the_ranking_undefined_and_nothing_crashes(label: int) -> None:
    found = compute(np.full(5, label), np.array([0.1, 0.4, 0.6, 0.8, 0.9]), 0.5)
    undefined = {name for name, value in found.items() if math.isnan(value)}
    assert undefined == ({"auc", "ap", "eer", "recall"} if label == 0 else {"auc", "ap", "eer", "fpr"})
    assert found["accuracy"] == (0.4 if label == 0 else 0.6)
    assert found["log_loss"] > 0


def test_precision_is_undefined_where_nothing_is_called_fake() -> None:
    found = compute([0, 1], [0.1, 0.2], 0.5)
    assert math.isnan(found["precision"])
    assert found["f1"] == 0


def test_an_empty_sample_is_all_nan() -> None:
    assert all(math.isnan(value) for value in compute([], [], 0.5).values())
    assert math.isnan(eer([], []))
    assert math.isnan(ece([], []))


def test_the_threshold_itself_is_fake() -> None:
    assert compute([1, 0], [0.5, 0.4], 0.5)["accuracy"] == 1.0
    assert Ranking(np.array([1, 0]), np.array([0.5, 0.4]), 0.5)().recall()[0] == 1.0


def test_ece_agrees_with_a_loop_over_sorted_blocks() -> None:
    t, s = sample(300, decimals=12)
    order = np.argsort(s)
    blocks = np.array_split(order, 15)  # 300 / 15: equal blocks
    expected = sum(len(b) / 300 * abs(t[b].mean() - s[b].mean()) for b in blocks)
    assert ece(t, s, bins=15) == pytest.approx(expected)


def test_ece_keeps_ties_together_whatever_the_order() -> None:
    t, s = np.array([0] * 50 + [1] * 50), np.full(100, 0.7)
    assert ece(t, s) == pytest.approx(0.2)
    assert ece(t[::-1], s) == pytest.approx(0.2)
    assert len(set(equal_mass_bins(s))) == 1


def test_ece_of_calibrated_scores_is_small_and_of_shifted_ones_the_shift() -> None:
    random = np.random.default_rng(0)
    p = random.uniform(0.2, 0.8, 50_000)
    t = (random.random(50_000) < p).astype(int)
    assert ece(t, p) < 0.015
    assert ece(t, p + 0.1) == pytest.approx(0.1, abs=0.01)


@pytest.mark.parametrize(
    ("targets", "scores", "message"),
    [
        ([0, 1], [0.1], "one length"),
        ([0, 2], [0.1, 0.2], "0 \\(real\\) or 1"),
        ([0, 1], [0.1, math.nan], "probabilities"),
        ([0, 1], [0.1, 1.5], "probabilities"),
    ],
)
def test_wrong_input_is_refused(targets: list[int], scores: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        validated(targets, scores)
