"""Pictures of what the benchmarks recorded."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator


def curves(results: Mapping[str, Mapping[str, Any]], measure: str, path: Path, title: str) -> None:
    """A line a run over the minutes of training, a colour an arm (what stands before the last dash of its name)."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    arms = list(dict.fromkeys(name.rpartition("-")[0] for name in results))
    for name, result in results.items():
        arm, _, seed = name.rpartition("-")
        points = result["curve"]
        axes.plot(
            [point["minutes"] for point in points],
            [point[measure] for point in points],
            color=f"C{arms.index(arm)}",
            marker="o",
            markersize=3,
            label=arm if seed == "0" else None,
        )
    axes.set(xlabel="minutes of training", ylabel=measure, title=title)
    values = [point[measure] for result in results.values() for point in result["curve"]]
    if max(values) > 5 * min(values) > 0:  # on one scale the lower ones could not be told apart
        axes.set_yscale("log")
        axes.yaxis.set_minor_locator(LogLocator(subs=(2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter("{x:g}")
    else:
        axes.set_ylim(0, None)
    axes.legend()
    axes.grid(which="both", alpha=0.3)
    figure.savefig(path, dpi=110)
