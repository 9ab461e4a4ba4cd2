"""`report.html`: one file that shows what a run found, and needs nothing beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from classifier.evaluation import Evaluation
from classifier.figures import evaluation_figures, generalisation_matrix
from pipelines.experiments.arms import WITH
from pipelines.reports.page import png, write_page
from tuning.config import StudyConfig
from tuning.report import figures as study_figures
from tuning.storage import load


def write_report(
    path: Path,
    *,
    title: str,
    table: pd.DataFrame,
    differences: pd.DataFrame,
    evaluations: Mapping[str, Evaluation],
    tables: Mapping[str, pd.DataFrame],
    candidate: str,
    study: Mapping[str, Any] | None,
    verdict: Mapping[str, Any],
    openings: Mapping[str, int],
    contact_sheet: Path,
    audited: Sequence[str],
    samples: Path | None,
    seconds: Mapping[str, float],
    config: Mapping[str, Any],
) -> Path:
    """Write the report of a run and the figures beside it (`figures/*.png`), and return its path.

    Args:
        table: columns arm, dataset, auc, low, high, objective, synthetic, real, fake, groups.
        differences: columns arm, dataset, value, low, high, probability: the arm minus that without synthetic faces.
        evaluations: of every arm, by source.
        tables: score tables of every arm.
        candidate: the arm that was put forward for promotion.
        audited: sentences of the audit, and its warnings about the candidate.
    """
    figures = {
        "matrix": _matrix(table),
        **evaluation_figures(evaluations[candidate], tables[candidate]),
    }
    if study is not None:
        searched = StudyConfig.model_validate(config["study"])
        stored = load(Path(config["mlruns"]).absolute(), study["name"], searched.storage)
        drawn = study_figures(stored, searched)
        figures |= {name: drawn[f"{name}.png"] for name in ("history", "importance") if f"{name}.png" in drawn}
    pictures = {name: png(figure) for name, figure in figures.items()}
    folder = path.parent / "figures"
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in pictures.items():
        (folder / f"{name}.png").write_bytes(data)
    pictures["faces"] = contact_sheet.read_bytes()
    if samples is not None:
        pictures["samples"] = samples.read_bytes()
    return write_page(
        path,
        "run_report.html",
        title=title,
        cells=_cells(table),
        datasets=list(dict.fromkeys(table["dataset"])),
        arms=list(dict.fromkeys(table["arm"])),
        synthetic=table.drop_duplicates("arm").set_index("arm")["synthetic"].to_dict(),
        counts=table.drop_duplicates("dataset").set_index("dataset")[["real", "fake", "groups"]].to_dict("index"),
        differences=[difference_sentence(row) for row in differences.to_dict("records")],
        candidate=candidate,
        audited=audited,
        study=study,
        verdict=verdict,
        openings=openings,
        pictures=pictures,
        seconds=seconds,
        config=json.dumps(config, indent=2),
        evaluation=evaluations[candidate],
        next_commands=next_commands(verdict),
    )


def difference_sentence(difference: Mapping[str, Any]) -> str:
    """What the synthetic faces did on one dataset, in words, whichever way it went."""
    low, high = difference["low"], difference["high"]
    figure = f"AUC {difference['value']:+.3f} [{low:+.3f}, {high:+.3f}]"
    if low > 0:
        verdict = "the synthetic faces helped"
    elif high < 0:
        verdict = "the synthetic faces did harm"
    elif low == low:
        verdict = "no difference can be told"
    else:
        verdict = "too few identities or sources for an interval"
    arm = difference.get("arm", WITH)
    return f"{'' if arm == WITH else f'{arm}, '}{difference['dataset']}: {verdict}, {figure}"


def next_commands(verdict: Mapping[str, Any]) -> tuple[str, str, str]:
    """What to type next."""
    if verdict["promoted"]:
        return "counterforge ui", "counterforge evaluate --model champion", "counterforge models list"
    return "counterforge ui", "counterforge models list", f"counterforge evaluate --model {verdict['version']}"


def _matrix(table: pd.DataFrame) -> Figure:
    def wide(column: str) -> pd.DataFrame:
        return table.pivot_table(index="arm", columns="dataset", values=column, sort=False, dropna=False)

    return generalisation_matrix(wide("auc"), low=wide("low"), high=wide("high"))


def _cells(table: pd.DataFrame) -> dict[str, dict[str, str]]:
    cells: dict[str, dict[str, str]] = {}
    for row in table.to_dict("records"):
        interval = f" [{row['low']:.3f}, {row['high']:.3f}]" if row["low"] == row["low"] else ""
        cells.setdefault(row["arm"], {})[row["dataset"]] = f"{row['auc']:.3f}{interval}"
    return cells
