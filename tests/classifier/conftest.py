"""Small faces that a detector learns within seconds: smooth blobs, and the same with the weave of a bad generator."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from classifier.config import DetectorConfig
from core.manifest import Manifest


@pytest.fixture
def write_faces(tmp_path: Path) -> Callable[..., Manifest]:
    def write(
        *, real: int = 12, fake: int = 8, splits: tuple[str, ...] = ("train", "val"), side: int = 32, name: str = "set"
    ) -> Manifest:
        """`real` and `fake` pictures for each of the splits."""
        random = np.random.default_rng(0)
        weave = 24 * (np.indices((side, side)).sum(0) % 2)[..., None]
        folder = tmp_path / name
        folder.mkdir()
        rows = []
        for split in splits:
            for label, count in (("real", real), ("fake", fake)):
                for i in range(count):
                    low = Image.fromarray(random.integers(0, 200, (4, 4, 3), dtype=np.uint8))
                    pixels = np.asarray(low.resize((side, side), Image.Resampling.BICUBIC), dtype=np.int64)
                    if label == "fake":
                        pixels = pixels + weave
                    file = folder / f"{split}-{label}-{i}.png"
                    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(file)
                    rows.append(
                        {
                            "path": file.name,
                            "label": label,
                            "dataset": name,
                            "method": "weave" if label == "fake" else "pristine",
                            "source": file.stem,
                            "split": split,
                            "width": side,
                            "height": side,
                            "codec": "png",
                            "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
                        }
                    )
        return Manifest.build(rows, folder)

    return write


@pytest.fixture
def small() -> Callable[..., DetectorConfig]:
    def config(**changes: object) -> DetectorConfig:
        """A detector that trains in a second, with every source of randomness switched on."""
        settings: dict[str, object] = {
            "backbone": "tf_efficientnet_lite0",
            "weights": "none",
            "image_size": 32,
            "batch_size": 8,
            "epochs": 3,
            "frozen_epochs": 1,
            "dropout": 0.3,
            "augmentation": 0.3,
            "device": "cpu",
            "precision": "float32",
        }
        return DetectorConfig.model_validate(settings | changes)

    return config
