"""Figures of an evaluation for a report: each function returns a matplotlib `Figure`, made without pyplot.

Colours are those of Okabe and Ito ("Color universal design", 2008), which stay apart for colour-blind readers. Sizes
are chosen so that a figure is legible when it is shown 600 pixels wide.
"""

from __future__ import annotations

import math
from itertools import cycle

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, MultipleLocator, PercentFormatter
from numpy.typing import ArrayLike

from classifier.evaluation import Evaluation, per_source
from classifier.robustness import CLEAN, LABELS, Ladder
from metrics.binary import ECE_BINS, Ranked, ece, equal_mass_bins, validated
from metrics.intervals import curve_band

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DASHES = ("-", "--", "-.", ":")
REAL, FAKE = COLOURS[0], COLOURS[1]
_GREY = "#666666"
# From white to the blue of the palette and darker: lightness falls steadily, so that it also reads in grey.
_SHADES = LinearSegmentedColormap.from_list("shades", ["#ffffff", "#9ecae8", "#0072B2", "#003a5d"])
_DPI = 100


def roc_curves(evaluation: Evaluation) -> Figure:
    """ROC curve of every dataset with its pointwise bootstrap band; datasets with one class only are left out."""
    figure, axes = _square(6.0, 6.0)
    axes.plot([0, 1], [0, 1], color=_GREY, linewidth=0.8, linestyle=":")
    names = evaluation.datasets
    for name, colour, dash in zip(names, cycle(COLOURS), _dashes(), strict=False):
        result = evaluation.results[name]
        if not result.roc.fpr:
            continue
        auc = result.intervals["auc"]
        known = "" if math.isnan(auc.low) else f" [{auc.low:.3f}, {auc.high:.3f}]"
        axes.fill_between(result.roc.fpr, result.roc.low, result.roc.high, color=colour, alpha=0.15, linewidth=0)
        axes.plot(
            result.roc.fpr,
            result.roc.tpr,
            color=colour,
            linestyle=dash,
            linewidth=2,
            label=f"{_short(name)}  {auc.value:.3f}{known}",
        )
        (tn, fp), (fn, tp) = result.confusion
        axes.plot(fp / (fp + tn), tp / (fn + tp), marker="o", color=colour, markersize=7, markeredgecolor="white")
    axes.set(xlim=(0, 1), ylim=(0, 1.005), xlabel="reals called fake", ylabel="fakes found")
    _percent(axes)
    _legend_below(
        figure,
        axes,
        f"AUC by {evaluation.by} [{evaluation.level:.0%} interval]; dot: threshold {evaluation.threshold:.3f}",
    )
    return figure


def precision_recall_curves(table: pd.DataFrame, threshold: float, level: float = 0.95) -> Figure:
    """Precision by recall of every dataset with its pointwise bootstrap band; one with one class only is left out.

    A dotted line is the share of fakes in that dataset, which is the precision of guessing; a dot is the threshold.

    Args:
        table: a score table, by frame or by source.
    """
    figure, axes = _square(6.0, 6.0)
    grid = np.linspace(0.01, 1, 100)
    for (name, of), colour, dash in zip(table.groupby("dataset", sort=True), cycle(COLOURS), _dashes(), strict=False):
        targets, scores = validated((of["label"] == "fake").to_numpy(dtype=np.int64), of["score"])
        if not 0 < targets.sum() < len(targets):
            continue
        ranked = Ranked.of(targets, scores, threshold=threshold)
        low, high = curve_band("pr", targets, scores, of["group"].to_numpy(dtype=np.str_), grid, level=level)
        axes.fill_between(grid, low, high, color=colour, alpha=0.15, linewidth=0)
        label = f"{_short(name)}  AP {ranked.ap()[0]:.3f}"
        axes.plot(ranked.tpr[0, 1:], ranked.precision[0], color=colour, linestyle=dash, linewidth=2, label=label)
        axes.axhline(targets.mean(), color=colour, linewidth=0.8, linestyle=":")
        if ranked.called > 0:
            place = ranked.recall()[0], ranked.precision[0, ranked.called - 1]
            axes.plot(*place, marker="o", color=colour, markersize=7, markeredgecolor="white")
    axes.set(xlim=(0, 1), ylim=(0, 1.005), xlabel="recall: fakes found", ylabel="precision: of what is called fake")
    _percent(axes)
    _legend_below(figure, axes, f"average precision; dot: threshold {threshold:.3f}; dotted: share of fakes")
    return figure


