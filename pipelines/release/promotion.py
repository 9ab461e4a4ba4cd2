"""Two versions on the same sealed groups: the gate before the alias `champion`, and a comparison of any two."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from classifier.evaluation import ALL, MEAN, compare
from classifier.models.ensemble import FaceModel, load_detector
from classifier.scoring import milliseconds_per_image
from core.errors import UserError
from core.files import digest
from core.groups import split_notes
from core.manifest import Manifest
from metrics.binary import RANKED
from metrics.intervals import Difference
from pipelines.evaluation.sealed import Scored, open_test_rows, score_rows
from pipelines.release.gate import Check, Costs, Evidence, Gate, check, main_difference, signed
from pipelines.release.lineage import Model, find_version, licence_of, untraced
from tracking.models import fetch_model
from tracking.registry import ConcurrentPromotionError, Registry, Version
from tracking.runs import Run, run
from tracking.store import Store


@dataclass(frozen=True)
class Verdict:
    """What the gate decided, and why, in a sentence; the differences and the checks that it rests on."""

    version: int
    promoted: bool
    reason: str
    champion: int | None = None  # the champion that the candidate was held against
    difference: Difference | None = None  # candidate minus champion
    by_dataset: dict[str, Difference] = field(default_factory=dict)
    checks: list[Check] = field(default_factory=list)


def register_candidate(
    store: Store, model_id: str, manifest: Path, *, project: str, datasets: Sequence[str], tags: dict[str, Any]
) -> int:
    """Make a trained model a version of the registry, with the lineage that a later comparison needs.

    `manifest` is a file, or the folder that holds `manifest.parquet`.
    """
    file = manifest / "manifest.parquet" if manifest.is_dir() else manifest
    lineage = {
        **tags,
        "project": project,
        "test_manifest": Manifest.read(manifest).digest,
        "test_manifest_path": str(file.resolve()),
        "test_datasets": ",".join(datasets),
    }
    registry = Registry(store)
    return registry.challenge(registry.register(model_id, lineage).number).number


def evaluate_gate(
    store: Store,
    candidate: str | int,
    *,
    gate: Gate | None = None,
    manifest: Path | None = None,
    datasets: Sequence[str] = (),
    cache: Path = Path("cache"),
    dry_run: bool = False,
) -> Verdict:
    """Hold a candidate against the champion on sealed test rows, and promote it if every rule of the gate holds.

    By default it must be better: the paired 95 % interval of the mean AUC over the test datasets, by source, resampled
    over identities or sources, lies above zero. Where there is no champion the candidate is held against knowing
    nothing (AUC 0.5). Its lineage must be traced in any case. The report stays on the version, promoted or refused,
    unless it is a dry run.

    Raises:
        UserError: the manifest or the rows are missing, or the candidate is a run without a model.
        TrackingError: there is no such version.
    """
    gate = gate or Gate()
    registry, version = Registry(store), find_version(store, candidate)
    champion = registry.champion()
    if champion is not None and champion.number == version.number:
        return Verdict(version.number, True, f"version {version.number} is the champion already")
    rows = Model(store, version).sealed_rows(manifest, list(datasets) or gate.datasets)
    against = champion.number if champion else None
    rules = digest(gate.model_dump_json(), length=8)
    with run(
        store,
        version.tags.get("project", "promotions"),
        f"gate of version {version.number}",
        key=f"gate/{version.number}/{against or 'none'}/{rows.digest}/{rules}",
        tags={"version": version.number, "champion": against or "none"},
        params=gate.model_dump(mode="json"),
        description="Candidate against champion on the same sealed test groups.",
    ) as active:
        evidence = _gather(store, version, champion, rows, cache, gate, active)
        verdict = _verdict(gate, evidence)
        report = asdict(verdict) | {"gate": gate.model_dump(mode="json")}
        description = _described(verdict)
        active.text("gate.json", json.dumps(report, indent=2))
        active.text("gate.md", description)
        active.tags({"promoted": verdict.promoted, "reason": verdict.reason})
    if dry_run:
        return verdict
    if not verdict.promoted:
        registry.record(version.number, report, {"gate": "refused"}, description=description)
        return verdict
    tags, why = {"gate": "passed"}, verdict.reason
    try:
        registry.promote(version.number, report, tags, why=why, against=against, description=description)
    except ConcurrentPromotionError as error:
        registry.tag(version.number, {"gate": "overtaken"})
        return replace(verdict, promoted=False, reason=str(error))
    return verdict


@dataclass(frozen=True)
class VersionComparison:
    """Two versions on the same sealed groups.

    `datasets` has one row each: dataset, `version <first>`, `version <second>` (the metric of either), difference, low,
    high, and the confidence that the first's is higher.
    """

    first: int
    second: int
    metric: str
    datasets: list[dict[str, Any]]
    sentence: str
    notes: list[str]  # on how the datasets are split


def compare_versions(
    store: Store,
    first: str | int,
    second: str | int,
    *,
    manifest: Path | None = None,
    datasets: Sequence[str] = (),
    metric: str = "auc",
    cache: Path = Path("cache"),
) -> VersionComparison:
    """A metric of both by source, and their paired difference with its interval, by dataset; the opening is counted.

    Raises:
        UserError: no such metric, or the manifest or its rows are missing.
    """
    if metric not in RANKED:
        raise UserError(f"there is no metric {metric!r} with an interval: choose one of {', '.join(RANKED)}")
    versions = [find_version(store, each) for each in (first, second)]
    one, two = (version.number for version in versions)
    rows = Model(store, versions[0]).sealed_rows(manifest, datasets)
    with run(
        store,
        versions[0].tags.get("project", "comparisons"),
        f"version {one} against {two}",
        key=f"compare/{one}/{two}/{rows.digest}",
        tags={"versions": f"{one},{two}", "manifest": rows.digest},
        description="Two registered models on the same sealed test groups.",
    ) as active:
        _, (a, b) = _scored(store, versions, rows, cache, active)
        thresholds = a.by_source.threshold, b.by_source.threshold
        paired = compare(a.table, b.table, metric=metric, by="source", thresholds=thresholds)
        table = [
            {"dataset": "all, pooled" if dataset == ALL else dataset}
            | {f"version {number}": _figure(scored, dataset, metric) for number, scored in ((one, a), (two, b))}
            | {"difference": change.value, "low": change.low, "high": change.high, "confidence": change.probability}
            for dataset, change in paired.items()
        ]
        over, main = main_difference(paired)
        outcome = "no difference can be told"
        if main.low != main.low:
            outcome = "too few identities or sources for an interval"
        elif main.low > 0 or main.high < 0:
            outcome = f"version {one}'s is {'higher' if main.low > 0 else 'lower'} (the 95 % interval excludes zero)"
        sentence = f"{over.replace('AUC', metric)}: {outcome}, {signed(main)}"
        result = VersionComparison(one, two, metric, table, sentence, split_notes(rows.rows))
        active.text("comparison.json", json.dumps(asdict(result), indent=2))
        active.metrics({f"{metric}_difference/{dataset}": difference.value for dataset, difference in paired.items()})
    return result


def _scored(
    store: Store, versions: Sequence[Version], rows: Manifest, cache: Path, active: Run
) -> tuple[list[FaceModel], list[Scored]]:
    """The versions as models, and their scores on sealed rows, whose opening is counted."""
    with tempfile.TemporaryDirectory() as scratch:
        folders = [fetch_model(store, version.uri, Path(scratch) / str(version.number)) for version in versions]
        open_test_rows(active, rows, folders)
        return [load_detector(path, "cpu") for path in folders], [score_rows(path, rows, cache) for path in folders]


def _figure(scored: Scored, dataset: str, metric: str) -> float:
    found = scored.by_source
    return found.results[dataset].metrics[metric] if dataset in found.results else found.mean(metric)


def _described(verdict: Verdict) -> str:
    """The verdict as markdown: what stands in the description of the version, where MLflow's UI shows it."""
    outcome = "Passed" if verdict.promoted else "Refused"
    now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    lines = [f"**{outcome} by the gate**, {now}: {verdict.reason}.", ""]
    lines += ["| rule | | wanted | measured |", "|---|---|---|---|"]
    lines += [f"| {c.rule} | {'yes' if c.passed else 'NO'} | {c.wanted} | {c.measured} |" for c in verdict.checks]
    return "\n".join(lines)


