"""The picture of a robustness ladder: AUC above, errors at the fixed threshold below, one column a degradation."""

from __future__ import annotations

from itertools import cycle

from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from classifier.degradations import LABELS
from classifier.figures import COLOURS
from classifier.robustness import CLEAN, Ladder

_GREY = "#666666"


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
