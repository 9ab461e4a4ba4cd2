"""Do synthetic fakes help where real-world fakes are rare? `counterforge compare` as a record: whatever it says.

Eight arms by three seeds, all else equal, trained on one dataset with one fake in ten and tested on several datasets;
the configuration says which (benchmarks/synthetic_lift.yaml: about 25 trainings, hours on two cores). The record holds
the whole table with intervals over groups and seeds, the paired differences with Holm's p-values, the conclusions and
the hours (of all detectors one after another). There is no goal but that every figure is there: `ratio` is the share of
detectors that were trained and scored on every dataset, and `lift` the best arm with synthetic faces against `none`,
which nobody may choose a model by.

A killed call goes on where it was; the same call on finished work answers at once.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from record import hand_over, hardware, peak_memory_mib, refuse, say, versions

from core.config import override, read_yaml, validate
from core.errors import UserError
from pipelines.configuration import RunConfig
from pipelines.experiments.arms import forged
from pipelines.experiments.comparison import Comparison, execute
from tracking.store import TrackingError

GOAL = 1.0


def main() -> None:
    """Compare, and hand over the record."""
    options = _options()
    try:
        settings = [*options.set, f"detector.device={options.device}"]
        content = override(read_yaml(options.config), settings)
        for source in content.get("faces", ()):
            source["source"] = str(options.data / source["source"])
        config = validate(RunConfig, content, str(options.config))
        plan = config.comparison
        machine = hardware(options.device, max(1, len(os.sched_getaffinity(0)) // options.workers))
        say(f"{len(plan.arms)} arms, {len(plan.seeds)} seeds, {options.workers} at a time")
        result = execute(config, options.workers)
    except (UserError, TrackingError) as error:
        refuse(str(error))
        return
    datasets = [dataset for dataset in dict.fromkeys(result.table["dataset"]) if dataset != "mean"]
    wanted = len(plan.arms) * len(plan.seeds) * len(datasets)
    figures = sum(value == value for row in _cells(result, datasets) for value in row["per_seed"])
    found = result.to_json()
    hand_over(
        {
            "benchmark": "synthetic_lift",
            "settings": config.model_dump(
                mode="json",
                include={"datasets", "keep_train_fakes", "synthetic_share", "psi", "comparison", "detector", "gan"},
            ),
            "table": found["table"],
            "differences": found["differences"],
            "lift": _lift(found["differences"], forged(plan.arms)),
            "conclusions": found["conclusions"],
            "notes": found["notes"],
            "test_rows_opened": found["openings"],
            "hours": {name: round(hours, 4) for name, hours in result.hours.items()},
            "hours_in_all": round(sum(result.hours.values()), 4),
            "workers": options.workers,
            "peak_memory_mib": round(peak_memory_mib()),
            "ratio": figures / wanted,
            "goal": GOAL,
            "met": figures / wanted >= GOAL,
            "hardware": machine,
            "versions": versions("counterforge", "timm", "scikit-learn"),
        },
        options.out,
    )
    if options.plot is not None:
        options.plot.parent.mkdir(parents=True, exist_ok=True)
        options.plot.write_bytes((result.folder / "forest.png").read_bytes())


def _cells(result: Comparison, datasets: list[str]) -> list[dict[str, Any]]:
    return list(result.table[result.table["dataset"].isin(datasets)].to_dict("records"))


def _lift(differences: list[dict[str, Any]], arms: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """By dataset, the arm with synthetic faces that came out highest against the reference, with its interval."""
    best: dict[str, dict[str, Any]] = {}
    for row in differences:
        if row["arm"] in arms and (row["dataset"] not in best or row["value"] > best[row["dataset"]]["value"]):
            best[row["dataset"]] = {name: row[name] for name in ("arm", "value", "low", "high", "p_holm")}
    return best


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path, nargs="?", default=Path(__file__).with_suffix(".yaml"))
    data = Path(os.environ.get("COUNTERFORGE_DATA", "."))
    parser.add_argument("--data", type=Path, default=data, help="folder that holds the datasets ($COUNTERFORGE_DATA)")
    parser.add_argument("--workers", type=int, default=1, help="detectors at a time, each with its share of the cores")
    parser.add_argument("--set", action="append", default=[], help="a setting of the file, such as detector.epochs=2")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, help="file of the record")
    parser.add_argument("--plot", type=Path, help="file of the forest plot")
    options = parser.parse_args()
    if options.workers < 1:
        refuse(f"--workers {options.workers} is none: give 1 or more")
    return options


if __name__ == "__main__":
    main()
