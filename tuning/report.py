"""What a study found, as figures: its history, what mattered, and what the values did."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import optuna
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from optuna.distributions import CategoricalDistribution
from optuna.trial import FrozenTrial, TrialState

from tuning.config import MAXIMISED, StudyConfig
from tuning.queue import PLACE
from tuning.ranking import feasible, front, ranked

BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#999999"


def importance(study: optuna.Study) -> dict[str, float]:
    """Share of the first objective's variance that each parameter explains (fANOVA, Hutter et al. 2014); {} below 4."""
    finished = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    values = [trial.values[0] for trial in finished if trial.values is not None]
    if len(finished) < 4 or np.ptp(values) == 0:
        return {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
        try:
            return dict(
                optuna.importance.get_param_importances(study, evaluator=evaluator, target=lambda t: t.values[0])
            )
        except (ValueError, RuntimeError):  # a space whose trials share no parameter, or whose parameters never varied
            return {}


def figures(study: optuna.Study, config: StudyConfig) -> dict[str, Figure]:
    """Every figure that the study's trials allow, by file name."""
    trials = study.get_trials(deepcopy=False)
    complete = [t for t in trials if t.state == TrialState.COMPLETE]
    found: dict[str, Figure] = {"history.png": study_history(trials, config)}
    shares = importance(study)
    if shares:
        found["importance.png"] = importance_figure(shares)
    names = list(shares) or sorted({name for t in complete for name in t.params})
    varied = [name for name in names if len({t.params.get(name) for t in complete}) > 1]
    if len(complete) >= 2 and varied:
        found["slices.png"] = slices(complete, varied[:8], config)
        found["parallel.png"] = parallel_coordinates(complete, varied[:8], config)
        found["cost.png"] = cost_against_gain(complete, config)
    numeric = [name for name in varied if _numeric(complete, name)]
    if len(complete) >= 6 and len(numeric) >= 2:
        found["contour.png"] = contour(complete, numeric[0], numeric[1], config)
    if len(config.objectives) > 1 and complete:
        found["pareto.png"] = pareto_front(complete, config)
    return found


def study_history(trials: Sequence[FrozenTrial], config: StudyConfig) -> Figure:
    """Objective of each trial by place, the best so far, and which trials were pruned or break a constraint."""
    figure, axes = _panel()
    sign = 1 if MAXIMISED[config.objectives[0]] else -1
    complete = sorted((t for t in trials if t.state == TrialState.COMPLETE), key=_place)
    places, values = [_place(t) for t in complete], [t.values[0] for t in complete]
    kept = [feasible(t) for t in complete]
    axes.plot([p for p, k in zip(places, kept, strict=True) if k], [v for v, k in zip(values, kept, strict=True) if k],
              "o", color=BLUE, label="trial")  # fmt: skip
    if not all(kept):
        axes.plot([p for p, k in zip(places, kept, strict=True) if not k],
                  [v for v, k in zip(values, kept, strict=True) if not k],
                  "x", color=GREY, label="breaks a constraint")  # fmt: skip
    pruned = [t for t in trials if t.state == TrialState.PRUNED and t.values]
    if pruned:
        axes.plot([_place(t) for t in pruned], [t.values[0] for t in pruned], "v", color=GREY, ms=4, label="pruned")
    best = sign * np.maximum.accumulate([sign * v if k else -np.inf for v, k in zip(values, kept, strict=True)] or [0])
    if complete and np.isfinite(best).any():
        axes.step(places, np.where(np.isfinite(best), best, np.nan), where="post", color=ORANGE, label="best so far")
    axes.set_xlabel("trial")
    axes.set_ylabel(f"{config.objectives[0]} (val)")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(frameon=False)
    return figure


def history_figure(history: pd.DataFrame) -> Figure:
    """Objective of each trial and the best so far, from the table of a finished study."""
    figure, axes = _panel()
    done = history.dropna(subset=["value"])
    axes.plot(done["trial"], done["value"], "o", color=BLUE, label="trial")
    axes.step(done["trial"], done["value"].cummax(), where="post", color=ORANGE, label="best so far")
    axes.set_xlabel("trial")
    axes.set_ylabel("objective (AUC on val rows)")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(frameon=False)
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


def slices(complete: Sequence[FrozenTrial], names: Sequence[str], config: StudyConfig) -> Figure:
    """The objective against each parameter; later trials are darker."""
    columns = min(4, len(names))
    rows = -(-len(names) // columns)
    figure = Figure(figsize=(2.6 * columns, 2.4 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, sharey=True, squeeze=False)
    for axes, name in zip(grid.flat, names, strict=False):
        with_it = [t for t in complete if name in t.params]
        values = [t.params[name] for t in with_it]
        shown = values if _numeric(complete, name) else [str(value) for value in values]
        axes.scatter(shown, [t.values[0] for t in with_it], c=[_place(t) for t in with_it], cmap="Blues", s=18,
                     vmin=-len(complete) / 2, edgecolors=BLUE, linewidths=0.4)  # fmt: skip
        if _numeric(complete, name) and getattr(with_it[0].distributions[name], "log", False):
            axes.set_xscale("log")
        axes.set_xlabel(name)
        axes.tick_params(axis="x", labelrotation=30)
        axes.spines[["top", "right"]].set_visible(False)
    for axes in list(grid.flat)[len(names) :]:
        axes.set_visible(False)
    grid[0, 0].set_ylabel(config.objectives[0])
    return figure


def parallel_coordinates(complete: Sequence[FrozenTrial], names: Sequence[str], config: StudyConfig) -> Figure:
    """One line a trial through its values, each axis from its lowest to its highest; the best tenth is orange."""
    figure = Figure(figsize=(1.6 + 1.3 * len(names), 4), layout="constrained")
    axes = figure.subplots()
    order = ranked(complete, config)
    top = {t.number for t in order[: max(1, len(order) // 10)]}
    scales = [_scale(complete, name) for name in names]
    objective = [t.values[0] for t in complete]
    low, high = min(objective), max(objective)
    for trial in order[::-1]:
        heights = [
            scale(trial.params[name]) if name in trial.params else np.nan
            for name, (scale, _) in zip(names, scales, strict=True)
        ]
        heights.append((trial.values[0] - low) / (high - low) if high > low else 0.5)
        chosen = trial.number in top
        axes.plot(range(len(heights)), heights, color=ORANGE if chosen else BLUE, alpha=0.95 if chosen else 0.25,
                  lw=1.8 if chosen else 0.9)  # fmt: skip
    labels = [f"{name}\n{ends}" for name, (_, ends) in zip(names, scales, strict=True)]
    axes.set_xticks(range(len(names) + 1), [*labels, f"{config.objectives[0]}\n{low:.3g} to {high:.3g}"], fontsize=8)
    axes.set_yticks([])
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.grid(axis="x", color=GREY, lw=0.6)
    return figure


def contour(complete: Sequence[FrozenTrial], first: str, second: str, config: StudyConfig) -> Figure:
    """The objective over the two numbers that matter most, between the trials (dots)."""
    figure, axes = _panel()
    both = [t for t in complete if first in t.params and second in t.params]
    x, y = (np.array([t.params[name] for t in both], dtype=float) for name in (first, second))
    z = np.array([t.values[0] for t in both])
    logs = [bool(getattr(both[0].distributions[name], "log", False)) for name in (first, second)]
    u, v = (np.log10(values) if log else values for values, log in ((x, logs[0]), (y, logs[1])))
    if len({*zip(u, v, strict=True)}) >= 4 and np.linalg.matrix_rank(np.stack([u - u[0], v - v[0]])) == 2:
        filled = axes.tricontourf(x, y, z, levels=12, cmap="Blues")
        figure.colorbar(filled, ax=axes, label=config.objectives[0])
    axes.plot(x, y, "o", color=ORANGE, ms=4)
    axes.set_xscale("log" if logs[0] else "linear")
    axes.set_yscale("log" if logs[1] else "linear")
    axes.set_xlabel(first)
    axes.set_ylabel(second)
    return figure


def pareto_front(complete: Sequence[FrozenTrial], config: StudyConfig) -> Figure:
    """The first two objectives of every trial; those that no other beats in all are joined."""
    figure, axes = _panel()
    first, second = config.objectives[:2]
    best = sorted(front(complete, config), key=lambda t: t.values[1])
    axes.plot([t.values[1] for t in best], [t.values[0] for t in best], "o-", color=ORANGE, label="Pareto front")
    for trial in best[:12]:
        axes.annotate(str(_place(trial)), (trial.values[1], trial.values[0]), textcoords="offset points",
                      xytext=(4, 4), fontsize=7)  # fmt: skip
    axes.set_xlabel(second)
    axes.set_ylabel(first)
    axes.legend(frameon=False)
    return figure


def cost_against_gain(complete: Sequence[FrozenTrial], config: StudyConfig) -> Figure:
    """The best value so far against the hours spent: where the curve lies flat, more trials bought nothing."""
    figure, axes = _panel()
    sign = 1 if MAXIMISED[config.objectives[0]] else -1
    order = sorted(complete, key=lambda t: t.datetime_complete or t.datetime_start)  # type: ignore[arg-type,return-value]
    seconds = [t.duration.total_seconds() if t.duration else 0.0 for t in order]
    best = sign * np.maximum.accumulate([sign * t.values[0] for t in order])
    axes.step(np.cumsum(seconds) / 60, best, where="post", color=ORANGE)
    axes.set_xlabel("minutes of trials, one after another")
    axes.set_ylabel(f"best {config.objectives[0]} so far")
    return figure


def _place(trial: FrozenTrial) -> int:
    return int(trial.user_attrs.get(PLACE, trial.number))


def _numeric(complete: Sequence[FrozenTrial], name: str) -> bool:
    having = next(t for t in complete if name in t.params)
    return not isinstance(having.distributions[name], CategoricalDistribution)


def _scale(complete: Sequence[FrozenTrial], name: str) -> tuple[Any, str]:
    """A function from a value to [0, 1] and what its axis says."""
    values = [t.params[name] for t in complete if name in t.params]
    if not _numeric(complete, name):
        known = sorted({str(value) for value in values})
        return (lambda value: known.index(str(value)) / max(1, len(known) - 1)), " | ".join(known)
    low, high = min(values), max(values)
    having = next(t for t in complete if name in t.params)
    of = np.log if getattr(having.distributions[name], "log", False) else float
    width = of(high) - of(low)
    return (lambda value: (of(value) - of(low)) / width if width else 0.5), f"{low:.3g} to {high:.3g}"


def _panel() -> tuple[Figure, Any]:
    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes
