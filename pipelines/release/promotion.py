"""The gate before the alias `champion`: a candidate is held against the champion on the same sealed groups."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from classifier.evaluation import MEAN, Evaluation, compare
from classifier.models.ensemble import FaceModel, load_detector
from classifier.scoring import milliseconds_per_image
from core.manifest import Manifest
from metrics.intervals import Difference
from pipelines.evaluation.sealed import Scored, open_test_rows, score_rows
from pipelines.release.gate import Check, Costs, Evidence, Gate, check, main_difference
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
    champion: int | None  # the champion that the candidate was held against
    difference: dict[str, float] | None  # candidate minus champion: value, low, high, level, probability
    by_dataset: dict[str, dict[str, float]]
    checks: list[dict[str, Any]] = field(default_factory=list)  # rule, passed, wanted, measured


def register_candidate(
    store: Store, model_id: str, manifest: Path, *, project: str, datasets: Sequence[str], tags: dict[str, Any]
) -> int:
    """Make a trained model a version of the registry, with the lineage that a later comparison needs."""
    full = Manifest.read(manifest)
    lineage = {
        **tags,
        "project": project,
        "test_manifest": full.digest,
        "test_manifest_path": str(manifest.resolve()),
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
        return Verdict(version.number, True, f"version {version.number} is the champion already", None, None, {})
    rows = Model(store, version).sealed_rows(manifest, list(datasets) or gate.datasets)
    against = champion.number if champion else "none"
    rules = hashlib.sha256(gate.model_dump_json().encode()).hexdigest()[:8]
    with run(
        store,
        version.tags.get("project", "promotions"),
        f"gate of version {version.number}",
        key=f"gate/{version.number}/{against}/{rows.digest}/{rules}",
        tags={"version": version.number, "champion": against},
        params=gate.model_dump(mode="json"),
        description="Candidate against champion on the same sealed test groups.",
    ) as active:
        evidence = _gather(store, version, champion, rows, cache, gate, active)
        verdict = _verdict(version, champion, evidence.paired, check(gate, evidence))
        report = asdict(verdict) | {"gate": gate.model_dump(mode="json")}
        active.text("gate.json", json.dumps(report, indent=2))
        active.text("gate.md", described(verdict))
        active.tags({"promoted": verdict.promoted, "reason": verdict.reason})
    if dry_run:
        return verdict
    if not verdict.promoted:
        registry.record(version.number, report, {"gate": "refused"}, description=described(verdict))
        return verdict
    try:
        registry.promote(
            version.number,
            report,
            {"gate": "passed"},
            why=verdict.reason,
            against=champion.number if champion else None,
            description=described(verdict),
        )
    except ConcurrentPromotionError as error:
        registry.tag(version.number, {"gate": "overtaken"})
        return Verdict(**(asdict(verdict) | {"promoted": False, "reason": str(error)}))
    return verdict


def verdict_json(verdict: Verdict) -> str:
    """The verdict as indented JSON."""
    return json.dumps(asdict(verdict), indent=2)


def described(verdict: Verdict) -> str:
    """The verdict as markdown: what stands in the description of the version, where MLflow's UI shows it."""
    outcome = "Passed" if verdict.promoted else "Refused"
    now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    lines = [
        f"**{outcome} by the gate**, {now}: {verdict.reason}.",
        "",
        "| rule | | wanted | measured |",
        "|---|---|---|---|",
    ]
    for each in verdict.checks:
        lines.append(
            f"| {each['rule']} | {'yes' if each['passed'] else 'NO'} | {each['wanted']} | {each['measured']} |"
        )
    return "\n".join(lines)


def _gather(
    store: Store, version: Version, champion: Version | None, rows: Manifest, cache: Path, gate: Gate, active: Run
) -> Evidence:
    """Score both models, and measure what the gate asks for."""
    with tempfile.TemporaryDirectory() as folder:
        ours = fetch_model(store, version.uri, Path(folder) / "candidate")
        theirs = fetch_model(store, champion.uri, Path(folder) / "champion") if champion else None
        open_test_rows(active, rows, [path for path in (ours, theirs) if path])
        scored = score_rows(ours, rows, cache)
        rival = score_rows(theirs, rows, cache) if theirs else None
        paired = compare(scored.table, rival.table if rival else scored.table.assign(score=0.5), by="source")
        models = [load_detector(path, "cpu") for path in (ours, theirs) if path]
        timed = gate.max_ms_per_image is not None or gate.champion.gain == "latency"
        times = milliseconds_per_image(models) if timed else [float("nan")] * len(models)
        costs = [_costs(*each) for each in zip(models, times, [scored, rival], strict=False)]
    if timed:
        active.metrics({"ms_per_image": times[0]}, model_id=version.model_id)
    return Evidence(
        version=version.number,
        champion=champion.number if champion else None,
        evaluation=scored.by_source,
        paired=paired,
        metrics=Registry(store).metrics(version),
        costs=costs[0],
        champion_costs=costs[1] if champion else Costs(),
        licence=licence_of(version),
        untraced=tuple(untraced(store, version, models[0])),
    )


def _costs(model: FaceModel, milliseconds: float, scored: Scored | None) -> Costs:
    numbers = sum(parameter.numel() for parameter in model.parameters())
    return Costs(milliseconds, numbers * 4 / 1e6, _worst_ece(scored.by_source) if scored else float("nan"))


def _worst_ece(evaluation: Evaluation) -> float:
    return max(evaluation.results[name].metrics["ece"] for name in evaluation.datasets)


def _verdict(
    version: Version, champion: Version | None, paired: dict[str, Difference] | Any, checks: list[Check]
) -> Verdict:
    over, difference = main_difference(paired)
    promoted = all(each.passed for each in checks)
    rival = f"champion (version {champion.number})" if champion else "floor (AUC 0.5, there is no champion yet)"
    figure = f"{over} differs by {difference.value:+.3f} [{difference.low:+.3f}, {difference.high:+.3f}]"
    if difference.low > 0:
        reason = f"version {version.number} beats the {rival}: {figure}"
    elif checks[0].passed:
        reason = f"version {version.number} is not inferior to the {rival}: {figure}; {checks[0].wanted}"
    else:
        reason = f"version {version.number} does not beat the {rival}: {figure}, and the interval must lie above zero"
        if "most" in checks[0].wanted:
            reason = (
                f"version {version.number} may be inferior to the {rival}: {checks[0].measured}; {checks[0].wanted}"
            )
    if refused := [each for each in checks[1:] if not each.passed]:
        reason += "; refused for " + "; ".join(f"{each.rule} ({each.measured}; {each.wanted})" for each in refused)
    return Verdict(
        version.number,
        promoted,
        reason,
        champion.number if champion else None,
        asdict(difference),
        {name: asdict(paired[name]) for name in paired if name not in (MEAN, "all")},
        [asdict(each) for each in checks],
    )
