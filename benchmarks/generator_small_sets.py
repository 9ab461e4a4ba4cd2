"""What adaptive discriminator augmentation (ADA) gives on 400 faces: on against off, equal wall-clock time.

Samples are compared with 400 other faces, which no training saw: a generator that repeats its 400 gains nothing by it.
Otherwise as in `generator_quality.py`. Beside the distances stands what explains them: ADA's strength p over time, the
discriminator's sign r_t by which it is steered, and how often each face was shown (epochs).
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

from plots import curves
from quality_runs import Run, floor, run_all
from record import hand_over, hardware, versions

GOAL = 0.7
ARMS = ("ada", "none")


def main() -> None:
    """Parse, train, compare, record."""
    options = _options()
    runs = [
        Run(
            arm=arm,
            seed=seed,
            minutes=options.minutes,
            manifest=str(options.manifest),
            train=options.faces,
            held_out=400,
            threads=options.threads,
            device=options.device,
            settings={"preset": options.preset, "image_size": options.image_size, "augment": arm},
        )
        for seed in range(options.seeds)
        for arm in ARMS
    ]
    results = run_all(runs, options.side_by_side, options.work)
    means = {
        arm: {
            measure: statistics.mean(results[f"{arm}-{seed}"][measure] for seed in range(options.seeds))
            for measure in ("kd_lite0", "fd_lite0", "kimg")
        }
        for arm in ARMS
    }
    ratio = {measure: means["ada"][measure] / means["none"][measure] for measure in ("kd_lite0", "fd_lite0")}
    if options.out:
        curves(results, "kd_lite0", options.out.with_suffix(".png"), f"{options.faces} faces, {options.image_size} px")
    hand_over(
        {
            "benchmark": "generator_small_sets",
            "settings": {
                "preset": options.preset,
                "image_size": options.image_size,
                "minutes": options.minutes,
                "faces": options.faces,
            },
            "runs": results,
            "means": means,
            "real_against_real": floor(options.manifest, options.image_size, 400, options.work / "cache"),
            "ratio": ratio,
            "goal": GOAL,
            "met": {name: value <= GOAL for name, value in ratio.items()},
            "hardware": hardware(options.device, options.threads),
            "versions": versions("counterforge"),
        },
        options.out,
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", type=Path, help="faces, at least 800 of them real and of the train split")
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--faces", type=int, default=400)
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--image-size", type=int, default=32)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--side-by-side", type=int, default=2, help="trainings at a time")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--work", type=Path, default=Path("work-small-sets"), help="folder; a killed call resumes")
    parser.add_argument("--out", type=Path, help="file of the record; the plot is written beside it")
    return parser.parse_args()


if __name__ == "__main__":
    main()
