"""One training each, logged in MLflow: a detector, an ensemble, and the winner of a study.

All become versions of the registry. The same call resumes, or returns what was made; of two processes at once on one
folder, the second waits, and returns what the first made.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
from mlflow.exceptions import MlflowException

from classifier.config import DetectorConfig
from classifier.evaluation import remark_on_training
from classifier.models.ensemble import Combination, Ensemble
from classifier.stacking import combine
from classifier.training import HISTORY
from core.errors import UserError
from core.files import digest
from core.locks import alone_in
from core.manifest import Manifest
from pipelines.evaluation.audit import audit_step, log_audit, warnings_of
from pipelines.release.lineage import Model, find_model
from pipelines.release.promotion import register_candidate
from tracking.models import log_detector
from tracking.registry import CHAMPION, Registry
from tracking.runs import attach, run
from tracking.store import Store
from tuning.identity import recall, recall_final
from tuning.queue import WARM, slot_of
from tuning.results import MODEL, ranked
from tuning.study import summarise
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


@alone_in("out", "a training")
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
    """Train on a manifest's train rows, calibrate on val, log in the MLflow experiment `project` and register.

    `audit` warns where a probe that sees no face comes near the detector.

    Raises:
        UserError: the data or the configuration does not allow it.
    """
    rows = Manifest.read(manifest)
    datasets = _train_datasets(rows)
    context = TrialContext(rows, tuple(datasets), (), None, out, cache, store, project)
    trained = train_and_log(TrialSpec(detector=config), context, name=f"train {config.backbone}")
    version = register_candidate(store, trained.model_id, manifest, project=project, datasets=(), tags={"arm": "train"})
    warnings: list[str] = []
    if audit:
        audited = audit_step(rows.select(dataset=datasets, split=("train", "val")), out / "audit")
        warnings = warnings_of(audited, trained.val)
        log_audit(attach(store, trained.run_id), audited, warnings, [trained.model_id])
    remark = remark_on_training(json.loads((trained.path / HISTORY).read_text()))
    told = tuple(warnings), () if remark is None else (remark,)
    return TrainedDetector(trained.folder, trained.model_id, version, trained.objective, trained.val, *told)


def _train_datasets(rows: Manifest) -> list[str]:
    """Those with real-world train rows."""
    return sorted(set(rows.where(~rows.synthetic).select(split="train").rows["dataset"]))


@alone_in("out", "the making of an ensemble")
def train_ensemble(
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
    """Combine models (versions, aliases, or folders), weighed and calibrated on val rows of the datasets, or of all.

    Returns:
        `ensemble` (folder), `version`, `model_id`, `log_loss` and `auc` on val (cross-fitted), `members`, and a `note`
        where a member was trained on another manifest, so that its val figures may be too good.

    Raises:
        UserError: under two models, an ensemble among them, or val lacks a class.
    """
    rows = Manifest.read(manifest)
    if len(models) < 2:
        raise UserError(f"an ensemble needs two models or more, not {len(models)}: name more of them")
    found, members = [find_model(store, name) for name in models], []
    for name, model in zip(models, found, strict=True):
        member = model.load()
        if isinstance(member, Ensemble):
            raise UserError(f"{name} is an ensemble itself: name its members instead")
        members.append(member)
    combined = combine(members, rows.select(dataset=list(datasets)) if datasets else rows, cache, combination)
    made = combined.ensemble
    combined.val.save(out)
    folder = made.save(out)
    tags = {"manifest": rows.digest, "training_manifest": made.manifest_digest, **_lineage(models, found)}
    tags["combination"] = made.config.combination
    columns = {"model": models, "backbone": [member.config.backbone for member in members], "weight": made.weights}
    columns |= {"log_loss": combined.member_log_loss, "auc": combined.member_auc}
    table = pd.DataFrame(columns).to_dict("records")
    key = digest(f"{made.digest}{made.threshold}")
    figures = {"val_log_loss": combined.log_loss, "val_auc": combined.auc}
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
        active.metrics(figures)
        model_id = log_detector(
            active,
            name=f"ensemble-{combination}-{key[:8]}",
            folder=folder,
            metrics=figures,
            params={"combination": combination, "backbone": made.config.backbone},
            tags=tags,
        )
    tested = [model.version.tags.get("test_datasets", "").split(",") for model in found if model.version]
    named = sorted({name for names in tested for name in names if name})
    tags = {"arm": "ensemble"}
    version = register_candidate(store, model_id, manifest, project=project, datasets=named, tags=tags)
    known = {rows.digest, rows.select(dataset=_train_datasets(rows), split=("train", "val")).digest}  # as `train` takes
    strangers = [name for name, one in zip(models, members, strict=True) if one.manifest_digest not in known]
    note = "trained on other rows than this manifest's; if its val rows were among them, these figures are too good"
    return {
        "ensemble": str(folder),
        "version": version,
        "model_id": model_id,
        "log_loss": combined.log_loss,
        "auc": combined.auc,
        "rows": combined.rows,
        "bias": made.bias,
        "temperature": made.temperature,
        "threshold": made.threshold,
        "members": table,
        "note": f"{', '.join(strangers)}: {note}" if strangers else "",
    }


def _lineage(names: Sequence[str], found: Sequence[Model]) -> dict[str, str]:
    """What the ensemble was made of; the generator only where every member's is known."""
    origin = [f"{name} ({model.model_id})" if model.version else name for name, model in zip(names, found, strict=True)]
    tags = {"members": "; ".join(origin)}
    known = [model.version.tags.get("generator") if model.version else None for model in found]
    if all(each is not None for each in known):
        generators = {one for each in known if each for one in each.split(",") if one != "none"}
        tags["generator"] = ",".join(sorted(generators)) or "none"
    return tags


