"""The report of a finished study: its figures, how optimistic its selection was, and whether other seeds agree.

The best of many trials was also the luckiest on the val rows. So its score there is set beside that on the sealed test
rows, which no trial has seen (the opening is counted), and its recipe is trained again under fresh seeds.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import pandas as pd

from classifier.models.detector import Detector
from core.manifest import Manifest
from pipelines.evaluation.sealed import open_test_rows, score_rows, sealed_rows
from pipelines.reports.page import png, write_page
from tracking.models import fetch_model
from tracking.runs import Run, attach, run, test_openings
from tuning.config import StudyConfig
from tuning.identity import recall
from tuning.queue import slot_of
from tuning.ranking import FOLDER, MODEL, hours_spent, ranked
from tuning.report import figures
from tuning.status import duration
from tuning.study import summarise
from tuning.trial import TrialContext, TrialSpec, train_and_log, validate

_CAPTIONS = {
    "history.png": "The objective of each trial, in order, and the best so far.",
    "importance.png": "Share of the objective's variance that each parameter explains (fANOVA).",
    "slices.png": "The objective against each parameter; later trials are darker.",
    "parallel.png": "Parallel coordinates: one line per trial, coloured by the objective.",
    "contour.png": "The objective over the two most important numeric parameters.",
    "pareto.png": "The Pareto front of the first two objectives.",
    "cost.png": "The best objective against the time spent.",
}


@dataclass(frozen=True)
class Review:
    """The result of a study: its best trial, that trial's scores on val and on the sealed rows, and its trials.

    `optimism` has the columns dataset, seed, val, test, low, high, optimism (val minus test); `parameters` are those
    of the best trial that were searched; `front` holds the trials on the Pareto front where there are several
    objectives.
    """

    study: str
    config: StudyConfig
    best: TrialSpec
    best_value: float
    parameters: Mapping[str, Any]
    optimism: pd.DataFrame
    importance: Mapping[str, float]
    openings: Mapping[str, int]
    front: tuple[int, ...]
    history: pd.DataFrame
    hours: float


def review_study(study: optuna.Study, *, seeds: int = 0, sealed: bool = True) -> Review:
    """Score the best trial of a study, and its recipe under fresh seeds; recorded as a run below that of the study.

    Args:
        seeds: how many times the best recipe is trained again, each time with another seed.
        sealed: open the sealed test rows of the study's datasets; False shows val only.

    Raises:
        UserError: no trial was finished, or the study's data are not on this machine.
    """
    config, base, context, run_id = recall(study)
    result = summarise(study, config, base, run_id, "reviewed")
    trials = study.get_trials(deepcopy=False)
    best = ranked(trials, config)[0]
    folder = _weights(Path(str(best.user_attrs[FOLDER])), str(best.user_attrs[MODEL]), context)
    candidates = [(result.best.detector.seed, folder, _val(context, folder))]
    for seed in range(1, seeds + 1):
        spec = result.best.with_parameters({"seed": result.best.detector.seed + 1000 * seed})
        trained = train_and_log(
            spec,
            context,
            name=f"best with seed {spec.detector.seed}",
            parent=run_id,
            tags={"study": study.study_name, "arm": "fresh seed"},
        )
        candidates.append((spec.detector.seed, trained.path, trained.val))
    rows = _test_rows(context) if sealed else None
    scores: list[dict[str, Any]] = []
    with run(
        context.store,
        context.experiment,
        f"review of {study.study_name}",
        key=f"review/{study.study_name}",
        parent=run_id,
        tags={"study": study.study_name, "manifest": context.manifest.digest},
        description="The best trial on val and on the sealed test rows, under its own and under fresh seeds.",
    ) as active:
        if rows is not None:
            open_test_rows(active, rows, [path for _, path, _ in candidates])
        for seed, path, val in candidates:
            scores += _scores(seed, path, val, rows, context, active)
        optimism = pd.DataFrame(scores, columns=["dataset", "seed", "val", "test", "low", "high", "optimism"])
        active.text("optimism.csv", optimism.to_csv(index=False))
    return Review(
        study=study.study_name,
        config=config,
        best=result.best,
        best_value=result.best_value,
        parameters=best.params,
        optimism=optimism,
        importance=result.importance,
        openings=test_openings(context.store, context.experiment),
        front=tuple(sorted(map(slot_of, study.best_trials))) if len(config.objectives) > 1 else (),
        history=result.history,
        hours=hours_spent(trials),
    )


def write_report(study: optuna.Study, review: Review, *, out: Path | None = None, commands: Sequence[str] = ()) -> Path:
    """Write the report of a study, beside the study and into its parent run; its path.

    Args:
        out: the HTML file; by default in the study's folder.
        commands: what to type next.
    """
    config, _, context, run_id = recall(study)
    parent = attach(context.store, run_id)
    drawn = figures(study, config)
    for name, figure in drawn.items():
        parent.figure(figure, name)
    states = review.history["state"].value_counts().to_dict()
    path = write_page(
        out or context.work / "studies" / study.study_name / "report.html",
        "study_report.html",
        title=f"Study {review.study}",
        review=review,
        counts=", ".join(f"{count} {name.lower()}" for name, count in states.items()),
        spent=duration(review.hours * 3600),
        parameters=[{"parameter": name, "value": value} for name, value in review.parameters.items()],
        scores=review.optimism.to_dict("records"),
        conclusion=conclusion(review.optimism),
        pictures={_CAPTIONS[name]: png(figure) for name, figure in drawn.items()},
        trials=review.history.drop(columns=["run_id"]).to_dict("records"),
        commands=commands,
    )
    parent.artifact(path)
    parent.tags({"reviewed": "yes", "test_openings": json.dumps(review.openings)})
    return path


def _weights(folder: Path, model_id: str, context: TrialContext) -> Path:
    """The detector's folder, or a copy from MLflow where it was trained on another machine."""
    if (folder / "config.json").is_file():
        return folder
    return fetch_model(context.store, model_id, context.work / "reviewed" / model_id)


