"""By how much does a test AUC flatter, where the checkpoint was picked on the test set, and where it was picked on val?

Heads are trained on frozen features, many at once, each on people of its own: the people are dealt into train, val,
test and fresh. After each epoch a head is a checkpoint. The usual benchmark takes the one with the best test AUC and
quotes that AUC; ours takes the one with the best val AUC and quotes its test AUC. The bias of either is what it quotes
minus the AUC of the same checkpoint on fresh people, whom neither choice has seen; its mean is taken over the deals of
a seed, then over seeds, with the standard error over deals. `ratio` is ours, without its sign, of the other.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from record import hand_over, hardware, refuse, say, versions
from scipy.special import expit
from scipy.stats import rankdata

from classifier.config import DetectorConfig
from classifier.models.detector import Detector
from classifier.scoring import frozen_features
from core.manifest import Manifest
from faces.orl import embedded

GOAL = 0.25
PARTS = ("train", "val", "test", "fresh")
SHARES = (0.4, 0.2, 0.2, 0.2)  # of the people
Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]


def main() -> None:
    """Train, pick in two ways, compare with fresh people."""
    options = _options()
    machine = hardware("cpu", 1)
    with tempfile.TemporaryDirectory() as scratch:
        rows = Manifest.read(options.manifest) if options.manifest else embedded(Path(scratch) / "faces")
        cache = options.cache or Path(scratch) / "cache"
        if len(set(rows.groups)) < 20:
            refuse(
                f"{len(set(rows.groups))} people or sources are too few to be dealt into four parts: give 20 or more"
            )
        config = DetectorConfig(backbone=options.backbone, image_size=options.image_size, device="cpu")
        features = frozen_features(Detector.create(config), rows, cache).astype(np.float64)
        features = (features - features.mean(axis=0)) / (features.std(axis=0) + 1e-6)
        features /= np.sqrt(features.shape[1])
        seeds = [_one_seed(features, rows, options, seed) for seed in range(options.seeds)]
    biases = {way: np.concatenate([seed[way] for seed in seeds]) for way in ("test", "val")}
    means = {way: float(values.mean()) for way, values in biases.items()}
    ratio = abs(means["val"]) / means["test"] if means["test"] > 0 else float("inf")
    hand_over(
        {
            "benchmark": "selection_optimism",
            "settings": {
                name: value for name, value in vars(options).items() if name not in ("out", "manifest", "cache")
            },
            "data": {"manifest": rows.digest, "faces": len(rows), "groups": len(set(rows.groups))},
            "bias": {f"picked_on_{way}": round(value, 5) for way, value in means.items()},
            "standard_error": {
                f"picked_on_{way}": round(float(values.std() / np.sqrt(len(values))), 5)
                for way, values in biases.items()
            },
            "bias_by_seed": {
                f"picked_on_{way}": [round(float(seed[way].mean()), 5) for seed in seeds] for way in biases
            },
            "fresh_auc": {
                f"picked_on_{way}": round(float(np.mean([seed[f"fresh_{way}"].mean() for seed in seeds])), 4)
                for way in biases
            },
            "ratio": round(ratio, 4),
            "goal": GOAL,
            "met": ratio < GOAL,
            "hardware": machine,
            "versions": versions("numpy", "scipy", "timm", "counterforge"),
        },
        options.out,
    )


def _one_seed(features: Floats, rows: Manifest, options: argparse.Namespace, seed: int) -> dict[str, Floats]:
    """Bias [deals] of both ways to pick, and the AUC on fresh people of what they picked."""
    random = np.random.default_rng(seed)
    targets = rows.targets
    parts = deal(rows.groups, targets, options.deals, random)
    aucs: dict[str, list[Floats]] = {part: [] for part in PARTS[1:]}
    for logits in checkpoints(features, targets, parts["train"], options.epochs, random):
        for part, found in aucs.items():
            found.append(column_aucs(logits, targets, parts[part]))
    table = {part: np.stack(found) for part, found in aucs.items()}  # [epochs, deals]
    result: dict[str, Floats] = {}
    columns = np.arange(options.deals)
    for way in ("test", "val"):
        picked = table[way].argmax(axis=0)
        result[way] = table["test"][picked, columns] - table["fresh"][picked, columns]
        result[f"fresh_{way}"] = table["fresh"][picked, columns]
    say(f"seed {seed}: bias {result['test'].mean():+.4f} picked on test, {result['val'].mean():+.4f} picked on val")
    return result


def deal(groups: NDArray[Any], targets: NDArray[np.int64], deals: int, random: np.random.Generator) -> dict[str, Flags]:
    """[N, deals] which rows are in which part; a group is in one part, and each part has both classes."""
    names, of = np.unique(np.asarray(groups, dtype=np.str_), return_inverse=True)
    cuts = np.round(np.cumsum(SHARES)[:-1] * len(names)).astype(int)
    parts = {part: np.zeros((len(targets), deals), dtype=bool) for part in PARTS}
    for column in range(deals):
        for _ in range(100):
            members = np.split(random.permutation(len(names)), cuts)
            chosen = [np.isin(of, each) for each in members]
            if all(len(set(targets[each])) == 2 for each in chosen):
                break
        else:
            refuse("one class stands in too few people to be dealt into four parts: give more faces")
        for part, each in zip(PARTS, chosen, strict=True):
            parts[part][:, column] = each
    return parts


def checkpoints(
    features: Floats, targets: NDArray[np.int64], train: Flags, epochs: int, random: np.random.Generator
) -> list[Floats]:
    """Logits [N, deals] after each epoch of Adam on one linear head a deal, in steps of a tenth of its train rows."""
    train_share, weights = 0.1, np.zeros((features.shape[1], train.shape[1]))
    first, second, bias = np.zeros_like(weights), np.zeros_like(weights), np.zeros(train.shape[1])
    fake = targets[:, None].astype(np.float64)
    found = []
    for step in range(1, epochs * 10 + 1):
        batch = train & (random.random(train.shape) < train_share)
        error = np.where(batch, expit(features @ weights + bias) - fake, 0.0) / np.maximum(batch.sum(axis=0), 1)
        slope = features.T @ error
        first, second = 0.9 * first + 0.1 * slope, 0.999 * second + 0.001 * slope**2
        weights -= 0.02 * (first / (1 - 0.9**step)) / (np.sqrt(second / (1 - 0.999**step)) + 1e-8)
        bias -= error.sum(axis=0)
        if step % 10 == 0:
            found.append(features @ weights + bias)
    return found


def column_aucs(logits: Floats, targets: NDArray[np.int64], rows: Flags) -> Floats:
    """AUC [deals] of each column over its own rows: Mann and Whitney's U by ranks."""
    result = np.empty(logits.shape[1])
    for column in range(logits.shape[1]):
        here = rows[:, column]
        fake = targets[here] == 1
        positives = int(fake.sum())
        ranks = rankdata(logits[here, column])[fake].sum()
        result[column] = (ranks - positives * (positives + 1) / 2) / (positives * (len(fake) - positives))
    return result


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--manifest", type=Path, help="faces, all splits of it; the embedded ones by default")
    parser.add_argument("--cache", type=Path, help="folder of the crop cache and the feature store")
    parser.add_argument("--backbone", default="tf_efficientnet_lite0")
    parser.add_argument("--image-size", type=int, default=96)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--deals", type=int, default=200, help="of people into parts, for each seed")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--out", type=Path, help="file that gets the JSON object too")
    options = parser.parse_args()
    for name in ("seeds", "deals", "epochs"):
        if getattr(options, name) < 1:
            refuse(f"--{name} {getattr(options, name)} is less than 1: give more")
    return options


if __name__ == "__main__":
    main()
