"""What does each forensic branch bring beside RGB? The same detector with none, with each, and with all of them.

Everything else is equal: data, seeds, epochs. A detector learns the train split of one manifest and is scored on its
sealed test split and on every manifest of `--also`, of which all rows are test. Figures are AUC by source over all
seeds with 95 % intervals over groups and seeds, the paired differences to RGB alone and Holm's p-values. There is no
goal but that every figure is there: `ratio` is the share of them.

Detectors that are trained are kept in the working folder, so that a killed call goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from statistics import median
from typing import Any

import pandas as pd
from record import hand_over, hardware, refuse, say, versions

from classifier.config import DetectorConfig
from classifier.evaluation import score_table
from classifier.figures import forest_plot
from classifier.models.detector import Detector
from classifier.models.forensics import NONE, kinds_of
from classifier.scoring import score
from classifier.training import HISTORY, train
from core.config import override, validate
from core.errors import UserError
from core.manifest import Manifest
from pipelines.experiments.comparison import tabulate

GOAL = 1.0


def main() -> None:
    """Train and score every kind with every seed, and hand over the record."""
    options = _options()
    try:
        record, differences = measure(options)
    except UserError as error:
        refuse(str(error))
        return
    hand_over(record, options.out)
    if options.plot is not None:
        options.plot.parent.mkdir(parents=True, exist_ok=True)
        forest_plot(differences, NONE, options.seeds).savefig(options.plot)


def measure(options: argparse.Namespace) -> tuple[dict[str, Any], pd.DataFrame]:
    """The record, and the table of differences for the plot."""
    machine = hardware(options.device, len(os.sched_getaffinity(0)))
    kinds = [NONE, *("+".join(kinds_of(kind)) for kind in options.kinds)]
    if len(set(kinds)) < len(kinds):
        raise UserError(f"{' '.join(kinds)}: one of them stands twice (none is always there)")
    manifest = Manifest.read(options.manifest)
    sealed = [manifest.where((manifest.rows["split"] == "test").to_numpy()), *map(Manifest.read, options.also)]
    base = override({"device": options.device}, options.set)
    tables: dict[tuple[str, int], pd.DataFrame] = {}
    speeds: dict[str, list[float]] = {kind: [] for kind in kinds}
    for seed in range(options.seeds):
        for kind in kinds:
            config = validate(DetectorConfig, {**base, "forensics": kind, "seed": seed}, "--set")
            folder = train(manifest, config, options.work / f"{kind}-{seed}", options.work / "cache")
            epochs = json.loads((folder / HISTORY).read_text())["epochs"]
            speeds[kind] += [epoch["images_per_second"] for epoch in epochs]
            detector = Detector.load(folder, options.device)
            tables[kind, seed] = pd.concat(
                [score_table(rows.rows, score(detector, rows, options.work / "cache")) for rows in sealed],
                ignore_index=True,
            )
            say(f"{kind}, seed {seed}: trained and scored")
    aucs, differences = tabulate(tables, NONE)
    return {
        "benchmark": "forensic_ablation",
        "settings": {**base, "seeds": options.seeds, "kinds": kinds},
        "data": {"trained_on": manifest.digest, "tested_on": [rows.digest for rows in sealed]},
        "auc": aucs.to_dict("records"),
        "differences": differences.to_dict("records"),
        "images_per_second": {kind: round(median(rates), 1) for kind, rates in speeds.items()},
        "ratio": float(aucs["auc"].notna().mean()),
        "goal": GOAL,
        "met": bool(aucs["auc"].notna().all()),
        "hardware": machine,
        "versions": versions("counterforge", "timm", "scikit-learn"),
    }, differences


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", type=Path, help="faces with a train, val and test split")
    parser.add_argument("--also", type=Path, nargs="*", default=[], help="manifests that are test as a whole")
    parser.add_argument(
        "--kinds",
        nargs="+",
        default=["srm", "spectrum", "texture", "srm+spectrum+texture"],
        help="of branches, each beside RGB",
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--set", action="append", default=[], help="a setting of the detector, such as epochs=4")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--work", type=Path, default=Path("runs/forensic_ablation"), help="folder of the detectors")
    parser.add_argument("--out", type=Path, help="file of the record")
    parser.add_argument("--plot", type=Path, help="file of the forest plot")
    options = parser.parse_args()
    if options.seeds < 1:
        refuse(f"--seeds {options.seeds} is none: give 1 or more")
    return options


if __name__ == "__main__":
    main()
