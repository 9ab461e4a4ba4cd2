"""What to think of a finished study: its figures, how optimistic its choice was, and whether other seeds agree.

The best of many trials was also the luckiest on the val rows. So its score there is set beside that on the sealed test
rows, which no trial has seen (the opening is counted), and its recipe is trained again under fresh seeds.
"""

from __future__ import annotations

import base64
import html
import io
import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
from matplotlib.figure import Figure

from classifier.models.detector import Detector
from core.manifest import Manifest
from pipelines.evaluation.sealed import evaluate_detector, sealed_rows
from tracking.models import fetch_model
from tracking.runs import Run, attach, run, test_openings
from tuning.config import StudyConfig
from tuning.identity import recall
from tuning.ranking import front, hours_spent, ranked
from tuning.report import figures
from tuning.status import duration
from tuning.study import summarise
from tuning.trial import TrialContext, train_and_log, validate

_CAPTIONS = {
    "history.png": "Every trial in its order, and the best so far.",
    "importance.png": "How much of the objective's variance each parameter explains (fANOVA).",
    "slices.png": "The objective against each parameter; later trials are darker.",
    "parallel.png": "One line a trial; the best tenth in orange.",
    "contour.png": "The objective over the two numbers that matter most.",
    "pareto.png": "What one aim costs in the other.",
    "cost.png": "What the minutes bought.",
}


@dataclass(frozen=True)
class Review:
    """The best trial's scores on val and on the sealed rows, by dataset and seed, and where the report lies.

    `optimism` has the columns dataset, seed, val, test, low, high, optimism (val minus test).
    """

    study: str
    best: dict[str, Any]
    best_value: float
    optimism: pd.DataFrame
    importance: dict[str, float]
    openings: dict[str, int]
    front: list[int] = field(default_factory=list)
    report: Path = Path()


def review(study: optuna.Study, *, seeds: int = 0, sealed: bool = True, out: Path | None = None) -> Review:
    """Write the report of a study, beside the study and into its parent run.

    Args:
        seeds: how many times the best recipe is trained again, each time with another seed.
        sealed: open the sealed test rows of the study's datasets; False shows val only.
        out: the HTML file; by default in the study's folder.

    Raises:
        UserError: no trial was finished, or the study's data are not on this machine.
    """
    config, base, materials, run_id = recall(study)
    result = summarise(study, config, base, run_id, "reviewed")
    parent = attach(materials.store, run_id)
    scores: list[dict[str, Any]] = []
    trials = study.get_trials(deepcopy=False)
    best = ranked(trials, config)[0]
    folder = _weights(Path(str(best.user_attrs["folder"])), str(best.user_attrs["model_id"]), materials)
    candidates = [(result.best.detector.seed, folder, _val(materials, folder))]
    for seed in range(1, seeds + 1):
        spec = result.best.with_parameters({"seed": result.best.detector.seed + 1000 * seed})
        trained = train_and_log(
            spec,
            materials,
            name=f"best with seed {spec.detector.seed}",
            parent=run_id,
            tags={"study": study.study_name, "arm": "fresh seed"},
        )
        candidates.append((spec.detector.seed, trained.path, trained.val))
    rows = _test_rows(materials) if sealed else None
    with run(
        materials.store,
        materials.experiment,
        f"review of {study.study_name}",
        key=f"review/{study.study_name}",
        parent=run_id,
        tags={"study": study.study_name, "manifest": materials.manifest.digest},
        description="The best trial on val and on the sealed test rows, under its own and under fresh seeds.",
    ) as active:
        if rows is not None:
            for dataset in sorted(set(rows.rows["dataset"])):
                active.opened_test(dataset)
        for seed, path, val in candidates:
            scores += _scores(seed, path, val, rows, materials, active)
        optimism = pd.DataFrame(scores, columns=["dataset", "seed", "val", "test", "low", "high", "optimism"])
        active.text("optimism.csv", optimism.to_csv(index=False))
    drawn = figures(study, config)
    for name, figure in drawn.items():
        parent.figure(figure, name)
    openings = test_openings(materials.store, materials.experiment)
    path = out or materials.work / "studies" / study.study_name / "report.html"
    found = Review(
        study.study_name,
        result.best.model_dump(mode="json"),
        result.best_value,
        optimism,
        result.importance,
        openings,
        [int(t.user_attrs["place"]) for t in front(trials, config)] if len(config.objectives) > 1 else [],
        path,
    )
    _write(path, found, result.history, drawn, config, best.params, hours_spent(trials))
    parent.artifact(path)
    parent.tags({"reviewed": "yes", "test_openings": json.dumps(openings)})
    return found


def _weights(folder: Path, model_id: str, materials: TrialContext) -> Path:
    """The detector's folder, or a copy from MLflow where it was trained on another machine."""
    if (folder / "config.json").is_file():
        return folder
    return fetch_model(materials.store, model_id, materials.work / "reviewed" / model_id)


def _val(materials: TrialContext, folder: Path) -> dict[str, dict[str, float]]:
    datasets = list(dict.fromkeys((*materials.train_domains, *materials.validation_datasets)))
    rows = materials.manifest.select(dataset=datasets, split="val")
    return validate(Detector.load(folder), rows, materials.judging_datasets, materials).val


