"""From scores to what is claimed: metrics with intervals per dataset and overall, by frame or by source.

An `Evaluation` is plain data that goes to JSON and back, and to a tidy table. A score table keeps the scores
themselves, so that two detectors can be compared pairwise later, without the images.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from pydantic import TypeAdapter
from sklearn.metrics import roc_auc_score, roc_curve

from core.errors import UserError
from core.files import strict_json, with_nan
from core.groups import groups_of
from metrics.binary import Floats, Ints, compute, confusion
from metrics.intervals import Difference, Interval, Paired, bootstrap_all, curve_band, paired_difference_of_means

By = Literal["frame", "source"]
ALL = "all"  # every row of every dataset, pooled
MEAN = "mean"  # the unweighted mean over the datasets
WITH_INTERVALS = ("auc", "ap", "eer", "accuracy", "recall", "fpr")
TABLE_COLUMNS = ("sha256", "dataset", "label", "method", "source", "group", "score")
_ROC_POINTS = 200


@dataclass(frozen=True)
class Roc:
    """Points of a ROC curve, from (0, 0) to (1, 1), at most 200; empty where one class is missing.

    A face is called fake where its score >= threshold; the first threshold lies just above 1, where nothing is.
    `low` and `high` are the pointwise band of the highest tpr at each fpr (nan where a class has under two groups).
    """

    fpr: tuple[float, ...] = ()
    tpr: tuple[float, ...] = ()
    threshold: tuple[float, ...] = ()
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()


@dataclass(frozen=True)
class Result:
    """One dataset: counts of what was scored (frames or sources), metrics, intervals, curve, errors, methods."""

    real: int
    fake: int
    groups: int  # identities, or else sources: what the intervals rest on
    metrics: dict[str, float]  # names of metrics.binary.NAMES; nan where undefined
    intervals: dict[str, Interval]  # names of WITH_INTERVALS
    confusion: tuple[tuple[int, int], tuple[int, int]]  # ((tn, fp), (fn, tp)) at the fixed threshold
    roc: Roc
    by_method: dict[str, float]  # AUC of each fake method against all reals of the dataset


@dataclass(frozen=True)
class Evaluation:
    """What one detector did on a manifest's rows: a `Result` for each dataset, and for `all` of them pooled."""

    by: By
    threshold: float
    level: float
    replicates: int
    seed: int
    results: dict[str, Result]

    @property
    def datasets(self) -> list[str]:
        """Names of the datasets, without `all`."""
        return [name for name in self.results if name != ALL]

    def mean(self, metric: str = "auc") -> float:
        """The unweighted mean of a metric over the datasets that define it; nan where none does."""
        values = [self.results[name].metrics[metric] for name in self.datasets]
        defined = [value for value in values if not math.isnan(value)]
        return float(np.mean(defined)) if defined else math.nan

    def to_json(self) -> str:
        """Strict JSON; what is not a number becomes null."""
        return strict_json(asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: str) -> Evaluation:
        """The evaluation that `to_json` wrote.

        Raises:
            UserError: the text is something else.
        """
        try:
            return TypeAdapter(cls).validate_python(with_nan(json.loads(text)))
        except (ValueError, RecursionError) as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(
                f"this is not an evaluation ({reason}): write it anew with `counterforge evaluate`"
            ) from error


def evaluate(
    rows: pd.DataFrame,
    scores: ArrayLike,
    threshold: float,
    *,
    by: By = "frame",
    level: float = 0.95,
    replicates: int = 2000,
    seed: int = 0,
) -> Evaluation:
    """Evaluate one detector's scores, per dataset and pooled.

    Args:
        rows: N rows of a manifest (`Manifest.rows`).
        scores: float [N], calibrated P(fake) of each row.
        threshold: P(fake) from which a face is called fake, fixed on val.
        by: score each frame, or each source (see `per_source`).
        level: of the intervals; `replicates` and `seed`: of the bootstrap.

    Groups of one name are one group, also across datasets, as they are for the splits.

    Raises:
        UserError: there are no rows, a dataset is called `all` or `mean`, or a score is nan.
        ValueError: scores and rows differ in number, or a score is not a probability.
    """
    table = score_table(rows, scores)
    if table.empty:
        raise UserError("there are no rows to evaluate: choose a manifest, split or dataset that has some")
    if by == "source":
        table = per_source(table)
    names = _datasets(table)
    options: dict[str, Any] = {"level": level, "replicates": replicates, "seed": seed}
    results = {name: _evaluate_one(table[table["dataset"] == name], threshold, **options) for name in names}
    results[ALL] = results[names[0]] if len(names) == 1 else _evaluate_one(table, threshold, **options)
    return Evaluation(by=by, threshold=float(threshold), results=results, level=level, replicates=replicates, seed=seed)


