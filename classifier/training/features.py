"""What a frozen backbone sees of each crop: computed once, kept on disk, shared by every trial that uses that backbone.

A store is the folder `features/<backbone digest>-<size>` of the cache. It holds shards, each a structured array of
(sha256, features), that are only ever added, each in one atomic step. So processes may fill one store at the same time:
at worst a crop stands in two shards, with the same features.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from classifier.models.backbones import head_keys, pooled, state_digest
from classifier.models.detector import Detector
from classifier.models.forensics import backbone_of
from classifier.scoring import BATCH_SIZE, batches
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
    folder = cache / "features" / f"{backbone_digest(detector)}-{detector.config.image_size}"
    folder.mkdir(parents=True, exist_ok=True)
    keys = manifest.rows["sha256"].to_numpy(dtype="S64")
    known = _places(folder)
    lacking = np.array([key not in known for key in keys], dtype=bool)
    if lacking.any():
        _fill(detector, manifest.where(lacking), cache, folder)
        known = _places(folder)
    shards = {file: np.load(file, mmap_mode="r")["features"] for file in {known[key][0] for key in keys}}
    return np.stack([shards[file][place] for file, place in (known[key] for key in keys)])


def _places(folder: Path) -> dict[bytes, tuple[Path, int]]:
    """Where each crop's features stand: shard and row."""
    places: dict[bytes, tuple[Path, int]] = {}
    for file in sorted(folder.glob("*.npy")):
        keys = np.load(file, mmap_mode="r")["sha256"]
        places.update({bytes(key): (file, row) for row, key in enumerate(keys)})
    return places


@torch.inference_mode()
def _fill(detector: Detector, manifest: Manifest, cache: Path, folder: Path) -> None:
    keys, first = np.unique(manifest.rows["sha256"].to_numpy(dtype="S64"), return_index=True)
    crops = load_crops(manifest, detector.config.image_size, cache)
    device = detector.mean.device
    was_training = detector.training
    detector.eval()
    parts: list[NDArray[np.float32]] = []
    done = start = 0
    try:
        for part in batches(len(keys), BATCH_SIZE, "features"):
            images = detector.normalise(crops.batch(first[part]).to(device))
            parts.append(pooled(backbone_of(detector.module), images).float().cpu().numpy())
            done = part.stop
            if done - start >= _SHARD_ROWS or done == len(keys):
                _write(folder, keys[start:done], np.concatenate(parts))
                start, parts = done, []
    finally:
        detector.train(was_training)


def _write(folder: Path, keys: NDArray[np.bytes_], features: NDArray[np.float32]) -> None:
    shard = np.empty(len(keys), dtype=[("sha256", "S64"), ("features", "<f4", (features.shape[1],))])
    shard["sha256"], shard["features"] = keys, features
    name = hashlib.sha256(keys.tobytes()).hexdigest()[:16]
    temporary = folder / f".{name}.{os.getpid()}.tmp"
    with temporary.open("wb") as file:
        np.save(file, shard, allow_pickle=False)
    temporary.replace(folder / f"{name}.npy")