def _test_rows(materials: TrialContext) -> Manifest | None:
    """The sealed rows of the study's own datasets that hold both labels."""
    rows = materials.manifest.select(split="test")
    datasets = [
        dataset
        for dataset in dict.fromkeys((*materials.train_domains, *materials.validation_datasets))
        if len(set(rows.select(dataset=dataset).rows["label"])) == 2
    ]
    return sealed_rows(materials.manifest, datasets) if datasets else None


def _scores(
    seed: int,
    folder: Path,
    val: Mapping[str, Mapping[str, float]],
    rows: Manifest | None,
    materials: TrialContext,
    active: Run,
) -> list[dict[str, Any]]:
    found = []
    evaluated = evaluate_detector(folder, rows, materials.cache).by_frame if rows is not None else None
    for dataset, figures_of in val.items():
        row: dict[str, Any] = {"dataset": dataset, "seed": seed, "val": figures_of["auc"]}
        if evaluated is not None and dataset in evaluated.results:
            interval = evaluated.results[dataset].intervals["auc"]
            row |= {"test": interval.value, "low": interval.low, "high": interval.high}
            row["optimism"] = row["val"] - interval.value
            known = {f"seed {seed}/val_auc/{dataset}": row["val"], f"seed {seed}/test_auc/{dataset}": interval.value}
            active.metrics({name: value for name, value in known.items() if not math.isnan(value)})
        found.append(row)
    return found


def _write(
    path: Path,
    found: Review,
    history: pd.DataFrame,
    drawn: Mapping[str, Figure],
    config: StudyConfig,
    chosen: Mapping[str, Any],
    hours: float,
) -> None:
    """One HTML file that needs nothing beside it."""
    parts = [f"<h1>Study {html.escape(found.study)}</h1>"]
    states = history["state"].value_counts().to_dict()
    counts = ", ".join(f"{count} {name.lower()}" for name, count in states.items())
    parts.append(
        f"<p>{counts}; {duration(hours * 3600)} of trials; sampler {config.sampler}, pruner {config.pruner}, "
        f"{config.folds} fold{'s' * (config.folds > 1)}. Best {config.objectives[0]}: "
        f"<b>{found.best_value:.4f}</b>.</p>"
    )
    parts.append("<h2>The best trial</h2>" + _table([{"parameter": k, "value": v} for k, v in chosen.items()]))
    if found.front:
        parts.append(f"<p>On the Pareto front: trials {', '.join(map(str, found.front))}.</p>")
    parts.append("<h2>How optimistic was the choice?</h2>")
    parts.append(
        "<p>The best of many trials was also the luckiest on the val rows. AUC by frame; the interval (95 %) is over "
        "identities or sources. A test score well below the val score, outside of its interval, means that the study "
        "has chosen luck.</p>"
    )
    parts.append(_table(found.optimism.to_dict("records")))
    parts.append(f"<p>{html.escape(_verdict(found.optimism))}</p>")
    opened = ", ".join(f"{name} {count}" for name, count in found.openings.items()) or "none"
    parts.append(f"<p>Sealed test rows were opened so often in this project: {html.escape(opened)}.</p>")
    for name, figure in drawn.items():
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=120)
        image = base64.b64encode(buffer.getvalue()).decode()
        caption = _CAPTIONS.get(name, "")
        parts.append(f'<h2>{caption}</h2><img alt="{caption}" src="data:image/png;base64,{image}">')
    parts.append("<h2>All trials</h2>" + _table(history.drop(columns=["run_id"]).to_dict("records")))
    style = (
        "body{font:15px/1.5 system-ui,sans-serif;max-width:980px;margin:2rem auto;padding:0 1rem;color:#222}"
        "table{border-collapse:collapse;margin:.6rem 0}td,th{padding:.2rem .7rem;border-bottom:1px solid #ddd;"
        "text-align:left;font-variant-numeric:tabular-nums}img{max-width:100%}h2{margin-top:2rem;font-size:1.1rem}"
    )
    page = f"<!doctype html><meta charset=utf-8><title>{found.study}</title><style>{style}</style>{''.join(parts)}"
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(page)
    temporary.replace(path)


def _verdict(optimism: pd.DataFrame) -> str:
    sentences = []
    for dataset, rows in optimism.groupby("dataset", sort=False):
        tested = rows.dropna(subset=["test"])
        if tested.empty:
            continue
        chosen = tested.iloc[0]
        inside = chosen["low"] <= chosen["val"] <= chosen["high"]
        sentences.append(
            f"On {dataset} the val score lies {'within' if inside else 'outside'} the test interval "
            f"(val minus test {chosen['optimism']:+.3f})."
        )
        fresh = tested["test"].tolist()[1:]
        if len(fresh) > 1:
            sentences.append(
                f"Under {len(fresh)} fresh seeds its test AUC is {statistics.mean(fresh):.3f} "
                f"(standard deviation {statistics.stdev(fresh):.3f})."
            )
    return " ".join(sentences) or "The sealed test rows were not opened, or hold one label only."


def _table(rows: Sequence[Mapping[Any, Any]]) -> str:
    if not rows:
        return ""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    head = "".join(f"<th>{html.escape(str(column))}</th>" for column in columns)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(_cell(row.get(column)))}</td>" for column in columns) + "</tr>"
        for row in rows
    )
    return f"<table><tr>{head}</tr>{body}</table>"


def _cell(value: object) -> str:
    if value is None or value != value:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
