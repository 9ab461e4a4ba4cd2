"""Datasets of smooth blobs against the same with the weave of a bad generator, as folders that a run takes in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

SIDE = 32


def pictures(
    folder: Path, contrast: int, seed: int, *, real: int, fake: int, methods: tuple[str, ...] = ("m",)
) -> None:
    """`real/` and `fake/METHOD/` below `folder`; the weave of the fakes has this contrast."""
    random = np.random.default_rng(seed)
    weave = contrast * (np.indices((SIDE, SIDE)).sum(0) % 2)[..., None]
    plan = [("real", number) for number in range(real)]
    plan += [(f"fake/{methods[number % len(methods)]}", number) for number in range(fake)]
    for place, number in plan:
        low = Image.fromarray(random.integers(0, 200, (4, 4, 3), dtype=np.uint8))
        pixels = np.asarray(low.resize((SIDE, SIDE), Image.Resampling.BICUBIC), dtype=np.int64)
        pixels = pixels + random.integers(-4, 5, pixels.shape) + (weave if place != "real" else 0)
        (folder / place).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / place / f"{folder.name}{number}.png")


def configuration(folder: Path, names: tuple[str, ...], **changes: Any) -> Path:
    """A YAML file over datasets that lie in `folder`; detectors train their head on 32 pixels, in seconds."""
    content = {
        "project": "weave",
        "out": str(folder / "out"),
        "mlruns": str(folder / "mlruns"),
        "faces": [{"dataset": name, "source": str(folder / name), "already_cropped": True} for name in names],
        "datasets": {"train": [names[0]]},
        "detector": {"image_size": SIDE, "epochs": 2, "frozen_epochs": 2, "augmentation": 0, "device": "cpu"},
        "comparison": {"arms": ["none", "oversampling"], "seeds": [0, 1]},
    } | changes
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(content))
    return path
