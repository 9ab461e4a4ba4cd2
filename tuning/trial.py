"""One trained, evaluated and logged detector.

It serves a study's objective as well as the arms of a comparison. Whatever is killed goes on where it was: the
folder is named after everything that shapes the detector, and so is the MLflow run.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Self

import numpy as np
import optuna
from filelock import FileLock
from pydantic import BaseModel, ConfigDict, Field, model_validator

from classifier.config import DetectorConfig
from classifier.models.detector import WEIGHTS, Detector
from classifier.scoring import milliseconds_per_image, score
from classifier.training import train
from core.errors import UserError
from core.files import read_record, sealed, write_json
from core.groups import grouping_identity
from core.manifest import Manifest
from core.progress import Report, ignore
from core.splits import folds as fold_of_rows
from gan.balancing import BalanceConfig, balance
from gan.checkpoint import generator_digest
from metrics.binary import compute
from metrics.intervals import bootstrap_all
from tracking.models import log_detector
from tracking.runs import run, run_seconds
from tracking.store import Store
from tuning.space import Value

# What a trial may ask of the forging: any setting of BalanceConfig, by its own name behind this prefix.
FORGING = "synthetic_"


class TrialSpec(BaseModel):
    """Everything about one detector that a study may search."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    detector: DetectorConfig = DetectorConfig()
    synthetic_share: float = Field(0.0, ge=0, lt=1, description="fakes among train rows after balancing; 0 adds none")
    psi: float = Field(0.7, ge=0, le=1.5, description="truncation of the synthetic faces")
    generator: str = Field("", description="name of one of the study's generators; empty: that of the run")
    forging: dict[str, Value] = Field(default_factory=dict, description="other settings of gan.balancing.BalanceConfig")

    @model_validator(mode="after")
    def _forgeable(self) -> Self:
        self.balancing()
        return self

    def balancing(self) -> BalanceConfig:
        """How the synthetic faces are made."""
        return BalanceConfig.model_validate({**self.forging, "share": self.synthetic_share, "psi": self.psi})

    def parameters(self) -> dict[str, object]:
        """Flat names and values, as MLflow shows them."""
        share, named = self.synthetic_share, {"generator": self.generator} if self.generator else {}
        own = {"synthetic_share": share, "psi": self.psi if share else None, **named}
        forging = {f"{FORGING}{name}": value for name, value in self.forging.items()}
        return {**self.detector.model_dump(mode="json"), **own, **forging}

    @staticmethod
    def known() -> list[str]:
        """Names of all parameters that a study may search."""
        forging = [f"{FORGING}{name}" for name in BalanceConfig.model_fields if name not in ("share", "psi")]
        return [*DetectorConfig.model_fields, "synthetic_share", "psi", "generator", *forging]

    def with_parameters(self, values: Mapping[str, object]) -> TrialSpec:
        """A copy in which the named parameters have other values; a `ValidationError` where one is out of range."""
        own, forging, inner = {}, dict[str, object](self.forging), self.detector.model_dump()
        for name, value in values.items():
            if name in ("synthetic_share", "psi", "generator"):
                own[name] = value
            elif name.startswith(FORGING) and name not in DetectorConfig.model_fields:
                forging[name.removeprefix(FORGING)] = value
            else:
                inner[name] = value
        changed = {**self.model_dump(), **own, "forging": forging, "detector": DetectorConfig.model_validate(inner)}
        return TrialSpec.model_validate(changed)


@dataclass(frozen=True)
class TrialContext:
    """What the trials of one study, or the arms of one comparison, have in common.

    Only train and val rows of the train datasets shape a detector; the val rows of the validation datasets choose
    between detectors; test rows stay sealed.
    """

    manifest: Manifest
    train_datasets: tuple[str, ...]
    validation_datasets: tuple[str, ...]
    generator: Path | None
    work: Path
    cache: Path
    store: Store
    experiment: str
    generators: Mapping[str, Path] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """16 hex digits over data, generators and roles."""
        generator = generator_digest(self.generator) if self.generator else ""
        parts = [self.manifest.digest, generator, *self.train_datasets, "|", *self.validation_datasets]
        parts += [f"{name}={generator_digest(folder)}" for name, folder in sorted(self.generators.items())]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]

    @property
    def datasets(self) -> tuple[str, ...]:
        """Those to train on, then those to validate on."""
        return tuple(dict.fromkeys((*self.train_datasets, *self.validation_datasets)))

    @property
    def judging_datasets(self) -> tuple[str, ...]:
        """Whose val rows choose between detectors."""
        return self.validation_datasets or self.train_datasets


