"""What the tests of studies share: tiny faces of two datasets, and one tracking folder."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from classifier.config import DetectorConfig
from core.manifest import Manifest
from tracking.store import Store, open_store
from tuning.trial import TrialContext, TrialSpec


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """One for all tests: making the database takes a second or two."""
    return open_store(tmp_path_factory.mktemp("tuning") / "mlruns")


@pytest.fixture(scope="session")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """Dataset a with train, val and test, dataset b without train: smooth blobs, and fakes that carry a weave."""
    random = np.random.default_rng(0)
    weave = 24 * (np.indices((32, 32)).sum(0) % 2)[..., None]
    folder = tmp_path_factory.mktemp("faces")
    rows = []
    for dataset, split, count in (
        ("a", "train", 12),
        ("a", "val", 8),
        ("b", "val", 8),
        ("a", "test", 6),
        ("b", "test", 6),
    ):
        for i in range(2 * count):
            fake = i % 2 == 1
            low = Image.fromarray(random.integers(0, 200, (4, 4, 3), dtype=np.uint8))
            pixels = np.asarray(low.resize((32, 32), Image.Resampling.BICUBIC), dtype=np.int64) + (weave if fake else 0)
            file = folder / f"{dataset}-{split}-{i}.png"
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(file)
            rows.append(
                {
                    "path": file.name,
                    "label": "fake" if fake else "real",
                    "dataset": dataset,
                    "method": "weave" if fake else "pristine",
                    "source": file.stem,
                    "split": split,
                    "width": 32,
                    "height": 32,
                    "codec": "png",
                    "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
                }
            )
    return Manifest.build(rows, folder)


@pytest.fixture
def base() -> TrialSpec:
    """A detector that trains in half a second."""
    return TrialSpec(
        detector=DetectorConfig(
            weights="none",
            image_size=32,
            batch_size=8,
            epochs=1,
            frozen_epochs=1,
            augmentation=0.0,
            device="cpu",
            precision="float32",
        )
    )


@pytest.fixture
def context(request: pytest.FixtureRequest, tmp_path: Path, manifest: Manifest, store: Store) -> TrialContext:
    """Of an experiment of the test's own; the cache is shared."""
    cache = Path(manifest.root) / "cache"
    return TrialContext(manifest, ("a",), ("b",), None, tmp_path / "work", cache, store, request.node.name[:60])


@pytest.fixture
def runs(store: Store) -> Callable[[str], list[Any]]:
    """All runs of an experiment."""

    def of(experiment: str) -> list[Any]:
        return list(store.client.search_runs([store.experiment(experiment)], max_results=1000))

    return of