def evaluation_figures(evaluation: Evaluation, table: pd.DataFrame) -> dict[str, Figure]:
    """All that shows one evaluation, by name; `table` holds the scores that it was made of, by frame."""
    own = per_source(table) if evaluation.by == "source" else table
    targets = (own["label"] == "fake").to_numpy(dtype=np.int64)
    return {
        "roc": roc_curves(evaluation),
        "precision_recall": precision_recall_curves(own, evaluation.threshold),
        "confusion": confusion_matrices(evaluation),
        "reliability": reliability_diagram(targets, own["score"].to_numpy(dtype=np.float64)),
        "histograms": score_histograms(own, evaluation.threshold),
    }


def confusion_matrices(evaluation: Evaluation) -> Figure:
    """Confusion matrix of every dataset at the fixed threshold: counts, and shares of the row (the truth)."""
    names = evaluation.datasets
    columns = min(len(names), 3)
    rows = math.ceil(len(names) / columns)
    figure = Figure(figsize=(max(2.6 * columns, 3.4), 3.2 * rows + 0.4), dpi=_DPI, layout="constrained")
    for index, name in enumerate(names):
        axes = figure.add_subplot(rows, columns, index + 1)
        counts = np.array(evaluation.results[name].confusion, dtype=np.float64)
        totals = counts.sum(axis=1, keepdims=True)
        shares = np.divide(counts, totals, out=np.zeros_like(counts), where=totals > 0)
        axes.imshow(shares, cmap=_SHADES, vmin=0, vmax=1)
        for i, j in np.ndindex(2, 2):
            text = f"{counts[i, j]:,.0f}\n{shares[i, j]:.1%}" if totals[i, 0] else "none"
            axes.text(j, i, text, ha="center", va="center", fontsize=11, color=_ink(shares[i, j]))
        axes.set_xticks([0, 1], ["real", "fake"])
        axes.set_yticks([0, 1], ["real", "fake"], rotation=90, va="center")
        axes.tick_params(length=0)
        axes.set_title(_short(name), fontsize=11)
        if index % columns == 0:
            axes.set_ylabel("truth")
        axes.set_xlabel("called")
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
    figure = Figure(figsize=(6.0, 6.6), dpi=_DPI, layout="constrained")
    grid = figure.add_gridspec(2, 1, height_ratios=(5, 1))
    above = figure.add_subplot(grid[0])
    below = figure.add_subplot(grid[1], sharex=above)
    above.plot([0, 1], [0, 1], color=_GREY, linewidth=0.8, linestyle=":", label="perfect")
    index = equal_mass_bins(s, bins)
    counts = np.bincount(index, minlength=bins).astype(np.float64)
    held = counts > 0
    n = counts[held]
    mean = np.bincount(index, weights=s, minlength=bins)[held] / n
    share = np.bincount(index, weights=t, minlength=bins)[held] / n
    z = 1.96
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * np.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    errors = np.clip([share - (centre - half), centre + half - share], 0, None)
    above.errorbar(mean, share, yerr=errors, color=REAL, marker="o", linewidth=1.5, capsize=3, label="measured")
    above.set(xlim=(0, 1), ylim=(0, 1), ylabel="share of fakes")
    above.legend(loc="upper left", fontsize=10, title=f"ECE {ece(t, s, bins):.3f}, N = {len(t):,}", edgecolor="none")
    above.tick_params(labelbottom=False)
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
    kinds = sorted(
        set(zip(table["label"], table["method"], strict=True)), key=lambda kind: (kind[0] == "fake", kind[1])
    )
    figure = Figure(figsize=(6.0, 0.9 + 0.8 * max(len(kinds), 1)), dpi=_DPI, layout="constrained")
    panels = figure.subplots(max(len(kinds), 1), 1, sharex=True, squeeze=False)[:, 0]
    for axes, (label, method) in zip(panels, kinds, strict=False):
        values = table.loc[(table["label"] == label) & (table["method"] == method), "score"].to_numpy(dtype=np.float64)
        colour = FAKE if label == "fake" else REAL
        axes.hist(
            values,
            bins=50,
            range=(0, 1),
            color=colour,
            hatch="" if label == "fake" else "////",
            edgecolor="white",
            linewidth=0,
        )
        if threshold is not None:
            axes.axvline(threshold, color="black", linewidth=1, linestyle="--")
        axes.set_yticks([])
        axes.spines[["left", "right", "top"]].set_visible(False)
        axes.set_ylabel(
            f"{_short(method, 18)}\n{label}, {len(values):,}",
            rotation=0,
            ha="right",
            va="center",
            fontsize=9,
            color=colour,
        )
    panels[-1].set(
        xlim=(0, 1), xlabel="P(fake)" + ("" if threshold is None else f"   (dashed: threshold {threshold:.3f})")
    )
    return figure


