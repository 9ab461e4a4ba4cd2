"""What one model does on its sealed test rows: scores, figures with intervals, abstention, and how it degrades."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from classifier.calibration import abstention
from classifier.evaluation import per_source, remarks
from classifier.figures import evaluation_figures, robustness_figure
from classifier.models.ensemble import load_detector
from classifier.robustness import LABELS, Ladder, Rung, robustness
from core.groups import split_notes
from core.manifest import Manifest
from pipelines.evaluation.sealed import Scored, known, open_test_rows, score_rows
from pipelines.release.lineage import Model
from tracking.models import score_model
from tracking.runs import ROBUST_WORST_AUC, Run, run, test_openings


@dataclass(frozen=True)
class ModelEvaluation:
    """The scores and what they amount to; the robustness ladder if it was asked for."""

    scored: Scored
    withheld: pd.DataFrame | None  # what abstaining does by dataset (`classifier.calibration.abstention`), given a band
    ladder: Ladder | None
    remarks: list[str]
    openings: dict[str, int]  # of each dataset's test rows, in the project so far

    def to_json(self) -> dict[str, Any]:
        """In JSON's types."""
        scored, abstains = self.scored, None
        if self.withheld is not None and scored.band is not None:
            abstains = scored.band._asdict() | {"datasets": self.withheld.to_dict("records")}
        evaluations = {"by_source": scored.by_source, "by_frame": scored.by_frame}
        told: dict[str, Any] = {by: json.loads(evaluation.to_json()) for by, evaluation in evaluations.items()}
        told |= {"openings": self.openings, "remarks": self.remarks, "abstention": abstains}
        return told | ({"robustness": json.loads(self.ladder.to_json())} if self.ladder is not None else {})


def evaluate_model(model: Model, rows: Manifest, cache: Path, *, robust: bool = False) -> ModelEvaluation:
    """Score a model on sealed rows and log it: the opening, figures, curves, and metrics on the LoggedModel.

    Args:
        rows: see `Model.sealed_rows`.
        robust: degrade the faces step by step too, which is 36 times the work and the same opening.
    """
    with (
        model.files() as folder,
        run(
            model.store,
            model.project,
            f"evaluate {model.name}",
            key=f"evaluate/{model.model_id or model.path}/{rows.digest}",
            tags={"manifest": rows.digest},
        ) as active,
    ):
        open_test_rows(active, rows, [folder])
        scored = score_rows(folder, rows, cache)
        if model.model_id is not None:
            for name, metrics in scored.metrics().items():
                score_model(model.store, model.model_id, name, rows.select(dataset=name).digest, metrics, active)
        active.text("evaluation_by_source.json", scored.by_source.to_json())
        active.text("evaluation_by_frame.json", scored.by_frame.to_json())
        for figure, picture in evaluation_figures(scored.by_source, scored.table).items():
            active.figure(picture, figure)
        withheld = None if scored.band is None else abstention(per_source(scored.table), scored.band)
        if withheld is not None:
            active.metrics({f"abstained/{row['dataset']}": row["abstained"] for row in withheld.to_dict("records")})
        ladder = None
        if robust:
            ladder = robustness(load_detector(folder, "auto"), rows, cache, store=cache / "robustness")
            _log_ladder(active, ladder, rows, model.model_id)
        openings = test_openings(model.store, model.project)
    said = [*remarks(scored.by_source), *split_notes(rows.rows)]
    return ModelEvaluation(scored, withheld, ladder, said, openings)


def _log_ladder(run: Run, ladder: Ladder, rows: Manifest, model_id: str | None) -> None:
    """Curves `robust_auc/<kind>/<dataset>` (fpr, recall) by step; `robust_worst_auc/<dataset>` on the model."""
    for name in ladder.datasets:
        for kind in ladder.kinds:
            for rung in ladder.along(name, kind):
                figures = {"auc": rung.auc.value, "fpr": rung.fpr.value, "recall": rung.recall.value}
                run.metrics(known({f"robust_{k}/{kind}/{name}": v for k, v in figures.items()}), rung.step)
        worst, alarms = ladder.worst(name), ladder.most_false_alarms(name)
        figures = known({ROBUST_WORST_AUC: worst.auc.value, "robust_highest_fpr": alarms.fpr.value})
        if model_id is not None:
            score_model(run.store, model_id, name, rows.select(dataset=name).digest, figures, run)
        else:
            run.metrics({f"{key}/{name}": value for key, value in figures.items()})
    run.text("robustness.json", ladder.to_json())
    run.figure(robustness_figure(ladder), "robustness")


def ladder_table(ladder: Ladder, name: str) -> pd.DataFrame:
    """AUC and FPR of one dataset: one row a degradation, one column a step."""
    rows = []
    for kind in ladder.kinds:
        clean, *steps = ladder.along(name, kind)
        row = {"degradation": LABELS[kind], "as is": _cell(clean)}
        rows.append(row | {f"step {rung.step}": f"{_cell(rung)} @{rung.level:g}" for rung in steps})
    return pd.DataFrame(rows)


def worst_sentence(ladder: Ladder, name: str) -> str:
    """The worst rung in words."""
    clean, worst, alarms = ladder.clean(name), ladder.worst(name), ladder.most_false_alarms(name)
    return (
        f"{name}: AUC {clean.auc} as is, at worst {worst.auc} ({worst.place}); at the fixed threshold "
        f"{clean.fpr.value:.0%} of the reals are called fake as is, at worst {alarms.fpr.value:.0%} ({alarms.place})"
    )


def _cell(rung: Rung) -> str:
    return f"{rung.auc.value:.2f}/{rung.fpr.value:.0%}"
