"""`explain` as a user meets it: which faces, what is written, and the score against known masks."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from classifier.models.detector import Detector
from classifier.scoring import score
from core.errors import UserError
from core.manifest import Manifest
from pipelines.evaluation.explanation import LOCALISATION, PICTURE, explain_faces, explain_model
from tracking.runs import test_openings as openings
from tracking.store import Store


def test_mistakes_come_first(make_detector: Callable[..., Detector], faces: Path, cache: Path, tmp_path: Path) -> None:
    detector = make_detector()
    manifest = Manifest.read(faces).select(dataset="far")
    explained = explain_faces(detector, manifest, tmp_path, cache, methods=["grad-cam"], count=6)
    table = explained.table
    assert len(table) == 6
    assert list(table["correct"]) == sorted(table["correct"])
    val = manifest.select(split="val")
    scores = score(detector, val, cache)
    wrong = np.where(val.targets == 1, detector.threshold - scores, scores - detector.threshold)
    assert table["path"].iloc[0] == val.rows["path"].iloc[int(wrong.argmax())]
    with Image.open(tmp_path / PICTURE) as picture:
        assert picture.width > 300
        assert len(picture.convert("RGB").getcolors(1 << 24) or []) > 500
    assert explained.localisation.empty
    assert "no row names the mask" in explained.note
    chosen = explain_faces(detector, manifest, tmp_path, cache, methods=["grad-cam"], rows=[5, 2])
    assert list(chosen.table["path"]) == manifest.rows["path"].iloc[[5, 2]].tolist()


def test_maps_are_scored_against_known_masks(
    make_detector: Callable[..., Detector], cache: Path, tmp_path: Path
) -> None:
    """Faces with the weave in one corner only: the map of occlusion must beat the centred box."""
    random = np.random.default_rng(0)
    rows = []
    for number in range(10):
        low = Image.fromarray(random.integers(60, 140, (4, 4, 3), dtype=np.uint8))
        pixels = np.asarray(low.resize((32, 32), Image.Resampling.BICUBIC), dtype=np.int64)
        mask = np.zeros((32, 32), dtype=np.uint8)
        top, left = ((0, 0), (0, 20), (20, 0), (20, 20))[number % 4]
        mask[top : top + 12, left : left + 12] = 64 if number % 2 else 255  # laid on at a quarter, or wholly
        weave = 60 * (np.indices((32, 32)).sum(0) % 2)[..., None] * (mask[..., None] > 0)
        file = tmp_path / f"{number}.png"
        Image.fromarray((pixels + weave).clip(0, 255).astype(np.uint8)).save(file)
        Image.fromarray(mask).save(tmp_path / f"mask{number}.png")
        rows.append(
            {
                "path": file.name,
                "label": "fake",
                "dataset": "near",
                "method": "self-blend",
                "source": f"s{number}",
                "split": "train",
                "width": 32,
                "height": 32,
                "codec": "png",
                "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
                "mask": f"mask{number}.png",
            }
        )
    manifest = Manifest.build(rows, tmp_path)
    explained = explain_faces(
        make_detector(), manifest, tmp_path / "out", cache, methods=["occlusion"], count=2, split="train"
    )
    assert "the masks of 10 forged faces" in explained.note
    table = pd.read_csv(tmp_path / "out" / LOCALISATION).set_index("figure")
    assert set(table.index) == {"pointing", "iou"}
    assert table.loc["iou", "difference low"] > 0
    assert table.loc["iou", "groups"] == 10
    (tmp_path / "mask0.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"the mask .*mask0\.png cannot be read"):
        explain_faces(make_detector(), manifest, tmp_path / "out", cache, methods=["occlusion"], split="train")


def test_looking_at_test_rows_is_counted(
    register: Callable[..., int],
    make_detector: Callable[..., Detector],
    store: Store,
    faces: Path,
    cache: Path,
    tmp_path: Path,
) -> None:
    detector = make_detector(seed=7)
    number = register(detector, "explained")
    manifest = Manifest.read(faces).select(dataset="near")
    options = {"methods": ["grad-cam"], "count": 2}
    before = openings(store, "gates").get("near", 0)
    explain_model(store, str(number), manifest, tmp_path, cache, **options, split="val")
    assert openings(store, "gates").get("near", 0) == before
    explain_model(store, str(number), manifest, tmp_path, cache, **options, split="test")
    assert openings(store, "gates")["near"] == before + 1
    folder = detector.save(tmp_path / "folder")
    with pytest.raises(UserError, match="where the opening of test rows is counted"):
        explain_model(store, str(folder), manifest, tmp_path, cache, **options, split="test")
    with pytest.raises(UserError, match="row 999 is not in the manifest"):
        explain_model(store, str(folder), manifest, tmp_path, cache, rows=[999])
    with pytest.raises(UserError, match="has no tset rows: choose a --split of test, train, val"):
        explain_model(store, str(folder), manifest, tmp_path, cache, split="tset")
