"""Cues: each is read off a picture that was made to have it."""

from __future__ import annotations

import hashlib
import io
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from core.errors import UserError
from core.manifest import Manifest
from faces.audit.cues import FAMILIES, jpeg_quality, measure, measure_cues, numeric

PICTURE = np.clip(
    np.random.default_rng(0).normal(0, 6, (96, 96, 3))
    + 100
    + 60 * np.sin(np.arange(96) / 9)[:, None, None] * np.cos(np.arange(96) / 7)[None, :, None],
    0,
    255,
).astype(np.uint8)


def encode(pixels: np.ndarray = PICTURE, kind: str = "png", **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("quality", [10, 30, 50, 75, 90, 95])
def test_the_quality_of_a_jpeg_is_read_from_its_table(quality: int) -> None:
    found = measure(encode(kind="jpeg", quality=quality))
    assert found["quality"] == pytest.approx(quality, abs=1.5)
    assert jpeg_quality(np.full(64, 1.0)) > 99


def test_the_file_is_described() -> None:
    jpeg = measure(encode(kind="jpeg", subsampling="4:4:4", progressive=True, dpi=(72, 72)))
    assert (jpeg["file_format"], jpeg["subsampling"], jpeg["progressive"], jpeg["density"]) == ("jpeg", "4:4:4", 1, 72)
    assert measure(encode(kind="jpeg"))["subsampling"] == "4:2:0"
    exif = Image.Exif()
    exif[271] = "maker"
    assert measure(encode(kind="jpeg", exif=exif))["exif_bytes"] > 0
    png = measure(encode(PICTURE[:64, :, 0]))
    assert (png["file_format"], png["mode"], png["width"], png["height"]) == ("png", "L", 96, 64)
    assert png["subsampling"] is None
    assert math.isnan(png["quality"])  # type: ignore[arg-type]


def test_pixels_show_what_was_done_to_them() -> None:
    plain = measure(encode())
    noisy = np.clip(PICTURE + np.random.default_rng(1).normal(0, 12, PICTURE.shape), 0, 255).astype(np.uint8)
    soft = np.asarray(Image.fromarray(PICTURE).resize((32, 32)).resize((96, 96), Image.Resampling.BICUBIC))
    for name in ("log_noise", "log_laplacian", "log_band_high"):
        assert measure(encode(soft))[name] < plain[name] < measure(encode(noisy))[name]
    assert measure(encode(PICTURE // 2))["luma_mean"] == pytest.approx(plain["luma_mean"] / 2, abs=1)
    assert measure(encode(kind="jpeg", quality=10))["blockiness"] > plain["blockiness"] + 0.5
    grey = PICTURE[..., 0]
    assert measure(encode(grey // 8 * 8))["empty_levels"] > 0.5 > measure(encode(grey))["empty_levels"]
    red = PICTURE.copy()
    red[..., 0] = np.minimum(red[..., 0] + 40.0, 255)
    assert measure(encode(red))["red_green"] > plain["red_green"] + 30


def test_noise_is_measured_in_grey_levels() -> None:
    flat = np.clip(128 + np.random.default_rng(2).normal(0, 5, (200, 200)), 0, 255).astype(np.uint8)
    assert math.exp(measure(encode(flat))["log_noise"]) == pytest.approx(5, rel=0.05)  # type: ignore[arg-type]


def test_tiny_and_large_pictures_are_measured() -> None:
    assert math.isnan(measure(encode(PICTURE[:8, :8]))["log_noise"])  # type: ignore[arg-type]
    large = measure(encode(np.tile(PICTURE, (13, 15, 1))))
    assert (large["width"], large["height"]) == (1440, 1248)
    assert large["log_noise"] == pytest.approx(measure(encode())["log_noise"], abs=0.1)


def manifest(folder: Path, pictures: list[bytes]) -> Manifest:
    rows = []
    for number, data in enumerate(pictures):
        (folder / f"{number}.img").write_bytes(data)
        rows.append(
            {
                "path": f"{number}.img",
                "label": "fake" if number % 2 else "real",
                "dataset": "d",
                "method": "m",
                "source": str(number),
                "split": "train",
                "width": 50 + number,
                "height": 60,
                "codec": "h264" if number else "mpeg4",
                "sha256": hashlib.sha256(data).hexdigest(),
            }
        )
    return Manifest.build(rows, folder)


def test_a_manifest_is_measured_once(tmp_path: Path) -> None:
    rows = manifest(tmp_path, [encode(PICTURE + i) for i in range(3)] + [encode()])
    table = measure_cues(rows, tmp_path / "cues")
    assert {name for names in FAMILIES.values() for name in names} <= set(table)
    assert table["box_width"].tolist() == [50, 51, 52, 53]
    assert table["codec"].tolist() == ["mpeg4", "h264", "h264", "h264"]
    assert table["luma_mean"][0] == table["luma_mean"][3]
    for file in rows.files:
        file.unlink()
    again = measure_cues(rows, tmp_path / "cues")  # from the store alone
    pd.testing.assert_frame_equal(table.fillna(-1), again.fillna(-1), check_dtype=False)
    (shard,) = (tmp_path / "cues").glob("*.npy")
    shard.write_bytes(b"torn")
    with pytest.raises(UserError, match=r"row 0 of the manifest: .*0\.img cannot be read .*: ingest"):
        measure_cues(rows, tmp_path / "cues")


def test_columns_that_say_nothing_are_left_out(tmp_path: Path) -> None:
    rows = manifest(tmp_path, [encode(PICTURE + i, ("png", "jpeg")[i % 2]) for i in range(4)])
    table = measure_cues(rows)
    assert list(numeric(table, "format")) == ["file_format=png", "codec=mpeg4", "density"]
    assert numeric(table, "dimensions").columns.tolist() == ["box_width", "box_aspect"]
    assert numeric(table, "quantisation")["quality"].isna().tolist() == [True, False, True, False]
    assert set(numeric(table)) >= {"file_format=png", "bytes", "luma_mean"}