def _gather(
    store: Store, version: Version, champion: Version | None, rows: Manifest, cache: Path, gate: Gate, active: Run
) -> Evidence:
    """Score both models, and measure what the gate asks for."""
    versions = [version, champion] if champion else [version]
    timed = gate.max_ms_per_image is not None or gate.champion.gain == "latency"
    models, scored = _scored(store, versions, rows, cache, active)
    times = milliseconds_per_image(models) if timed else [float("nan")] * len(models)
    costs = [_costs(*each) for each in zip(models, times, scored, strict=True)]
    if timed:
        active.metrics({"ms_per_image": times[0]}, model_id=version.model_id)
    own = scored[0]
    rival = scored[1].table if champion else own.table.assign(score=0.5)
    return Evidence(
        version=version.number,
        champion=champion.number if champion else None,
        evaluation=own.by_source,
        paired=compare(own.table, rival, by="source"),
        metrics=Registry(store).metrics(version),
        costs=costs[0],
        champion_costs=costs[1] if champion else Costs(),
        licence=licence_of(version),
        untraced=tuple(untraced(store, version, models[0])),
    )


def _costs(model: FaceModel, milliseconds: float, scored: Scored) -> Costs:
    numbers = sum(parameter.numel() for parameter in model.parameters())
    evaluation = scored.by_source
    worst = max(evaluation.results[name].metrics["ece"] for name in evaluation.datasets)
    return Costs(milliseconds, numbers * 4 / 1e6, worst)


def _verdict(gate: Gate, evidence: Evidence) -> Verdict:
    paired, checks, number = evidence.paired, check(gate, evidence), evidence.version
    over, difference = main_difference(paired)
    figure = f"{over} differs by {signed(difference)}"
    rival = "floor (AUC 0.5, there is no champion yet)"
    if evidence.champion is not None:
        rival = f"champion (version {evidence.champion})"
    if difference.low > 0:
        reason = f"version {number} beats the {rival}: {figure}"
    elif checks[0].passed:
        reason = f"version {number} is not inferior to the {rival}: {figure}; {checks[0].wanted}"
    elif evidence.champion is not None and gate.champion.rule == "non-inferior":
        reason = f"version {number} may be inferior to the {rival}: {checks[0].measured}; {checks[0].wanted}"
    else:
        reason = f"version {number} does not beat the {rival}: {figure}, and the interval must lie above zero"
    if refused := [each for each in checks[1:] if not each.passed]:
        reason += "; refused for " + "; ".join(f"{each.rule} ({each.measured}; {each.wanted})" for each in refused)
    return Verdict(
        version=number,
        promoted=all(each.passed for each in checks),
        reason=reason,
        champion=evidence.champion,
        difference=difference,
        by_dataset={name: paired[name] for name in paired if name not in (MEAN, ALL)},
        checks=checks,
    )
