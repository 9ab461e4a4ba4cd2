"""From crops to scores, and how long one takes; and to what a frozen backbone sees of them.

Such features are computed once, kept in the folder `features/<backbone digest>-<size>` of the cache (`core.cache`), and
shared by every trial that uses the backbone.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from classifier.calibration import probabilities
from classifier.models.backbones import head_keys, pooled, state_digest
from classifier.models.detector import Detector
from classifier.models.ensemble import FaceModel
from classifier.models.forensics import backbone_of
from core.cache import ContentCache
from core.device import autocast, keep_freed_memory, pick_precision
from core.manifest import Manifest
from core.progress import progress_bar
from faces.loading import Crops, load_crops

BATCH_SIZE = 64


def score(
    detector: FaceModel, manifest: Manifest, cache: Path, batch_size: int = BATCH_SIZE, precision: str = "float32"
) -> NDArray[np.float32]:
    """[N] calibrated P(fake) of the manifest's rows, in their order.

    Streams from the crop cache, so memory does not grow with the manifest. Batches are formed in the order of the
    crops' hashes, so that a manifest with its rows shuffled gets the same scores to the last bit.

    Args:
        detector: on the device to compute on; its mode is left as it was.
        manifest: any splits.
        cache: folder of the crop cache.
        batch_size: crops in memory at once; changes scores by rounding only.
        precision: "float32", or "bfloat16"/"auto", up to three times faster; moves a score in its third decimal.
    """
    crops = load_crops(manifest, detector.config.image_size, cache)
    order = np.argsort(manifest.rows["sha256"].to_numpy(dtype=np.str_), kind="stable")
    result = np.empty(len(manifest), dtype=np.float32)
    result[order] = probabilities(logits(detector, crops, order, batch_size, precision), detector.temperature)
    return result


@torch.inference_mode()
def logits(
    detector: FaceModel, crops: Crops, rows: NDArray[np.int64], batch_size: int = BATCH_SIZE, precision: str = "float32"
) -> NDArray[np.float32]:
    """[len(rows)] uncalibrated logits of "fake" for those rows of the crops, in eval mode."""
    keep_freed_memory()
    device = detector.mean.device
    precision = pick_precision(precision, device)
    result = np.empty(len(rows), dtype=np.float32)
    with evaluating(detector), autocast(device, precision):
        for part in batches(len(rows), batch_size, "scoring"):
            result[part] = detector(crops.batch(rows[part]).to(device)).cpu().numpy()
    return result


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Eval mode within the block."""
    was_training = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(was_training)


def batches(total: int, size: int, name: str) -> Iterator[slice]:
    """Slices that cover range(total), with a progress bar on stderr that counts crops."""
    with progress_bar(total, name, "crop", delay=3, leave=False) as bar:
        for start in range(0, total, size):
            part = slice(start, min(start + size, total))
            yield part
            bar.update(part.stop - part.start)


_SHARD_ROWS = 4096  # what a killed run loses at most


def backbone_digest(detector: Detector) -> str:
    """16 hex digits of the backbone's weights below the head, and of the normalisation."""
    backbone = backbone_of(detector.module)
    above = set(head_keys(backbone))
    state = {key: tensor for key, tensor in backbone.state_dict().items() if key not in above}
    return state_digest({**state, ".mean": detector.mean, ".std": detector.std})


def frozen_features(detector: Detector, manifest: Manifest, cache: Path) -> NDArray[np.float32]:
    """[N, F] float32 features of the backbone for each row, in eval mode; computes what the store lacks.

    They are the head's input, or the first part of it where forensic branches, which learn, stand beside.

    Half precision would halve the store, but then the head would be trained on other numbers than it is used on.
    """
    width = int(backbone_of(detector.module).head_hidden_size)  # type: ignore[arg-type]
    folder = cache / "features" / f"{backbone_digest(detector)}-{detector.config.image_size}"
    known = ContentCache(folder, ("<f4", (width,)))
    keys: list[str] = manifest.rows["sha256"].tolist()
    lacking = np.array(known.lacking(keys), dtype=np.int64)
    if len(lacking):
        _fill(known, detector, manifest, lacking[np.argsort(np.array(keys)[lacking])], cache)
    return np.asarray(known.rows(keys), dtype=np.float32)


@torch.inference_mode()
def _fill(known: ContentCache, detector: Detector, manifest: Manifest, rows: NDArray[np.int64], cache: Path) -> None:
    """Compute rows in the order of their hashes, so that the order of the manifest does not matter."""
    keys = manifest.rows["sha256"].to_numpy(dtype=object)[rows]
    crops = load_crops(manifest, detector.config.image_size, cache)
    device = detector.mean.device
    parts: list[NDArray[np.float32]] = []
    start = 0
    with evaluating(detector):
        for part in batches(len(rows), BATCH_SIZE, "features"):
            images = detector.normalise(crops.batch(rows[part]).to(device))
            parts.append(pooled(backbone_of(detector.module), images).float().cpu().numpy())
            if part.stop - start >= _SHARD_ROWS or part.stop == len(rows):
                known.add(keys[start : part.stop].tolist(), np.concatenate(parts))
                start, parts = part.stop, []


_WARM_UP = 3


@torch.inference_mode()
def milliseconds_per_image(detectors: Sequence[FaceModel], repeats: int = 30, batch_size: int = 1) -> list[float]:
    """The median wall time of a forward pass of each detector, in ms an image, on the device that it lies on.

    From uint8 pictures of its own size in memory to probabilities; decoding and face detection are not in it.
    """
    random = torch.Generator().manual_seed(0)
    shapes = [(batch_size, 3, detector.config.image_size, detector.config.image_size) for detector in detectors]
    batches = [
        torch.randint(0, 256, shape, generator=random).to(detector.mean.device, torch.uint8)
        for shape, detector in zip(shapes, detectors, strict=True)
    ]
    times: list[list[float]] = [[] for _ in detectors]
    for turn in range(_WARM_UP + repeats):
        for own, detector, images in zip(times, detectors, batches, strict=True):
            started = time.perf_counter()
            detector.probability(images).cpu()  # the copy waits for the device
            if turn >= _WARM_UP:
                own.append((time.perf_counter() - started) * 1000 / batch_size)
    return [float(np.median(own)) for own in times]
