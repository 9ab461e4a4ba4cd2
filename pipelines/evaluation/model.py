"""What one model does on its sealed test rows: scores, figures with intervals, abstention, and how it degrades."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from classifier.evaluation import remarks
from classifier.figures import evaluation_figures
from classifier.robustness import Ladder
from core.manifest import Manifest
from pipelines.evaluation.robustness import log_ladder, run_robustness
from pipelines.evaluation.sealed import Scored, open_test_rows, score_rows
from pipelines.release.lineage import Model
from tracking.models import score_model
from tracking.runs import run, test_openings


@dataclass(frozen=True)
class ModelEvaluation:
    """The scores and what they amount to; the robustness ladder if it was asked for.

    Attributes:
        withheld: what abstaining does by dataset, see `classifier.calibration.abstention`; None without a band.
        openings: how often the test rows of each dataset have been opened in the project so far.
    """

    scored: Scored
    withheld: pd.DataFrame | None
    ladder: Ladder | None
    remarks: list[str]
    openings: dict[str, int]

    def to_json(self) -> dict[str, Any]:
        """In JSON's types."""
        told: dict[str, Any] = {
            "by_source": json.loads(self.scored.by_source.to_json()),
            "by_frame": json.loads(self.scored.by_frame.to_json()),
            "openings": self.openings,
            "remarks": self.remarks,
            "abstention": None,
        }
        if self.withheld is not None and self.scored.band is not None:
            told["abstention"] = self.scored.band._asdict() | {"datasets": self.withheld.to_dict("records")}
        if self.ladder is not None:
            told["robustness"] = json.loads(self.ladder.to_json())
        return told


def evaluate_model(model: Model, rows: Manifest, cache: Path, *, robustness: bool = False) -> ModelEvaluation:
    """Score a model on sealed rows and log it: the opening, figures, curves, and metrics on the LoggedModel.

    Args:
        rows: see `Model.sealed_rows`.
        robustness: degrade the faces step by step too, which is 36 times the work and the same opening.
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
        withheld = scored.abstention()
        if withheld is not None:
            active.metrics({f"abstained/{row['dataset']}": row["abstained"] for row in withheld.to_dict("records")})
        ladder = run_robustness(folder, rows, cache) if robustness else None
        if ladder is not None:
            log_ladder(active, ladder, rows, model.model_id)
        openings = test_openings(model.store, model.project)
    return ModelEvaluation(scored, withheld, ladder, remarks(scored.by_source), openings)
