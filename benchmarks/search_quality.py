"""How near each sampler comes to the best known settings, at equal compute: gp, tpe with hyperband, random, grid.

Two problems on features of the frozen default backbone: ORL photographs (learn `orl-swap`, judge on `orl-resynth`)
and, where its folder is given, `stylegan140k` (learn train, judge val). A trial trains a logistic head on them by
mini-batches; six of its settings are searched. Compute is counted in epochs, so that pruned trials cost what they
used. Regret is the AUC of the best known settings (over every trial of every run) minus the best of the run so far.
The default sampler is to be the best one or tied with it: its mean final regret is within one standard error of the
lowest.

    python benchmarks/search_quality.py [--stylegan FOLDER] [--repeats 5] [--trials 40] [--figure regret.png]
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import optuna
from numpy.typing import NDArray
from record import hand_over, hardware, versions
from sklearn.metrics import roc_auc_score

from classifier.config import DetectorConfig
from classifier.models.detector import Detector
from classifier.scoring import frozen_features
from core.manifest import Manifest
from faces.extraction import IngestConfig
from faces.ingest import ingest
from faces.orl import embedded
from tuning.config import StudyConfig
from tuning.space import Choice, PrunerName, Range, SamplerName, Space, Value, plan, pruner, sampler, suggest

EPOCHS, BATCH = 27, 32
SPACE: Space = {
    "learning_rate": Range(low=1e-4, high=1.0, log=True),
    "weight_decay": Range(low=1e-6, high=1.0, log=True),
    "dropout": Range(low=0.0, high=0.8),
    "components": Range(low=8, high=256, log=True),
    "label_smoothing": Range(low=0.0, high=0.2),
    "power": Range(low=0.25, high=1.0),
}
GRID: Space = {
    "learning_rate": Choice(choices=(1e-3, 1e-2, 1e-1)),
    "weight_decay": Choice(choices=(1e-5, 1e-3, 1e-1)),
    "dropout": Choice(choices=(0.1, 0.5)),
    "components": Choice(choices=(32, 128)),
    "label_smoothing": Choice(choices=(0.05,)),
    "power": Choice(choices=(0.5,)),
}
ARMS: dict[str, tuple[SamplerName, PrunerName]] = {
    "gp": ("gp", "none"),
    "tpe+hyperband": ("tpe", "hyperband"),
    "random": ("random", "none"),
    "grid": ("grid", "none"),
}
_BY_DEFAULT = (StudyConfig().sampler, StudyConfig().pruner)
DEFAULT = next(arm for arm, pair in ARMS.items() if pair == _BY_DEFAULT)
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Problem:
    """Features [N, F] and labels [N] to learn from, and to be judged on."""

    name: str
    x: Floats
    y: Floats
    x_val: Floats
    y_val: Floats

    def curve(self, values: dict[str, Value], seed: int):  # type: ignore[no-untyped-def]
        """The val AUC after each epoch, as they are computed."""
        power, count = float(values["power"]), int(values["components"])
        raised, judged = np.sign(self.x) * np.abs(self.x) ** power, np.sign(self.x_val) * np.abs(self.x_val) ** power
        mean = raised.mean(0)
        _, s, basis = np.linalg.svd(raised - mean, full_matrices=False)
        basis = basis[:count].T / np.maximum(s[:count], 1e-9) * np.sqrt(len(self.x))
        x, x_val = (raised - mean) @ basis, (judged - mean) @ basis
        smooth = float(values["label_smoothing"])
        y = self.y * (1 - 2 * smooth) + smooth
        random = np.random.default_rng(seed)
        w, b = np.zeros(x.shape[1]), 0.0
        rate, decay, drop = (float(values[name]) for name in ("learning_rate", "weight_decay", "dropout"))
        for _ in range(EPOCHS):
            order = random.permutation(len(x))
            for part in np.array_split(order, -(-len(x) // BATCH)):
                seen = x[part] * (random.random(x[part].shape) >= drop) / (1 - drop)
                gap = 1 / (1 + np.exp(-np.clip(seen @ w + b, -30, 30))) - y[part]
                w -= rate * (seen.T @ gap / len(part) + decay * w)
                b -= rate * float(gap.mean())
            yield float(roc_auc_score(self.y_val, x_val @ w + b))


def features(rows: Manifest, cache: Path, size: int) -> Floats:
    """[N, F] of the frozen default backbone."""
    detector = Detector.create(DetectorConfig(image_size=size, device="cpu"))
    return np.asarray(frozen_features(detector, rows, cache), dtype=np.float64)


def problem(name: str, learn: Manifest, judge: Manifest, cache: Path, size: int, most: int) -> Problem:
    """A problem of at most `most` rows a side, drawn evenly."""
    sides = [rows.where(np.arange(len(rows)) % max(1, len(rows) // most) == 0) for rows in (learn, judge)]
    x, x_val = (features(rows, cache, size) for rows in sides)
    return Problem(name, x, sides[0].targets.astype(float), x_val, sides[1].targets.astype(float))


def run(task: Problem, arm: str, seed: int, budget: int) -> list[tuple[int, float]]:
    """(epochs spent, best AUC so far) after each trial, until `budget` epochs are spent."""
    name, prune = ARMS[arm]
    space = GRID if name == "grid" else SPACE
    listed = plan(name, space, seed)
    study = optuna.create_study(direction="maximize", pruner=pruner(prune, EPOCHS), study_name=f"{arm}-{seed}")
    spent, best, place = 0, 0.0, 0
    points: list[tuple[int, float]] = []
    while spent < budget and (listed is None or place < len(listed)):
        study.sampler = sampler(name, space, seed, place)
        if listed is not None:
            study.enqueue_trial(dict(listed[place]))
        trial = study.ask()
        auc, pruned = 0.0, False
        for step, value in enumerate(task.curve(suggest(trial, space), seed), 1):
            auc = value
            spent += 1
            trial.report(auc, step)
            if step < EPOCHS and trial.should_prune():
                pruned = True
                break
        study.tell(trial, None if pruned else auc, state=optuna.trial.TrialState.PRUNED if pruned else None)
        best = best if pruned else max(best, auc)
        points.append((spent, best))
        place += 1
    return points


def main() -> None:
    """Prepare the features, search, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stylegan", type=Path, help="folder of stylegan140k, with real/ and fake/")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--trials", type=int, default=40, help="whole trials that the budget of epochs pays for")
    parser.add_argument("--rows", type=int, default=400, help="most rows a side")
    parser.add_argument("--image-size", type=int, default=96)
    parser.add_argument("--work", type=Path, help="folder that keeps faces and features")
    parser.add_argument("--figure", type=Path, help="PNG of regret over epochs, with bands")
    parser.add_argument("--out", type=Path, help="write the record to this JSON file")
    options = parser.parse_args()
    machine = hardware("cpu", 1)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    began = time.monotonic()
    scratch = tempfile.TemporaryDirectory()
    work = options.work or Path(scratch.name)
    orl = embedded(work / "orl")
    learn, judge = orl.select(dataset="orl-swap", split="train"), orl.select(dataset="orl-resynth", split="val")
    tasks = [problem("orl", learn, judge, work / "cache", options.image_size, options.rows)]
    if options.stylegan is not None:
        taken = ingest(options.stylegan, work / "stylegan140k", IngestConfig(already_cropped=True))
        tasks.append(
            problem(
                "stylegan140k",
                taken.select(split="train"),
                taken.select(split="val"),
                work / "cache",
                options.image_size,
                options.rows,
            )
        )
    budget = options.trials * EPOCHS
    found = {
        task.name: {arm: [run(task, arm, seed, budget) for seed in range(options.repeats)] for arm in ARMS}
        for task in tasks
    }
    record = {"benchmark": "search_quality", "problems": {}, "epochs": budget, "repeats": options.repeats}
    met = True
    for name, arms in found.items():
        top = max(points[-1][1] for runs in arms.values() for points in runs)
        finals = {arm: [top - points[-1][1] for points in runs] for arm, runs in arms.items()}
        means = {arm: statistics.mean(values) for arm, values in finals.items()}
        errors = {
            arm: statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0.0
            for arm, values in finals.items()
        }
        lowest = min(means, key=lambda arm: means[arm])
        tied = means[DEFAULT] <= means[lowest] + max(errors[DEFAULT], errors[lowest])
        met &= tied
        record["problems"][name] = {  # type: ignore[index]
            "best_known_auc": round(top, 5),
            "regret": {arm: round(value, 5) for arm, value in means.items()},
            "standard_error": {arm: round(value, 5) for arm, value in errors.items()},
            "runs": {arm: [round(value, 5) for value in values] for arm, values in finals.items()},
            "trials": {arm: round(statistics.mean(map(len, runs)), 1) for arm, runs in arms.items()},
            "lowest": lowest,
            "ratio": round(means[DEFAULT] / means[lowest], 3) if means[lowest] else 1.0,
        }
    if options.figure is not None:
        draw(found, options.figure)
    record |= {
        "default": DEFAULT,
        "goal": "the default's mean final regret within one standard error of the lowest, on every problem",
        "met": met,
        "seconds": round(time.monotonic() - began, 1),
        "hardware": machine,
        "versions": versions("optuna", "scikit-learn"),
    }
    scratch.cleanup()
    hand_over(record, options.out)