def score_table(rows: pd.DataFrame, scores: ArrayLike) -> pd.DataFrame:
    """The scores [N] of N manifest rows as a tidy table with TABLE_COLUMNS, to be stored as parquet.

    `group` is the identity, or else the source (see `core.groups.groups_of`); `per_source` averages over `source`.
    """
    values = np.asarray(scores, dtype=np.float64)
    if values.shape != (len(rows),):
        raise ValueError(f"{values.shape} scores for {len(rows)} rows")
    if lost := int(np.isnan(values).sum()):
        first = rows["path"].iloc[int(np.isnan(values).argmax())] if "path" in rows else "one of them"
        raise UserError(
            f"{lost} of {len(values)} scores are no numbers (first that of {first}): the model's weights are damaged "
            "or its training diverged, train it again with a lower learning rate"
        )
    table = rows[["sha256", "dataset", "label", "method", "source"]].assign(group=groups_of(rows), score=values)
    return table[list(TABLE_COLUMNS)].reset_index(drop=True)


def per_source(table: pd.DataFrame) -> pd.DataFrame:
    """One row for each source (video or photo) and person in it: the mean P(fake) of its frames.

    Probabilities are averaged, not logits: by Jensen's inequality the mean has a Brier score and a log loss no worse
    than the frames' average, and one frame at 1e-9 cannot outvote the others. Frames of another label, method or person
    are averaged apart, so that a forged video keeps apart from the original that shares its source name.
    """
    keys = ["dataset", "source", "label", "method", "group"]
    means = table.groupby(keys, sort=True, as_index=False, dropna=False).agg(
        sha256=("sha256", "first"), score=("score", "mean")
    )
    return means[list(TABLE_COLUMNS)].assign(score=means["score"].clip(0.0, 1.0))


def columns(table: pd.DataFrame) -> tuple[Ints, Floats, NDArray[np.str_]]:
    """The targets (fake = 1), scores and groups of a score table, [N] each."""
    return (
        (table["label"] == "fake").to_numpy(dtype=np.int64),
        table["score"].to_numpy(dtype=np.float64),
        table["group"].to_numpy(dtype=np.str_),
    )


def compare(
    table_a: pd.DataFrame,
    table_b: pd.DataFrame,
    *,
    metric: str = "auc",
    by: By = "frame",
    thresholds: tuple[float, float] = (0.5, 0.5),
    level: float = 0.95,
    replicates: int = 2000,
    seed: int = 0,
) -> dict[str, Difference]:
    """Metric of detector a minus that of b on the same rows: per dataset and, of several, `mean` and `all` pooled.

    `mean` is over the datasets where the metric is defined. Two score tables (see `score_table`) may be in any order.

    Raises:
        UserError: the tables hold different rows, or none.
    """
    a, b = _aligned(table_a), _aligned(table_b)
    if a.empty and b.empty:
        raise UserError("both score tables are empty: evaluate both detectors on a manifest that has rows")
    keys = list(TABLE_COLUMNS[:-1])
    if not a[keys].equals(b[keys]):
        first, second = (set(frame[keys].itertuples(index=False, name=None)) for frame in (a, b))
        raise UserError(
            f"the two score tables are not of the same rows ({len(first - second)} only in a, {len(second - first)} "
            f"only in b, of {len(a)} and {len(b)}): evaluate both detectors on the same manifest"
        )
    if by == "source":
        a, b = per_source(a), per_source(b)
    names = _datasets(a)
    options: dict[str, Any] = {"metric": metric, "thresholds": thresholds, "level": level, "replicates": replicates}

    def pair(keep: pd.Series | slice) -> Paired:
        (targets, scores_a, groups), (_, scores_b, _) = columns(a[keep]), columns(b[keep])
        return Paired(targets, scores_a, scores_b, groups)

    datasets = {name: pair(a["dataset"] == name) for name in names}
    found = {name: paired_difference_of_means([dataset], seed=seed, **options) for name, dataset in datasets.items()}
    if len(names) > 1:
        defined = [dataset for name, dataset in datasets.items() if not math.isnan(found[name].value)]
        if defined:
            found[MEAN] = paired_difference_of_means(defined, seed=seed, **options)
        found[ALL] = paired_difference_of_means([pair(slice(None))], seed=seed, **options)
    return found


