"""The whole loop: prepare faces and generator, study, experiment on sealed test rows, release, report."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from core.files import digest
from pipelines.configuration import RunConfig
from pipelines.evaluation.audit import audit_step, log_audit, warnings_of
from pipelines.experiments.arms import Arm, Trials, base_trial, trials_of_run
from pipelines.experiments.comparison import Comparison, compare_arms
from pipelines.inputs import Dataset, prepare_dataset, tracking_identity, train_or_load_generator
from pipelines.release.promotion import evaluate_gate, register_candidate
from pipelines.reports.run_report import write_report
from pipelines.steps import Steps
from tracking.runs import Run
from tracking.runs import run as tracked_run
from tracking.store import open_store
from tuning.identity import FinalTraining, check_study, needs_generator
from tuning.study import StudyResult, launch
from tuning.trial import TrialContext, TrialSpec


@dataclass(frozen=True)
class Outcome:
    """What a run ends in.

    Attributes:
        comparison: its arms on the sealed test rows.
        candidate: the arm that was put forward for promotion, chosen on val rows.
        verdict: the gate's, in JSON's types: version, promoted, reason, champion, ...
        seconds: of each step, by name; `skipped` are those whose inputs had not changed.
    """

    comparison: Comparison
    report: Path
    candidate: str
    verdict: dict[str, Any]
    seconds: dict[str, float]
    skipped: tuple[str, ...]


def execute(config: RunConfig) -> Outcome:
    """Do every step whose inputs have changed, and return what came out.

    Raises:
        UserError: bad input; what was done before stays.
    """
    steps = Steps(config.out / "steps", total=6 + (config.study is not None))
    store = open_store(config.mlruns)
    with tracked_run(
        store,
        config.project,
        f"run {config.project}",
        key=f"run/{digest(str(config.out.resolve()), length=24)}",
        params=config.model_dump(mode="json", include={"datasets", "keep_train_fakes", "synthetic_share", "psi"}),
        description="The whole loop: generator, study, detectors with and without synthetic faces, sealed test.",
    ) as parent:
        dataset = prepare_dataset(config, store, steps)
        generator = train_or_load_generator(config, dataset.context, steps, parent.id)
        context = replace(dataset.context, generator=generator)
        audited = steps.do(
            "audit",
            [dataset.full.digest],
            lambda: audit_step(dataset.full, config.out / "audit"),
            lambda r: [Path(path) for path in r["files"]],
        )
        study = _study(config, context, dataset, steps, parent.id) if config.study is not None else None
        best = TrialSpec.model_validate(study["best"]) if study is not None else base_trial(config)
        comparison = _experiment(config, trials_of_run(config, best), context, dataset, steps, parent.id)
        candidate = _candidate(comparison)
        verdict = _release(config, candidate, comparison, dataset, context, steps)
        warnings = _warn(parent, audited, comparison, candidate["arm"])
        report = _report(config, comparison, candidate, study, verdict, dataset, warnings, parent, steps)
    return Outcome(comparison, report, candidate["arm"], verdict, steps.seconds, tuple(steps.done_before))


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
    base = study_base(config)
    check_study(config.study, base)  # before the faces are ingested and a generator is trained
    needed = needs_generator(config.study, base)
    steps = Steps(config.out / "steps", total=1 + needed)
    dataset = prepare_dataset(config, open_store(config.mlruns), steps)
    context = dataset.context
    if needed:
        context = replace(context, generator=train_or_load_generator(config, context, steps))
    final = _final_training(config, dataset)
    return launch(config.study, base, context, workers=workers, new=new, cluster=cluster, final=final)


def study_base(config: RunConfig) -> TrialSpec:
    """The trial that all those of the study vary: the run's detector, made cheaper by `study_detector`."""
    base = base_trial(config)
    return base.with_parameters(config.study_detector) if config.study_detector else base


def _final_training(config: RunConfig, dataset: Dataset) -> FinalTraining:
    return FinalTraining(base_trial(config), dataset.file, config.datasets.test)


def _study(config: RunConfig, context: TrialContext, dataset: Dataset, steps: Steps, parent: str) -> dict[str, Any]:
    assert config.study is not None
    searched, base = config.study, study_base(config)
    if not needs_generator(searched, base):  # the same study as that of `search`
        context = replace(context, generator=None)

    def work() -> dict[str, Any]:
        result = launch(searched, base, context, parent, final=_final_training(config, dataset))
        return {
            "name": result.name,
            "best": result.best.model_dump(mode="json"),
            "best_value": result.best_value,
            "history": json.loads(result.history.to_json(orient="records")),
            "importance": result.importance,
        }

    inputs = [context.digest, tracking_identity(context), searched.model_dump_json(), base.model_dump_json()]
    return steps.do("study", inputs, work)


