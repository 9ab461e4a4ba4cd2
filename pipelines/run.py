"""The whole loop: faces, generator, study, detectors with and without synthetic faces, sealed test, report."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from classifier.evaluation import Evaluation, compare
from core.manifest import Manifest
from pipelines.configuration import RunConfig
from pipelines.evaluation.audit import audit_step, log_audit, warnings_of
from pipelines.evaluation.sealed import Scored, evaluate_detector, model_metrics, sealed_rows
from pipelines.experiments.arms import ALL_FAKES, WITHOUT, base_trial, plan_arms, train_arms
from pipelines.inputs import prepare_dataset, tracking_place, train_or_load_generator
from pipelines.release.promotion import evaluate_gate, register_candidate
from pipelines.reports.run_report import write_report
from pipelines.steps import Steps
from tracking.models import score_model
from tracking.runs import run as tracked_run
from tracking.runs import test_openings
from tracking.store import Store, open_store
from tuning.identity import FinalTraining, check_study, needs_generator
from tuning.study import StudyResult, launch
from tuning.trial import Trained, TrialContext, TrialSpec


@dataclass(frozen=True)
class Outcome:
    """What a run ends in: the table, where everything lies, and the gate's verdict."""

    table: pd.DataFrame  # one row an arm and test dataset: arm, dataset, auc, low, high, objective, real, fake, groups
    differences: pd.DataFrame  # arm minus without: arm, dataset, value, low, high, probability
    report: Path
    candidate: str
    verdict: dict[str, Any] | None
    seconds: dict[str, float]
    skipped: tuple[str, ...]


@dataclass(frozen=True)
class _Ground:
    """What studies and detectors stand on: faces and generator."""

    materials: TrialContext
    manifest: Path  # with all fakes; that of the materials may hold fewer
    sheet: Path
    tracking: str  # tells one tracking database from another that took its place


def execute(config: RunConfig) -> Outcome:
    """Do every step whose inputs have changed, and return the table.

    Raises:
        UserError: bad input; what was done before stays.
    """
    steps = Steps(config.out / "steps", total=7 + (config.study is not None))
    store = open_store(config.mlruns)
    cache = config.out / "cache"
    with tracked_run(
        store,
        config.project,
        f"run {config.project}",
        key=_key("run", str(config.out.resolve())),
        params=config.model_dump(mode="json", include={"datasets", "keep_train_fakes", "synthetic_share", "psi"}),
        description="The whole loop: generator, study, detectors with and without synthetic faces, sealed test.",
    ) as parent:
        ground = _ground(config, store, steps, parent.id)
        materials, full = ground.materials, Manifest.read(ground.manifest)
        audited = steps.do(
            "audit",
            [full.digest],
            lambda: audit_step(full, config.out / "audit"),
            lambda r: [Path(path) for path in r["files"]],
        )
        shared = [materials.digest, config.detector.model_dump_json(), ground.tracking]
        base = base_trial(config)
        best, study = base, None
        if config.study is not None:
            study_inputs = [*shared, config.study.model_dump_json(), json.dumps(config.study_detector)]
            study_inputs.append(base.model_dump_json())
            study = steps.do("study", study_inputs, lambda: _study(config, ground, parent.id))
            best = TrialSpec.model_validate(study["best"])
        arms = plan_arms(config, base, best)
        arm_inputs = [*shared, full.digest, *(f"{name}{spec.model_dump_json()}" for name, spec in arms.items())]
        trained = steps.do(
            "detectors",
            arm_inputs,
            lambda: train_arms(arms, materials, full, parent.id),
            lambda r: [Path(arm["folder"]) for arm in r.values()],
        )
        scores = {name: config.out / "scores" / f"{name.replace(' ', '-')}.parquet" for name in arms}
        figures = steps.do(
            "evaluation",
            [*arm_inputs, json.dumps(trained), *config.datasets.test],
            lambda: _evaluation(config, trained, full, cache, scores, store, parent.id),
            lambda _: list(scores.values()),
        )
        report = config.out / "report.html"
        contenders = [name for name in arms if name != ALL_FAKES]
        candidate = max(contenders, key=lambda name: trained[name]["objective"])
        promotion_inputs = [json.dumps(figures["by_source"][candidate]), candidate, config.promotion.model_dump_json()]
        verdict = steps.do(
            "promotion",
            promotion_inputs,
            lambda: _promotion(config, trained[candidate], candidate, ground.manifest, store),
        )
        table, differences = _table(figures, trained), pd.DataFrame(figures["differences"])
        reached = table[table["arm"] == candidate].set_index("dataset")
        near = warnings_of(audited, {name: {"auc": row.auc, "auc_low": row.low} for name, row in reached.iterrows()})
        log_audit(parent, audited, near, [arm["model_id"] for arm in trained.values()])
        steps.do(
            "report",
            [*promotion_inputs, json.dumps(figures), json.dumps(study), json.dumps(verdict), json.dumps(audited)],
            lambda: _report(
                config,
                table,
                differences,
                figures,
                study,
                verdict,
                candidate,
                scores,
                ground.sheet,
                [*audited["verdicts"], *(f"Warning: {sentence}" for sentence in near)],
                parent,
                steps,
            ),
            lambda _: [report],
        )
    return Outcome(table, differences, report, candidate, verdict, steps.seconds, tuple(steps.done_before))


