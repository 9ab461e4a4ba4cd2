"""The forest plot of a comparison: each arm's difference to the reference with its interval, a panel a domain."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from classifier.figures import COLOURS

_BETTER, _WORSE, _OPEN = COLOURS[0], COLOURS[1], "#666666"
_DPI = 100


def forest_plot(differences: pd.DataFrame, reference: str, seeds: int, *, metric: str = "AUC") -> Figure:
    """Differences with 95 % intervals; small dots are single seeds.

    Filled and coloured where Holm's p-value is under 0.05, hollow and grey where it is not.

    Args:
        differences: columns arm, domain, value, low, high, per_seed (list of floats), p_holm; rows in reading order.
        reference: the arm that stands at zero.
        seeds: how many seeds each value is the mean of.
    """
    arms, domains = (list(dict.fromkeys(differences[name])) for name in ("arm", "domain"))
    width = 1.5 + 0.085 * max(map(len, arms)) + 3.1 * len(domains)
    figure = Figure(figsize=(width, 1.9 + 0.42 * len(arms)), dpi=_DPI, layout="constrained")
    panels = figure.subplots(1, len(domains), sharey=True, sharex=False, squeeze=False)[0]
    for axes, domain in zip(panels, domains, strict=True):
        here = differences[differences["domain"] == domain]
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
        axes.set_title("mean over the domains" if domain == "mean" else str(domain), fontsize=11)
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
