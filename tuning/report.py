"""The figures of a study: Optuna's own, and what a trial's time bought."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import optuna
from matplotlib.figure import Figure
from optuna.distributions import CategoricalDistribution
from optuna.importance import FanovaImportanceEvaluator, get_param_importances
from optuna.trial import FrozenTrial, TrialState

from tuning.config import MAXIMISED, StudyConfig
from tuning.ranking import gains
from tuning.storage import quiet_optuna


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
            return dict(get_param_importances(study, evaluator=evaluator, target=_first))
        except (ValueError, RuntimeError):  # a space whose trials share no parameter, or whose parameters never varied
            return {}


def figures(study: optuna.Study, config: StudyConfig) -> dict[str, Figure]:
    """Every figure that the study's trials allow, by file name."""
    from optuna.visualization import matplotlib as plots

    trials = study.get_trials(deepcopy=False)
    complete = [t for t in trials if t.state == TrialState.COMPLETE]
    several = len(config.objectives) > 1
    aim = {"target": _first if several else None, "target_name": config.objectives[0]}
    drawn = {"history.png": _drawn(plots.plot_optimization_history, study, **aim)}
    shares = importance(study)
    if shares:
        evaluator = FanovaImportanceEvaluator(seed=0)
        drawn["importance.png"] = _drawn(plots.plot_param_importances, study, evaluator=evaluator, **aim)
    names = list(shares) or sorted({name for t in complete for name in t.params})
    varied = [name for name in names if len({t.params.get(name) for t in complete}) > 1]
    if len(complete) >= 2 and varied:
        drawn["slices.png"] = _drawn(plots.plot_slice, study, varied[:8], **aim)
        drawn["parallel.png"] = _drawn(plots.plot_parallel_coordinate, study, varied[:8], **aim)
        drawn["cost.png"] = cost_against_gain(complete, config)
    numeric = [name for name in varied if _numeric(complete, name)]
    if len(complete) >= 6 and len(numeric) >= 2:
        drawn["contour.png"] = _drawn(plots.plot_contour, study, numeric[:2], **aim)
    if several and complete:
        pair = {"targets": lambda t: t.values[:2], "target_names": list(config.objectives[:2])}
        drawn["pareto.png"] = _drawn(plots.plot_pareto_front, study, **pair)
    return drawn


def cost_against_gain(complete: Sequence[FrozenTrial], config: StudyConfig) -> Figure:
    """The best value so far against the time spent: where the curve lies flat, more trials bought nothing."""
    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axes = figure.subplots()
    order = sorted(complete, key=lambda t: t.datetime_complete or t.datetime_start)  # type: ignore[arg-type,return-value]
    seconds = [t.duration.total_seconds() if t.duration else 0.0 for t in order]
    best = np.maximum.accumulate([gains(t, config)[0] for t in order])
    axes.step(np.cumsum(seconds) / 60, best if MAXIMISED[config.objectives[0]] else -best, where="post")
    axes.set_xlabel("minutes of trials, one after another")
    axes.set_ylabel(f"best {config.objectives[0]} so far")
    return figure


def _first(trial: FrozenTrial) -> float:
    return float(trial.values[0])


def _numeric(complete: Sequence[FrozenTrial], name: str) -> bool:
    having = next(t for t in complete if name in t.params)
    return not isinstance(having.distributions[name], CategoricalDistribution)


def _drawn(plot: Callable[..., Any], *arguments: Any, **options: Any) -> Figure:
    """A figure of Optuna's, taken from pyplot, whose settings and list of figures stay as they were."""
    from matplotlib import pyplot

    with warnings.catch_warnings(), mpl.rc_context({"figure.constrained_layout.use": True}), quiet_optuna():
        warnings.simplefilter("ignore")  # the plots are experimental; categorical axes warn of units
        figure: Figure = np.ravel(plot(*arguments, **options))[0].figure
        pyplot.close(figure)
    return figure