def generalisation_matrix(
    values: pd.DataFrame,
    *,
    low: pd.DataFrame | None = None,
    high: pd.DataFrame | None = None,
    metric: str = "AUC",
    worst: float = 0.5,
    best: float = 1.0,
) -> Figure:
    """Heat map of a metric: a row for what was trained on (or an arm of a comparison), a column for what was tested on.

    Args:
        values: metric in each cell; nan is left empty. The names of index and columns are the labels of the axes.
        low: interval's ends for each cell, written below the figure where both are given.
        high: see low.
        metric: what the values are.
        worst: value of the lightest shade.
        best: value of the darkest shade.
    """
    rows, columns = values.shape
    labels = [_short(name, 20) for name in values.index]
    width = max(1.1 * columns + 0.09 * max((len(name) for name in labels), default=0) + 1.6, 4.0)
    figure = Figure(figsize=(width, max(0.75 * rows + 1.7, 2.6)), dpi=_DPI, layout="constrained")
    axes = figure.add_subplot()
    cells = values.to_numpy(dtype=np.float64)
    image = axes.imshow(np.ma.masked_invalid(cells), cmap=_SHADES, vmin=worst, vmax=best, aspect="auto")
    for i, j in np.ndindex(rows, columns):
        if math.isnan(cells[i, j]):
            axes.text(j, i, "–", ha="center", va="center", color=_GREY)
            continue
        ink = _ink((cells[i, j] - worst) / (best - worst))
        bounded = low is not None and high is not None and not math.isnan(float(low.iloc[i, j]))
        axes.text(
            j, i - (0.12 if bounded else 0), f"{cells[i, j]:.3f}", ha="center", va="center", fontsize=12, color=ink
        )
        if bounded and low is not None and high is not None:
            text = f"{low.iloc[i, j]:.2f}–{high.iloc[i, j]:.2f}"
            axes.text(j, i + 0.22, text, ha="center", va="center", fontsize=8, color=ink)
    axes.set_xticks(range(columns), [_short(name, 20) for name in values.columns], rotation=30, ha="right")
    axes.set_yticks(range(rows), labels)
    axes.set_xticks(np.arange(columns + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(rows + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=2)
    axes.tick_params(which="both", length=0)
    axes.spines[:].set_visible(False)
    axes.set(xlabel=str(values.columns.name or "tested on"), ylabel=str(values.index.name or "trained on"))
    figure.colorbar(image, ax=axes, label=metric, fraction=0.05, pad=0.02).outline.set_visible(False)
    return figure


def _square(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), dpi=_DPI, layout="constrained")
    axes = figure.add_subplot()
    axes.set_aspect("equal")
    _plain(axes)
    return figure, axes


def _plain(axes: Axes) -> None:
    axes.spines[["right", "top"]].set_visible(False)
    axes.grid(color="#e6e6e6", linewidth=0.6)
    axes.set_axisbelow(True)


def _legend_below(figure: Figure, axes: Axes, title: str) -> None:
    """Name the curves of the datasets below them, or say that there is none."""
    names = axes.get_legend_handles_labels()[1]
    if names:
        figure.set_figheight(5.8 + 0.2 * (len(names) + 1))
        figure.legend(loc="outside lower center", fontsize=10, title=title, title_fontsize=10, edgecolor="none")
    else:
        _say(axes, "no dataset holds both reals and fakes")


def _percent(axes: Axes) -> None:
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MultipleLocator(0.2))
        axis.set_major_formatter(PercentFormatter(1.0))


def _dashes() -> list[str]:
    # The dash changes only when the colours are used up, and the first round is solid: easiest to read.
    return [dash for dash in DASHES for _ in COLOURS]


def _ink(shade: float) -> str:
    return "white" if shade > 0.55 else "black"


def _short(name: object, most: int = 24) -> str:
    text = str(name)
    return text if len(text) <= most else text[: most - 1] + "…"


def _say(axes: Axes, text: str) -> None:
    axes.text(0.5, 0.5, text, ha="center", va="center", transform=axes.transAxes, color=_GREY)


_BETTER, _WORSE, _OPEN = COLOURS[0], COLOURS[1], "#666666"
_FOREST_DPI = 100


