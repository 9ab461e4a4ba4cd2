"""The whole loop: prepare faces and generator, study, experiment on sealed test rows, release, report."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from core.files import digest, strict_json
from core.locks import alone_in, one_at_a_time
from pipelines.configuration import RunConfig
from pipelines.evaluation.audit import audit_step, log_audit, warnings_of
from pipelines.experiments.arms import Arm, base_trial, trials_of_run
from pipelines.experiments.comparison import Comparison, compare_arms
from pipelines.inputs import Dataset, Steps, prepare_dataset, tracking_identity, train_or_load_generator
from pipelines.release.promotion import evaluate_gate, register_candidate
from pipelines.reports import write_run_report
from tracking.runs import Run
from tracking.runs import run as tracked_run
from tracking.store import open_store
from tuning.identity import FinalTraining, check_study, needs_generator
from tuning.study import StudyResult, launch
from tuning.trial import TrialContext, TrialSpec, refuse_unjudged


@dataclass(frozen=True)
class Outcome:
    """What a run ends in."""

    comparison: Comparison  # its arms on the sealed test rows
    report: Path
    candidate: str  # the arm that was put forward for promotion, chosen on val rows
    verdict: dict[str, Any]  # the gate's, in JSON's types: version, promoted, reason, champion, ...
    seconds: dict[str, float]  # of each step, by name


@alone_in("config.out", "a run")
def execute(config: RunConfig) -> Outcome:
    """Do every step whose inputs have changed, and return what came out.

    Of two processes at once on one `config.out`, the second waits and returns what the first made.

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
    ) as run:
        dataset = prepare_dataset(config, store, steps)
        refuse_unjudged(dataset.context, folds=1)  # before the generator takes its time
        context = replace(dataset.context, generator=train_or_load_generator(config, dataset.context, steps, run.id))
        loop = _Loop(config, steps, run, dataset, context)
        full, folder = dataset.full, config.out / "audit"
        audited = steps.do("audit", [full.digest], lambda: audit_step(full, folder), lambda r: r["files"])
        study = loop.study() if config.study is not None else None
        comparison = loop.experiment(TrialSpec.model_validate(study["best"]) if study else base_trial(config))
        candidate = _candidate(comparison)
        verdict = loop.release(candidate)
        warnings = _warn(run, audited, comparison, candidate["arm"])
        report = loop.report(comparison, candidate, study, verdict, warnings)
    return Outcome(comparison, report, candidate["arm"], verdict, steps.seconds)


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
    with one_at_a_time(config.out, "a study"):  # its trials may be shared by several launches
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


