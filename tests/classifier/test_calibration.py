"""Temperature against scikit-learn and a grid; the threshold against its definition."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit, log_expit

from classifier.calibration import fit_temperature, fit_threshold, probabilities


def draw(n: int, temperature: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits that are `temperature` times too sure, and the labels they stand for."""
    random = np.random.default_rng(seed)
    truth = random.normal(0, 2, n)
    return truth * temperature, (random.random(n) < expit(truth)).astype(np.int64)


@pytest.mark.parametrize("temperature", [0.3, 1.0, 4.0])
def test_the_temperature_is_found_again(temperature: float) -> None:
    logits, targets = draw(40_000, temperature)
    assert fit_temperature(logits, targets) == pytest.approx(temperature, rel=0.05)


def test_the_temperature_agrees_with_scikit_learn() -> None:
    from sklearn.base import BaseEstimator, ClassifierMixin
    from sklearn.calibration import CalibratedClassifierCV
    from sklearn.frozen import FrozenEstimator

    class Given(ClassifierMixin, BaseEstimator):
        classes_ = np.array([0, 1])

        def fit(self, _X: np.ndarray, _y: np.ndarray) -> "Given":
            return self

        def __sklearn_is_fitted__(self) -> bool:
            return True

        def decision_function(self, X: np.ndarray) -> np.ndarray:
            return X[:, 0]

        def predict(self, X: np.ndarray) -> np.ndarray:
            return (X[:, 0] > 0).astype(np.int64)

    logits, targets = draw(20_000, 2.5)
    reference = CalibratedClassifierCV(FrozenEstimator(Given()), method="temperature").fit(logits[:, None], targets)
    beta = reference.calibrated_classifiers_[0].calibrators[0].beta_
    # scikit-learn scales the pair (-logit, logit) before its softmax, which is a sigmoid of twice the logit.
    assert fit_temperature(logits, targets) == pytest.approx(1 / (2 * float(beta)), rel=1e-2)


def test_the_temperature_is_the_minimum_of_the_stated_loss() -> None:
    logits, targets = draw(60, 3.0, seed=1)
    n_fake = targets.sum()
    soft = np.where(targets == 1, (n_fake + 1) / (n_fake + 2), 1 / (len(targets) - n_fake + 2))
    grid = np.exp(np.linspace(np.log(0.05), np.log(50), 20_001))
    scaled = logits[None] / grid[:, None]
    loss = -(soft * log_expit(scaled) + (1 - soft) * log_expit(-scaled)).mean(1)
    assert fit_temperature(logits, targets) == pytest.approx(grid[loss.argmin()], rel=1e-3)


def test_separated_classes_do_not_make_it_certain() -> None:
    temperature = fit_temperature([-4, -3, 3, 4], [0, 0, 1, 1])
    assert 0.7 < probabilities([4.0], temperature)[0] < 0.95


@pytest.mark.parametrize("label", [0, 1])
def test_one_class_says_nothing(label: int) -> None:
    assert fit_temperature([1.0, 2.0], [label] * 2) == 1.0
    assert fit_threshold([0.1, 0.7], [label] * 2) == 0.5


def test_equal_scores_and_no_scores_give_one_half() -> None:
    assert fit_threshold([0.9, 0.9], [0, 1]) == 0.5
    assert fit_threshold([], []) == 0.5
    assert fit_temperature([], []) == 1.0


def test_scores_that_are_none_are_a_programming_error() -> None:
    with pytest.raises(ValueError, match="finite"):
        fit_threshold([0.1, float("nan")], [0, 1])


def test_separated_classes_are_cut_halfway() -> None:
    assert fit_threshold([0.1, 0.2, 0.6, 0.9], [0, 0, 1, 1]) == pytest.approx(0.4)


@given(st.integers(0, 10_000), st.integers(2, 60))
def test_no_other_threshold_brings_the_two_errors_nearer(seed: int, n: int) -> None:
    random = np.random.default_rng(seed)
    targets = np.r_[0, 1, random.integers(0, 2, n)]
    scores = np.round(random.random(n + 2) * 0.8 + 0.1 * targets, 2)

    def gap(cut: float) -> float:
        called = scores >= cut
        return abs(float(called[targets == 0].mean()) - float((~called)[targets == 1].mean()))

    values = np.unique(scores)
    found = fit_threshold(scores, targets)
    assert 0 < found < 1
    if len(values) > 1:
        assert gap(found) <= min(gap(cut) for cut in (values[:-1] + values[1:]) / 2) + 1e-9
