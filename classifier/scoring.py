"""From crops to scores, and nothing else."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from classifier.calibration import probabilities
from classifier.device import autocast, pick_precision
from classifier.ensemble import FaceModel
from faces.allocation import keep_freed_memory
from faces.loading import Crops, load_crops
from faces.manifest import Manifest

BATCH_SIZE = 64


def score(
    detector: FaceModel, manifest: Manifest, cache: Path, batch_size: int = BATCH_SIZE, precision: str = "32"
) -> NDArray[np.float32]:
    """[N] calibrated P(fake) of the manifest's rows, in their order.

    Streams from the crop cache, so memory does not grow with the manifest. Batches are formed in the order of the
    crops' hashes, so that a manifest with its rows shuffled gets the same scores to the last bit.

    Args:
        detector: on the device to compute on; its mode is left as it was.
        manifest: any splits.
        cache: folder of the crop cache.
        batch_size: crops in memory at once; changes scores by rounding only.
        precision: "32", or "bf16"/"auto", which is up to three times faster and moves a score in its third decimal.
    """
    crops = load_crops(manifest, detector.config.image_size, cache)
    order = np.argsort(manifest.rows["sha256"].to_numpy(dtype=np.str_), kind="stable")
    result = np.empty(len(manifest), dtype=np.float32)
    result[order] = probabilities(logits(detector, crops, order, batch_size, precision), detector.temperature)
    return result


@torch.inference_mode()
def logits(
    detector: FaceModel, crops: Crops, rows: NDArray[np.int64], batch_size: int = BATCH_SIZE, precision: str = "32"
) -> NDArray[np.float32]:
    """[len(rows)] uncalibrated logits of "fake" for those rows of the crops, in eval mode."""
    keep_freed_memory()
    device = detector.mean.device
    precision = pick_precision(precision, device)
    result = np.empty(len(rows), dtype=np.float32)
    was_training = detector.training
    detector.eval()
    try:
        with autocast(device, precision):
            for part in batches(len(rows), batch_size, "scoring"):
                result[part] = detector(crops.batch(rows[part]).to(device)).cpu().numpy()
    finally:
        detector.train(was_training)
    return result


def batches(total: int, size: int, name: str) -> Iterator[slice]:
    """Slices that cover range(total), with a progress bar on stderr that counts crops."""
    interval = 0.5 if sys.stderr.isatty() else 15.0
    with tqdm(total=total, desc=name, unit="crop", leave=False, mininterval=interval, delay=3) as bar:
        for start in range(0, total, size):
            part = slice(start, min(start + size, total))
            yield part
            bar.update(part.stop - part.start)
