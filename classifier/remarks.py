"""What a reader of an evaluation must be told in words, since the figures alone would mislead."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from classifier.evaluation import Evaluation

_SOON = 3  # epochs after the first: fewer say nothing


def remarks(evaluation: Evaluation) -> list[str]:
    """Sentences about data sets whose figures are undefined, without an interval, or below chance; often empty.

    An AUC whose whole interval lies below 0.5 says that the model ranks the classes the wrong way round: labels were
    swapped in the data or in training, or the data set's fakes look more real to it than its reals.
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
                f"on {name} AUC {auc} lies below 0.5 beyond doubt: real and fake may be swapped in its labels or in "
                "the training data, or its fakes look more real to the model than its reals"
            )
        elif math.isnan(auc.low):
            told.append(
                f"{name} has {result.groups} identities or sources, under two of a class: no interval can be given, "
                "and its figures may be chance"
            )
    return told


def remark_on_training(history: Mapping[str, Any]) -> str | None:
    """A sentence where all but the first of several epochs were thrown away, of a detector's `history.json`."""
    aucs = [epoch.get("val_auc") for epoch in history["epochs"]]
    if history.get("best_epoch") != 1 or len(aucs) <= _SOON or None in aucs:
        return None
    return (
        f"the first of {len(aucs)} epochs was the best on val (AUC {aucs[0]:.3f}, the last {aucs[-1]:.3f}) and is what "
        "was kept: what train teaches is not what val asks. Are their fakes of one kind, and is the learning rate low "
        "enough?"
    )
