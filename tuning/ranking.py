"""What the finished trials say: which are the best, whether further ones still pay, and whose weights are kept.

Trials are ranked by constraints first, then by how many others beat them (Pareto), then by the first objective.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from optuna.trial import FrozenTrial, TrialState

from core.errors import UserError
from tracking.models import forget_model
from tracking.store import Store
from tuning.config import MAXIMISED, StudyConfig
from tuning.queue import ERROR, concluded, finished

# A study in which this many trials in a row fail has a fault that more trials do not repair.
MAX_FAILURES = 3
NOISE = "noise"  # user attributes: the standard error of a trial's objective, ...
FOLDER, MODEL, RUN = "folder", "model_id", "run_id"  # ... and where its detector is


def feasible(trial: FrozenTrial) -> bool:
    """Whether a finished trial keeps every constraint."""
    return all(value <= 0 for value in trial.constraints.values())


def gains(trial: FrozenTrial, config: StudyConfig) -> list[float]:
    """The trial's values, turned such that more is better."""
    return [v if MAXIMISED[name] else -v for name, v in zip(config.objectives, trial.values, strict=True)]


def beats(one: Sequence[float], other: Sequence[float]) -> bool:
    """Whether `one` is at least as good in everything and better in something (Pareto)."""
    return all(a >= b for a, b in zip(one, other, strict=True)) and any(a > b for a, b in zip(one, other, strict=True))


def ranked(trials: Sequence[FrozenTrial], config: StudyConfig) -> list[FrozenTrial]:
    """Finished trials, the best first: those that keep the constraints, by how many beat them, then by objective."""
    complete = [t for t in trials if t.state == TrialState.COMPLETE]
    points = {t.number: gains(t, config) for t in complete}
    beaten = dict.fromkeys(points, 0)
    if len(config.objectives) > 1:
        beaten = {n: sum(beats(other, mine) for other in points.values()) for n, mine in points.items()}
    return sorted(complete, key=lambda t: (not feasible(t), beaten[t.number], -points[t.number][0], t.number))


def stop_reason(trials: Sequence[FrozenTrial], config: StudyConfig, total: int) -> str | None:
    """A sentence that says why no further trial should start, or None."""
    done = finished(trials)
    if len(done) >= total:
        return f"all {total} trials are done"
    if config.hours is not None:
        spent = hours_spent(trials)
        if spent >= config.hours:
            return f"{spent:.2f} of {config.hours:g} hours are spent"
    if config.patience is not None and (gain := recent_gain(done, config)) is not None:
        value, noise = gain
        if value <= noise:
            return (
                f"the last {config.patience} trials gained {value:.4f} in {config.objectives[0]}, "
                f"within the noise of {noise:.4f}"
            )
    return None


def hours_spent(trials: Sequence[FrozenTrial]) -> float:
    """Hours of all trials that ended, lost ones too."""
    return sum(t.duration.total_seconds() for t in trials if t.duration is not None) / 3600


def recent_gain(done: Sequence[FrozenTrial], config: StudyConfig) -> tuple[float, float] | None:
    """What the best value gained in the last `patience` trials, and the noise of one trial; None while it is early.

    The noise is the standard error of the objective (from the intervals over groups or the spread over folds,
    whichever is larger), the median over the trials. A gain below it can be luck in which rows are in val.
    """
    complete = [t for t in done if t.state == TrialState.COMPLETE]
    recent = {t.number for t in done[-(config.patience or 0) :]}
    before = [gains(t, config)[0] for t in complete if t.number not in recent]
    if len(done) <= (config.patience or 0) or not before:
        return None
    best = max(gains(t, config)[0] for t in complete)
    noises = [float(t.user_attrs[NOISE]) for t in complete if not math.isnan(float(t.user_attrs.get(NOISE, math.nan)))]
    return best - max(before), median(noises) if noises else 0.0


def check_failures(trials: Sequence[FrozenTrial], name: str) -> None:
    """Give up where the last trials all failed.

    Raises:
        UserError: with the last one's reason.
    """
    last = sorted(concluded(trials), key=lambda t: t.datetime_complete or t.datetime_start)[-MAX_FAILURES:]  # type: ignore[arg-type,return-value]
    if len(last) == MAX_FAILURES and all(t.state == TrialState.FAIL for t in last):
        raise UserError(
            f"the last {MAX_FAILURES} trials of {name} failed: {last[-1].user_attrs[ERROR]} "
            "(correct that, then launch it under another study.name or with --new)"
        )


def clean(trials: Sequence[FrozenTrial], config: StudyConfig, store: Store, work: Path) -> None:
    """Delete the weights of all but the `config.keep` best trials, on disk and in MLflow.

    A registered model stays, and so does a folder that others use (arms of a run, a trial with the same values).
    """
    best = {t.number for t in ranked(trials, config)[: config.keep]}
    kept = {t.user_attrs.get(FOLDER) for t in trials if t.number in best or t.state == TrialState.RUNNING}
    models = {t.user_attrs.get(MODEL) for t in trials if t.number in best}
    detectors = work / "detectors"
    for trial in concluded(trials):
        folder = Path(str(trial.user_attrs.get(FOLDER, "")))
        if trial.number in best or str(folder) in kept or not folder.is_relative_to(detectors):
            continue
        root = folder if folder.parent == detectors else folder.parent
        if not (folder / "weights.safetensors").is_file() or len(list(root.glob("trained-*.json"))) > 1:
            continue
        model = trial.user_attrs.get(MODEL)
        if model is None or model in models or forget_model(store, str(model)):
            _empty(root)


def _empty(folder: Path) -> None:
    """Only the records stay; `config.json` goes first, whose presence says that a detector is whole."""
    for path in sorted(folder.iterdir(), key=lambda path: path.name != "config.json"):
        if path.is_dir():
            shutil.rmtree(path)
        elif not path.name.startswith(("trained-", ".lock", "history")):
            path.unlink()