def search(config: RunConfig, *, workers: int = 1, new: bool = False, cluster: str | None = None) -> StudyResult:
    """The study of a run and what it stands on, without the final detectors.

    The generator is trained only where a trial may need one.

    Args:
        workers: processes of this machine, or tasks of the cluster, at a time.
        new: begin a study beside one of the same name that has other settings; False refuses.
        cluster: address of a Ray cluster, or auto.

    Raises:
        UserError: bad input; what was done before stays.
    """
    assert config.study is not None
    check_study(config.study, study_base(config))  # before the faces are ingested and a generator is trained
    store = open_store(config.mlruns)
    needed = needs_generator(config.study, study_base(config))
    ground = _ground(config, store, Steps(config.out / "steps", total=1 + needed), None, generator=needed)
    return launch(
        config.study,
        study_base(config),
        ground.materials,
        workers=workers,
        new=new,
        cluster=cluster,
        final=_final_training(config, ground),
    )


def study_base(config: RunConfig) -> TrialSpec:
    """The trial that all those of the study vary: the run's detector, made cheaper by `study_detector`."""
    base = base_trial(config)
    return base.with_parameters(config.study_detector) if config.study_detector else base


def _final_training(config: RunConfig, ground: _Ground) -> FinalTraining:
    return FinalTraining(base_trial(config), ground.manifest, config.datasets.test)


def _ground(config: RunConfig, store: Store, steps: Steps, parent: str | None, *, generator: bool = True) -> _Ground:
    faces = prepare_dataset(config, steps)
    reduced = Manifest.read(faces.reduced)
    materials = TrialContext(
        reduced,
        config.datasets.train,
        config.datasets.validation,
        train_or_load_generator(config, reduced, store, steps, parent) if generator else None,
        config.out,
        config.out / "cache",
        store,
        config.project,
    )
    return _Ground(materials, faces.full, faces.sheet, tracking_place(config, store))


def _key(kind: str, *parts: str) -> str:
    """A short name for a piece of work, by which its MLflow run is found again."""
    return f"{kind}/{hashlib.sha256(chr(0).join(parts).encode()).hexdigest()[:24]}"


def _study(config: RunConfig, ground: _Ground, parent: str) -> dict[str, Any]:
    assert config.study is not None
    materials = ground.materials
    if not needs_generator(config.study, study_base(config)):  # the same study as that of `search`
        materials = replace(materials, generator=None)
    result = launch(config.study, study_base(config), materials, parent, final=_final_training(config, ground))
    return {
        "name": result.name,
        "best": result.best.model_dump(mode="json"),
        "best_value": result.best_value,
        "history": json.loads(result.history.to_json(orient="records")),
        "importance": result.importance,
    }


