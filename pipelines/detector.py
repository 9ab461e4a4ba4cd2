"""One detector: trained, logged, audited and registered."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from classifier.config import DetectorConfig
from classifier.evaluation import remark_on_training
from classifier.training.training import HISTORY
from core.manifest import Manifest
from pipelines.evaluation.audit import audit_step, log_audit, warnings_of
from pipelines.release.promotion import register_candidate
from tracking.runs import attach
from tracking.store import Store
from tuning.trial import TrialContext, TrialSpec, train_and_log


@dataclass(frozen=True)
class TrainedDetector:
    """A finished detector: its folder, LoggedModel and version, metrics on val by dataset, and what to mind."""

    detector: str
    model_id: str
    version: int
    val_auc: float
    val: dict[str, dict[str, float]]
    warnings: tuple[str, ...]  # where a shortcut probe comes near the detector
    remarks: tuple[str, ...]


def train_detector(
    store: Store,
    manifest: Path,
    config: DetectorConfig,
    out: Path,
    cache: Path,
    *,
    project: str = "detectors",
    audit: bool = True,
) -> TrainedDetector:
    """Train on a manifest's train rows, calibrate on val, log and register. The same call resumes or returns at once.

    Args:
        project: the MLflow experiment.
        audit: warn where a probe that sees no face comes near the detector.

    Raises:
        UserError: the data or the configuration does not allow it.
    """
    rows = Manifest.read(manifest)
    datasets = tuple(sorted(set(rows.where(~rows.synthetic).select(split="train").rows["dataset"])))
    context = TrialContext(rows, datasets, (), None, out, cache, store, project)
    trained = train_and_log(TrialSpec(detector=config), context, name=f"train {config.backbone}")
    path = rows.root / "manifest.parquet" if manifest.is_dir() else manifest
    version = register_candidate(store, trained.model_id, path, project=project, datasets=(), tags={"arm": "train"})
    warnings: list[str] = []
    if audit:
        audited = audit_step(rows.select(dataset=datasets, split=("train", "val")), out / "audit")
        warnings = warnings_of(audited, trained.val)
        log_audit(attach(store, trained.run_id), audited, warnings, [trained.model_id])
    remark = remark_on_training(json.loads((trained.path / HISTORY).read_text()))
    return TrainedDetector(
        trained.folder,
        trained.model_id,
        version,
        trained.objective,
        trained.val,
        tuple(warnings),
        () if remark is None else (remark,),
    )
