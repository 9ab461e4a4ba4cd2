"""Figures of an evaluation for a report: each function returns a matplotlib `Figure`, made without pyplot.

Colours are those of Okabe and Ito ("Color universal design", 2008), which stay apart for colour-blind readers. Sizes
are chosen so that a figure is legible when it is shown 600 pixels wide.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import cycle
from typing import Any, Literal

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, MultipleLocator, PercentFormatter
from numpy.typing import ArrayLike
from scipy.stats import binomtest

from classifier.evaluation import Evaluation, columns, per_source
from classifier.robustness import CLEAN, LABELS, Ladder
from core.figures import PlainFigure
from metrics.binary import ECE_BINS, Ranking, ece, equal_mass_bins, validated
from metrics.intervals import Interval, curve_band

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
# The dash changes only when the colours are used up, and the first round is solid: easiest to read.
_LOOKS = [(colour, dash) for dash in ("-", "--", "-.", ":") for colour in COLOURS]
_REAL, _FAKE = _BETTER, _WORSE = COLOURS[:2]
_GREY = "#666666"
_GUIDE: dict[str, Any] = {"color": _GREY, "linewidth": 0.8, "linestyle": ":"}
_BAND: dict[str, Any] = {"alpha": 0.15, "linewidth": 0}
_CENTRED: dict[str, Any] = {"ha": "center", "va": "center"}
# From white to the blue of the palette and darker: lightness falls steadily, so that it also reads in grey.
_SHADES = LinearSegmentedColormap.from_list("shades", ["#ffffff", "#9ecae8", "#0072B2", "#003a5d"])


def evaluation_figures(evaluation: Evaluation, table: pd.DataFrame) -> dict[str, Figure]:
    """All that shows one evaluation, by name; `table` holds the scores that it was made of, by frame."""
    own = per_source(table) if evaluation.by == "source" else table
    return {
        "roc": roc_curves(evaluation),
        "precision_recall": precision_recall_curves(own, evaluation.threshold),
        "confusion": confusion_matrices(evaluation),
        "reliability": reliability_diagram(*columns(own)[:2]),
        "histograms": score_histograms(own, evaluation.threshold),
    }


def roc_curves(evaluation: Evaluation) -> Figure:
    """ROC curve of every dataset with its pointwise bootstrap band; datasets with one class only are left out."""
    figure, axes = _square()
    axes.plot([0, 1], [0, 1], **_GUIDE)
    for name, look in zip(evaluation.datasets, cycle(_LOOKS), strict=False):
        result = evaluation.results[name]
        roc, auc = result.roc, result.intervals["auc"]
        if not roc.fpr:
            continue
        known = "" if math.isnan(auc.low) else f" [{auc.low:.3f}, {auc.high:.3f}]"
        axes.fill_between(roc.fpr, roc.low, roc.high, color=look[0], **_BAND)
        label = f"{_short(name)}  {auc.value:.3f}{known}"
        axes.plot(roc.fpr, roc.tpr, look[1], color=look[0], linewidth=2, label=label)
        (tn, fp), (fn, tp) = result.confusion
        _dot(axes, fp / (fp + tn), tp / (fn + tp), look[0])
    axes.set(xlabel="reals called fake", ylabel="fakes found")
    threshold = f"dot: threshold {evaluation.threshold:.3f}"
    _legend_below(figure, axes, f"AUC by {evaluation.by} [{evaluation.level:.0%} interval]; {threshold}")
    return figure


def precision_recall_curves(table: pd.DataFrame, threshold: float, level: float = 0.95) -> Figure:
    """Precision by recall of every dataset with its pointwise bootstrap band; one with one class only is left out.

    A dotted line is the share of fakes in that dataset, which is the precision of guessing; a dot is the threshold.

    Args:
        table: a score table, by frame or by source.
    """
    figure, axes = _square()
    grid = np.linspace(0.01, 1, 100)
    for (name, of), look in zip(table.groupby("dataset", sort=True), cycle(_LOOKS), strict=False):
        targets, scores, groups = columns(of)
        validated(targets, scores)
        if not 0 < targets.sum() < len(targets):
            continue
        ranked = Ranking(targets, scores, threshold)()
        low, high = curve_band("pr", targets, scores, groups, grid, level=level)
        axes.fill_between(grid, low, high, color=look[0], **_BAND)
        precision, label = ranked.precision[0], f"{_short(name)}  AP {ranked.ap()[0]:.3f}"
        axes.plot(ranked.tpr[0, 1:], precision, look[1], color=look[0], linewidth=2, label=label)
        axes.axhline(targets.mean(), **_GUIDE | {"color": look[0]})
        if ranked.called > 0:
            _dot(axes, ranked.recall()[0], precision[ranked.called - 1], look[0])
    axes.set(xlabel="recall: fakes found", ylabel="precision: of what is called fake")
    _legend_below(figure, axes, f"average precision; dot: threshold {threshold:.3f}; dotted: share of fakes")
    return figure


def confusion_matrices(evaluation: Evaluation) -> Figure:
    """Confusion matrix of every dataset at the fixed threshold: counts, and shares of the row (the truth)."""
    names = evaluation.datasets
    across = min(len(names), 3)
    down = math.ceil(len(names) / across)
    figure = _figure(max(2.6 * across, 3.4), 3.2 * down + 0.4)
    for index, name in enumerate(names):
        axes = figure.add_subplot(down, across, index + 1)
        counts = np.array(evaluation.results[name].confusion, dtype=np.float64)
        totals = counts.sum(axis=1, keepdims=True)
        shares = np.divide(counts, totals, out=np.zeros_like(counts), where=totals > 0)
        axes.imshow(shares, cmap=_SHADES, vmin=0, vmax=1)
        for i, j in np.ndindex(2, 2):
            text = f"{counts[i, j]:,.0f}\n{shares[i, j]:.1%}" if totals[i, 0] else "none"
            axes.text(j, i, text, **_CENTRED, fontsize=11, color=_ink(shares[i, j]))
        axes.set_xticks([0, 1], ["real", "fake"])
        axes.set_yticks([0, 1], ["real", "fake"], rotation=90, va="center")
        axes.tick_params(length=0)
        axes.set_title(_short(name), fontsize=11)
        axes.set(xlabel="called", ylabel="truth" if index % across == 0 else "")
    figure.suptitle(f"at threshold {evaluation.threshold:.3f}, by {evaluation.by}", fontsize=10, color=_GREY)
    return figure


def reliability_diagram(targets: ArrayLike, scores: ArrayLike, bins: int = ECE_BINS) -> Figure:
    """Share of fakes against the mean score in bins of equal mass, with 95 % Wilson intervals; below, where scores lie.

    The intervals take samples as independent, and are too short where frames of one source resemble each other.

    Args:
        targets: int [N], fake = 1.
        scores: float [N], calibrated P(fake).
    """
    t, s = validated(targets, scores)
    figure = _figure(6.0, 6.6)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(5, 1))
    above.plot([0, 1], [0, 1], **_GUIDE, label="perfect")
    index = equal_mass_bins(s, bins)
    held = np.unique(index)
    n, fakes, total = (np.bincount(index, weights=weights)[held] for weights in (None, t, s))
    share = fakes / n
    wilson = [binomtest(int(k), int(of)).proportion_ci(0.95, "wilson") for k, of in zip(fakes, n, strict=True)]
    low, high = np.reshape(wilson, (-1, 2)).T
    errors = np.clip([share - low, high - share], 0, None)
    above.errorbar(total / n, share, yerr=errors, color=_REAL, marker="o", linewidth=1.5, capsize=3, label="measured")
    above.set(xlim=(0, 1), ylim=(0, 1), ylabel="share of fakes")
    above.legend(loc="upper left", fontsize=10, title=f"ECE {ece(t, s, bins):.3f}, N = {len(t):,}", edgecolor="none")
    below.hist(s, bins=50, range=(0, 1), color=_GREY)
    below.set(xlabel="P(fake)", ylabel="samples")
    for axes in (above, below):
        _plain(axes)
    return figure


def score_histograms(table: pd.DataFrame, threshold: float | None = None) -> Figure:
    """Distribution of the scores of each method, one panel below the other: reals first, then fakes.

    Args:
        table: columns label, method and score, as `classifier.evaluation.score_table` makes them.
        threshold: drawn as a line, if given.
    """
    kinds = sorted(table.groupby(["label", "method"])["score"], key=lambda kind: kind[0][0] == "fake")
    figure = _figure(6.0, 0.9 + 0.8 * max(len(kinds), 1))
    panels = figure.subplots(max(len(kinds), 1), 1, sharex=True, squeeze=False)[:, 0]
    for axes, ((label, method), values) in zip(panels, kinds, strict=False):
        colour, hatch = (_FAKE, "") if label == "fake" else (_REAL, "////")
        axes.hist(values, bins=50, range=(0, 1), color=colour, hatch=hatch, edgecolor="white", linewidth=0)
        if threshold is not None:
            axes.axvline(threshold, color="black", linewidth=1, linestyle="--")
        axes.set_yticks([])
        axes.spines[["left", "right", "top"]].set_visible(False)
        name = f"{_short(method, 18)}\n{label}, {len(values):,}"
        axes.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=9, color=colour)
    dashed = "" if threshold is None else f"   (dashed: threshold {threshold:.3f})"
    panels[-1].set(xlim=(0, 1), xlabel=f"P(fake){dashed}")
    return figure


def generalisation_matrix(
    values: pd.DataFrame,
    *,
    low: pd.DataFrame | None = None,
    high: pd.DataFrame | None = None,
    metric: str = "AUC",
    worst: float = 0.5,
) -> Figure:
    """Heat map of a metric: a row for what was trained on (or an arm of a comparison), a column for what was tested on.

    Args:
        values: metric in each cell, at most 1; nan is left empty. The names of index and columns label the axes.
        low: interval's ends for each cell, written below the figure where both are given.
        high: see low.
        metric: what the values are.
        worst: value of the lightest shade; 1 has the darkest.
    """
    rows, across = values.shape
    labels = [_short(name, 20) for name in values.index]
    width = max(1.1 * across + 0.09 * max((len(name) for name in labels), default=0) + 1.6, 4.0)
    figure = _figure(width, max(0.75 * rows + 1.7, 2.6))
    axes = figure.add_subplot()
    cells, lows, highs = (
        np.full(values.shape, math.nan) if of is None else of.to_numpy(dtype=np.float64) for of in (values, low, high)
    )
    image = axes.imshow(np.ma.masked_invalid(cells), cmap=_SHADES, vmin=worst, vmax=1, aspect="auto")
    for i, j in np.ndindex(rows, across):
        if math.isnan(cells[i, j]):
            axes.text(j, i, "–", **_CENTRED, color=_GREY)
            continue
        ink = _ink(float(cells[i, j] - worst) / (1 - worst))
        bounded = not math.isnan(lows[i, j] + highs[i, j])
        axes.text(j, i - (0.12 if bounded else 0), f"{cells[i, j]:.3f}", **_CENTRED, fontsize=12, color=ink)
        if bounded:
            axes.text(j, i + 0.22, f"{lows[i, j]:.2f}–{highs[i, j]:.2f}", **_CENTRED, fontsize=8, color=ink)
    axes.set_xticks(range(across), [_short(name, 20) for name in values.columns], rotation=30, ha="right")
    axes.set_yticks(range(rows), labels)
    axes.set_xticks(np.arange(across + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(rows + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=2)
    axes.tick_params(which="both", length=0)
    axes.spines[:].set_visible(False)
    axes.set(xlabel=str(values.columns.name or "tested on"), ylabel=str(values.index.name or "trained on"))
    figure.colorbar(image, ax=axes, label=metric, fraction=0.05, pad=0.02).outline.set_visible(False)
    return figure


def forest_plot(differences: pd.DataFrame, reference: str, seeds: int, *, metric: str = "AUC") -> Figure:
    """Differences with 95 % intervals; small dots are single seeds.

    Filled and coloured where Holm's p-value is under 0.05, hollow and grey where it is not.

    Args:
        differences: columns arm, dataset, value, low, high, per_seed (list of floats), p_holm; rows in reading order.
        reference: the arm that stands at zero.
        seeds: how many seeds each value is the mean of.
    """
    arms, datasets = (list(dict.fromkeys(differences[name])) for name in ("arm", "dataset"))
    figure = _figure(1.5 + 0.085 * max(map(len, arms)) + 3.1 * len(datasets), 1.9 + 0.42 * len(arms))
    panels = figure.subplots(1, len(datasets), sharey=True, squeeze=False)[0]
    for axes, dataset in zip(panels, datasets, strict=True):
        axes.axvline(0, color="black", linewidth=0.8)
        here = differences[differences["dataset"] == dataset]
        for row in here.itertuples():
            _difference(axes, row, arms.index(row.arm))
        ends = (v for row in here.itertuples() for v in (row.low, row.high, *row.per_seed))
        reach = max([0.01, *(abs(v) for v in ends if not math.isnan(v))])
        axes.set_xlim(-1.08 * reach, 1.08 * reach)
        axes.set_title("mean over the datasets" if dataset == "mean" else str(dataset), fontsize=11)
        axes.xaxis.set_major_locator(MaxNLocator(5, symmetric=True))
        _plain(axes, "x", "right", "top", "left")
        axes.tick_params(axis="y", length=0)
        axes.tick_params(axis="x", labelsize=8)
    panels[0].set_yticks(range(len(arms)), arms)
    panels[0].set_ylim(len(arms) - 0.4, -0.6)
    figure.suptitle(f"{metric} minus that of {reference!r}, 95 % intervals", fontsize=12)
    dots = f"   small dots: each of {seeds} seeds" if seeds > 1 else ""
    kinds = f"filled: Holm's p < 0.05   hollow: not told apart{dots}"
    figure.supxlabel(f"← worse      better →\n{kinds}", fontsize=9)
    return figure


def robustness_figure(ladder: Ladder) -> Figure:
    """Bands are intervals over identities or sources; a solid line below is the FPR, a dashed one the recall."""
    kinds = ladder.kinds
    figure = _figure(1.2 + 2.1 * max(len(kinds), 2), 5.6)
    panels = figure.subplots(2, max(len(kinds), 1), sharey="row", squeeze=False)
    for (top, bottom), kind in zip(panels.T, kinds, strict=False):
        for name, colour in zip(ladder.datasets, cycle(COLOURS), strict=False):
            rungs = ladder.along(name, kind)
            x = [rung.step for rung in rungs]
            _banded(top, x, [rung.auc for rung in rungs], colour, name)
            _banded(bottom, x, [rung.fpr for rung in rungs], colour, name)
            bottom.plot(x, [rung.recall.value for rung in rungs], color=colour, linestyle="--", linewidth=1)
        top.axhline(0.5, **_GUIDE)
        top.set_title(LABELS[kind], fontsize=9.5)
        levels = ["as is", *(f"{rung.level:g}" for rung in ladder.along(ladder.datasets[0], kind)[1:])]
        for axes in (top, bottom):
            axes.set_xticks(range(len(levels)), levels, fontsize=8, rotation=45)
            axes.spines[["top", "right"]].set_visible(False)
        bottom.set(ylim=(-0.02, 1.02))
        bottom.yaxis.set_major_formatter(PercentFormatter(1.0))
    panels[0][0].set_ylabel("AUC")
    panels[1][0].set_ylabel("FPR (solid), recall (dashed)")
    figure.suptitle(f"threshold {ladder.threshold:.3f}, fixed on val", fontsize=10, x=0.01, ha="left")
    if kinds:
        handles, names = panels[0][0].get_legend_handles_labels()
        shown = [f"{name}, worst {_worst(ladder, name)}" for name in names]
        figure.legend(handles, shown, loc="outside lower center", fontsize=9, edgecolor="none")
    return figure


def _figure(width: float, height: float) -> Figure:
    return PlainFigure(figsize=(width, height), dpi=100, layout="constrained")


def _square() -> tuple[Figure, Axes]:
    """For curves in the unit square, whose axes count in per cent."""
    figure = _figure(6.0, 6.0)
    axes = figure.add_subplot()
    axes.set_aspect("equal")
    _plain(axes)
    axes.set(xlim=(0, 1), ylim=(0, 1.005))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MultipleLocator(0.2))
        axis.set_major_formatter(PercentFormatter(1.0))
    return figure, axes


def _plain(axes: Axes, grid: Literal["both", "x"] = "both", *hidden: str) -> None:
    axes.spines[list(hidden or ("right", "top"))].set_visible(False)
    axes.grid(axis=grid, color="#e6e6e6", linewidth=0.6)
    axes.set_axisbelow(True)


def _dot(axes: Axes, x: float, y: float, colour: str) -> None:
    axes.plot(x, y, marker="o", color=colour, markersize=7, markeredgecolor="white")


def _banded(axes: Axes, x: Sequence[float], intervals: Sequence[Interval], colour: str, label: str) -> None:
    low, high = ([getattr(interval, end) for interval in intervals] for end in ("low", "high"))
    axes.fill_between(x, low, high, color=colour, **_BAND)
    axes.plot(x, [interval.value for interval in intervals], color=colour, marker="o", markersize=3.5, label=label)


def _difference(axes: Axes, row: Any, y: int) -> None:
    """One row of a forest plot at the height y."""
    sure, known = row.p_holm < 0.05, not math.isnan(row.low)
    colour = _GREY if not sure else _BETTER if row.value > 0 else _WORSE
    text = f"{row.value:+.3f}"
    if known:
        axes.plot([row.low, row.high], [y, y], color=colour, linewidth=2, solid_capstyle="butt")
        text += f" [{row.low:+.3f}, {row.high:+.3f}]"
    if len(row.per_seed) > 1:
        axes.plot(row.per_seed, np.full(len(row.per_seed), y + 0.24), ".", color=colour, markersize=4)
    axes.plot(row.value, y, "o", markersize=7, color=colour, markerfacecolor=colour if sure else "white")
    box = {"facecolor": "white", "edgecolor": "none", "pad": 0.8}
    place = axes.get_yaxis_transform()
    axes.text(0.5, y - 0.3, text, **_CENTRED, fontsize=8, color=colour, transform=place, bbox=box)


def _legend_below(figure: Figure, axes: Axes, title: str) -> None:
    """Name the curves of the datasets below them, or say that there is none."""
    names = axes.get_legend_handles_labels()[1]
    if names:
        figure.set_figheight(5.8 + 0.2 * (len(names) + 1))
        figure.legend(loc="outside lower center", fontsize=10, title=title, title_fontsize=10, edgecolor="none")
    else:
        text = "no dataset holds both reals and fakes"
        axes.text(0.5, 0.5, text, **_CENTRED, transform=axes.transAxes, color=_GREY)


def _ink(shade: float) -> str:
    return "white" if shade > 0.55 else "black"


def _short(name: object, most: int = 24) -> str:
    text = str(name)
    return text if len(text) <= most else text[: most - 1] + "…"


def _worst(ladder: Ladder, name: str) -> str:
    rung = ladder.worst(name)
    return f"AUC {rung.auc}" + (f" at {rung.place}" if rung.kind != CLEAN else "")
