"""How often do 95 % intervals hold the truth, where frames of one person resemble each other?

People are drawn, and frames of each: half of the variance of a score is the person's, and people have 1, 2, ... frames
(geometrically, five on average; one more where a person has both classes). A normal score shifted in fakes has a known
AUC. Each draw asks our interval (bootstrap over people) and the percentile bootstrap over frames, which is what most
tables print, whether they hold it; and our paired interval whether it holds 0, the difference to another model of the
same AUC. The goal is that ours holds the truth in 93 to 97 % of all draws.
"""

from __future__ import annotations

import argparse
import math
import os
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from record import hand_over, hardware, say, versions
from scipy.special import expit
from scipy.stats import norm

from metrics.binary import Ranking
from metrics.intervals import bootstrap_all, paired_difference

GROUPS, AUCS = (30, 60, 120), (0.7, 0.9, 0.97)
FRAMES, WITHIN = 5.0, 0.5  # frames a person on average; share of the variance that is between people
GOAL = (0.93, 0.97)


def main() -> None:
    """Draw, ask, count."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="also write the record here")
    parser.add_argument("--draws", type=int, default=400, help="datasets a setting")
    parser.add_argument("--replicates", type=int, default=200, help="of each bootstrap")
    parser.add_argument("--processes", type=int, default=min(2, len(os.sched_getaffinity(0))))
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    machine, started = hardware("cpu", 1), time.monotonic()
    settings = [(groups, auc, both) for both in (False, True) for groups in GROUPS for auc in AUCS]
    jobs = [(*setting, options.draws, options.replicates, options.seed) for setting in settings]
    rows = []
    with ProcessPoolExecutor(options.processes) as pool:
        for row in pool.map(_one, jobs):
            say(f"{row['people']:4} people, AUC {row['auc']}, {row['classes']:26} ours {row['ours']:.3f}, "
                f"by frame {row['by_frame']:.3f}, difference {row['difference']:.3f}")  # fmt: skip
            rows.append(row)
    mean = {name: float(np.mean([row[name] for row in rows])) for name in ("ours", "by_frame", "difference")}
    hand_over(
        {
            "benchmark": "interval_coverage",
            "settings": {**vars(options), "out": None, "frames": FRAMES, "variance_between_people": WITHIN},
            "coverage": rows,
            "mean": mean,
            "lowest": {name: min(row[name] for row in rows) for name in mean},
            "highest": {name: max(row[name] for row in rows) for name in mean},
            "standard_error_of_one_setting": round(math.sqrt(0.05 * 0.95 / options.draws), 4),
            "ratio": (1 - mean["by_frame"]) / (1 - mean["ours"]) if mean["ours"] < 1 else None,
            "ratio_is": "misses of the bootstrap over frames for each of ours",
            "goal": f"ours holds the truth in {GOAL[0]:.0%} to {GOAL[1]:.0%} of all draws",
            "met": GOAL[0] <= mean["ours"] <= GOAL[1],
            "seconds": round(time.monotonic() - started, 1),
            "hardware": machine,
            "versions": versions("numpy", "scipy"),
        },
        options.out,
    )


def _one(job: tuple[int, float, bool, int, int, int]) -> dict[str, Any]:
    """One setting: the share of draws in which each interval holds the truth."""
    groups, auc, both, draws, replicates, seed = job
    random = np.random.default_rng([seed, groups, int(auc * 100), both])
    shift = math.sqrt(2) * norm.ppf(auc)
    held = dict.fromkeys(("ours", "by_frame", "difference"), 0)
    for draw in range(draws):
        sizes = random.geometric(1 / FRAMES, size=groups) + both
        person = np.repeat(np.arange(groups), sizes)
        fake = np.arange(len(person)) % 2 if both else (person >= groups // 2).astype(int)
        scores, other = (_scores(random, person, groups) for _ in range(2))
        score = expit(shift * fake + scores)
        rival = expit(shift * fake + 0.8 * scores + 0.6 * other)  # as good, and correlated with it
        ours = bootstrap_all(fake, score, person, ("auc",), replicates=replicates, seed=draw)["auc"]
        held["ours"] += ours.low <= auc <= ours.high
        low, high = _by_frame(fake, score, replicates, random)
        held["by_frame"] += low <= auc <= high
        difference = paired_difference(fake, rival, score, person, replicates=replicates, seed=draw)
        held["difference"] += difference.low <= 0 <= difference.high
    classes = "each person has both" if both else "each person has one class"
    return {"people": groups, "auc": auc, "classes": classes, **{name: n / draws for name, n in held.items()}}


def _scores(random: np.random.Generator, person: np.ndarray, groups: int) -> np.ndarray:
    """[N] normal scores of unit variance."""
    between, within = random.normal(size=groups)[person], random.normal(size=len(person))
    return math.sqrt(WITHIN) * between + math.sqrt(1 - WITHIN) * within


def _by_frame(fake: np.ndarray, score: np.ndarray, replicates: int, random: np.random.Generator) -> tuple[float, float]:
    """The percentile interval over frames, drawn within each class so that none is lost."""
    weights = np.zeros((replicates, len(fake)))
    for kind in (0, 1):
        own = np.flatnonzero(fake == kind)
        weights[:, own] = random.multinomial(len(own), np.full(len(own), 1 / len(own)), size=replicates)
    low, high = np.quantile(Ranking(fake, score)(weights).auc(), [0.025, 0.975])
    return float(low), float(high)


if __name__ == "__main__":
    main()
