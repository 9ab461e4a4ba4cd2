"""What a run and a finished study found, each as one HTML file: figures are embedded, nothing is loaded from elsewhere.

The best of a study's many trials was also the luckiest on the val rows. So its score there is set beside that on the
sealed test rows, which no trial has seen (the opening is counted), and its recipe is trained again under fresh seeds.
"""

from __future__ import annotations

import base64
import io
import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
from jinja2 import Environment, FileSystemLoader
from matplotlib.figure import Figure

from classifier.evaluation import Evaluation
from classifier.figures import evaluation_figures, generalisation_matrix
from classifier.models.detector import Detector
from core.files import write_bytes, write_text
from core.groups import split_notes
from core.manifest import Manifest
from core.names import file_name
from core.secrets import redact
from pipelines.configuration import RunConfig
from pipelines.evaluation.sealed import known, open_test_rows, score_rows, sealed_rows
from pipelines.experiments.comparison import Comparison
from pipelines.experiments.runner import wide
from tracking.models import fetch_model
from tracking.runs import Run, attach, run, test_openings
from tuning.identity import recall
from tuning.queue import slot_of
from tuning.results import FOLDER, MODEL, hours_spent, ranked
from tuning.results import figures as study_figures
from tuning.status import duration
from tuning.storage import load
from tuning.study import StudyResult, summarise
from tuning.trial import train_and_log, validate

_CAPTIONS = {
    "history.png": "The objective of each trial, in order, and the best so far.",
    "importance.png": "Share of the objective's variance that each parameter explains (fANOVA).",
    "slices.png": "The objective against each parameter; later trials are darker.",
    "parallel.png": "Parallel coordinates: one line per trial, coloured by the objective.",
    "contour.png": "The objective over the two most important numeric parameters.",
    "pareto.png": "The Pareto front of the first two objectives.",
    "cost.png": "The best objective against the time spent.",
}


def write_run_report(
    path: Path,
    config: RunConfig,
    comparison: Comparison,
    candidate: Mapping[str, Any],
    study: Mapping[str, Any] | None,
    verdict: Mapping[str, Any],
    pictures: Mapping[str, Path],
    **told: Any,
) -> None:
    """Write the report of a run, and the figures beside it (`figures/*.png`).

    Args:
        candidate: the row of `comparison.detectors` that was put forward for promotion.
        study: name, best_value and history of the study, if there was one.
        verdict: the gate's: reason, promoted, version.
        pictures: PNG files of some faces and of samples of the generator.
        told: `audited`, sentences of the audit and its warnings about the candidate; `seconds` of each step.
    """
    table, scores = comparison.table, Path(candidate["scores"])
    evaluation = Evaluation.from_json(json.loads(scores.with_suffix(".json").read_text())["by_source"])
    values, low, high = (
        table.pivot_table(index="arm", columns="dataset", values=name, sort=False, dropna=False)
        for name in ("auc", "low", "high")
    )
    figures = {"matrix": generalisation_matrix(values, low=low, high=high)}
    figures |= evaluation_figures(evaluation, pd.read_parquet(scores))
    if study is not None and config.study is not None:
        drawn = study_figures(load(config.mlruns.absolute(), study["name"], config.study.storage), config.study)
        figures |= {name: drawn[f"{name}.png"] for name in ("history", "importance") if f"{name}.png" in drawn}
    shown = {name: _png(figure) for name, figure in figures.items()}
    for name, data in shown.items():
        write_bytes(path.parent / "figures" / f"{name}.png", data)
    files = {"forest": comparison.folder / "forest.png", **pictures}
    _write_page(
        path,
        "run_report.html",
        title=config.project,
        comparison=comparison,
        aucs=wide(table),
        synthetic=table.groupby("arm")["synthetic"].last(),
        counts=table.groupby("dataset")[["real", "fake", "groups"]].first().to_dict("index"),
        candidate=candidate,
        study=study,
        verdict=verdict,
        pictures=shown | {name: file.read_bytes() for name, file in files.items()},
        config=json.dumps(config.model_dump(mode="json"), indent=2),
        evaluation=evaluation,
        next_commands=next_commands(verdict),
        **told,
    )


def next_commands(verdict: Mapping[str, Any]) -> tuple[str, str, str]:
    """What to type after a run."""
    if verdict["promoted"]:
        return "counterforge ui", "counterforge evaluate --model champion", "counterforge models list"
    return "counterforge ui", "counterforge models list", f"counterforge evaluate --model {verdict['version']}"


@dataclass(frozen=True)
class Review:
    """The result of a study, and its best trial's scores on val and on the sealed rows, which were opened so often.

    `optimism` has the columns dataset, seed, val, test, low, high, optimism (val minus test).
    """

    result: StudyResult
    optimism: pd.DataFrame
    openings: Mapping[str, int]
    notes: tuple[str, ...] = ()  # on how the datasets are split


