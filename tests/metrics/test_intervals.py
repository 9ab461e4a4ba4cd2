"""Intervals: invariances, closed forms, coherence, and their coverage where people differ more than frames do."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy.special import expit
from scipy.stats import norm

from metrics.binary import RANKED, compute
from metrics.intervals import (
    Difference,
    Draws,
    Interval,
    Paired,
    bootstrap_all,
    curve_band,
    paired_difference,
    paired_difference_of_means,
)


def bootstrap(targets: object, scores: object, groups: object, metric: str = "auc", **options: Any) -> Interval:
    return bootstrap_all(targets, scores, groups, (metric,), **options)[metric]


def people(
    random: np.random.Generator, groups: int, auc: float, *, both: bool = False, frames: float = 5
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Targets, normal scores and groups: half of the variance is between people, who hold 1, 2, ... frames."""
    sizes = random.geometric(1 / frames, size=groups)
    g = np.repeat(np.arange(groups), sizes + both)
    t = np.arange(len(g)) % 2 if both else (g >= groups // 2).astype(int)
    shift = math.sqrt(2) * norm.ppf(auc)
    return t, shift * t + math.sqrt(0.5) * (random.normal(size=groups)[g] + random.normal(size=len(g))), g


@pytest.fixture
def scored() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    t, s, g = people(np.random.default_rng(3), 60, 0.9)
    return t, expit(s), g


def test_the_value_is_the_metric_and_lies_inside(scored: tuple[np.ndarray, ...]) -> None:
    t, s, g = scored
    found = bootstrap_all(t, s, g, tuple(RANKED), replicates=200, threshold=0.6)
    expected = compute(t, s, 0.6)
    for name, interval in found.items():
        assert interval.value == pytest.approx(expected[name])
        assert 0 <= interval.low < interval.value < interval.high <= 1


def test_the_same_seed_gives_the_same_interval(scored: tuple[np.ndarray, ...]) -> None:
    assert bootstrap(*scored, replicates=100, seed=4) == bootstrap(*scored, replicates=100, seed=4)
    assert bootstrap(*scored, replicates=100, seed=4) != bootstrap(*scored, replicates=100, seed=5)


def test_more_frames_of_the_same_people_say_nothing_more(scored: tuple[np.ndarray, ...]) -> None:
    t, s, g = scored
    once = bootstrap(t, s, g, replicates=300)
    again = bootstrap(np.tile(t, 4), np.tile(s, 4), np.tile(g, 4), replicates=300)
    assert (again.low, again.high) == pytest.approx((once.low, once.high))


def test_frames_taken_as_independent_would_be_too_sure(scored: tuple[np.ndarray, ...]) -> None:
    t, s, g = scored
    by_person, by_frame = bootstrap(t, s, g, replicates=300), bootstrap(t, s, np.arange(len(t)), replicates=300)
    assert by_person.high - by_person.low > 1.3 * (by_frame.high - by_frame.low)


def test_order_and_names_of_groups_do_not_matter_but_for_chance(scored: tuple[np.ndarray, ...]) -> None:
    t, s, g = scored
    shuffled = np.random.default_rng(0).permutation(len(t))
    names = np.array([f"{i:03d}" for i in g])  # sorts as the numbers do
    assert bootstrap(t[shuffled], s[shuffled], names[shuffled], replicates=50).low == pytest.approx(
        bootstrap(t, s, g, replicates=50).low
    )


def test_auc_depends_on_ranks_only(scored: tuple[np.ndarray, ...]) -> None:
    t, s, g = scored
    assert bootstrap(t, s**3, g, replicates=50) == bootstrap(t, s, g, replicates=50)


def test_independent_frames_give_delong_s_standard_error() -> None:
    random = np.random.default_rng(0)
    t = np.repeat([0, 1], 300)
    s = expit(random.normal(size=600) + 1.2 * t)
    # DeLong et al. 1988: the variance of the placements of each class
    wins = (s[t == 1][:, None] > s[t == 0][None, :]).astype(float)
    auc = wins.mean()
    error = math.sqrt(wins.mean(1).var(ddof=1) / 300 + wins.mean(0).var(ddof=1) / 300)
    half = 1.96 * error / (auc * (1 - auc))
    found = bootstrap(t, s, np.arange(600), replicates=4000)
    assert found.low == pytest.approx(expit(math.log(auc / (1 - auc)) - half), abs=0.003)
    assert found.high == pytest.approx(expit(math.log(auc / (1 - auc)) + half), abs=0.003)


def test_accuracy_of_independent_frames_has_the_binomial_error() -> None:
    t, s = np.tile([0, 1], 200), np.where(np.random.default_rng(0).random(400) < 0.8, np.tile([0.1, 0.9], 200), 0.5)
    found = bootstrap(t, s, np.arange(400), "accuracy", replicates=4000, threshold=0.6)
    p = found.value
    half = 1.96 * math.sqrt(p * (1 - p) / 400)
    assert (p - found.low, found.high - p) == (pytest.approx(half, rel=0.2), pytest.approx(half, rel=0.2))


def test_a_faultless_detector_gets_the_exact_bound() -> None:
    t = np.repeat([0, 1], 100)
    found = bootstrap(t, t.astype(float), np.arange(200) // 10, replicates=50)
    assert found == Interval(1.0, pytest.approx(0.025 ** (1 / 10)), 1.0)
    none = bootstrap(t, t.astype(float), np.arange(200) // 10, "eer", replicates=50)
    assert none == Interval(0.0, 0.0, pytest.approx(1 - 0.025 ** (1 / 10)))


def test_a_constant_score_is_worth_a_half_for_certain() -> None:
    t = np.repeat([0, 1], 20)
    found = bootstrap(t, np.full(40, 0.3), np.arange(40), replicates=50)
    assert (found.low, found.value, found.high) == pytest.approx((0.5, 0.5, 0.5))


def test_a_class_of_one_person_has_no_interval() -> None:
    t = np.array([0, 0, 0, 1, 1, 1])
    found = bootstrap(t, t * 0.5, np.array([0, 0, 0, 1, 2, 3]), replicates=50)
    assert found.value == 1.0
    assert math.isnan(found.low)
    assert math.isnan(found.high)
    assert math.isnan(paired_difference(t, t * 0.5, t * 0.4, np.array([0, 0, 0, 1, 2, 3]), replicates=50).low)


def test_one_class_has_recall_but_no_auc() -> None:
    s = np.random.default_rng(0).random(50)
    found = bootstrap_all(np.ones(50, dtype=int), s, np.arange(50), ("auc", "recall", "accuracy"), replicates=200)
    assert math.isnan(found["auc"].value)
    assert math.isnan(found["auc"].low)
    assert found["recall"].low < found["recall"].value == found["accuracy"].value < found["recall"].high


def test_nothing_at_all_is_nan() -> None:
    found = bootstrap([], [], [], replicates=10)
    assert math.isnan(found.value)
    assert math.isnan(found.low)


def test_strata_keep_the_number_of_groups_of_each_kind() -> None:
    t = np.array([0, 0, 0, 1, 1, 0, 1, 0, 1])
    g = np.array([0, 1, 2, 3, 4, 5, 5, 6, 6])
    draws = Draws(t, g, seed=0)
    counts = np.concatenate(list(draws.chunks(200)))
    assert [list(stratum) for stratum in draws.strata] == [[0, 1, 2], [3, 4], [5, 6]]
    for stratum in draws.strata:
        assert (counts[:, stratum].sum(axis=1) == len(stratum)).all()
    assert counts.shape == (200, 7)
    assert counts.mean(axis=0) == pytest.approx(np.ones(7), abs=0.25)


def test_a_replicate_without_a_class_is_drawn_again() -> None:
    t = np.array([0, 1, 0, *[1] * 10])
    g = np.array([0, 0, 1, *range(2, 12)])  # one group holds both, one reals only: no strata
    draws = Draws(t, g, seed=0)
    counts = np.concatenate(list(draws.chunks(500)))
    assert len(draws.strata) == 1
    assert (counts.sum(axis=1) == 12).all()
    assert (counts[:, :2].sum(axis=1) > 0).all()
    assert math.isfinite(bootstrap(t, np.linspace(0, 1, 13), g, replicates=100).low)


def test_groups_must_match_rows() -> None:
    with pytest.raises(ValueError, match="3 groups for 2 rows"):
        bootstrap([0, 1], [0.1, 0.9], [0, 1, 2])


@pytest.fixture
def pair() -> Paired:
    random = np.random.default_rng(5)
    t, s, g = people(random, 60, 0.85, both=True)
    return Paired(t, expit(s + 0.3 * t + 0.3 * random.normal(size=len(t))), expit(s), g)


def test_a_difference_is_of_the_metrics_and_is_antisymmetric(pair: Paired) -> None:
    t, a, b, g = pair
    there, back = paired_difference(t, a, b, g, replicates=300), paired_difference(t, b, a, g, replicates=300)
    assert there.value == pytest.approx(compute(t, a, 0.5)["auc"] - compute(t, b, 0.5)["auc"])
    assert there.low < there.value < there.high
    assert (back.value, back.low, back.high) == pytest.approx((-there.value, -there.high, -there.low), abs=1e-4)
    assert there.probability + back.probability == pytest.approx(1, abs=1e-3)


def test_pairing_is_what_makes_it_sharp(pair: Paired) -> None:
    t, a, b, g = pair
    difference, alone = paired_difference(t, a, b, g, replicates=300), bootstrap(t, a, g, replicates=300)
    assert difference.high - difference.low < 0.8 * (alone.high - alone.low)


def test_the_same_scores_differ_by_nothing_and_the_same_ranks_hardly(pair: Paired) -> None:
    t, a, _, g = pair
    assert paired_difference(t, a, a, g, replicates=50) == Difference(0.0, 0.0, 0.0, 0.95, 0.5)
    ranks = paired_difference(t, a, a**2, g, replicates=50)
    assert (ranks.low, ranks.high, ranks.probability) == pytest.approx((0, 0, 0.5), abs=1e-9)


def test_the_probability_and_the_interval_agree() -> None:
    random = np.random.default_rng(0)
    decided = set()
    for shift in np.linspace(-0.8, 0.8, 21):
        t, s, g = people(random, 40, 0.85)
        other = expit(s + shift * t + 0.5 * random.normal(size=len(t)))
        found = paired_difference(t, other, expit(s), g, replicates=100)
        assert (found.probability > 0.975) == (found.low > 0)
        assert (found.probability < 0.025) == (found.high < 0)
        decided.add(np.sign(found.low) + np.sign(found.high))
    assert decided == {-2, 0, 2}


def test_two_faultless_detectors_may_still_differ() -> None:
    t = np.repeat([0, 1], 50)
    found = paired_difference(t, t * 0.9, t * 0.5 + np.linspace(0, 0.4, 100), np.arange(100) // 5, replicates=50)
    assert found.value == 0
    assert found.high == pytest.approx(1 - 0.025 ** (1 / 10))
    assert found.low == -found.high
    assert found.probability == 0.5


def test_a_faultless_detector_of_few_groups_beats_chance() -> None:
    t = np.repeat([0, 1], 6)
    difference = paired_difference(t, t * 0.9, np.full(12, 0.5), np.arange(12), replicates=50)
    assert (difference.value, difference.low > 0, difference.probability > 0.975) == (0.5, True, True)


def test_each_model_has_its_own_threshold(pair: Paired) -> None:
    t, _, b, g = pair
    found = paired_difference(t, b, b, g, "recall", replicates=50, thresholds=(0.5, 0.8))
    assert found.value == pytest.approx(compute(t, b, 0.5)["recall"] - compute(t, b, 0.8)["recall"])
    assert found.value > 0


def test_a_mean_over_data_sets_is_unweighted_and_sharper_than_its_parts(pair: Paired) -> None:
    few = Paired(*(np.asarray(column)[: len(pair.groups) // 3] for column in pair))
    parts = [paired_difference(*dataset, replicates=400) for dataset in (pair, few)]
    found = paired_difference_of_means([pair, few], replicates=400)
    assert found.value == pytest.approx((parts[0].value + parts[1].value) / 2)
    four = paired_difference_of_means([pair] * 4, replicates=400)
    assert four.value == pytest.approx(parts[0].value)
    assert four.high - four.low == pytest.approx((parts[0].high - parts[0].low) / 2, rel=0.15)
    assert (four.probability > 0.975) == (four.low > 0)


def test_a_mean_over_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="no dataset"):
        paired_difference_of_means([])


def test_the_roc_band_holds_the_curve(scored: tuple[np.ndarray, ...]) -> None:
    t, s, g = scored
    fpr = np.linspace(0.05, 1, 20)
    low, high = curve_band("roc", t, s, g, fpr, replicates=200)
    wide, _ = curve_band("roc", t, s, g, fpr, replicates=200, level=0.99)
    tpr = [(s[t == 1] >= np.quantile(s[t == 0], 1 - x, method="higher")).mean() for x in fpr]
    assert (low <= np.array(tpr) + 0.02).all()
    assert (high >= np.array(tpr) - 0.02).all()
    assert (np.diff(low) >= 0).all()
    assert (wide <= low).all()
    assert np.isnan(curve_band("roc", [0, 1], [0.2, 0.7], [0, 1], fpr)[0]).all()


@pytest.mark.parametrize(("groups", "auc", "both"), [(30, 0.9, False), (60, 0.97, True), (100, 0.8, True)])
def test_coverage(groups: int, auc: float, both: bool) -> None:
    """95 % intervals hold the truth in 250 draws of new people: 0.91 is 2.9 standard errors of chance below 0.95."""
    random = np.random.default_rng(1)
    held, held_difference, runs = 0, 0, 250
    for seed in range(runs):
        t, s, g = people(random, groups, auc, both=both)
        held_by = bootstrap(t, expit(s), g, replicates=200, seed=seed)
        held += held_by.low <= auc <= held_by.high
        noise = random.normal(size=groups)[g] + random.normal(size=len(g))
        shift = math.sqrt(2) * norm.ppf(auc)
        other = shift * t + 0.8 * (s - shift * t) + 0.6 * math.sqrt(0.5) * noise  # another model, of the same AUC
        difference = paired_difference(t, expit(other), expit(s), g, replicates=200, seed=seed)
        held_difference += difference.low <= 0 <= difference.high
    assert 0.91 <= held / runs <= 0.99
    assert 0.91 <= held_difference / runs <= 0.99