def _evaluation(
    config: RunConfig,
    trained: Mapping[str, Mapping[str, Any]],
    full: Manifest,
    cache: Path,
    scores: Mapping[str, Path],
    store: Store,
    parent: str,
) -> dict[str, Any]:
    rows = sealed_rows(full, config.datasets.test)
    scored: dict[str, Scored] = {}
    with tracked_run(
        store,
        config.project,
        "sealed test",
        key=_key("evaluation", rows.digest, json.dumps(trained)),
        parent=parent,
        tags={"manifest": full.digest},
        description="Every arm on the sealed test rows, which nothing before has seen.",
    ) as active:
        for dataset in sorted(set(rows.rows["dataset"])):
            active.opened_test(dataset)
        for name, arm in trained.items():
            scored[name] = evaluate_detector(Path(arm["folder"]), rows, cache, config.detector.device)
            scores[name].parent.mkdir(parents=True, exist_ok=True)
            scored[name].table.to_parquet(scores[name], index=False)
            for dataset, metrics in model_metrics(scored[name]).items():
                digest = rows.select(dataset=dataset).digest
                score_model(store, arm["model_id"], dataset, digest, metrics, active)
                active.metrics({f"{name}/auc/{dataset}": metrics["auc"]}, 0)
            active.text(f"{name}/evaluation_by_source.json", scored[name].by_source.to_json())
            active.text(f"{name}/evaluation_by_frame.json", scored[name].by_frame.to_json())
    differences = [
        {"arm": name, "dataset": dataset, **asdict(difference)}
        for name in scored
        if name not in (WITHOUT, ALL_FAKES)
        for dataset, difference in compare(scored[name].table, scored[WITHOUT].table, by="source").items()
    ]
    return {
        "by_source": {name: one.by_source.to_json() for name, one in scored.items()},
        "by_frame": {name: one.by_frame.to_json() for name, one in scored.items()},
        "differences": differences,
        "openings": test_openings(store, config.project),
    }


def _table(figures: Mapping[str, Any], trained: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    rows = []
    for name, text in figures["by_source"].items():
        evaluation = Evaluation.from_json(text)
        for dataset in evaluation.datasets:
            result = evaluation.results[dataset]
            auc = result.intervals["auc"]
            rows.append(
                {
                    "arm": name,
                    "dataset": dataset,
                    "auc": auc.value,
                    "low": auc.low,
                    "high": auc.high,
                    "objective": trained[name]["objective"],
                    "synthetic": trained[name]["synthetic"],
                    "real": result.real,
                    "fake": result.fake,
                    "groups": result.groups,
                }
            )
    return pd.DataFrame(rows)


def _promotion(config: RunConfig, arm: Mapping[str, Any], name: str, full: Path, store: Store) -> dict[str, Any]:
    trained = Trained(**arm)
    tags = {"arm": name, "objective": trained.objective, "synthetic_faces": trained.synthetic}
    version = register_candidate(
        store, trained.model_id, full, project=config.project, datasets=config.datasets.test, tags=tags
    )
    if not config.promotion.enabled:
        return {"version": version, "promoted": False, "reason": "promotion.enabled is false", "champion": None}
    promotion, cache = config.promotion, config.out / "cache"
    return asdict(evaluate_gate(store, version, gate=promotion.gate, datasets=promotion.datasets, cache=cache))


def _report(
    config: RunConfig,
    table: pd.DataFrame,
    differences: pd.DataFrame,
    figures: Mapping[str, Any],
    study: Mapping[str, Any] | None,
    verdict: Mapping[str, Any],
    candidate: str,
    scores: Mapping[str, Path],
    sheet: Path,
    audited: list[str],
    parent: Any,
    steps: Steps,
) -> dict[str, Any]:
    path = write_report(
        config.out / "report.html",
        title=config.project,
        table=table,
        differences=differences,
        evaluations={name: Evaluation.from_json(text) for name, text in figures["by_source"].items()},
        tables={name: pd.read_parquet(file) for name, file in scores.items()},
        candidate=candidate,
        study=study,
        verdict=verdict,
        openings=figures["openings"],
        contact_sheet=sheet,
        audited=audited,
        samples=sorted((config.out / "generator" / "samples").glob("*.png"))[-1],
        seconds=steps.seconds,
        config=config.model_dump(mode="json"),
    )
    parent.artifact(path)
    for name, value in table.set_index(["arm", "dataset"])["auc"].items():
        parent.metrics({f"auc/{name[0]}/{name[1]}": float(value)}, 0)
    parent.tags({"candidate": candidate, "promoted": str(verdict["promoted"])})
    return {"report": str(path)}
