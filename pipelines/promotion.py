"""The gate before the alias `champion`: a candidate must beat the champion on the same sealed groups."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from classifier.evaluation import MEAN, compare
from classifier.intervals import Difference
from faces.errors import UserError
from faces.manifest import Manifest
from pipelines.evaluation import Scored, evaluate_detector, sealed_rows
from tracking.models import fetch_model
from tracking.registry import Registry, Version
from tracking.runs import run
from tracking.store import Store


@dataclass(frozen=True)
class Verdict:
    """What the gate decided, and why, in a sentence; the differences that it rests on."""

    version: int
    promoted: bool
    reason: str
    champion: int | None  # the champion that the candidate was held against
    difference: dict[str, float] | None  # candidate minus champion: value, low, high, level, probability
    by_domain: dict[str, dict[str, float]]


def register_candidate(
    store: Store, model_id: str, manifest: Path, *, project: str, domains: Sequence[str], tags: dict[str, Any]
) -> int:
    """Make a trained model a version of the registry, with the lineage that a later comparison needs."""
    full = Manifest.read(manifest)
    lineage = {
        **tags,
        "project": project,
        "test_manifest": full.digest,
        "test_manifest_path": str(manifest.resolve()),
        "test_domains": ",".join(domains),
    }
    registry = Registry(store)
    return registry.challenge(registry.register(model_id, lineage).number).number


def lineage_manifest(version: Version, given: Path | None = None) -> Manifest:
    """The manifest with the sealed rows that a version is compared on: the given one, or that of its lineage.

    Raises:
        UserError: the version names none, it cannot be read, or its rows have changed.
    """
    if given is not None:
        return Manifest.read(given)
    path = version.tags.get("test_manifest_path")
    if path is None:
        raise UserError(f"version {version.number} names no manifest in its lineage: give one with --manifest")
    if not Path(path).is_file():
        raise UserError(f"the manifest of version {version.number} is no longer at {path}: give it with --manifest")
    manifest = Manifest.read(path)
    if manifest.digest != version.tags["test_manifest"]:
        raise UserError(
            f"{path} has changed since version {version.number} was registered: register a model trained on it anew, "
            "or give the manifest of then with --manifest"
        )
    return manifest


def fetch_and_evaluate(store: Store, version: Version, rows: Manifest, cache: Path) -> Scored:
    """The registered model's scores on `rows`, from the weights that the registry holds."""
    with tempfile.TemporaryDirectory() as folder:
        return evaluate_detector(fetch_model(store, version.uri, Path(folder) / "model"), rows, cache)


def consider(
    store: Store,
    candidate: str | int,
    *,
    manifest: Path | None = None,
    domains: Sequence[str] = (),
    cache: Path = Path("cache"),
    dry_run: bool = False,
) -> Verdict:
    """Hold a candidate against the champion on sealed test rows, and promote it if it is better beyond doubt.

    Better: the paired 95 % interval of the mean AUC over the test domains, by source, resampled over identities or
    sources, lies above zero. Where there is no champion the candidate is held against knowing nothing (AUC 0.5).

    Raises:
        UserError: the manifest or the rows are missing.
    """
    registry = Registry(store)
    version = registry.resolve(candidate)
    champion = registry.champion()
    if champion is not None and champion.number == version.number:
        return Verdict(version.number, True, f"version {version.number} is the champion already", None, None, {})
    full = lineage_manifest(version, manifest)
    named = [domain for domain in version.tags.get("test_domains", "").split(",") if domain]
    rows = sealed_rows(full, list(domains) or named)
    with run(
        store,
        version.tags.get("project", "promotions"),
        f"gate of version {version.number}",
        key=f"gate/{version.number}/{champion.number if champion else 'none'}/{rows.digest}",
        tags={"version": version.number, "champion": champion.number if champion else "none"},
        description="Candidate against champion on the same sealed test groups.",
    ) as active:
        for domain in sorted(set(rows.rows["dataset"])):
            active.opened_test(domain)
        ours = fetch_and_evaluate(store, version, rows, cache).table
        theirs = ours.assign(score=0.5) if champion is None else fetch_and_evaluate(store, champion, rows, cache).table
        paired = compare(ours, theirs, by="source")
        verdict = _verdict(version, champion, paired)
        active.text("gate.json", verdict_json(verdict))
        active.tags({"promoted": verdict.promoted, "reason": verdict.reason})
    if verdict.promoted and not dry_run:
        registry.promote(version.number, asdict(verdict), why=verdict.reason)
    return verdict


def verdict_json(verdict: Verdict) -> str:
    """The verdict as indented JSON."""
    return json.dumps(asdict(verdict), indent=2)


def _verdict(version: Version, champion: Version | None, paired: dict[str, Difference]) -> Verdict:
    key = MEAN if MEAN in paired else next(iter(paired))
    difference = paired[key]
    promoted = difference.low > 0
    rival = f"champion (version {champion.number})" if champion else "floor (AUC 0.5, there is no champion yet)"
    domains = [name for name in paired if name not in (MEAN, "all")]
    over = f"mean AUC over {', '.join(domains)}" if len(domains) > 1 else f"AUC on {domains[0]}"
    outcome = "beats" if promoted else "does not beat"
    reason = (
        f"version {version.number} {outcome} the {rival}: {over} differs by {difference.value:+.3f} "
        f"[{difference.low:+.3f}, {difference.high:+.3f}]"
    )
    if not promoted:
        reason += ", and the interval must lie above zero"
    return Verdict(
        version.number,
        promoted,
        reason,
        champion.number if champion else None,
        asdict(difference),
        {name: asdict(paired[name]) for name in domains},
    )
