"""Intervals over groups and seeds: they hold what they promise, and look at neither frames nor seeds as independent."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit
from scipy.stats import false_discovery_control
from sklearn.metrics import roc_auc_score

from metrics.intervals import bootstrap_all, paired_difference
from metrics.repeated import Sample, holm, mean_over_sets, over_seeds, two_sided


def drawn(
    random: np.random.Generator, effect: float = 0.0, *, spread: float = 0.1, groups: int = 40, seeds: int = 3
) -> Sample:
    """4 frames a group; `spread` is the standard deviation over seeds of how far apart the classes are."""
    targets, names = np.repeat(np.arange(groups) % 2, 4), np.repeat(np.arange(groups), 4)
    common = np.repeat(random.normal(0, 0.8, groups), 4) + random.normal(0, 0.8, len(names))
    scores = {
        model: np.stack(
            [
                expit((1.2 + shift + random.normal(0, spread)) * targets + common + random.normal(0, 0.3, len(names)))
                for _ in range(seeds)
            ]
        )
        for model, shift in (("none", 0.0), ("more", effect))
    }
    return Sample(targets, names, scores)


def test_one_seed_is_the_interval_over_groups() -> None:
    sample = drawn(np.random.default_rng(0), 0.5, seeds=1)
    found = over_seeds(sample, "none", replicates=400)
    a, b = sample.scores["more"][0], sample.scores["none"][0]
    plain = bootstrap_all(sample.targets, a, sample.groups, replicates=400)["auc"]
    pair = paired_difference(sample.targets, a, b, sample.groups, replicates=400)
    own = found["more"].interval
    assert (own.value, own.low, own.high) == pytest.approx((plain.value, plain.low, plain.high), abs=1e-12)
    difference = found["more"].difference
    assert difference is not None
    assert difference.value == pytest.approx(pair.value, abs=1e-12)
    assert difference.high - difference.low == pytest.approx(pair.high - pair.low, rel=0.1)
    assert found["none"].difference is None


def test_the_value_is_the_mean_of_the_seeds() -> None:
    sample = drawn(np.random.default_rng(1))
    found = over_seeds(sample, "none", replicates=50)
    aucs = [float(roc_auc_score(sample.targets, row)) for row in sample.scores["more"]]
    assert found["more"].per_seed == pytest.approx(aucs, abs=1e-12)
    assert found["more"].interval.value == pytest.approx(np.mean(aucs), abs=1e-12)


def test_seeds_that_repeat_each_other_add_no_certainty() -> None:
    """Thrice the same scores are no three times the knowledge; what the groups leave open stays open."""
    one = drawn(np.random.default_rng(2), 0.3, seeds=1)
    thrice = Sample(one.targets, one.groups, {name: np.repeat(rows, 3, axis=0) for name, rows in one.scores.items()})
    few, many = (over_seeds(sample, "none", replicates=400)["more"].difference for sample in (one, thrice))
    assert few is not None
    assert many is not None
    assert many.high - many.low == pytest.approx(few.high - few.low, rel=0.02)


def test_seeds_that_disagree_widen_the_interval() -> None:
    widths = []
    for spread in (0.0, 0.6):
        difference = over_seeds(drawn(np.random.default_rng(3), spread=spread), "none", replicates=200)[
            "more"
        ].difference
        assert difference is not None
        widths.append(difference.high - difference.low)
    assert widths[1] > 2 * widths[0]


@pytest.mark.parametrize("spread", [0.05, 0.4])
def test_a_difference_of_nothing_lies_within_its_interval(spread: float) -> None:
    """60 draws at 95 %: fewer than 52 within would be a chance of 1 in 100."""
    random = np.random.default_rng(4)
    held = 0
    for _ in range(60):
        difference = over_seeds(drawn(random, spread=spread), "none", replicates=100)["more"].difference
        assert difference is not None
        held += difference.low <= 0 <= difference.high
    assert held >= 52


def test_a_planted_difference_is_found() -> None:
    found = over_seeds(drawn(np.random.default_rng(5), 1.5, groups=80), "none", replicates=300)["more"].difference
    assert found is not None
    assert found.low > 0
    assert two_sided(found) < 0.05
    assert (found.probability > 0.975) == (found.low > 0)


def test_the_same_scores_differ_by_nothing() -> None:
    sample = drawn(np.random.default_rng(6))
    same = Sample(sample.targets, sample.groups, {"none": sample.scores["none"], "twin": sample.scores["none"]})
    twin = over_seeds(same, "none", replicates=100)["twin"].difference
    assert twin is not None
    assert (twin.value, twin.low, twin.high) == (0, 0, 0)
    assert two_sided(twin) == 1


def test_faultless_models_and_too_few_groups_have_a_defined_result() -> None:
    targets, groups = np.array([0, 0, 1, 1] * 5), np.arange(20)
    perfect = np.tile(targets * 0.8 + 0.1, (3, 1)).astype(float)
    random = np.random.default_rng(7)
    sample = Sample(targets, groups, {"none": random.uniform(size=(3, 20)), "all": perfect})
    found = over_seeds(sample, "none", replicates=100)["all"]
    assert found.interval.value == found.interval.high == 1
    assert found.interval.low < 1
    assert found.difference is not None
    assert found.difference.low < found.difference.value <= found.difference.high <= 1
    lone = over_seeds(Sample(targets, targets, sample.scores), "none")["all"]
    assert np.isnan(lone.interval.low)
    assert lone.difference is not None
    assert np.isnan(two_sided(lone.difference))
    assert np.isnan(mean_over_sets([lone, found]).interval.low)


def test_the_mean_over_sets_counts_a_seed_once() -> None:
    """Three datasets, one and the same three seeds: the spread over seeds does not shrink with the datasets."""
    parts = [over_seeds(drawn(np.random.default_rng(8), spread=1.0, groups=400), "none", replicates=50)["more"]] * 3
    mean = mean_over_sets(parts)
    assert mean.difference is not None
    assert mean.differences == pytest.approx(parts[0].differences)
    error = np.std(mean.differences, ddof=1) / np.sqrt(3)
    assert mean.difference.high - mean.difference.low > 2 * 2 * error


def test_holm_s_correction() -> None:
    values = [0.01, 0.04, float("nan"), 0.03, 0.005]
    assert holm(values) == pytest.approx([0.03, 0.06, float("nan"), 0.06, 0.02], nan_ok=True)
    known = [value for value in values if value == value]
    assert all(a >= b for a, b in zip(holm(known), false_discovery_control(known), strict=True))
    assert holm([]) == []
    with pytest.raises(ValueError, match="numbers of seeds"):
        over_seeds(Sample([0, 1], np.array([0, 1]), {"a": np.zeros((1, 2)), "b": np.zeros((2, 2))}))