@dataclass(frozen=True)
class Trained:
    """A detector on disk, its run and LoggedModel, and what it reached on val rows.

    `measures` holds what a study may aim at: mean_auc, worst_auc, both `_low` (lower bounds), ece, latency_ms, size_mb;
    `error` is the standard error of the mean AUC, nan where a class has under two groups.
    """

    folder: str
    run_id: str
    model_id: str
    objective: float
    val: dict[str, dict[str, float]]
    synthetic: int
    explanation: str
    seconds: float
    measures: dict[str, float] = field(default_factory=dict)
    error: float = math.nan
    folds: tuple[float, ...] = ()

    @property
    def path(self) -> Path:
        """The detector's folder."""
        return Path(self.folder)


def training_set(spec: TrialSpec, context: TrialContext, fold: int = 0, folds: int = 1) -> tuple[Manifest, int, str]:
    """The rows that a detector is trained and early-stopped on, how many are synthetic, and what balancing did.

    With several folds, the train and val rows of the train datasets are dealt anew by group: fold `fold` is val.
    """
    rows = context.manifest.select(dataset=context.train_datasets, split=("train", "val"))
    if folds > 1:
        rows = rows.where(~rows.synthetic)
        dealt = fold_of_rows(grouping_identity(rows.rows), rows.rows["source"], folds, original=rows.rows["original"])
        split = np.where(dealt == fold, "val", "train")
        rows = Manifest.build(rows.rows.assign(split=split), rows.root, where=f"fold {fold + 1} of {folds}")
    if not (share := spec.synthetic_share):
        return rows, 0, "no synthetic faces"
    generator = context.generators[spec.generator] if spec.generator else context.generator
    if generator is None and spec.balancing().needs_generator:
        raise UserError(f"synthetic_share {share} needs a generator: train one with `counterforge gan train`")
    balanced = balance(rows, generator, spec.balancing(), context.work / "synthetic")
    return balanced.manifest, balanced.added, balanced.explanation


@dataclass(frozen=True)
class Validation:
    """Metrics on val rows by dataset, and what a study may aim at (see `Trained`)."""

    val: dict[str, dict[str, float]]
    measures: dict[str, float]
    error: float


def validate(detector: Detector, rows: Manifest, datasets: Sequence[str], context: TrialContext) -> Validation:
    """Score `rows` (val of every dataset), and sum up over `datasets`.

    The lower bound of the mean adds the datasets' margins in squares (MOVER, Zou & Donner 2008); that of the worst
    dataset is the lowest bound of all, which is on the safe side.
    """
    scores = score(detector, rows, context.cache)
    names = rows.rows["dataset"].to_numpy()
    of = {str(dataset): names == dataset for dataset in dict.fromkeys(names.tolist())}
    val = {each: compute(rows.targets[here], scores[here], detector.threshold) for each, here in of.items()}
    judged = [of[dataset] for dataset in datasets]
    intervals = [
        bootstrap_all(rows.targets[it], scores[it], rows.groups[it], ("auc",), replicates=300)["auc"] for it in judged
    ]
    lows, aucs = [each.low for each in intervals], [val[dataset]["auc"] for dataset in datasets]
    margin = math.sqrt(sum((each.value - each.low) ** 2 for each in intervals)) / len(datasets)
    measures = {
        "mean_auc": float(np.mean(aucs)),
        "worst_auc": min(aucs),
        "mean_auc_low": float(np.mean(aucs)) - margin,
        "worst_auc_low": math.nan if any(map(math.isnan, lows)) else min(lows),
        "ece": float(np.mean([val[dataset]["ece"] for dataset in datasets])),
    }
    return Validation(val, measures, margin / 1.96)


