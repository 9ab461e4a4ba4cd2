"""How an ensemble weighs its members: found on val rows, with what is fitted to them judged on rows left out.

Temperature and threshold of the whole come from cross-fitted logits: each val row is scored by weights that were found
without its group, since weights look better on the rows that they were found on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit, log_expit
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold

from classifier.models.detector import Detector
from classifier.models.ensemble import Combination, Ensemble
from classifier.scoring import BATCH_SIZE, batches
from classifier.venn_abers import ValScores
from core.errors import UserError
from core.manifest import Manifest
from faces.loading import load_crops

Floats = NDArray[np.float64]
_FOLDS = 5
_STRENGTHS = (0.01, 0.1, 1.0, 10.0)  # inverse regularisation of stacking, chosen by cross-fitted log loss


@dataclass(frozen=True)
class Combined:
    """An ensemble, and what it reached on val, cross-fitted."""

    ensemble: Ensemble
    rows: int
    log_loss: float
    auc: float
    member_log_loss: tuple[float, ...]
    member_auc: tuple[float, ...]
    val: ValScores


def combine(
    members: Sequence[Detector], manifest: Manifest, cache: Path, combination: Combination = "mean", seed: int = 0
) -> Combined:
    """Make an ensemble of trained detectors, with weights, temperature and threshold from the manifest's val rows.

    Raises:
        UserError: under two members, or val lacks two groups of a class.
    """
    val = manifest.select(split="val")
    fake = val.targets == 1
    held = min(len(np.unique(val.groups[fake])), len(np.unique(val.groups[~fake])))
    if held < 2:
        raise UserError(
            f"the val rows of the manifest in {manifest.root} have under two identities or sources of a class: an "
            "ensemble cannot be weighed and calibrated on them"
        )
    draft = Ensemble(members, [1 / len(members)] * len(members), combination=combination)
    each = member_logits(draft, val, cache)
    folds = StratifiedGroupKFold(min(_FOLDS, held), shuffle=True, random_state=seed)
    parts = list(folds.split(each, val.targets, val.groups))
    weights, bias, left_out = fit(each, val.targets, parts, combination)
    ensemble = Ensemble(
        members, weights.tolist(), bias, combination=combination, manifest_digest=manifest.digest
    ).eval()
    ensemble.calibrate(left_out, val.targets)
    return Combined(
        ensemble,
        len(val),
        _log_loss(left_out / ensemble.temperature, val.targets),
        float(roc_auc_score(val.targets, left_out)),
        tuple(_log_loss(column, val.targets) for column in each.T),
        tuple(float(roc_auc_score(val.targets, column)) for column in each.T),
        ValScores.of(left_out, val.targets, val.groups),
    )


@torch.inference_mode()
def member_logits(ensemble: Ensemble, manifest: Manifest, cache: Path) -> Floats:
    """[N, M] calibrated logits of the members on the manifest's rows, by the way that the ensemble takes."""
    crops = load_crops(manifest, ensemble.config.image_size, cache)
    result = np.empty((len(manifest), len(ensemble.weights)))
    ensemble.eval()
    for part in batches(len(manifest), BATCH_SIZE, "members"):
        images = crops.batch(np.arange(part.start, part.stop)).to(ensemble.mean.device)
        result[part] = ensemble.member_logits(images).cpu().numpy()
    return result


def fit(
    logits: Floats, targets: NDArray[np.int64], folds: Sequence[tuple[NDArray[np.int64], NDArray[np.int64]]], how: str
) -> tuple[Floats, float, Floats]:
    """Weights [M] and bias found on all rows, and logits [N] of each row by weights found without its fold.

    mean: all alike. weighted: not negative and of sum 1, with the lowest log loss (a convex problem). stacking:
    logistic regression, its regularisation chosen by the log loss on the rows left out.

    Args:
        logits: [N, M], calibrated.
        targets: [N], fake = 1.
        folds: (rows to fit, rows left out), which together leave every row out once.
    """
    if how == "mean":
        even = np.full(logits.shape[1], 1 / logits.shape[1])
        return even, 0.0, logits @ even
    candidates: list[Callable[[Floats, NDArray[np.int64]], tuple[Floats, float]]] = (
        [_simplex] if how == "weighted" else [_regression(strength) for strength in _STRENGTHS]
    )
    found = []
    for candidate in candidates:
        left_out = np.empty(len(targets))
        for known, unknown in folds:
            weights, bias = candidate(logits[known], targets[known])
            left_out[unknown] = logits[unknown] @ weights + bias
        found.append((_log_loss(left_out, targets), left_out, candidate))
    _, left_out, best = min(found, key=lambda each: each[0])
    weights, bias = best(logits, targets)
    return weights, bias, left_out


def _simplex(logits: Floats, targets: NDArray[np.int64]) -> tuple[Floats, float]:
    count = logits.shape[1]
    signs = 1.0 - 2 * targets

    def loss(weights: Floats) -> tuple[float, Floats]:
        margin = signs * (logits @ weights)
        return float(-log_expit(-margin).mean()), np.asarray((signs * expit(margin)) @ logits / len(targets))

    total = {"type": "eq", "fun": lambda w: w.sum() - 1, "jac": lambda w: np.ones_like(w)}
    start = np.full(count, 1 / count)
    solved = minimize(loss, start, jac=True, bounds=[(0, 1)] * count, constraints=[total], method="SLSQP")
    weights = np.clip(solved.x, 0, None)
    return weights / weights.sum(), 0.0


def _regression(strength: float) -> Callable[[Floats, NDArray[np.int64]], tuple[Floats, float]]:
    def solve(logits: Floats, targets: NDArray[np.int64]) -> tuple[Floats, float]:
        model = LogisticRegression(C=strength, max_iter=1000).fit(logits, targets)
        return np.asarray(model.coef_[0], dtype=np.float64), float(model.intercept_[0])

    return solve


def _log_loss(logits: Floats, targets: NDArray[np.int64]) -> float:
    """Mean cross-entropy in nats."""
    return float(-np.mean(np.where(targets == 1, log_expit(logits), log_expit(-logits))))
