"""`report.html`: one file that shows what a run found, and needs nothing beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from classifier.evaluation import Evaluation
from classifier.figures import evaluation_figures, generalisation_matrix
from core.files import write_bytes
from pipelines.experiments.comparison import Comparison
from pipelines.experiments.runner import wide
from pipelines.reports.page import png, write_page
from tuning.config import StudyConfig
from tuning.report import figures as study_figures
from tuning.storage import load


def write_report(
    path: Path,
    *,
    title: str,
    comparison: Comparison,
    candidate: Mapping[str, Any],
    study: Mapping[str, Any] | None,
    verdict: Mapping[str, Any],
    contact_sheet: Path,
    audited: Sequence[str],
    samples: Path | None,
    seconds: Mapping[str, float],
    config: Mapping[str, Any],
) -> Path:
    """Write the report of a run and the figures beside it (`figures/*.png`), and return its path.

    Args:
        candidate: the row of `comparison.detectors` that was put forward for promotion.
        study: name, best_value and history of the study, if there was one.
        verdict: the gate's: reason, promoted, version.
        audited: sentences of the audit, and its warnings about the candidate.
    """
    table, scores = comparison.table, Path(candidate["scores"])
    evaluation = Evaluation.from_json(json.loads(scores.with_suffix(".json").read_text())["by_source"])
    values, low, high = (
        table.pivot_table(index="arm", columns="dataset", values=name, sort=False, dropna=False)
        for name in ("auc", "low", "high")
    )
    figures = {
        "matrix": generalisation_matrix(values, low=low, high=high),
        **evaluation_figures(evaluation, pd.read_parquet(scores)),
    }
    if study is not None:
        searched = StudyConfig.model_validate(config["study"])
        stored = load(Path(config["mlruns"]).absolute(), study["name"], searched.storage)
        drawn = study_figures(stored, searched)
        figures |= {name: drawn[f"{name}.png"] for name in ("history", "importance") if f"{name}.png" in drawn}
    pictures = {name: png(figure) for name, figure in figures.items()}
    for name, data in pictures.items():
        write_bytes(path.parent / "figures" / f"{name}.png", data)
    pictures["forest"] = (comparison.folder / "forest.png").read_bytes()
    pictures["faces"] = contact_sheet.read_bytes()
    if samples is not None:
        pictures["samples"] = samples.read_bytes()
    return write_page(
        path,
        "run_report.html",
        title=title,
        comparison=comparison,
        aucs=wide(table),
        synthetic=table.groupby("arm")["synthetic"].last(),
        counts=table.groupby("dataset")[["real", "fake", "groups"]].first().to_dict("index"),
        candidate=candidate,
        audited=audited,
        study=study,
        verdict=verdict,
        pictures=pictures,
        seconds=seconds,
        config=json.dumps(config, indent=2),
        evaluation=evaluation,
        next_commands=next_commands(verdict),
    )


def next_commands(verdict: Mapping[str, Any]) -> tuple[str, str, str]:
    """What to type next."""
    if verdict["promoted"]:
        return "counterforge ui", "counterforge evaluate --model champion", "counterforge models list"
    return "counterforge ui", "counterforge models list", f"counterforge evaluate --model {verdict['version']}"
