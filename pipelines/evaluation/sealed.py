"""The sealed test rows: the one function that opens them, and a model's scores on them.

Training, calibration and thresholds see train and val rows only. Whoever scores test rows calls `open_test_rows` first,
and it alone counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from classifier.calibration import Band
from classifier.evaluation import Evaluation, evaluate, score_table
from classifier.models.detector import read_description
from classifier.models.ensemble import load_detector
from classifier.scoring import score
from core.errors import UserError
from core.files import digest
from core.manifest import Manifest
from tracking.runs import Run


@dataclass(frozen=True)
class Scored:
    """A model's scores on rows, and what they amount to by frame and by source (video or photograph).

    `band` is where the model abstains, None for a model that has none.
    """

    rows: Manifest
    scores: NDArray[np.float32]
    threshold: float
    band: Band | None = None

    @cached_property
    def table(self) -> pd.DataFrame:
        """See `classifier.evaluation.score_table`."""
        return score_table(self.rows.rows, self.scores)

    @cached_property
    def by_frame(self) -> Evaluation:
        """Evaluated frame by frame at the model's own threshold."""
        return evaluate(self.rows.rows, self.scores, self.threshold, by="frame")

    @cached_property
    def by_source(self) -> Evaluation:
        """Evaluated source by source at the model's own threshold."""
        return evaluate(self.rows.rows, self.scores, self.threshold, by="source")

    def where(self, keep: NDArray[np.bool_]) -> Scored:
        """The same scores on the rows of a mask."""
        return Scored(self.rows.where(keep), self.scores[keep], self.threshold, self.band)

    def metrics(self) -> dict[str, dict[str, float]]:
        """Metrics by dataset as they stand on the LoggedModel: `auc`, ..., with `_low` and `_high` where known.

        The names are the figures by source; those by frame have the prefix `frame_`.
        """
        result: dict[str, dict[str, float]] = {}
        for prefix, evaluation in (("", self.by_source), ("frame_", self.by_frame)):
            for dataset in evaluation.datasets:
                of = evaluation.results[dataset]
                figures = result.setdefault(dataset, {})
                figures |= {prefix + name: value for name, value in of.metrics.items()}
                for name, interval in of.intervals.items():
                    figures |= {f"{prefix}{name}_low": interval.low, f"{prefix}{name}_high": interval.high}
        return {dataset: known(values) for dataset, values in result.items()}


def known(values: Mapping[str, float]) -> dict[str, float]:
    """The values without those that are nan: what there was nothing to compute from is not logged."""
    return {name: value for name, value in values.items() if value == value}


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


def open_test_rows(run: Run, rows: Manifest, models: Iterable[Path]) -> None:
    """Count that the models in these folders are about to see these sealed rows; call it before scoring them.

    Each distinct set of models and rows within an MLflow experiment counts once, however often the work is resumed or
    repeated and by however many processes (`tracking.runs.test_openings`). A model is told by its weights, whether it
    is a folder or a version.
    """
    digests = set()
    for folder in models:
        if not (described := read_description(folder) or {}).get("digest"):
            raise UserError(f"no model in {folder} (config.json is missing): give the folder of a finished training")
        digests.add(str(described["digest"]))
    opening = digest(rows.digest, *sorted(digests))
    run.opened_test(
        opening, sorted(set(rows.rows["dataset"])), f"rows {rows.digest}, models {', '.join(sorted(digests))}"
    )


def score_rows(model: Path, rows: Manifest, cache: Path, device: str = "cpu") -> Scored:
    """The scores of the model in a folder. Test rows are opened by `open_test_rows` before."""
    loaded = load_detector(model, device)
    return Scored(rows, score(loaded, rows, cache), loaded.threshold, loaded.band)
