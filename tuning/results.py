"""What the finished trials say: which are the best, whether further ones still pay, whose weights are kept; figures.

Trials are ranked by constraints first, then by how many others beat them (Pareto), then by the first objective.
"""

from __future__ import annotations

import math
import shutil
import warnings
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np
import optuna
from optuna.distributions import CategoricalDistribution
from optuna.importance import FanovaImportanceEvaluator, get_param_importances
from optuna.trial import FrozenTrial, TrialState

from core.errors import UserError
from tracking.models import forget_model
from tracking.store import Store
from tuning.config import MAXIMISED, StudyConfig
from tuning.queue import ERROR, concluded, finished
from tuning.storage import quiet_optuna

if TYPE_CHECKING:
    from matplotlib.figure import Figure

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
    if config.hours is not None and (spent := hours_spent(trials)) >= config.hours:
        return f"{spent:.2f} of {config.hours:g} hours are spent"
    if config.patience is not None and (gain := recent_gain(done, config)) is not None:
        value, noise = gain
        if value <= noise:
            aim = config.objectives[0]
            return f"the last {config.patience} trials gained {value:.4f} in {aim}, within the noise of {noise:.4f}"
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
    """Give up where the last trials all failed: a `UserError` with the last one's reason."""
    last = sorted(concluded(trials), key=_ended_at)[-MAX_FAILURES:]
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
        if model is not None and model not in models and not forget_model(store, str(model)):
            continue
        # Only the records stay; `config.json` goes first, whose presence says that a detector is whole.
        for path in sorted(root.iterdir(), key=lambda path: path.name != "config.json"):
            if path.is_dir():
                shutil.rmtree(path)
            elif not path.name.startswith(("trained-", ".lock", "history")):
                path.unlink()


def _ended_at(trial: FrozenTrial) -> datetime:
    return trial.datetime_complete or trial.datetime_start or datetime.min


def importance(study: optuna.Study) -> dict[str, float]:
    """Share of the first objective's variance that each parameter explains (fANOVA, Hutter et al. 2014); {} below 4."""
    finished = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    values = [trial.values[0] for trial in finished if trial.values is not None]
    if len(finished) < 4 or np.ptp(values) == 0:
        return {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        evaluator = FanovaImportanceEvaluator(seed=0)
        try:
            return dict(get_param_importances(study, evaluator=evaluator, target=lambda t: t.values[0]))
        except (ValueError, RuntimeError):  # a space whose trials share no parameter, or whose parameters never varied
            return {}


def figures(study: optuna.Study, config: StudyConfig) -> dict[str, Figure]:
    """Every figure that the study's trials allow, by file name."""
    from optuna.visualization import matplotlib as plots

    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    several = len(config.objectives) > 1
    aim = {"target": (lambda t: t.values[0]) if several else None, "target_name": config.objectives[0]}
    drawn = {"history.png": _drawn(plots.plot_optimization_history, study, **aim)}
    if shares := importance(study):
        evaluator = FanovaImportanceEvaluator(seed=0)
        drawn["importance.png"] = _drawn(plots.plot_param_importances, study, evaluator=evaluator, **aim)
    names = list(shares) or sorted({name for t in complete for name in t.params})
    varied = [name for name in names if len({t.params.get(name) for t in complete}) > 1]
    if len(complete) >= 2 and varied:
        drawn["slices.png"] = _drawn(plots.plot_slice, study, varied[:8], **aim)
        drawn["parallel.png"] = _drawn(plots.plot_parallel_coordinate, study, varied[:8], **aim)
        drawn["cost.png"] = cost_against_gain(complete, config)
    chosen = {name for t in complete for name, d in t.distributions.items() if isinstance(d, CategoricalDistribution)}
    numeric = [name for name in varied if name not in chosen]
    if len(complete) >= 6 and len(numeric) >= 2:
        drawn["contour.png"] = _drawn(plots.plot_contour, study, numeric[:2], **aim)
    if several and complete:
        pair = {"targets": lambda t: t.values[:2], "target_names": list(config.objectives[:2])}
        drawn["pareto.png"] = _drawn(plots.plot_pareto_front, study, **pair)
    return drawn


def cost_against_gain(complete: Sequence[FrozenTrial], config: StudyConfig) -> Figure:
    """The best value so far against the time spent: where the curve lies flat, more trials bought nothing."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axes = figure.subplots()
    order = sorted(complete, key=_ended_at)
    seconds = [t.duration.total_seconds() if t.duration else 0.0 for t in order]
    best = np.maximum.accumulate([gains(t, config)[0] for t in order])
    axes.step(np.cumsum(seconds) / 60, best if MAXIMISED[config.objectives[0]] else -best, where="post")
    axes.set(xlabel="minutes of trials, one after another", ylabel=f"best {config.objectives[0]} so far")
    return figure


def _drawn(plot: Callable[..., Any], *arguments: Any, **options: Any) -> Figure:
    """A figure of Optuna's, taken from pyplot, whose settings and list of figures stay as they were."""
    from matplotlib import pyplot

    with warnings.catch_warnings(), pyplot.rc_context({"figure.constrained_layout.use": True}), quiet_optuna():
        warnings.simplefilter("ignore")  # the plots are experimental; categorical axes warn of units
        figure: Figure = np.ravel(plot(*arguments, **options))[0].figure
        pyplot.close(figure)
    return figure