def _experiment(
    config: RunConfig, trials: Trials, context: TrialContext, dataset: Dataset, steps: Steps, parent: str
) -> Comparison:
    """Arms by seeds on the sealed test rows, the first arm being the reference."""
    reference = next(arm for arm, _ in trials)

    def work() -> dict[str, Any]:
        done = compare_arms(config, trials, context, dataset.full, steps, reference=reference, parent=parent)
        return {"file": str(done.file(done.folder)), "outputs": [*done.detectors["folder"], *done.detectors["scores"]]}

    inputs = [context.digest, tracking_identity(context), dataset.full.digest, *config.datasets.test]
    inputs += [f"{arm}, seed {seed}: {spec.model_dump_json()}" for (arm, seed), spec in trials.items()]
    done = steps.do("experiment", inputs, work, lambda r: [Path(path) for path in (r["file"], *r["outputs"])])
    return Comparison.from_json(Path(done["file"]))


def _candidate(comparison: Comparison) -> dict[str, Any]:
    """The detector with the highest objective on val, of the arm whose seeds have the highest mean of it.

    The arm with all real-world fakes is no candidate: those fakes are taken as not there.
    """
    detectors = [row for row in comparison.detectors.to_dict("records") if not Arm.parse(row["arm"]).all_fakes]
    means = comparison.detectors.groupby("arm")["objective"].mean()
    arm = max(dict.fromkeys(row["arm"] for row in detectors), key=lambda name: means[name])
    return max((row for row in detectors if row["arm"] == arm), key=lambda row: row["objective"])


def _release(
    config: RunConfig,
    candidate: Mapping[str, Any],
    comparison: Comparison,
    dataset: Dataset,
    context: TrialContext,
    steps: Steps,
) -> dict[str, Any]:
    """Register the candidate, and promote it if the gate lets it pass."""
    promotion = config.promotion

    def work() -> dict[str, Any]:
        tags = {"arm": candidate["arm"], "objective": candidate["objective"], "synthetic_faces": candidate["synthetic"]}
        version = register_candidate(
            context.store,
            candidate["model_id"],
            dataset.file,
            project=config.project,
            datasets=config.datasets.test,
            tags=tags,
        )
        if not promotion.enabled:
            return {"version": version, "promoted": False, "reason": "promotion.enabled is false", "champion": None}
        verdict = evaluate_gate(
            context.store, version, gate=promotion.gate, datasets=promotion.datasets, cache=context.cache
        )
        return asdict(verdict)

    return steps.do("promotion", [json.dumps(candidate), comparison.run, promotion.model_dump_json()], work)


def _warn(parent: Run, audited: Mapping[str, Any], comparison: Comparison, arm: str) -> list[str]:
    """What the audit says, and where a probe comes near the candidate; on the run and the models, too."""
    reached = comparison.table[comparison.table["arm"] == arm].set_index("dataset")
    near = warnings_of(audited, {name: {"auc": row.auc, "auc_low": row.low} for name, row in reached.iterrows()})
    log_audit(parent, audited, near, list(comparison.detectors["model_id"]))
    return [*audited["verdicts"], *(f"Warning: {sentence}" for sentence in near)]


def _report(
    config: RunConfig,
    comparison: Comparison,
    candidate: Mapping[str, Any],
    study: Mapping[str, Any] | None,
    verdict: Mapping[str, Any],
    dataset: Dataset,
    audited: Sequence[str],
    parent: Run,
    steps: Steps,
) -> Path:
    report = config.out / "report.html"

    def work() -> dict[str, Any]:
        write_report(
            report,
            title=config.project,
            comparison=comparison,
            candidate=candidate,
            study=study,
            verdict=verdict,
            contact_sheet=dataset.sheet,
            audited=audited,
            samples=sorted((config.out / "generator" / "samples").glob("*.png"))[-1],
            seconds=steps.seconds,
            config=config.model_dump(mode="json"),
        )
        parent.artifact(report)
        for row in comparison.table.to_dict("records"):
            parent.metrics({f"auc/{row['arm']}/{row['dataset']}": row["auc"]}, 0)
        parent.tags({"candidate": candidate["arm"], "promoted": str(verdict["promoted"])})
        return {"report": str(report)}

    inputs = [json.dumps(part) for part in (comparison.to_json(), study, verdict, list(audited))]
    steps.do("report", inputs, work, lambda _: [report])
    return report
