"""Small faces for the generator's tests: two dozen smooth blobs that differ in place and colour."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from core.manifest import Manifest
from gan.config import PRESETS, GanConfig


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    """Results are bit for bit equal at one number of threads only, and one is fastest for networks this small."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def make_faces(root: Path, count: int = 24, size: int = 20) -> Manifest:
    """`count` real train crops of `size` pixels with their manifest."""
    rng = np.random.default_rng(0)
    axis = np.linspace(-1, 1, size)
    rows = []
    root.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        x, y = rng.uniform(-0.3, 0.3, 2)
        blob = np.exp(-3 * ((axis[None] - x) ** 2 + (axis[:, None] - y) ** 2))
        Image.fromarray((blob[..., None] * rng.uniform(120, 255, 3)).astype(np.uint8)).save(root / f"{index}.png")
        rows.append(
            {
                "path": f"{index}.png",
                "label": "real",
                "dataset": "blobs",
                "method": "pristine",
                "source": f"photo-{index}",
                "split": "train",
                "width": size,
                "height": size,
                "codec": "png",
                "sha256": hashlib.sha256((root / f"{index}.png").read_bytes()).hexdigest(),
            }
        )
    manifest = Manifest.build(rows, root)
    manifest.write(root / "manifest.parquet")
    return manifest


@pytest.fixture(scope="session")
def write_faces() -> Callable[..., Manifest]:
    """(folder, count = 24, size = 20) -> a manifest of blobs that were written there."""
    return make_faces


@pytest.fixture(scope="session")
def differences() -> Callable[[Any, Any], list[str]]:
    """Places at which two states are not equal bit for bit."""

    def places(a: Any, b: Any, where: str = "state") -> list[str]:
        if isinstance(a, torch.Tensor):
            return [] if torch.equal(a, b) else [where]
        if isinstance(a, Mapping):
            return [place for key in a.keys() | b.keys() for place in places(a[key], b[key], f"{where}.{key}")]
        return [] if a == b else [where]

    return places


@pytest.fixture(scope="session")
def blobs(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return make_faces(tmp_path_factory.mktemp("blobs"))


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


SMALLEST = GanConfig(
    preset="tiny",
    image_size=16,
    kimg=0.08,
    batch_size=8,
    z_width=8,
    w_width=8,
    learning_rate=0.0025,
    noise_inputs=True,
    ada_kimg=0.1,
    ada_target=0.0,
    penalty_every=4,
    checkpoint_every_seconds=0.001,
    samples_every_kimg=100,
    device="cpu",
)


@pytest.fixture(scope="session")
def smallest() -> GanConfig:
    """Ten steps of a network for 16 pixels, in which ADA's probability rises and penalties are due twice or more."""
    return SMALLEST


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """A quarter of the preset's channels, for what takes hundreds of steps to see: they take a third of the time."""
    monkeypatch.setitem(PRESETS, "tiny", PRESETS["tiny"]._replace(channel_max=16))


@pytest.fixture(scope="session")
def trained(blobs: Manifest, cache: Path, smallest: GanConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The generator of an uninterrupted job."""
    from gan.training import train

    return train(blobs, smallest, tmp_path_factory.mktemp("trained"), cache)
