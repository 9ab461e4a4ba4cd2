"""The robustness ladder of a model in MLflow: curves on the run, the worst rung on the model, one picture."""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd

from classifier.figures import robustness_figure
from classifier.models.ensemble import load_detector
from classifier.robustness import CLEAN, LABELS, Ladder, robustness
from core.manifest import Manifest
from tracking.models import score_model
from tracking.runs import ROBUST_WORST_AUC, Run


def run_robustness(folder: Path, rows: Manifest, cache: Path) -> Ladder:
    """The ladder of the model in `folder`; finished rungs are kept in the cache."""
    return robustness(load_detector(folder, "auto"), rows, cache, store=cache / "robustness")


def log_ladder(run: Run, ladder: Ladder, rows: Manifest, model_id: str | None) -> None:
    """Curves `robust_auc/<kind>/<dataset>` (fpr, recall) by step; `robust_worst_auc/<dataset>` on the model."""
    kinds = dict.fromkeys(rung.kind for rung in ladder.rungs if rung.kind != CLEAN)
    for name in ladder.datasets:
        for kind in kinds:
            for rung in ladder.along(name, kind):
                figures = {"auc": rung.auc.value, "fpr": rung.fpr.value, "recall": rung.recall.value}
                known = {f"robust_{k}/{kind}/{name}": v for k, v in figures.items() if not math.isnan(v)}
                run.metrics(known, rung.step)
        worst, alarms = ladder.worst(name), ladder.most_false_alarms(name)
        figures = {ROBUST_WORST_AUC: worst.auc.value, "robust_highest_fpr": alarms.fpr.value}
        figures = {key: value for key, value in figures.items() if not math.isnan(value)}
        if model_id is not None:
            score_model(run.store, model_id, name, rows.select(dataset=name).digest, figures, run)
        else:
            run.metrics({f"{key}/{name}": value for key, value in figures.items()})
    run.text("robustness.json", ladder.to_json())
    run.figure(robustness_figure(ladder), "robustness")


def ladder_table(ladder: Ladder, name: str) -> pd.DataFrame:
    """AUC and FPR of one dataset: one row a degradation, one column a step."""
    rows = []
    clean = ladder.clean(name)
    for kind in dict.fromkeys(rung.kind for rung in ladder.rungs if rung.kind != CLEAN):
        rungs = [rung for rung in ladder.along(name, kind) if rung.kind == kind]
        row = {"degradation": LABELS.get(kind, kind), "as is": _cell(clean.auc.value, clean.fpr.value)}
        row |= {f"step {r.step}": f"{_cell(r.auc.value, r.fpr.value)} @{r.level:g}" for r in rungs}
        rows.append(row)
    return pd.DataFrame(rows)


def worst_sentence(ladder: Ladder, name: str) -> str:
    """The worst rung in words."""
    clean, worst, alarms = ladder.clean(name), ladder.worst(name), ladder.most_false_alarms(name)
    return (
        f"{name}: AUC {clean.auc} as is, at worst {worst.auc} ({_where(worst.kind, worst.level)}); at the fixed "
        f"threshold {clean.fpr.value:.0%} of the reals are called fake as is, at worst {alarms.fpr.value:.0%} "
        f"({_where(alarms.kind, alarms.level)})"
    )


def _where(kind: str, level: float) -> str:
    return "as is" if kind == CLEAN else f"{LABELS.get(kind, kind)} {level:g}"


def _cell(auc: float, fpr: float) -> str:
    return f"{auc:.2f}/{fpr:.0%}"
