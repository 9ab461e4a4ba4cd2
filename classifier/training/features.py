"""What a frozen backbone sees of each crop: computed once, kept on disk, shared by every trial that uses that backbone.

They stand in the folder `features/<backbone digest>-<size>` of the cache (`core.cache`).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from classifier.models.backbones import head_keys, pooled, state_digest
from classifier.models.detector import Detector
from classifier.models.forensics import backbone_of
from classifier.scoring import BATCH_SIZE, batches
from core.cache import ContentCache
from core.manifest import Manifest
from faces.loading import load_crops

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
    was_training = detector.training
    detector.eval()
    parts: list[NDArray[np.float32]] = []
    start = 0
    try:
        for part in batches(len(rows), BATCH_SIZE, "features"):
            images = detector.normalise(crops.batch(rows[part]).to(device))
            parts.append(pooled(backbone_of(detector.module), images).float().cpu().numpy())
            if part.stop - start >= _SHARD_ROWS or part.stop == len(rows):
                known.add(keys[start : part.stop].tolist(), np.concatenate(parts))
                start, parts = part.stop, []
    finally:
        detector.train(was_training)