def _val(context: TrialContext, folder: Path) -> dict[str, dict[str, float]]:
    rows = context.manifest.select(dataset=context.datasets, split="val")
    return validate(Detector.load(folder), rows, context.judging_datasets, context).val


def _test_rows(context: TrialContext) -> Manifest | None:
    """The sealed rows of the study's own datasets that hold both labels."""
    rows = context.manifest.select(split="test")
    datasets = [name for name in context.datasets if len(set(rows.select(dataset=name).rows["label"])) == 2]
    return sealed_rows(context.manifest, datasets) if datasets else None


def _scores(
    seed: int,
    folder: Path,
    val: Mapping[str, Mapping[str, float]],
    rows: Manifest | None,
    context: TrialContext,
    active: Run,
) -> list[dict[str, Any]]:
    scores = []
    evaluated = score_rows(folder, rows, context.cache).by_frame if rows is not None else None
    for dataset, figures_of in val.items():
        row: dict[str, Any] = {"dataset": dataset, "seed": seed, "val": figures_of["auc"]}
        if evaluated is not None and dataset in evaluated.results:
            interval = evaluated.results[dataset].intervals["auc"]
            row |= {"test": interval.value, "low": interval.low, "high": interval.high}
            row["optimism"] = row["val"] - interval.value
            known = {f"seed {seed}/val_auc/{dataset}": row["val"], f"seed {seed}/test_auc/{dataset}": interval.value}
            active.metrics({name: value for name, value in known.items() if not math.isnan(value)})
        scores.append(row)
    return scores


def conclusion(optimism: pd.DataFrame) -> str:
    """What the sealed test rows say of the choice, by dataset, in sentences."""
    sentences = []
    for dataset, rows in optimism.groupby("dataset", sort=False):
        tested = rows.dropna(subset=["test"])
        if tested.empty:
            continue
        chosen = tested.iloc[0]
        inside = chosen["low"] <= chosen["val"] <= chosen["high"]
        sentences.append(
            f"On {dataset} the val score is {'within' if inside else 'outside'} the test interval "
            f"(val minus test {chosen['optimism']:+.3f})."
        )
        fresh = tested["test"].tolist()[1:]
        if len(fresh) > 1:
            sentences.append(
                f"Under {len(fresh)} fresh seeds its test AUC is {statistics.mean(fresh):.3f} "
                f"(standard deviation {statistics.stdev(fresh):.3f})."
            )
    return " ".join(sentences) or "The sealed test rows were not opened, or hold one label only."
