"""One picture of what the detector's benchmarks recorded: `python benchmarks/detector_figure.py docs/images/X.png`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

RESULTS = Path(__file__).parent / "results"


def main() -> None:
    """Read the four records and draw them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("picture", type=Path)
    figure = Figure(figsize=(11, 7.5), layout="constrained")
    axes = figure.subplots(2, 2)
    panels = {
        "detector_speed": _speed,
        "interval_coverage": _coverage,
        "selection_optimism": _optimism,
        "audit_power": _audit,
    }
    for (name, draw), place in zip(panels.items(), axes.flat, strict=True):
        draw(json.loads((RESULTS / f"{name}.json").read_text()), place)
    figure.savefig(parser.parse_args().picture, dpi=110)


def _speed(record: dict[str, Any], axes: Axes) -> None:
    names = {"training": "training", "scoring": "scoring,\nfresh files", "scoring_again": "scoring,\nagain"}
    values = [record["ratio"][name] for name in names]
    axes.bar(list(names.values()), values, color="C0")
    for place, name in enumerate(names):
        if name in record["goal"]:
            axes.hlines(record["goal"][name], place - 0.4, place + 0.4, color="C3", label="goal" if not place else None)
        axes.text(place, values[place], f"{values[place]:.1f}x", ha="center", va="bottom")
    axes.set(title="Images/s against a plain timm loop", ylabel="times as many", ylim=(0, 1.15 * max(values)))
    axes.legend()


def _coverage(record: dict[str, Any], axes: Axes) -> None:
    settings = sorted(record["coverage"], key=lambda each: (each["classes"], each["auc"], each["people"]))
    place = np.arange(len(settings))
    axes.axhspan(0.93, 0.97, color="C2", alpha=0.2, label="goal")
    axes.plot(place, [each["ours"] for each in settings], "o", label="over people (ours)")
    axes.plot(place, [each["by_frame"] for each in settings], "x", color="C3", label="over frames")
    axes.set(
        title="How often a 95 % interval of the AUC holds the truth",
        xlabel="18 settings: one or both classes a person,\nAUC 0.7 to 0.97, 30 to 120 people",
        xticks=[],
        ylabel="coverage",
    )
    axes.legend()


def _optimism(record: dict[str, Any], axes: Axes) -> None:
    bias, error = record["bias"], record["standard_error"]
    ways = {"picked_on_test": "picked on test", "picked_on_val": "picked on val (ours)"}
    axes.bar(
        list(ways.values()),
        [bias[way] for way in ways],
        yerr=[error[way] for way in ways],
        color=["C3", "C0"],
        capsize=4,
    )
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set(title="By how much the quoted AUC flatters", ylabel="quoted AUC - AUC on fresh people")


def _audit(record: dict[str, Any], axes: Axes) -> None:
    for name, found in record["confounds"].items():
        strengths = sorted(map(float, found["probe_auc"]))
        axes.plot(strengths, [found["probe_auc"][str(each)] for each in strengths], "o-", label=name)
    axes.axhline(0.5, color="black", linewidth=0.8)
    axes.set(title="AUC of a probe that sees no face", xlabel="strength of the planted confound", xscale="log")
    axes.set_xticks(strengths, [f"{each:g}" for each in strengths])
    axes.minorticks_off()
    axes.legend()


if __name__ == "__main__":
    main()