def review_study(study: optuna.Study, *, seeds: int = 0, sealed: bool = True) -> Review:
    """Score the best trial of a study, and its recipe under so many fresh seeds; a run below that of the study.

    `sealed` opens the test rows of those of the study's datasets that hold both labels; False shows val only.

    Raises:
        UserError: no trial was finished, or the study's data are not on this machine.
    """
    config, base, context, run_id = recall(study)
    result = summarise(study, config, base, run_id, "reviewed")
    name, best = study.study_name, ranked(study.get_trials(deepcopy=False), config)[0]
    own, model_id = Path(str(best.user_attrs[FOLDER])), str(best.user_attrs[MODEL])
    if not (own / "config.json").is_file():  # it was trained on another machine
        own = fetch_model(context.store, model_id, context.work / "reviewed" / model_id)
    val_rows = context.manifest.select(dataset=context.datasets, split="val")
    val = validate(Detector.load(own), val_rows, context.judging_datasets, context).val
    candidates = [(result.best.detector.seed, own, val)]
    for seed in (result.best.detector.seed + 1000 * number for number in range(1, seeds + 1)):
        tags = {"study": name, "arm": "fresh seed"}
        spec = result.best.with_parameters({"seed": seed})
        trained = train_and_log(spec, context, name=f"best with seed {seed}", parent=run_id, tags=tags)
        candidates.append((seed, trained.path, trained.val))
    test = context.manifest.select(split="test")
    both = [name for name in context.datasets if len(set(test.select(dataset=name).rows["label"])) == 2]
    rows = sealed_rows(context.manifest, both) if sealed and both else None
    with run(
        context.store,
        context.experiment,
        f"review of {name}",
        key=f"review/{name}",
        parent=run_id,
        tags={"study": name, "manifest": context.manifest.digest},
        description="The best trial on val and on the sealed test rows, under its own and under fresh seeds.",
    ) as active:
        if rows is not None:
            open_test_rows(active, rows, [path for _, path, _ in candidates])
        scores = [row for candidate in candidates for row in _scores(*candidate, rows, context.cache, active)]
        optimism = pd.DataFrame(scores, columns=["dataset", "seed", "val", "test", "low", "high", "optimism"])
        active.text("optimism.csv", optimism.to_csv(index=False))
    notes = tuple(split_notes(rows.rows)) if rows is not None else ()
    return Review(result, optimism, test_openings(context.store, context.experiment), notes)


def write_study_report(
    study: optuna.Study, review: Review, *, out: Path | None = None, commands: Sequence[str] = ()
) -> Path:
    """Write the report of a study to `out`, by default in the study's folder, and into its parent run; its path."""
    config, _, context, run_id = recall(study)
    parent, history, trials = attach(context.store, run_id), review.result.history, study.get_trials(deepcopy=False)
    parameters = ranked(trials, config)[0].params
    drawn = study_figures(study, config)
    for name, figure in drawn.items():
        parent.figure(figure, name)
    path = out or context.work / "studies" / file_name(study.study_name) / "report.html"
    _write_page(
        path,
        "study_report.html",
        title=f"Study {study.study_name}",
        config=config,
        best_value=review.result.best_value,
        counts=", ".join(f"{n} {name.lower()}" for name, n in history["state"].value_counts().items()),
        spent=duration(hours_spent(trials) * 3600),
        parameters=[{"parameter": name, "value": value} for name, value in parameters.items()],
        front=sorted(map(slot_of, study.best_trials)) if len(config.objectives) > 1 else [],
        scores=review.optimism.to_dict("records"),
        notes=review.notes,
        openings=review.openings,
        conclusion=_conclusion(review.optimism),
        pictures={_CAPTIONS[name]: _png(figure) for name, figure in drawn.items()},
        trials=history.drop(columns=["run_id"]).to_dict("records"),
        commands=commands,
    )
    parent.artifact(path)
    parent.tags({"reviewed": "yes", "test_openings": json.dumps(review.openings)})
    return path


def _scores(
    seed: int, folder: Path, val: Mapping[str, Mapping[str, float]], rows: Manifest | None, cache: Path, active: Run
) -> list[dict[str, Any]]:
    """Rows of `Review.optimism`, which are logged too."""
    scores = []
    tested = score_rows(folder, rows, cache).by_frame.results if rows is not None else {}
    for dataset, figures in val.items():
        row: dict[str, Any] = {"dataset": dataset, "seed": seed, "val": figures["auc"]}
        if dataset in tested:
            interval = tested[dataset].intervals["auc"]
            row |= {"test": interval.value, "low": interval.low, "high": interval.high}
            row["optimism"] = row["val"] - interval.value
            aucs = {f"seed {seed}/{split}_auc/{dataset}": row[split] for split in ("val", "test")}
            active.metrics(known(aucs))
        scores.append(row)
    return scores


def _conclusion(optimism: pd.DataFrame) -> str:
    """What the sealed test rows say of the choice, by dataset, in sentences."""
    sentences = []
    for dataset, rows in optimism.dropna(subset=["test"]).groupby("dataset", sort=False):
        chosen, fresh = rows.iloc[0], rows["test"].tolist()[1:]
        inside = chosen["low"] <= chosen["val"] <= chosen["high"]
        sentences.append(
            f"On {dataset} the val score is {'within' if inside else 'outside'} the test interval "
            f"(val minus test {chosen['optimism']:+.3f})."
        )
        if len(fresh) > 1:
            sentences.append(
                f"Under {len(fresh)} fresh seeds its test AUC is {statistics.mean(fresh):.3f} "
                f"(standard deviation {statistics.stdev(fresh):.3f})."
            )
    return " ".join(sentences) or "The sealed test rows were not opened, or hold one label only."


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()


def _write_page(path: Path, template: str, **content: Any) -> None:
    """Render a template of the folder `templates`, which extends base.html, with HTML escaped and passwords hidden."""
    environment = Environment(loader=FileSystemLoader(Path(__file__).parent / "templates"), autoescape=True)
    environment.filters["embedded"] = lambda picture: f"data:image/png;base64,{base64.b64encode(picture).decode()}"
    write_text(path, redact(environment.get_template(template).render(**content)))
