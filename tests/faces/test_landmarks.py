"""Faces in crops: found at any size, in the crop's own pixels, and once."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from core.errors import UserError
from core.manifest import Manifest
from faces.landmarks import crop_detector, crop_faces, faces_in_crops, share_with_face
from faces.orl import _read

CROPS = [np.asarray(Image.fromarray(pixels[10:102]).convert("RGB")) for pixels in _read()[::80]]


def test_faces_are_found_at_every_size_and_in_the_same_place() -> None:
    finder = crop_detector()
    full = faces_in_crops(CROPS, finder)
    for size in (24, 32, 64, 300):
        resized = [np.asarray(Image.fromarray(crop).resize((size, size), Image.Resampling.BICUBIC)) for crop in CROPS]
        for face, reference in zip(faces_in_crops(resized, finder), full, strict=True):
            assert face is not None
            assert reference is not None
            assert face.landmarks is not None
            assert reference.landmarks is not None
            off = np.linalg.norm(face.landmarks / size - reference.landmarks / 92, axis=1)
            assert off.mean() < (0.04 if size == 24 else 0.025)  # of the crop's side


def test_noise_and_flat_pictures_hold_no_face() -> None:
    random = np.random.default_rng(0)
    pictures = [random.integers(0, 256, (48, 48, 3)).astype(np.uint8), np.full((64, 40, 3), 120, np.uint8)]
    assert faces_in_crops(pictures, crop_detector()) == [None, None]


def test_the_share_with_a_face_counts_every_picture_once() -> None:
    flat = np.full((92, 92, 3), 120, np.uint8)
    assert share_with_face([*CROPS, *[flat] * (70 - len(CROPS))], crop_detector()) == len(CROPS) / 70


def test_a_crop_is_looked_at_once(tmp_path: Path) -> None:
    rows = []
    for number, pixels in enumerate([*CROPS[:2], np.zeros((50, 50, 3), np.uint8)]):
        path = tmp_path / f"{number}.png"
        Image.fromarray(pixels).save(path)
        rows.append(
            {"path": path.name, "label": "real", "dataset": "d", "method": "pristine", "source": f"s{number}",
             "split": "train", "width": 9, "height": 9, "codec": "png",
             "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
        )  # fmt: skip
    manifest = Manifest.build(rows, tmp_path)
    first = crop_faces(manifest, tmp_path / "cache")
    assert [face is not None for face in first] == [True, True, False]
    for crop in manifest.files[:2]:
        crop.unlink()  # what is known is not read again
    again = crop_faces(manifest, tmp_path / "cache")
    for one, other in zip(first[:2], again[:2], strict=True):
        assert one is not None
        assert other is not None
        assert one.landmarks is not None
        assert other.landmarks is not None
        np.testing.assert_array_equal(one.landmarks, other.landmarks)
    assert again[2] is None
    (shard,) = (tmp_path / "cache" / "landmarks").glob("*.npy")
    shard.write_bytes(shard.read_bytes()[:-1])  # what is damaged is looked at again
    with pytest.raises(UserError, match="cannot be read"):
        crop_faces(manifest, tmp_path / "cache")


def test_a_face_at_the_edge_of_a_tight_crop_is_found_where_it_is() -> None:
    """Cut at the temple, its eyes stand where they stood in the whole picture (without a border: 14 pixels off)."""
    finder = crop_detector()
    off = []
    for crop, face in zip(CROPS, faces_in_crops(CROPS, finder), strict=True):
        assert face is not None
        assert face.landmarks is not None
        left = max(0, int(face.landmarks[:, 0].min()) - 8)
        cut = faces_in_crops([crop[:, left:]], finder)[0]
        assert cut is not None
        assert cut.landmarks is not None
        shift = np.array([left, 0])
        off.append(np.linalg.norm(cut.landmarks + shift - face.landmarks, axis=1).mean())
    assert np.mean(off) < 5  # of 92 pixels