def _evaluate_one(table: pd.DataFrame, threshold: float, *, level: float, replicates: int, seed: int) -> Result:
    targets, scores, groups = columns(table)
    intervals = bootstrap_all(
        targets, scores, groups, WITH_INTERVALS, level=level, replicates=replicates, seed=seed, threshold=threshold
    )
    (tn, fp), (fn, tp) = confusion(targets, scores, threshold).tolist()
    return Result(
        real=tn + fp,
        fake=fn + tp,
        groups=len(np.unique(groups)),
        # A figure and its interval are one number, to the last digit.
        metrics=compute(targets, scores, threshold) | {name: interval.value for name, interval in intervals.items()},
        intervals=intervals,
        confusion=((tn, fp), (fn, tp)),
        roc=_roc(targets, scores, groups, level=level, replicates=min(replicates, 500), seed=seed),
        by_method=_by_method(table["method"].to_numpy(dtype=np.str_), targets, scores),
    )


def _by_method(methods: NDArray[np.str_], targets: Ints, scores: Floats) -> dict[str, float]:
    found = {}
    for method in np.unique(methods[targets == 1]):
        keep = (targets == 0) | (methods == method)
        one_class = targets[keep].all()
        found[str(method)] = math.nan if one_class else float(roc_auc_score(targets[keep], scores[keep]))
    return found


def _roc(targets: Ints, scores: Floats, groups: NDArray[np.str_], *, level: float, replicates: int, seed: int) -> Roc:
    if not 0 < targets.sum() < len(targets):
        return Roc()
    fpr, tpr, threshold = roc_curve(targets, scores)
    if len(fpr) > _ROC_POINTS:  # evenly along the curve, so that its steep start keeps its points
        length = np.append(0.0, np.cumsum(np.diff(fpr) + np.diff(tpr)))
        keep = np.unique(np.searchsorted(length, np.linspace(0, length[-1], _ROC_POINTS)).clip(max=len(fpr) - 1))
        fpr, tpr, threshold = fpr[keep], tpr[keep], threshold[keep]
    threshold = np.minimum(threshold, np.nextafter(1.0, 2.0))  # scikit-learn starts at infinity, which JSON lacks
    low, high = curve_band("roc", targets, scores, groups, fpr, level=level, replicates=replicates, seed=seed)
    return Roc(*(tuple(map(float, values)) for values in (fpr, tpr, threshold, low, high)))


def _datasets(table: pd.DataFrame) -> list[str]:
    names = sorted(map(str, table["dataset"].unique()))
    for reserved in (ALL, MEAN):
        if reserved in names:
            raise UserError(f"a dataset is called {reserved!r}, which stands for several together: rename it")
    return names


def _aligned(table: pd.DataFrame) -> pd.DataFrame:
    missing = [name for name in TABLE_COLUMNS if name not in table.columns]
    if missing:
        raise UserError(f"a score table has no column {', '.join(missing)}: write it anew with `counterforge evaluate`")
    plain = table[list(TABLE_COLUMNS)].astype(dict.fromkeys(TABLE_COLUMNS[:-1], str))
    return plain.sort_values(list(TABLE_COLUMNS), ignore_index=True)


def remarks(evaluation: Evaluation) -> list[str]:
    """Sentences about datasets whose figures are undefined, without an interval, or below chance; often empty.

    An AUC whose whole interval lies below 0.5 says that the model ranks the classes the wrong way round: labels were
    swapped in the data or in training, or the dataset's fakes look more real to it than its reals.
    """
    told = []
    for name in evaluation.datasets:
        result = evaluation.results[name]
        auc = result.intervals["auc"]
        if not result.real or not result.fake:
            missing, only = ("real", "fakes") if not result.real else ("fake", "reals")
            told.append(f"{name} has {only} only: AUC, AP and EER need a {missing} face too, and are left undefined")
        elif result.metrics["auc"] == 0.5 and len(result.roc.fpr) == 2:
            told.append(f"on {name} all scores are equal: the model tells nothing apart there (AUC 0.5)")
        elif auc.high < 0.5:
            told.append(
                f"on {name} the whole {auc.level:.0%} interval of AUC {auc} lies below 0.5: real and fake may be "
                "swapped in its labels or in the training data, or its fakes look more real to the model than its reals"
            )
        elif math.isnan(auc.low):
            told.append(
                f"{name} has {result.groups} identities or sources, under two of a class: no interval can be given, "
                "and its figures may be chance"
            )
    return told


def remark_on_training(history: Mapping[str, Any]) -> str | None:
    """A sentence where all but the first of four epochs or more were thrown away, of a detector's `history.json`."""
    aucs = [epoch.get("val_auc") for epoch in history["epochs"]]
    if history.get("best_epoch") != 1 or len(aucs) < 4 or None in aucs:
        return None
    return (
        f"the first of {len(aucs)} epochs was the best on val (AUC {aucs[0]:.3f}, the last {aucs[-1]:.3f}) and is what "
        "was kept: what train teaches is not what val asks. Are their fakes of one kind, and is the learning rate low "
        "enough?"
    )
