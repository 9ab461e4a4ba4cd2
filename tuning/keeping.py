"""What stays of a study's trials: the weights of the best ones, the figures of all."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from optuna.trial import FrozenTrial, TrialState

from tracking.models import forget_model
from tracking.store import Store
from tuning.claims import had_turn
from tuning.config import StudyConfig
from tuning.ranking import ranked

FOLDER, MODEL, RUN = "folder", "model_id", "run_id"


def clean(trials: Sequence[FrozenTrial], config: StudyConfig, store: Store, work: Path) -> list[Path]:
    """Delete the weights of all but the `config.keep` best trials, on disk and in MLflow; return what went.

    A registered model stays, and so does a folder that others use (arms of a run, a trial with the same values).
    """
    best = {t.number for t in ranked(trials, config)[: config.keep]}
    kept = {t.user_attrs.get(FOLDER) for t in trials if t.number in best or t.state == TrialState.RUNNING}
    models = {t.user_attrs.get(MODEL) for t in trials if t.number in best}
    gone: list[Path] = []
    for trial in had_turn(trials):
        folder = Path(str(trial.user_attrs.get(FOLDER, "")))
        if trial.number in best or str(folder) in kept or not folder.is_relative_to(work / "detectors"):
            continue
        weights = folder / "weights.safetensors"
        root = folder if folder.parent == work / "detectors" else folder.parent
        if not weights.is_file() or len(list(root.glob("trained-*.json"))) > 1:
            continue
        model = trial.user_attrs.get(MODEL)
        if model is not None and model not in models and not forget_model(store, str(model)):
            continue
        _empty(root)
        gone.append(root)
    return gone


def _empty(folder: Path) -> None:
    """Only the records stay; `config.json` goes first, whose presence says that a detector is whole."""
    for path in sorted(folder.iterdir(), key=lambda path: path.name != "config.json"):
        if path.is_dir():
            shutil.rmtree(path)
        elif not path.name.startswith(("trained-", ".lock", "history")):
            path.unlink()