def train_and_log(
    spec: TrialSpec,
    context: TrialContext,
    *,
    name: str,
    parent: str | None = None,
    tags: Mapping[str, str] | None = None,
    folds: int = 1,
    on_epoch: Report = ignore,
    on_fold: Report = ignore,
) -> Trained:
    """Train, validate and log one detector; what is finished already is read back.

    Args:
        folds: above 1, one detector a fold is trained and the measures are their means; the first fold's is logged.
        on_epoch: told the metrics of each epoch; it may raise optuna.TrialPruned, which ends the run as KILLED.
        on_fold: told the measures of each finished fold; it may raise the same.

    Raises:
        UserError: the data or the configuration does not allow it, or the loss became nan.
    """
    digest = f"{context.digest}{spec.model_dump_json()}" + (f"folds {folds}" if folds > 1 else "")
    key = hashlib.sha256(digest.encode()).hexdigest()[:12]
    folder = context.work / "detectors" / key
    run_key = hashlib.sha256(f"{parent}/{name}/{key}".encode()).hexdigest()[:12]
    record = folder / f"trained-{run_key}.json"
    with suppress(TypeError):  # no record, or one with other names
        return Trained(**read_record(record) or {})
    refuse_unjudged(context, folds)
    folder.mkdir(parents=True, exist_ok=True)
    first, synthetic, explanation = training_set(spec, context, 0, folds)
    counts = first.rows.groupby(["split", "label"]).size()
    lineage = {
        "manifest": context.manifest.digest,
        "training_manifest": first.digest,
        "generator": ",".join(sorted(first.rows["generator"].dropna().unique())) or "none",
        "detector_key": key,
        **(tags or {}),
    }
    with (
        FileLock(folder / ".lock"),  # two trials that drew the same values share the work
        run(
            context.store,
            context.experiment,
            name,
            key=run_key,
            parent=parent,
            tags=lineage,
            params=spec.parameters(),
            description=explanation,
        ) as active,
    ):
        active.dataset(
            "+".join(context.train_datasets) + ("+synthetic" if synthetic else ""),
            digest=first.digest,
            source=str(first.root),
            counts={f"{split}/{label}": n for (split, label), n in counts.items()},
            context="training",
        )
        paths: list[Path] = []
        validations: list[Validation] = []
        try:
            for fold in range(folds):
                rows = first if fold == 0 else training_set(spec, context, fold, folds)[0]

                def report(metrics: Mapping[str, float], epoch: int, before: int = fold * spec.detector.epochs) -> None:
                    active.metrics(metrics, before + epoch)
                    on_epoch(metrics, before + epoch)

                out = folder if folds == 1 else folder / f"fold-{fold}"
                paths.append(train(rows, spec.detector, out, context.cache, report))
                validations.append(validate(Detector.load(paths[-1]), *_judged(rows, context, folds), context))
                on_fold(validations[-1].measures, fold)
        except optuna.TrialPruned as pruned:
            active.killed(str(pruned) or "pruned")
            raise
        together = _together(validations)
        measures = together.measures | {
            "latency_ms": milliseconds_per_image([Detector.load(paths[0])], repeats=7)[0],
            "size_mb": (paths[0] / WEIGHTS).stat().st_size / 1e6,
        }
        value = measures["mean_auc"]
        figures = {f"val_{metric}/{dataset}": v for dataset, of in together.val.items() for metric, v in of.items()}
        model_id = log_detector(
            active,
            name=f"{spec.detector.backbone}-{key}",
            folder=paths[0],
            metrics={"objective": value, **{f"val_auc/{dataset}": of["auc"] for dataset, of in together.val.items()}},
            params={name: str(value) for name, value in spec.parameters().items()},
            tags=lineage,
        )
        known = {name: figure for name, figure in measures.items() if not math.isnan(figure)}
        active.metrics({"objective": value, "synthetic_faces": synthetic, **figures, **known}, 0)
        if (history := paths[0] / "history.json").is_file():
            active.artifact(history)
    reached = value, together.val, synthetic, explanation, run_seconds(context.store, active.id), measures
    aucs = tuple(each.measures["mean_auc"] for each in validations)
    trained = Trained(str(paths[0]), active.id, model_id, *reached, together.error, aucs)
    write_json(record, sealed(asdict(trained)))
    return trained


def refuse_unjudged(context: TrialContext, folds: int) -> None:
    """Raises UserError, before anything is trained, where a dataset lacks the val rows that a detector is judged by."""
    if folds > 1 and not context.validation_datasets:
        return  # folds make val rows of their own
    rows, datasets = _judged(context.manifest, context, folds)
    for dataset in datasets:
        labels = set(rows.select(dataset=dataset).rows["label"])
        if len(labels) < 2:
            held = f"only {labels.pop()} faces" if labels else "no rows"
            raise UserError(
                f"the val split of {dataset} holds {held}, and a detector is judged by real and fake ones: give it a "
                "val share above 0 (split_shares), or more identities or sources of both labels"
            )


def _judged(rows: Manifest, context: TrialContext, folds: int) -> tuple[Manifest, tuple[str, ...]]:
    """The rows that are scored, and the datasets that count."""
    datasets = context.judging_datasets
    if folds > 1 and not context.validation_datasets:
        return rows.select(split="val"), datasets
    return context.manifest.select(dataset=context.datasets if folds == 1 else datasets, split="val"), datasets


def _together(parts: Sequence[Validation]) -> Validation:
    """The means over the folds. Their error is that of the rows or that of the folds, whichever is larger."""
    if len(parts) == 1:
        return parts[0]
    val = {
        dataset: {metric: float(np.mean([part.val[dataset][metric] for part in parts])) for metric in of}
        for dataset, of in parts[0].val.items()
    }
    measures = {name: float(np.mean([part.measures[name] for part in parts])) for name in parts[0].measures}
    spread = float(np.std([part.measures["mean_auc"] for part in parts], ddof=1)) / math.sqrt(len(parts))
    return Validation(val, measures, float(np.nanmax([spread, np.mean([part.error for part in parts])])))
