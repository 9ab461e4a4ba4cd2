"""How near samples come to the reals after equal wall-clock time: ours, ours with `ns-r1`, and stylegan2-pytorch 1.9.0.

Each training has one thread, and two run side by side: an hour on two cores. All learn from
the same real train faces of a manifest at 32 px, and the samples of their last weights are compared with those faces:
KD-lite0 and FD-lite0 (see `gan.quality`), equally many on each side, psi 1, beside two halves of the reals.
`ratio` is of the means over seeds.

`ns-r1` has the same networks, learning rate and augmentation, and the gamma of {0.2, 1} that suited it better.

The other side runs as it ships at batch 16 (its step of 4 to 6 accumulated batches would be as slow again); its moving
average starts at step 20,000, and before that its generator itself is measured.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
from pathlib import Path
from typing import Any

from plots import curves
from quality_runs import Run, floor, run_all
from record import hand_over, hardware, refuse, versions

GOALS = {"ns-r1": 0.75, "peer": 0.6}
ARMS: dict[str, dict[str, Any]] = {"ours": {}, "ns-r1": {"loss": "ns-r1", "gamma": 1.0}, "peer": {}}


def main() -> None:
    """Parse, train, compare, record."""
    options = _options()
    if importlib.util.find_spec("stylegan2_pytorch") is None and "peer" in options.arms:
        refuse("stylegan2-pytorch is not importable: see benchmarks/README.md, or give --arms ours ns-r1")
    runs = [
        Run(
            arm=arm,
            seed=seed,
            minutes=options.minutes,
            manifest=str(options.manifest),
            train=10**9,
            held_out=0,
            threads=options.threads,
            device=options.device,
            settings=ARMS[arm] | {"preset": options.preset, "image_size": options.image_size},
        )
        for seed in range(options.seeds)
        for arm in options.arms
    ]
    results = run_all(runs, options.side_by_side, options.work)
    means = {
        arm: {
            measure: statistics.mean(results[f"{arm}-{seed}"][measure] for seed in range(options.seeds))
            for measure in ("kd_lite0", "fd_lite0", "images_per_second", "kimg")
        }
        for arm in options.arms
    }
    ratio = {
        f"{measure} against {arm}": means["ours"][measure] / means[arm][measure]
        for arm in options.arms
        if arm != "ours"
        for measure in ("kd_lite0", "fd_lite0")
    }
    goal = {name: GOALS[name.rpartition(" ")[2]] for name in ratio}
    if options.out:
        curves(
            results, "kd_lite0", options.out.with_suffix(".png"), f"{options.image_size} px, {options.threads} thread"
        )
    hand_over(
        {
            "benchmark": "generator_quality",
            "settings": {"preset": options.preset, "image_size": options.image_size, "minutes": options.minutes},
            "runs": results,
            "means": means,
            "real_against_real": floor(options.manifest, options.image_size, 400, options.work / "cache"),
            "ratio": ratio,
            "goal": goal,
            "met": {name: value <= goal[name] for name, value in ratio.items()},
            "hardware": hardware(options.device, options.threads),
            "versions": versions("stylegan2-pytorch", "counterforge"),
        },
        options.out,
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", type=Path, help="faces whose real train rows are learnt")
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS))
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--image-size", type=int, default=32)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--side-by-side", type=int, default=2, help="trainings at a time")
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--work", type=Path, default=Path("work-generator-quality"), help="folder; a killed call resumes"
    )
    parser.add_argument("--out", type=Path, help="file of the record; the plot is written beside it")
    return parser.parse_args()


if __name__ == "__main__":
    main()
