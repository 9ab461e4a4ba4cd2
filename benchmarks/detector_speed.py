"""Images/s of a detector's training and scoring, against the loop that a user of timm would write.

That loop: torchvision's ImageFolder over the crops' files, timm's own transform for training (Pillow), a DataLoader of
as many workers as threads with the default collation, float32, contiguous, AdamW. Same backbone, weights, batch,
pictures and number of epochs, in a process of its own, so that it has the allocator that its user would have. Rounds
alternate: our trainer stops after each epoch while the others do theirs; the first epoch of each is left out.
`bare_model` is our network on random tensors, at the same batch and precision: what no loading or augmentation could
improve on. Steps of it and of our trainer alternate one by one, and the share is of the medians of their rates.

Scoring is timed twice: with an empty cache, decoding included (`scoring`, which has the goal), and again.
`frozen` is the training of a head alone, on stored features against running the backbone again each epoch.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from record import hand_over, hardware, refuse, say, versions
from sklearn.metrics import roc_auc_score
from timm.data import create_transform
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder

from classifier.config import DetectorConfig
from classifier.models.backbones import create, spec
from classifier.models.detector import Detector
from classifier.optim import prepare
from classifier.scoring import score
from classifier.training import _Job, ignore, train
from core.device import autocast, pick_device, pick_precision
from core.manifest import Manifest
from faces.orl import embedded

GOALS = {"training": 2.5, "scoring": 3.0, "auc_difference": 0.0, "share_of_bare_model": 0.95, "frozen": 50.0}


def main() -> None:
    """Parse, measure, record."""
    options = _options()
    torch.set_num_threads(options.threads)
    machine = hardware(options.device, options.threads)
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch)
        rows = _faces(options, work)
        config = DetectorConfig(
            backbone=options.backbone,
            weights=options.weights,
            image_size=options.image_size,
            batch_size=options.batch_size,
            epochs=options.rounds + 1,
            frozen_epochs=0,
            early_stopping_epochs=0,
            device=options.device,
        )
        plain = _Apart(rows, config, work / "folder", options.threads)
        rates = _train(rows, config, work, plain)
        share = _share(rows, config, work)
        ours = train(rows, config, work / "detector", work / "cache")  # finished already: its folder
        scoring, auc = _score(rows, Detector.load(ours, options.device), plain, work, options.rounds)
        frozen = _frozen(rows, config, work, options.frozen_epochs)
    ratio = {
        "training": rates["ours"]["images_per_second"] / rates["plain"]["images_per_second"],
        "scoring": scoring["ours"] / scoring["plain"],
        "scoring_again": scoring["ours_again"] / scoring["plain"],
        "auc_difference": auc["ours"] - auc["plain"],
        "share_of_bare_model": share["ours"] / share["bare_model"],
        "frozen": frozen["stored"] / frozen["run_again"],
    }
    hand_over(
        {
            "benchmark": "detector_speed",
            "settings": {name: value for name, value in vars(options).items() if name not in ("out", "manifest")},
            "data": {"manifest": str(rows.digest), "train": len(rows.select(split="train")), "val": len(_val(rows))},
            "precision": share.pop("precision"),
            "training": rates,
            "step_by_step_images_per_second": share,
            "scoring_images_per_second": {name: round(value, 2) for name, value in scoring.items()},
            "val_auc": auc,
            "frozen_head_images_per_second": frozen,
            "ratio": {name: round(value, 4) for name, value in ratio.items()},
            "goal": GOALS,
            "met": {name: ratio[name] >= goal for name, goal in GOALS.items()},
            "hardware": machine,
            "versions": versions("timm", "torchvision", "pillow", "counterforge"),
        },
        options.out,
    )


def _train(rows: Manifest, config: DetectorConfig, work: Path, plain: _Apart) -> dict[str, Any]:
    """Images/s of all sides, from the second epoch on, in turns."""
    rounds: dict[str, list[float]] = {"ours": [], "plain": []}

    def others(metrics: Mapping[str, float], epoch: int) -> None:
        each = {"ours": metrics["images_per_second"]}  # by the trainer's own clock: neither side's holds validation
        count, seconds = plain.epoch()
        each["plain"] = count / seconds
        if epoch > 1:
            for name, rate in each.items():
                rounds[name].append(rate)
        say(f"epoch {epoch}: " + ", ".join(f"{name} {rate:.1f}" for name, rate in each.items()) + " images/s")

    train(rows, config, work / "detector", work / "cache", others)
    return {
        name: {
            "images_per_second": round(statistics.median(values), 3),
            "rounds": [round(value, 3) for value in values],
        }
        for name, values in rounds.items()
    }


def _score(
    rows: Manifest, detector: Detector, plain: _Apart, work: Path, rounds: int
) -> tuple[dict[str, float], dict[str, float]]:
    """Images/s of scoring val, medians over alternating rounds, and the AUC that each side reaches."""
    val = _val(rows)
    seconds: dict[str, list[float]] = {"ours": [], "ours_again": [], "plain": []}
    scores: dict[str, Any] = {}
    for number in range(rounds):
        cache = work / f"scoring-{number}"
        for name, call in (
            ("ours", lambda: score(detector, val, cache, precision="auto")),  # noqa: B023  called at once
            ("ours_again", lambda: score(detector, val, cache, precision="auto")),  # noqa: B023
            ("plain", plain.score),
        ):
            began = time.perf_counter()
            scores[name] = call()
            seconds[name].append(time.perf_counter() - began)
        shutil.rmtree(cache)
    rates = {name: len(val) / statistics.median(values) for name, values in seconds.items()}
    say("scoring: " + ", ".join(f"{name} {rate:.1f}" for name, rate in rates.items()) + " images/s")
    auc = {"ours": roc_auc_score(val.targets, scores["ours"]), "plain": roc_auc_score(plain.targets, scores["plain"])}
    return rates, {name: round(float(value), 4) for name, value in auc.items()}


def _frozen(rows: Manifest, config: DetectorConfig, work: Path, epochs: int) -> dict[str, float]:
    """Images/s of training a head, whole calls of `train`, and by how much the scores of the two ways differ."""
    settings = {"finetune": "head", "augmentation": 0.0, "precision": "float32", "epochs": epochs}
    head = DetectorConfig.model_validate(config.model_dump() | settings)
    count = len(rows.select(split="train")) * epochs
    cache = work / "cache"
    began = time.perf_counter()
    train(rows, head.model_copy(update={"epochs": 1}), work / "first", cache)
    first = time.perf_counter() - began  # fills the store
    began = time.perf_counter()
    stored = train(rows, head, work / "stored", cache)
    with_store = time.perf_counter() - began
    with mock.patch("classifier.training._stored", return_value=False):
        began = time.perf_counter()
        again = train(rows, head, work / "again", cache)
        without = time.perf_counter() - began
    one, other = (score(Detector.load(folder, config.device), _val(rows), cache) for folder in (stored, again))
    gap = float(np.abs(one - other).max())
    say(f"head: {count / with_store:.0f} images/s on stored features, {count / without:.0f} without, scores {gap:.1e}")
    return {
        "stored": round(count / with_store, 1),
        "run_again": round(count / without, 1),
        "seconds_of_one_epoch_that_fills_the_store": round(first, 2),
        "largest_difference_of_scores": gap,
    }


class _Plain:
    """The loop that a user of timm would write."""

    def __init__(self, rows: Manifest, config: DetectorConfig, folder: Path, workers: int) -> None:
        for split in ("train", "val"):
            part = rows.select(split=split)
            for file, label in zip(part.files, part.rows["label"], strict=True):
                place = folder / split / label
                place.mkdir(parents=True, exist_ok=True)
                (place / f"{len(list(place.iterdir())):06}{file.suffix}").symlink_to(file.resolve())
        row = spec(config.backbone)
        self.device = pick_device(config.device)
        self.network = create(config.backbone, config.weights, config.image_size, config.seed).to(self.device)

        def loader(split: str, training: bool) -> DataLoader[Any]:
            transform = create_transform(
                config.image_size, is_training=training, mean=row.mean, std=row.std, crop_pct=1.0
            )
            faces = ImageFolder(str(folder / split), transform)
            return DataLoader(faces, config.batch_size, shuffle=training, num_workers=workers)

        self.train_loader, self.val_loader = loader("train", True), loader("val", False)
        self.targets = self._fake(torch.tensor(self.val_loader.dataset.targets)).numpy()  # type: ignore[attr-defined]
        self.optimizer = torch.optim.AdamW(self.network.parameters(), lr=5e-4, weight_decay=config.weight_decay)

    def epoch(self) -> tuple[int, float]:
        """Faces and seconds."""
        self.network.train()
        began, count = time.perf_counter(), 0
        for images, labels in self.train_loader:
            outputs = self.network(images.to(self.device)).squeeze(1)
            loss = F.binary_cross_entropy_with_logits(outputs, self._fake(labels).float().to(self.device))
            self.optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
            count += len(images)
        _wait_for(self.device)
        return count, time.perf_counter() - began

    @torch.no_grad()
    def score(self) -> list[float]:
        """P(fake) of val, in the order of the folder."""
        self.network.eval()
        parts = [torch.sigmoid(self.network(images.to(self.device))).squeeze(1).cpu() for images, _ in self.val_loader]
        return torch.cat(parts).tolist()

    def _fake(self, labels: Tensor) -> Tensor:
        """ImageFolder counts classes by the alphabet."""
        index = self.val_loader.dataset.class_to_idx["fake"]  # type: ignore[attr-defined]
        return (labels == index).long()


class _Apart:
    """`_Plain` in a process of its own, which waits while it is not asked."""

    def __init__(self, rows: Manifest, config: DetectorConfig, folder: Path, threads: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, other = context.Pipe()
        context.Process(target=_serve_plain, args=(other, rows, config, folder, threads)).start()
        other.close()
        self.targets: NDArray[np.int64] = self.pipe.recv()

    def epoch(self) -> tuple[int, float]:
        """See `_Plain.epoch`."""
        return tuple(self._ask("epoch"))

    def score(self) -> list[float]:
        """See `_Plain.score`."""
        return list(self._ask("score"))

    def _ask(self, name: str) -> Any:
        self.pipe.send(name)
        return self.pipe.recv()


def _serve_plain(pipe: Connection, rows: Manifest, config: DetectorConfig, folder: Path, threads: int) -> None:
    torch.set_num_threads(threads)
    plain = _Plain(rows, config, folder, threads)
    pipe.send(plain.targets)
    with contextlib.suppress(EOFError):  # the other side ended
        while True:
            pipe.send(getattr(plain, pipe.recv())())


class _Bare:
    """Our network and optimizer on random tensors that lie ready."""

    def __init__(self, config: DetectorConfig) -> None:
        self.device = pick_device(config.device)
        self.network = Detector.create(config).module.to(self.device).train()
        self.precision = pick_precision(config.precision, self.device, self.network)
        self.optimizer = torch.optim.AdamW(self.network.parameters(), lr=1e-6)
        shape = (config.batch_size, 3, config.image_size, config.image_size)
        images = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        self.images = images.to(self.device, memory_format=torch.channels_last)
        self.targets = (torch.arange(config.batch_size, device=self.device) % 2).float()

    def step(self, count: int) -> None:
        """One, on so many of the pictures."""
        with autocast(self.device, self.precision):
            outputs = self.network(self.images[:count]).squeeze(1)
        loss = F.binary_cross_entropy_with_logits(outputs.float(), self.targets[:count])
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()


def _share(rows: Manifest, config: DetectorConfig, work: Path) -> dict[str, Any]:
    """Images/s of steps of our trainer and of the bare model in turns, medians without the first of each."""
    job, bare = _Job(rows, config, work / "share", work / "cache", ignore), _Bare(config)
    prepare(job.detector.module, config, 0)
    parts = job._parts()
    rates: dict[str, list[float]] = {"ours": [], "bare_model": []}
    for part in parts:
        for name, step in (
            ("ours", lambda: job._step(part, False, len(parts))),  # noqa: B023  called at once
            ("bare_model", lambda: bare.step(len(part))),  # noqa: B023
        ):
            _wait_for(bare.device)
            began = time.perf_counter()
            step()
            _wait_for(bare.device)
            rates[name].append(len(part) / (time.perf_counter() - began))
        job.progress.step += 1
    medians: dict[str, Any] = {name: round(statistics.median(values[1:]), 3) for name, values in rates.items()}
    say(f"step by step: ours {medians['ours']:.1f}, bare model {medians['bare_model']:.1f} images/s")
    return medians | {"steps": len(parts) - 1, "precision": bare.precision}


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _val(rows: Manifest) -> Manifest:
    return rows.select(split="val")


def _faces(options: argparse.Namespace, work: Path) -> Manifest:
    """Train and val rows: of the manifest that was given, or of the embedded faces; at most `--faces` of each class."""
    manifest = Manifest.read(options.manifest) if options.manifest else embedded(work / "faces")
    rows = manifest.select(split=("train", "val"))
    kept = rows.rows.groupby(["split", "label"], observed=True).head(options.faces).index
    rows = rows.where(rows.rows.index.isin(kept))
    for split in ("train", "val"):
        if len(set(rows.select(split=split).targets)) < 2:
            refuse(f"the {split} rows of {options.manifest} are of one class: give a manifest with both")
    return rows


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--manifest", type=Path, help="faces to train on; the embedded ones by default")
    parser.add_argument("--faces", type=int, default=2000, help="of each class and split, at most")
    parser.add_argument("--backbone", default="tf_efficientnet_lite0")
    parser.add_argument("--weights", default="imagenet", help="imagenet, none, or a file")
    parser.add_argument("--image-size", type=int, default=192)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5, help="epochs that are timed, after one that is not")
    parser.add_argument("--frozen-epochs", type=int, default=20, help="of the head that is trained alone")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="of every side")
    parser.add_argument("--out", type=Path, help="file that gets the JSON object too")
    options = parser.parse_args()
    if options.rounds < 1:
        refuse(f"--rounds {options.rounds} is less than 1: give 5, say")
    return options


if __name__ == "__main__":
    main()