@dataclass(frozen=True)
class _Loop:
    """The steps of a run that come after faces and generator; each is skipped where its inputs have not changed."""

    config: RunConfig
    steps: Steps
    run: Run
    dataset: Dataset
    context: TrialContext

    def study(self) -> dict[str, Any]:
        """The study, and the specification of its best trial."""
        assert self.config.study is not None
        searched, base = self.config.study, study_base(self.config)
        # Without a generator where no trial needs one: the same study as that of `search`.
        context = self.context if needs_generator(searched, base) else replace(self.context, generator=None)
        final = _final_training(self.config, self.dataset)

        def work() -> dict[str, Any]:
            result = launch(searched, base, context, self.run.id, final=final)
            return {
                "name": result.name,
                "best": result.best.model_dump(mode="json"),
                "best_value": result.best_value,
                "history": json.loads(result.history.to_json(orient="records")),
                "importance": result.importance,
            }

        settings = [of.model_dump_json() for of in (searched, base, final.base)]
        return self.steps.do("study", [context.digest, tracking_identity(context), *settings], work)

    def experiment(self, best: TrialSpec) -> Comparison:
        """Arms by seeds on the sealed test rows, the first arm being the reference."""
        trials = trials_of_run(self.config, best)
        reference, full, context = next(arm for arm, _ in trials), self.dataset.full, self.context

        def work() -> dict[str, Any]:
            done = compare_arms(self.config, trials, context, full, self.steps, reference=reference, parent=self.run.id)
            file = str(done.file)
            return {"file": file, "outputs": [file, *done.detectors["folder"], *done.detectors["scores"]]}

        inputs = [context.digest, tracking_identity(context), full.digest, *self.config.datasets.test]
        inputs += [f"{arm}, seed {seed}: {spec.model_dump_json()}" for (arm, seed), spec in trials.items()]
        return Comparison.from_json(Path(self.steps.do("experiment", inputs, work, lambda r: r["outputs"])["file"]))

    def release(self, candidate: Mapping[str, Any]) -> dict[str, Any]:
        """Register the candidate, and promote it if the gate lets it pass."""
        config, store = self.config, self.context.store

        def work() -> dict[str, Any]:
            tags = {name: candidate[name] for name in ("arm", "objective")}
            version = register_candidate(
                store,
                candidate["model_id"],
                self.dataset.file,
                project=config.project,
                datasets=config.datasets.test,
                tags=tags | {"synthetic_faces": candidate["synthetic"]},
            )
            if not config.promotion.enabled:
                return {"version": version, "promoted": False, "reason": "promotion.enabled is false", "champion": None}
            gate, datasets = config.promotion.gate, config.promotion.datasets
            return asdict(evaluate_gate(store, version, gate=gate, datasets=datasets, cache=self.context.cache))

        return self.steps.do("promotion", [json.dumps(candidate), config.promotion.model_dump_json()], work)

    def report(
        self,
        comparison: Comparison,
        candidate: Mapping[str, Any],
        study: Mapping[str, Any] | None,
        verdict: Mapping[str, Any],
        audited: Sequence[str],
    ) -> Path:
        """`report.html`, and its figures on the run."""
        config = self.config
        path = config.out / "report.html"

        def work() -> dict[str, Any]:
            samples = sorted((config.out / "generator" / "samples").glob("*.png"))[-1]
            pictures, seconds = {"faces": self.dataset.sheet, "samples": samples}, self.steps.seconds
            write_run_report(
                path, config, comparison, candidate, study, verdict, pictures, audited=audited, seconds=seconds
            )
            self.run.artifact(path)
            for row in comparison.table.to_dict("records"):
                self.run.metrics({f"auc/{row['arm']}/{row['dataset']}": row["auc"]}, 0)
            self.run.tags({"candidate": candidate["arm"], "promoted": str(verdict["promoted"])})
            return {"report": str(path)}

        inputs = [strict_json(part) for part in (comparison.to_json(), study, verdict, audited)]
        self.steps.do("report", inputs, work, lambda _: [path])
        return path


def _candidate(comparison: Comparison) -> dict[str, Any]:
    """The detector with the highest objective on val, of the arm whose seeds have the highest mean of it.

    The arm with all real-world fakes is no candidate: those fakes are taken as not there.
    """
    detectors = [row for row in comparison.detectors.to_dict("records") if not Arm.parse(row["arm"]).all_fakes]
    means = comparison.detectors.groupby("arm")["objective"].mean()
    arm = max(detectors, key=lambda row: means[row["arm"]])["arm"]
    return max((row for row in detectors if row["arm"] == arm), key=lambda row: row["objective"])


def _warn(run: Run, audited: Mapping[str, Any], comparison: Comparison, arm: str) -> list[str]:
    """What the audit says, and where a probe comes near the candidate; on the run and the models, too."""
    reached = comparison.table[comparison.table["arm"] == arm].itertuples()
    near = warnings_of(audited, {row.dataset: {"auc": row.auc, "auc_low": row.low} for row in reached})
    log_audit(run, audited, near, list(comparison.detectors["model_id"]))
    return [*audited["verdicts"], *(f"Warning: {sentence}" for sentence in near)]
