"""Opening the sealed test rows: one detector's scores on them, and what they amount to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from classifier.calibration import Band, abstention
from classifier.evaluation import Evaluation, evaluate, per_source, score_table
from classifier.models.ensemble import load_detector
from classifier.scoring import score
from core.errors import UserError
from core.manifest import Manifest


@dataclass(frozen=True)
class Scored:
    """A detector's test scores, evaluated by frame and by source (video or photograph).

    `band` is where it abstains, None for a detector that has none.
    """

    table: pd.DataFrame
    by_frame: Evaluation
    by_source: Evaluation
    band: Band | None = None

    def abstention(self) -> pd.DataFrame | None:
        """What abstaining does by source, see `classifier.calibration.abstention`; None without a band."""
        return None if self.band is None else abstention(per_source(self.table), self.band)


def sealed_rows(manifest: Manifest, datasets: Sequence[str] = ()) -> Manifest:
    """The sealed rows of the given datasets, or of all.

    Raises:
        UserError: there are none, or a dataset has one class only.
    """
    rows = manifest.select(split="test")
    if datasets:
        rows = rows.select(dataset=datasets)
    for dataset in datasets or sorted(set(rows.rows["dataset"])):
        here = rows.select(dataset=dataset)
        if not len(here):
            known = ", ".join(sorted(set(manifest.rows["dataset"])))
            raise UserError(f"dataset {dataset} has no test rows: datasets of the manifest are {known}")
        if here.targets.min() == here.targets.max():
            kind = "fakes" if here.targets.max() else "reals"
            raise UserError(f"the test rows of {dataset} are all {kind}: add the other class, or leave {dataset} out")
    if not len(rows):
        raise UserError(f"the manifest in {manifest.root} has no test rows: nothing can be evaluated")
    return rows


def evaluate_detector(folder: Path, rows: Manifest, cache: Path, device: str = "cpu") -> Scored:
    """Score the rows by the detector in `folder`, and evaluate the scores at its own threshold."""
    detector = load_detector(folder, device)
    scores = score(detector, rows, cache)
    return Scored(
        score_table(rows.rows, scores),
        evaluate(rows.rows, scores, detector.threshold, by="frame"),
        evaluate(rows.rows, scores, detector.threshold, by="source"),
        detector.band,
    )


def model_metrics(scored: Scored) -> dict[str, dict[str, float]]:
    """Metrics by dataset as they stand on the LoggedModel: `auc`, ..., with `_low` and `_high` where known.

    The names are the figures by source; those by frame have the prefix `frame_`.
    """
    result: dict[str, dict[str, float]] = {}
    for prefix, evaluation in (("", scored.by_source), ("frame_", scored.by_frame)):
        for dataset in evaluation.datasets:
            of = evaluation.results[dataset]
            place = result.setdefault(dataset, {})
            place |= {prefix + name: value for name, value in of.metrics.items()}
            for name, interval in of.intervals.items():
                place |= {f"{prefix}{name}_low": interval.low, f"{prefix}{name}_high": interval.high}
    return {dataset: {k: v for k, v in values.items() if v == v} for dataset, values in result.items()}
