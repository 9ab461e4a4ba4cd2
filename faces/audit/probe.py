"""A probe: how far a simple model comes with a few numbers a row.

Every row is scored by a model that has seen neither the row nor its group. Of a logistic regression and gradient
boosting the one is taken that does better in an inner cross-validation on the other rows; so the choice costs nothing.

AUC and interval are those of a detector: by source, bootstrapped over groups (`metrics.intervals`), so that the two can
be held against each other. The interval says how far a probe comes where it finds something. Whether it finds anything
is asked elsewhere (`metrics.permutation`): around 0.5 a cross-validated AUC spreads wider than its interval says.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isnan, nan

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.ensemble import GradientBoostingClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from metrics.binary import Floats, Ints
from metrics.intervals import bootstrap_all

Names = NDArray[np.generic]  # of identities, videos and photographs

LOGISTIC, BOOSTING, NOTHING = "logistic", "boosting", "nothing"
_ENOUGH = 50  # rows of one inner fold from which it decides alone


@dataclass(frozen=True)
class Probe:
    """The out-of-fold AUC with its interval over groups; low and high are nan where a class has under two groups."""

    auc: float
    low: float
    high: float
    model: str  # what was taken in most folds: logistic, boosting, or nothing where no column differs

    def __str__(self) -> str:
        known = "" if isnan(self.low) or self.model == NOTHING else f" [{self.low:.2f}, {self.high:.2f}]"
        return f"{self.auc:.2f}{known}"


def probe(
    values: Floats, targets: Ints, groups: Names, sources: Names | None = None, *, folds: int = 5, seed: int = 0
) -> tuple[Probe, Floats]:
    """The probe of values [N, D] (nan: unknown), and its out-of-fold scores [N] in [0, 1].

    A source is scored by the mean of its rows; by default every row is a source of its own. Classes weigh the same in
    every fit, so that the share of fakes in a fold does not shift its scores.
    """
    scores = np.full(len(targets), 0.5)
    held = [len(np.unique(groups[targets == kind])) for kind in (0, 1)]
    folds = min(folds, *held)
    if folds < 2:
        return Probe(nan, nan, nan, NOTHING), scores
    if not values.shape[1]:
        return Probe(*auc_by_source(targets, scores, groups, sources), NOTHING), scores
    taken = []
    with threadpool_limits(1):  # small fits: more threads would only wait for each other
        for train, rest in StratifiedGroupKFold(folds, shuffle=True, random_state=seed).split(values, targets, groups):
            if len(np.unique(targets[train])) < 2:
                continue  # all groups of a class are in one fold: those rows keep a score that says nothing
            name = _better(values[train], targets[train], groups[train], seed)
            taken.append(name)
            scores[rest] = _scored(name, values, targets, train, rest, seed)
    most = BOOSTING if taken.count(BOOSTING) * 2 > len(taken) else LOGISTIC
    return Probe(*auc_by_source(targets, scores, groups, sources), most), scores


def _scored(name: str, values: Floats, targets: Ints, train: Ints, rest: Ints, seed: int) -> Floats:
    """Scores of the rest by a model of the train rows, with the same weight for both classes."""
    filled = SimpleImputer(add_indicator=True, keep_empty_features=True)
    if name == LOGISTIC:
        model = make_pipeline(filled, StandardScaler(), LogisticRegression(max_iter=1000))
    else:
        # Stochastic and of few columns a split: better here than the histogram kind, and ten times as fast on few rows.
        options = {"n_estimators": 40, "max_depth": 3, "subsample": 0.5, "max_features": "sqrt"}
        model = make_pipeline(filled, GradientBoostingClassifier(**options, random_state=seed))
    weight = len(train) / (2 * np.bincount(targets[train], minlength=2))[targets[train]]
    model.fit(values[train], targets[train], **{f"{model.steps[-1][0]}__sample_weight": weight})
    return model.predict_proba(values[rest])[:, 1]


def auc_by_source(
    targets: Ints, scores: Floats, groups: Names, sources: Names | None = None
) -> tuple[float, float, float]:
    """AUC, low and high as a detector's are: a source's score is the mean of its rows, groups are bootstrapped."""
    if sources is not None:
        frame = pd.DataFrame({"source": sources, "target": targets, "group": groups, "score": scores})
        means = frame.groupby(["source", "target", "group"], as_index=False)["score"].mean()
        targets, scores, groups = (means[name].to_numpy() for name in ("target", "score", "group"))
    interval = bootstrap_all(targets, scores, groups, ("auc",))["auc"]
    return interval.value, interval.low, interval.high


def _better(values: Floats, targets: Ints, groups: Names, seed: int) -> str:
    """The model with the higher AUC on inner folds; the simpler one where they cannot be told apart."""
    folds = min(3, *(len(np.unique(groups[targets == kind])) for kind in (0, 1)))
    if folds < 2:
        return LOGISTIC
    gains = []
    for train, rest in StratifiedGroupKFold(folds, shuffle=True, random_state=seed).split(values, targets, groups):
        if min(len(np.unique(targets[train])), len(np.unique(targets[rest]))) < 2:
            continue
        logistic, boosting = (
            roc_auc_score(targets[rest], _scored(name, values, targets, train, rest, seed))
            for name in (LOGISTIC, BOOSTING)
        )
        gains.append(float(boosting - logistic))
        if len(rest) >= _ENOUGH:
            break
    return BOOSTING if gains and float(np.mean(gains)) > 0.01 else LOGISTIC