@dataclass(frozen=True)
class Winner:
    """The best trial of a study, its recipe at full cost, and the version of the registry that it became."""

    study: str
    trial: int
    recipe: TrialSpec
    trained: bool  # at full cost; False where the weights of the trial itself are taken
    version: int | None = None  # None after a dry run
    champion: bool = False  # it is the champion already, and stays so


def register_winner(study: optuna.Study, *, dry_run: bool = False) -> Winner:
    """Register the winner of a study as `challenger`, with study and trial as lineage.

    Its recipe is trained again where the trials were cheaper than the final detector or trained on folds, or where the
    trial's weights were not kept. Calling it again resumes, and in the end finds the same version.

    Raises:
        UserError: no trial was finished, the study does not say how its winner is trained, or its data are not here.
    """
    config, base, context, run_id = recall(study)
    final = recall_final(study)
    result = summarise(study, config, base, run_id, "")
    best = ranked(study.get_trials(deepcopy=False), config)[0]
    recipe = final.base.with_parameters({**config.fixed, **best.params})
    tags = {"study": best.user_attrs.get(WARM, study.study_name), "trial": str(slot_of(best)), "arm": "study winner"}
    model_id, objective = str(best.user_attrs[MODEL]), best.user_attrs["measures"]["mean_auc"]
    own = recipe == result.best and config.folds == 1 and _is_kept(context.store, model_id)
    winner = Winner(study.study_name, slot_of(best), recipe, trained=not own)
    if dry_run:
        return winner
    if not own:
        trained = train_and_log(recipe, context, name="winner", parent=run_id, tags=tags)
        model_id, objective = trained.model_id, trained.objective
    known = next((one for one in Registry(context.store).versions() if one.model_id == model_id), None)
    if known is not None and CHAMPION in known.aliases:
        return replace(winner, version=known.number, champion=True)
    tags, project = {**tags, "objective": objective}, context.experiment
    version = register_candidate(
        context.store, model_id, final.manifest, project=project, datasets=final.datasets, tags=tags
    )
    return replace(winner, version=version)


def _is_kept(store: Store, model_id: str) -> bool:
    try:
        return str(store.client.get_logged_model(model_id).status) == "READY"
    except MlflowException:  # deleted, as that of a trial that was not among the best of an earlier study
        return False
