"""One trained, evaluated and logged detector.

It serves a study's objective as well as the arms of a comparison. Whatever is killed goes on where it was: the
folder is named after everything that shapes the detector, and so is the MLflow run.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from classifier.config import DetectorConfig
from classifier.detector import Detector
from classifier.metrics import compute
from classifier.scoring import score
from classifier.training import train
from faces.errors import UserError
from faces.manifest import Manifest
from gan.balancing import BalanceConfig, balance
from gan.checkpoint import generator_digest
from tracking.models import log_detector
from tracking.runs import run
from tracking.store import Store


class TrialSpec(BaseModel):
    """Everything about one detector that a study may search."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    detector: DetectorConfig = DetectorConfig()
    synthetic_share: float = Field(0.0, ge=0, lt=1, description="fakes among train rows after balancing; 0 adds none")
    psi: float = Field(0.7, ge=0, le=1.5, description="truncation of the synthetic faces")

    def parameters(self) -> dict[str, object]:
        """Flat names and values, as MLflow shows them."""
        return {
            **self.detector.model_dump(mode="json"),
            "synthetic_share": self.synthetic_share,
            "psi": self.psi if self.synthetic_share else None,
        }

    def with_parameters(self, values: Mapping[str, object]) -> TrialSpec:
        """A copy in which the named parameters, of the detector or of the trial, have other values.

        Raises:
            pydantic.ValidationError: a value is out of its range.
        """
        own = {name: value for name, value in values.items() if name in ("synthetic_share", "psi")}
        inner = {name: value for name, value in values.items() if name not in own}
        detector = DetectorConfig.model_validate(self.detector.model_dump() | inner)
        return TrialSpec.model_validate({**self.model_dump(exclude={"detector"}), **own, "detector": detector})


@dataclass(frozen=True)
class Materials:
    """What the trials of one study, or the arms of one comparison, have in common.

    Only train and val rows of the train domains shape a detector; the val rows of the validation domains choose
    between detectors; test rows stay sealed.
    """

    manifest: Manifest
    train_domains: tuple[str, ...]
    validation_domains: tuple[str, ...]
    generator: Path | None
    work: Path
    cache: Path
    store: Store
    experiment: str

    @property
    def digest(self) -> str:
        """16 hex digits over data, generator and roles."""
        generator = generator_digest(self.generator) if self.generator else ""
        parts = [self.manifest.digest, generator, *self.train_domains, "|", *self.validation_domains]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Trained:
    """A detector on disk, its run and LoggedModel, and what it reached on val rows."""

    folder: str
    run_id: str
    model_id: str
    objective: float
    val: dict[str, dict[str, float]]
    synthetic: int
    explanation: str
    seconds: float

    @property
    def path(self) -> Path:
        """The detector's folder."""
        return Path(self.folder)


def objective(val: Mapping[str, Mapping[str, float]], domains: Sequence[str]) -> float:
    """The mean AUC over the given domains' val rows."""
    return sum(val[domain]["auc"] for domain in domains) / len(domains)


def training_set(spec: TrialSpec, materials: Materials) -> tuple[Manifest, int, str]:
    """The rows that a detector is trained and early-stopped on, how many are synthetic, and what balancing did."""
    rows = materials.manifest.select(dataset=materials.train_domains, split=("train", "val"))
    if not spec.synthetic_share:
        return rows, 0, "no synthetic faces"
    if materials.generator is None:
        raise UserError(
            f"synthetic_share {spec.synthetic_share} needs a generator: train one with `counterforge gan train`"
        )
    config = BalanceConfig(share=spec.synthetic_share, psi=spec.psi)
    balanced = balance(rows, materials.generator, config, materials.work / "synthetic")
    return balanced.manifest, balanced.added, balanced.explanation


def validate(detector: Detector, materials: Materials) -> dict[str, dict[str, float]]:
    """Metrics on the val rows of every train and validation domain, by domain."""
    domains = dict.fromkeys((*materials.train_domains, *materials.validation_domains))
    rows = materials.manifest.select(dataset=list(domains), split="val")
    scores = score(detector, rows, materials.cache)
    names = rows.rows["dataset"].to_numpy()
    result = {}
    for domain in domains:
        here = names == domain
        result[domain] = compute(rows.targets[here], scores[here], detector.threshold)
    return result


def train_and_log(
    spec: TrialSpec,
    materials: Materials,
    *,
    name: str,
    parent: str | None = None,
    tags: Mapping[str, str] | None = None,
) -> Trained:
    """Train, validate and log one detector; what is finished already is read back.

    Raises:
        UserError: the data or the configuration does not allow it, or the loss became nan.
    """
    key = hashlib.sha256(f"{materials.digest}{spec.model_dump_json()}".encode()).hexdigest()[:12]
    folder = materials.work / "detectors" / key
    place = hashlib.sha256(f"{parent}/{name}/{key}".encode()).hexdigest()[:12]
    record = folder / f"trained-{place}.json"
    if record.is_file():
        return Trained(**json.loads(record.read_text()))
    started = time.monotonic()
    rows, synthetic, explanation = training_set(spec, materials)
    lineage = {
        "manifest": materials.manifest.digest,
        "training_manifest": rows.digest,
        "generator": ",".join(sorted(rows.rows["generator"].dropna().unique())) or "none",
        "detector_key": key,
        **(tags or {}),
    }
    with run(
        materials.store,
        materials.experiment,
        name,
        key=place,
        parent=parent,
        tags=lineage,
        params=spec.parameters(),
        description=explanation,
    ) as active:
        active.dataset(
            "+".join(materials.train_domains) + ("+synthetic" if synthetic else ""),
            digest=rows.digest,
            source=str(rows.root),
            counts=_counts(rows),
            context="training",
        )
        path = train(rows, spec.detector, folder, materials.cache, active.metrics)
        detector = Detector.load(path)
        val = validate(detector, materials)
        value = objective(val, materials.validation_domains or materials.train_domains)
        figures = {f"val_{metric}/{domain}": v for domain, of in val.items() for metric, v in of.items()}
        model_id = log_detector(
            active,
            name=f"{spec.detector.backbone}-{key}",
            folder=path,
            metrics={"objective": value, **{f"val_auc/{domain}": of["auc"] for domain, of in val.items()}},
            params={name: str(value) for name, value in spec.parameters().items()},
            tags=lineage,
        )
        active.metrics({"objective": value, "synthetic_faces": synthetic, **figures}, 0)
        history = path / "history.json"
        if history.is_file():
            active.artifact(history)
    trained = Trained(str(path), active.id, model_id, value, val, synthetic, explanation, time.monotonic() - started)
    temporary = record.with_suffix(".tmp")
    temporary.write_text(json.dumps(asdict(trained)))
    temporary.replace(record)
    return trained


def _counts(manifest: Manifest) -> dict[str, int]:
    groups = manifest.rows.groupby(["split", "label"]).size()
    return {f"{split}/{label}": int(count) for (split, label), count in groups.items()}
