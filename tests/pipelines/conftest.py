"""A registry with small detectors over small faces: smooth blobs, and the same with the weave of a bad generator."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.linear_model import LogisticRegression

from classifier.config import DetectorConfig
from classifier.models.backbones import head, pooled
from classifier.models.detector import Detector
from classifier.scoring import score
from core.manifest import Manifest
from faces.loading import load_crops
from pipelines.release.promotion import register_candidate
from tracking.models import log_detector
from tracking.runs import run
from tracking.store import Store, open_store

SIDE = 32


def draw(folder: Path, name: str, *, contrast: int, seed: int, each: int = 16) -> list[dict[str, object]]:
    """`each` reals and fakes of train, val and test; the weave of the fakes has this contrast."""
    random = np.random.default_rng(seed)
    weave = contrast * (np.indices((SIDE, SIDE)).sum(0) % 2)[..., None]
    rows: list[dict[str, object]] = []
    for split in ("train", "val", "test"):
        for label in ("real", "fake"):
            for number in range(each):
                low = Image.fromarray(random.integers(0, 200, (4, 4, 3), dtype=np.uint8))
                pixels = np.asarray(low.resize((SIDE, SIDE), Image.Resampling.BICUBIC), dtype=np.int64)
                pixels = pixels + random.integers(-4, 5, pixels.shape) + (weave if label == "fake" else 0)
                file = folder / f"{name}-{split}-{label}-{number}.png"
                Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(file)
                rows.append(
                    {
                        "path": file.name,
                        "label": label,
                        "dataset": name,
                        "method": "weave" if label == "fake" else "pristine",
                        "source": file.stem,
                        "split": split,
                        "width": SIDE,
                        "height": SIDE,
                        "codec": "png",
                        "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
                    }
                )
    return rows


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return open_store(tmp_path_factory.mktemp("registry") / "mlruns")


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The manifest of two datasets: in `near` the weave is plain, in `far` it is hardly there."""
    folder = tmp_path_factory.mktemp("faces")
    rows = draw(folder, "near", contrast=24, seed=0) + draw(folder, "far", contrast=6, seed=1)
    return Manifest.build(rows, folder).write(folder / "manifest.parquet")


@pytest.fixture(scope="session")
def make_detector(faces: Path, cache: Path) -> Callable[..., Detector]:
    """Makes a detector in a second: random features, and a head fitted to the train rows (or of zeros)."""

    def make(*, skilled: bool = True, seed: int = 0, backbone: str = "resnet18", size: int = SIDE) -> Detector:
        config = DetectorConfig(
            backbone=backbone, weights="none", image_size=size, seed=seed, device="cpu", precision="float32"
        )
        detector = Detector.create(config).eval()
        rows = Manifest.read(faces)
        detector.manifest_digest = rows.digest
        if not skilled:
            with torch.no_grad():
                head(detector.module).weight.zero_()
            return detector
        train = rows.select(split="train", dataset="near")
        with torch.inference_mode():
            images = load_crops(train, size, cache).batch(np.arange(len(train)))
            features = pooled(detector.module, detector.normalise(images)).numpy()
        scale = np.abs(features).mean() + 1e-9
        fit = LogisticRegression(C=1.0, max_iter=2000).fit(features / scale, train.targets)
        with torch.no_grad():
            head(detector.module).weight.copy_(torch.from_numpy(fit.coef_ / scale))
            head(detector.module).bias.copy_(torch.from_numpy(fit.intercept_))
        val = rows.select(split="val", dataset="near")
        detector.threshold = float(np.median(score(detector, val, cache)))
        return detector

    return make


@pytest.fixture(scope="session")
def register(store: Store, faces: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., int]:
    """Logs and registers a model with full lineage, and returns its version."""

    def make(model: Detector, name: str, **tags: str) -> int:
        folder = model.save(tmp_path_factory.mktemp("model") / name)
        digest = Manifest.read(faces).digest
        lineage = {"manifest": digest, "training_manifest": digest, "generator": "none"} | tags
        with run(store, "gates", name, key=name) as active:
            model_id = log_detector(active, name=name, folder=folder, tags=lineage)
        return register_candidate(store, model_id, faces, project="gates", datasets=("near",), tags={"arm": name})

    return make
