"""What a study found, as figures: its history, and how much each parameter mattered."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import numpy as np
import optuna
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

BLUE, ORANGE = "#0072B2", "#D55E00"


def importance(study: optuna.Study) -> dict[str, float]:
    """Share of the objective's variance that each parameter explains (fANOVA, Hutter et al. 2014); {} below 4."""
    finished = study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,))
    values = [trial.value for trial in finished if trial.value is not None]
    if len(finished) < 4 or np.ptp(values) == 0:
        return {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
        return dict(optuna.importance.get_param_importances(study, evaluator=evaluator))


def history_figure(history: pd.DataFrame) -> Figure:
    """Objective of each trial and the best so far."""
    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axes = figure.subplots()
    done = history.dropna(subset=["value"])
    axes.plot(done["trial"], done["value"], "o", color=BLUE, label="trial")
    axes.step(done["trial"], done["value"].cummax(), where="post", color=ORANGE, label="best so far")
    axes.set_xlabel("trial")
    axes.set_ylabel("objective (AUC on val rows)")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def importance_figure(shares: Mapping[str, float]) -> Figure:
    """Bars of the share of variance that each parameter explains."""
    figure = Figure(figsize=(6.4, 0.9 + 0.35 * len(shares)), layout="constrained")
    axes = figure.subplots()
    names = list(shares)[::-1]
    axes.barh(names, [shares[name] for name in names], color=BLUE)
    axes.set_xlabel("share of the objective's variance (fANOVA)")
    axes.set_xlim(0, 1)
    axes.spines[["top", "right"]].set_visible(False)
    return figure