def forest_plot(differences: pd.DataFrame, reference: str, seeds: int, *, metric: str = "AUC") -> Figure:
    """Differences with 95 % intervals; small dots are single seeds.

    Filled and coloured where Holm's p-value is under 0.05, hollow and grey where it is not.

    Args:
        differences: columns arm, dataset, value, low, high, per_seed (list of floats), p_holm; rows in reading order.
        reference: the arm that stands at zero.
        seeds: how many seeds each value is the mean of.
    """
    arms, datasets = (list(dict.fromkeys(differences[name])) for name in ("arm", "dataset"))
    width = 1.5 + 0.085 * max(map(len, arms)) + 3.1 * len(datasets)
    figure = Figure(figsize=(width, 1.9 + 0.42 * len(arms)), dpi=_FOREST_DPI, layout="constrained")
    panels = figure.subplots(1, len(datasets), sharey=True, sharex=False, squeeze=False)[0]
    for axes, dataset in zip(panels, datasets, strict=True):
        here = differences[differences["dataset"] == dataset]
        axes.axvline(0, color="black", linewidth=0.8)
        reach = 0.01
        for row in here.to_dict("records"):
            y = arms.index(row["arm"])
            sure = row["p_holm"] < 0.05
            colour = (_BETTER if row["value"] > 0 else _WORSE) if sure else _OPEN
            known = not math.isnan(row["low"])
            if known:
                axes.plot([row["low"], row["high"]], [y, y], color=colour, linewidth=2, solid_capstyle="butt")
            if len(row["per_seed"]) > 1:
                axes.plot(row["per_seed"], np.full(len(row["per_seed"]), y + 0.24), ".", color=colour, markersize=4)
            axes.plot(
                row["value"], y, marker="o", markersize=7, color=colour, markerfacecolor=colour if sure else "white"
            )
            text = f"{row['value']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}]" if known else f"{row['value']:+.3f}"
            axes.text(
                0.5,
                y - 0.3,
                text,
                fontsize=8,
                color=colour,
                ha="center",
                va="center",
                transform=axes.get_yaxis_transform(),
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.8},
            )
            reach = max(reach, *(abs(v) for v in (row["low"], row["high"], *row["per_seed"]) if v == v))
        axes.set_xlim(-1.08 * reach, 1.08 * reach)
        axes.set_title("mean over the datasets" if dataset == "mean" else str(dataset), fontsize=11)
        axes.xaxis.set_major_locator(MaxNLocator(5, symmetric=True))
        axes.grid(axis="x", color="#e6e6e6", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.spines[["right", "top", "left"]].set_visible(False)
        axes.tick_params(axis="y", length=0)
        axes.tick_params(axis="x", labelsize=8)
    panels[0].set_yticks(range(len(arms)), arms)
    panels[0].set_ylim(len(arms) - 0.4, -0.6)
    figure.suptitle(f"{metric} minus that of {reference!r}, 95 % intervals", fontsize=12)
    kinds = "filled: Holm's p < 0.05   hollow: not told apart" + (
        f"   small dots: each of {seeds} seeds" if seeds > 1 else ""
    )
    figure.supxlabel(f"← worse      better →\n{kinds}", fontsize=9)
    return figure


def robustness_figure(ladder: Ladder) -> Figure:
    """Bands are intervals over identities or sources; a solid line below is the FPR, a dashed one the recall."""
    kinds = list(dict.fromkeys(rung.kind for rung in ladder.rungs if rung.kind != CLEAN))
    figure = Figure(figsize=(1.2 + 2.1 * max(len(kinds), 2), 5.6), dpi=100, layout="constrained")
    panels = figure.subplots(2, max(len(kinds), 1), sharey="row", squeeze=False)
    for column, kind in enumerate(kinds):
        top, bottom = panels[0][column], panels[1][column]
        for name, colour in zip(ladder.datasets, cycle(COLOURS), strict=False):
            rungs = ladder.along(name, kind)
            x = [rung.step for rung in rungs]
            top.fill_between(x, [r.auc.low for r in rungs], [r.auc.high for r in rungs], color=colour, alpha=0.15, lw=0)
            top.plot(x, [r.auc.value for r in rungs], color=colour, marker="o", markersize=3.5, label=name)
            bottom.fill_between(
                x, [r.fpr.low for r in rungs], [r.fpr.high for r in rungs], color=colour, alpha=0.15, lw=0
            )
            bottom.plot(x, [r.fpr.value for r in rungs], color=colour, marker="o", markersize=3.5)
            bottom.plot(x, [r.recall.value for r in rungs], color=colour, linestyle="--", linewidth=1)
        top.axhline(0.5, color=_GREY, linewidth=0.8, linestyle=":")
        top.set_title(LABELS.get(kind, kind), fontsize=9.5)
        levels = ["as is", *(f"{r.level:g}" for r in ladder.along(ladder.datasets[0], kind) if r.kind == kind)]
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


def _worst(ladder: Ladder, name: str) -> str:
    rung = ladder.worst(name)
    return f"AUC {rung.auc}" + (f" at {LABELS.get(rung.kind, rung.kind)} {rung.level:g}" if rung.kind != CLEAN else "")
