"""Metrics of a binary detector of fakes: `targets` int [N] with fake = 1, `scores` float [N] = P(fake) in [0, 1].

`compute` gives every metric of one sample. `Ranked` gives those that depend on the ranking, or on the fixed threshold,
for many weightings of one sample at once, sorting it once: the bootstrap of `metrics.intervals` runs on that.
A face counts as predicted fake where its score >= threshold.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import nan

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn import metrics as sk

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

ECE_BINS = 15  # as in Guo et al. 2017 and most tables since


def validated(targets: ArrayLike, scores: ArrayLike) -> tuple[Ints, Floats]:
    """Both as one-dimensional arrays of equal length.

    Raises:
        ValueError: lengths differ, a target is neither 0 nor 1, or a score is not a probability.
    """
    t, s = np.asarray(targets, dtype=np.int64), np.asarray(scores, dtype=np.float64)
    if t.ndim != 1 or t.shape != s.shape:
        raise ValueError(f"targets {t.shape} and scores {s.shape} are not two vectors of one length")
    if not np.isin(t, (0, 1)).all():
        raise ValueError("targets must be 0 (real) or 1 (fake)")
    if not ((s >= 0) & (s <= 1)).all():  # also refuses nan
        raise ValueError("scores must be probabilities in [0, 1]")
    return t, s


def compute(targets: ArrayLike, scores: ArrayLike, threshold: float) -> dict[str, float]:
    """Every metric of one sample, at the threshold that was fixed beforehand (on val, never on this sample).

    A metric that the sample leaves undefined is nan: auc, ap and eer with one class only, recall without fakes,
    fpr without reals, precision where nothing is called fake, everything where N = 0.

    Returns:
        auc, ap, eer, accuracy, precision, recall, f1, fpr, brier, log_loss, ece; all in [0, 1], log_loss in nats.
    """
    t, s = validated(targets, scores)
    if not len(t):
        return dict.fromkeys(NAMES, nan)
    both = 0 < t.sum() < len(t)
    (tn, fp), (fn, tp) = confusion(t, s, threshold).tolist()
    return {
        "auc": float(sk.roc_auc_score(t, s)) if both else nan,
        "ap": float(sk.average_precision_score(t, s)) if both else nan,
        "eer": eer(t, s),
        "accuracy": (tp + tn) / len(t),
        "precision": _ratio(tp, tp + fp),
        "recall": _ratio(tp, tp + fn),
        "f1": _ratio(2 * tp, 2 * tp + fp + fn),
        "fpr": _ratio(fp, fp + tn),
        "brier": float(np.mean((s - t) ** 2)),
        "log_loss": float(sk.log_loss(t, s, labels=[0, 1])),
        "ece": ece(t, s),
    }


NAMES = ("auc", "ap", "eer", "accuracy", "precision", "recall", "f1", "fpr", "brier", "log_loss", "ece")


def confusion(targets: ArrayLike, scores: ArrayLike, threshold: float) -> Ints:
    """[2, 2] counts [[tn, fp], [fn, tp]]: rows are the truth (real, fake), columns what it was called."""
    t, s = validated(targets, scores)
    return np.bincount(2 * t + (s >= threshold), minlength=4).reshape(2, 2).astype(np.int64)


def eer(targets: ArrayLike, scores: ArrayLike) -> float:
    """Equal error rate in [0, 1]: where the ROC curve, its points joined by lines, has FPR = 1 - TPR.

    nan where one class is missing.
    """
    t, s = validated(targets, scores)
    return float(Ranking(t, s)().eer()[0])


def equal_mass_bins(scores: ArrayLike, bins: int = ECE_BINS) -> Ints:
    """[N] bin 0..bins-1 of each score: by its rank, so that bins hold about N / bins samples, equal scores together.

    Keeping ties together makes what is computed from the bins independent of the order of the samples.
    """
    s = np.asarray(scores, dtype=np.float64)
    return np.searchsorted(np.sort(s), s, side="left").astype(np.int64) * bins // max(len(s), 1)


def ece(targets: ArrayLike, scores: ArrayLike, bins: int = ECE_BINS) -> float:
    """Expected calibration error of P(fake) over bins b of equal mass: sum_b n_b / N * |mean(target) - mean(score)|.

    Naeini et al., "Obtaining well calibrated probabilities using Bayesian binning", AAAI 2015 (the definition); bins of
    equal mass from Nguyen & O'Connor, "Posterior calibration and exploratory analysis", EMNLP 2015. It is of the
    positive class, not of the confidence in the called class. Its bias is upward, of order sqrt(bins / N).
    """
    t, s = validated(targets, scores)
    if not len(t):
        return nan
    gap = np.bincount(equal_mass_bins(s, bins), weights=t - s, minlength=bins)
    return float(np.abs(gap).sum() / len(t))


@dataclass(frozen=True)
class Ranked:
    """Cumulated weights of one sample sorted by descending score, under B weightings at once.

    Column k of `tp` and `fp` holds the weight of the fakes and of the reals among the k highest distinct scores:
    column 0 is zero, the last one is everything. Equal scores share a column, which makes ties count as halves.
    A metric of a weighting without fakes or without reals is nan where it is undefined.
    """

    tp: Floats  # [B, K + 1]
    fp: Floats  # [B, K + 1]
    called: int  # column at the fixed threshold

    @property
    def tpr(self) -> Floats:
        """[B, K + 1] share of the fakes found."""
        return _divide(self.tp, self.tp[:, -1:])

    @property
    def fpr(self) -> Floats:
        """[B, K + 1] share of the reals called fake."""
        return _divide(self.fp, self.fp[:, -1:])

    @property
    def precision(self) -> Floats:
        """[B, K] share of fakes among what is called fake, from the first score on; 0 where no fake is."""
        tp = self.tp[:, 1:]
        return np.divide(tp, tp + self.fp[:, 1:], out=np.zeros_like(tp), where=tp > 0)

    def auc(self) -> Floats:
        """[B] area under the ROC curve by the trapezoid rule = P(fake scores above real) + P(tie) / 2."""
        # sum of fp steps x (tp before + tp after) / 2, with both halves as one product each to save a pass over [B, K].
        steps = np.diff(self.fp, axis=1)
        area = np.einsum("bk,bk->b", steps, self.tp[:, 1:]) + np.einsum("bk,bk->b", steps, self.tp[:, :-1])
        return _divide(area, 2 * self.tp[:, -1] * self.fp[:, -1])

    def ap(self) -> Floats:
        """[B] average precision: sum_k (R_k - R_{k-1}) P_k, without interpolation, as scikit-learn defines it."""
        area = np.einsum("bk,bk->b", np.diff(self.tp, axis=1), self.precision)
        return np.where(self.fp[:, -1] > 0, _divide(area, self.tp[:, -1]), nan)

    def eer(self) -> Floats:
        """[B] equal error rate, see `eer`."""
        fpr = self.fpr
        if fpr.shape[1] == 1:  # an empty sample
            return fpr[:, 0]
        gap = fpr - (1 - self.tpr)  # rises from -1 to 1
        after = np.maximum(np.argmax(gap >= 0, axis=1), 1)[:, None]
        low, high = np.take_along_axis(gap, after - 1, 1), np.take_along_axis(gap, after, 1)
        start, end = np.take_along_axis(fpr, after - 1, 1), np.take_along_axis(fpr, after, 1)
        with np.errstate(invalid="ignore"):
            return np.asarray(start - low / (high - low) * (end - start))[:, 0]

    def recall(self) -> Floats:
        """[B] share of the fakes that score at or above the threshold."""
        return _divide(self.tp[:, self.called], self.tp[:, -1])

    def false_positive_rate(self) -> Floats:
        """[B] share of the reals that score at or above the threshold."""
        return _divide(self.fp[:, self.called], self.fp[:, -1])

    def accuracy(self) -> Floats:
        """[B] share of all that fall on their side of the threshold."""
        fp_all, tp_all = self.fp[:, -1], self.tp[:, -1]
        return _divide(self.tp[:, self.called] + fp_all - self.fp[:, self.called], tp_all + fp_all)

    def f1(self) -> Floats:
        """[B] harmonic mean of precision and recall at the threshold."""
        tp = self.tp[:, self.called]
        return _divide(2 * tp, tp + self.fp[:, self.called] + self.tp[:, -1])


class Ranking:
    """The order of one sample, found once in O(N log N); calling it with weights [B, N] >= 0 gives `Ranked` in O(B N).

    Without weights all weigh one.

    `order` [N] are the samples by descending score: who makes weights for each group can make them in that order at
    once, and pass `in_order=True`.
    """

    def __init__(self, targets: Ints, scores: Floats, threshold: float = 0.5) -> None:
        self.order = np.argsort(-scores, kind="stable")
        ordered = scores[self.order]
        self._fake = targets[self.order].astype(np.float64)
        ends = np.flatnonzero(np.append(ordered[1:] != ordered[:-1], [True] * (len(ordered) > 0)))
        self._ends = None if len(ends) == len(ordered) else ends  # no ties: nothing to pick
        self._called = int((ordered[ends] >= threshold).sum())

    def __call__(self, weights: Floats | None = None, *, in_order: bool = False) -> Ranked:
        if weights is None:
            weights = np.ones((1, len(self.order)))
        w = weights if in_order else weights[:, self.order]
        tp, total = self._cumulated(w * self._fake), self._cumulated(w)
        return Ranked(tp, np.subtract(total, tp, out=total), self._called)

    def _cumulated(self, weights: Floats) -> Floats:
        out = np.zeros((weights.shape[0], weights.shape[1] + 1))
        np.cumsum(weights, axis=1, out=out[:, 1:])
        return out if self._ends is None else out[:, np.append(0, self._ends + 1)]


RANKED: dict[str, Callable[[Ranked], Floats]] = {
    "auc": Ranked.auc,
    "ap": Ranked.ap,
    "eer": Ranked.eer,
    "accuracy": Ranked.accuracy,
    "recall": Ranked.recall,
    "fpr": Ranked.false_positive_rate,
    "f1": Ranked.f1,
}
"""The metrics that have intervals: all are defined for every weighting that holds both classes."""


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else nan


def _divide(part: Floats, whole: Floats) -> Floats:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(whole > 0, part / whole, nan)