def draw(found: dict[str, dict[str, list[list[tuple[int, float]]]]], path: Path) -> None:
    """Mean regret over epochs spent, with the standard error as a band."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4 * len(found), 4), layout="constrained")
    panels = figure.subplots(1, len(found), squeeze=False)[0]
    for axes, (name, arms) in zip(panels, found.items(), strict=True):
        top = max(points[-1][1] for runs in arms.values() for points in runs)
        for arm, runs in arms.items():
            at = np.arange(EPOCHS, max(points[-1][0] for points in runs) + 1)
            curves = np.stack([_at(points, at) for points in runs])
            mean, error = top - curves.mean(0), curves.std(0, ddof=min(1, len(runs) - 1)) / len(runs) ** 0.5
            (line,) = axes.plot(at, mean, label=arm)
            axes.fill_between(at, mean - error, mean + error, alpha=0.2, color=line.get_color(), lw=0)
        axes.set_title(name)
        axes.set_xlabel("epochs spent")
        axes.set_ylabel("regret in AUC")
        axes.set_yscale("symlog", linthresh=1e-3)
        axes.legend(frameon=False)
    figure.savefig(path, dpi=120)


def _at(points: list[tuple[int, float]], at: NDArray[np.int64]) -> Floats:
    spent, best = np.array([p[0] for p in points]), np.array([p[1] for p in points])
    place = np.searchsorted(spent, at, side="right") - 1
    return np.where(place >= 0, best[np.maximum(place, 0)], 0.5)


if __name__ == "__main__":
    main()
