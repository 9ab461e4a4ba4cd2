"""An ensemble of registered models or folders, fitted on val, logged and registered as one model."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from classifier.models.detector import Detector
from classifier.models.ensemble import Combination, Ensemble
from classifier.training.stacking import Combined, combine
from core.errors import UserError
from core.manifest import Manifest
from pipelines.release.lineage import find_model
from pipelines.release.promotion import register_candidate
from tracking.models import log_detector
from tracking.registry import Version
from tracking.runs import run
from tracking.store import Store


def ensemble(
    store: Store,
    models: Sequence[str],
    manifest: Path,
    out: Path,
    *,
    combination: Combination = "mean",
    datasets: Sequence[str] = (),
    project: str = "detectors",
    cache: Path = Path("cache"),
) -> dict[str, Any]:
    """Combine models (versions, aliases, or folders), weighed and calibrated on the manifest's val rows.

    Args:
        datasets: datasets whose val rows are looked at; all by default.

    Returns:
        `ensemble` (folder), `version`, `model_id`, `log_loss` and `auc` on val (cross-fitted), `members`, and a `note`
        where a member was trained on another manifest, so that its val figures may be too good.

    Raises:
        UserError: under two models, an ensemble among them, or val lacks a class.
    """
    rows = Manifest.read(manifest)
    path = manifest / "manifest.parquet" if manifest.is_dir() else manifest
    used = rows.select(dataset=list(datasets)) if datasets else rows
    members, versions = _members(store, models)
    combined = combine(members, used, cache, combination)
    folder = combined.ensemble.save(out)
    tags = _lineage(rows, combined, versions)
    table = [
        {"model": name, "backbone": member.config.backbone, "weight": weight, "log_loss": loss, "auc": auc}
        for name, member, weight, loss, auc in zip(
            models,
            members,
            combined.ensemble.weights,
            combined.member_log_loss,
            combined.member_auc,
            strict=True,
        )
    ]
    key = hashlib.sha256(f"{combined.ensemble.digest}{combined.ensemble.threshold}".encode()).hexdigest()[:16]
    with run(
        store,
        project,
        f"ensemble of {len(members)} ({combination})",
        key=f"ensemble/{key}",
        tags=tags,
        params={"combination": combination, "members": ", ".join(models), "datasets": ", ".join(datasets)},
        description="Several detectors as one; weights, temperature and threshold from val rows, cross-fitted.",
    ) as active:
        active.text("members.json", json.dumps(table, indent=2))
        figures = {"val_log_loss": combined.log_loss, "val_auc": combined.auc}
        active.metrics(figures)
        model_id = log_detector(
            active,
            name=f"ensemble-{combination}-{key[:8]}",
            folder=folder,
            metrics=figures,
            params={"combination": combination, "backbone": combined.ensemble.config.backbone},
            tags=tags,
        )
    named = {name for _, version in versions if version for name in version.tags.get("test_datasets", "").split(",")}
    version = register_candidate(
        store, model_id, path, project=project, datasets=sorted(filter(None, named)), tags={"arm": "ensemble"}
    )
    strangers = [name for name, member in zip(models, members, strict=True) if not _knows(member, rows)]
    return {
        "ensemble": str(folder),
        "version": version,
        "model_id": model_id,
        "log_loss": combined.log_loss,
        "auc": combined.auc,
        "rows": combined.rows,
        "bias": combined.ensemble.bias,
        "temperature": combined.ensemble.temperature,
        "threshold": combined.ensemble.threshold,
        "members": table,
        "note": f"{', '.join(strangers)}: trained on other rows than this manifest's; if its val rows were among them, "
        "these figures are too good"
        if strangers
        else "",
    }


def _members(store: Store, models: Sequence[str]) -> tuple[list[Detector], list[tuple[str, Version | None]]]:
    if len(models) < 2:
        raise UserError(f"an ensemble needs two models or more, not {len(models)}: name more of them")
    members, versions = [], []
    for name in models:
        found = find_model(store, name)
        model = found.load()
        if isinstance(model, Ensemble):
            raise UserError(f"{name} is an ensemble itself: name its members instead")
        members.append(model)
        versions.append((name, found.version))
    return members, versions


def _lineage(rows: Manifest, combined: Combined, versions: Sequence[tuple[str, Version | None]]) -> Mapping[str, Any]:
    """What the ensemble was made of; the generator only where every member's is known."""
    known = [version.tags.get("generator") if version else None for _, version in versions]
    generators = sorted({one for each in known if each for one in each.split(",") if one != "none"})
    origin = [f"{name} ({version.model_id})" if version else name for name, version in versions]
    tags = {
        "manifest": rows.digest,
        "training_manifest": combined.ensemble.manifest_digest,
        "members": "; ".join(origin),
        "combination": combined.ensemble.config.combination,
    }
    if all(each is not None for each in known):
        tags["generator"] = ",".join(generators) or "none"
    return tags


def _knows(member: Detector, rows: Manifest) -> bool:
    """Whether the member was trained on train and val rows of this manifest, as `train` takes them."""
    names = sorted(set(rows.where(~rows.synthetic).select(split="train").rows["dataset"]))
    wanted = {rows.digest, rows.select(dataset=names, split=("train", "val")).digest}
    return member.manifest_digest in wanted
