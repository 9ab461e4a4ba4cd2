"""The store of decoded crops: equal to a plain decoding, shared by processes, whole after a kill."""

from __future__ import annotations

import hashlib
import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import faces.loading
from core.errors import UserError
from core.manifest import Manifest
from faces.loading import decode, load_crops
from faces.media import decode_image

SIZE = 16


def write_crops(root: Path, count: int, *, side: int = 24, first: int = 0) -> Manifest:
    """Random PNG crops with a manifest on disk."""
    root.mkdir(parents=True, exist_ok=True)
    rows = []
    for number in range(first, first + count):
        pixels = np.random.default_rng(number).integers(0, 256, (side, side, 3), dtype=np.uint8)
        path = root / f"{number}.png"
        Image.fromarray(pixels).save(path)
        rows.append(row(path, str(number)))
    manifest = Manifest.build(rows, root)
    manifest.write(root / "manifest.parquet")
    return manifest


def row(path: Path, source: str) -> dict[str, object]:
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    return {
        "path": path.name, "label": "real", "dataset": "d", "method": "pristine", "source": source, "split": "train",
        "width": 24, "height": 24, "codec": "png", "sha256": sha256,
    }  # fmt: skip


def plain(manifest: Manifest, size: int = SIZE) -> np.ndarray:
    """[N, 3, S, S] as Pillow decodes and resizes them, one after another."""
    return plain_of(manifest, list(range(len(manifest))), size)


def plain_of(manifest: Manifest, rows: list[int], size: int = SIZE) -> np.ndarray:
    pictures = []
    for file in (manifest.files[row] for row in rows):
        with Image.open(file) as image:
            resized = image.convert("RGB").resize((size, size), Image.Resampling.BICUBIC)
        pictures.append(np.asarray(resized).transpose(2, 0, 1))
    return np.stack(pictures)


def store_files(cache: Path) -> tuple[Path, Path]:
    return cache / f"crops-{SIZE}.u8", cache / f"crops-{SIZE}.index"


def test_equals_plain_decoding_in_any_order(tmp_path: Path) -> None:
    manifest = write_crops(tmp_path / "crops", 7)
    crops = load_crops(manifest, SIZE, tmp_path / "cache")
    assert len(crops) == 7
    order = [3, 0, 6, 6, 1]
    batch = crops.batch(order)
    assert batch.dtype == torch.uint8
    assert batch.is_contiguous(memory_format=torch.channels_last)
    np.testing.assert_array_equal(batch.numpy(), plain(manifest)[order])
    np.testing.assert_array_equal(crops.batch(np.arange(7)).numpy(), plain(manifest))


def test_a_batch_is_a_copy(tmp_path: Path) -> None:
    crops = load_crops(write_crops(tmp_path / "crops", 2), SIZE, tmp_path / "cache")
    before = crops.batch([0, 1]).clone()
    crops.batch([0, 1]).zero_()
    assert torch.equal(crops.batch([0, 1]), before)


def test_an_empty_manifest_and_an_empty_batch(tmp_path: Path) -> None:
    manifest = write_crops(tmp_path / "crops", 2)
    none = manifest.where(np.zeros(2, dtype=bool))
    assert len(load_crops(none, SIZE, tmp_path / "cache")) == 0
    assert load_crops(manifest, SIZE, tmp_path / "cache").batch([]).shape == (0, 3, SIZE, SIZE)


def test_decodes_once_whatever_the_manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[int] = []
    monkeypatch.setattr(faces.loading, "decode", lambda data, size: decoded.append(1) or decode(data, size))
    monkeypatch.setattr(faces.loading, "_CHUNK", 4)
    small, large = write_crops(tmp_path / "a", 6), write_crops(tmp_path / "b", 10)
    load_crops(small, SIZE, tmp_path / "cache")
    assert len(decoded) == 6
    crops = load_crops(large, SIZE, tmp_path / "cache")  # six of its pictures are the same
    assert len(decoded) == 10
    for file in large.files:
        file.rename(file.with_suffix(".away"))
    again = load_crops(large, SIZE, tmp_path / "cache")
    assert len(decoded) == 10
    assert torch.equal(again.batch(range(10)), crops.batch(range(10)))
    assert torch.equal(crops.batch(range(6)), load_crops(small, SIZE, tmp_path / "cache").batch(range(6)))


def test_a_picture_in_two_rows_is_stored_once(tmp_path: Path) -> None:
    manifest = write_crops(tmp_path / "crops", 3)
    copy = manifest.root / "copy.png"
    copy.write_bytes(manifest.files[1].read_bytes())
    rows = [row(file, str(number)) for number, file in enumerate([*manifest.files, copy])]
    crops = load_crops(Manifest.build(rows, manifest.root), SIZE, tmp_path / "cache")
    assert torch.equal(crops.batch([3]), crops.batch([1]))
    assert store_files(tmp_path / "cache")[0].stat().st_size == 3 * SIZE * SIZE * 3


def test_sizes_do_not_mix(tmp_path: Path) -> None:
    manifest = write_crops(tmp_path / "crops", 2)
    for size in (SIZE, 8):
        np.testing.assert_array_equal(
            load_crops(manifest, size, tmp_path / "cache").batch([0, 1]).numpy(), plain(manifest, size)
        )


@pytest.mark.parametrize("tail", ["pixels", "line", "garbage", "line without pixels", "no pixels", "no index"])
def test_what_a_killed_process_left_is_mended(tmp_path: Path, tail: str) -> None:
    first, cache = write_crops(tmp_path / "crops", 5), tmp_path / "cache"
    load_crops(first, SIZE, cache)
    pixels, index = store_files(cache)
    if tail in ("pixels", "line"):  # pixels come first: the index is behind them, by lines or by part of one
        with pixels.open("ab") as file:
            file.write(b"\7" * (SIZE * SIZE * 3 + 5))
    if tail == "line":
        with index.open("a") as file:
            file.write("0123456789ab")
    if tail == "garbage":
        with index.open("ab") as file:
            file.write(b"\0" * 200 + b"\n")
    if tail == "line without pixels":
        with index.open("a") as file:
            file.write("a" * 64 + "\n")
    if tail == "no pixels":
        pixels.unlink()
    if tail == "no index":
        index.unlink()
    second = write_crops(tmp_path / "crops", 9)
    np.testing.assert_array_equal(load_crops(second, SIZE, cache).batch(range(9)).numpy(), plain(second))
    np.testing.assert_array_equal(load_crops(first, SIZE, cache).batch(range(5)).numpy(), plain(first))
    assert index.read_bytes().count(b"\n") == 9


def test_processes_share_a_store(tmp_path: Path) -> None:
    """Two at once, whose manifests overlap; each checks its own pictures."""
    cache = tmp_path / "cache"
    parts = [write_crops(tmp_path / "a", 120), write_crops(tmp_path / "b", 120, first=60)]
    program = (
        "import sys, hashlib; from pathlib import Path; import faces.loading as l; from core.manifest import Manifest;"
        f"l._CHUNK = 7; m = Manifest.read(sys.argv[1]); c = l.load_crops(m, {SIZE}, Path(sys.argv[2]));"
        "print(hashlib.sha256(c.batch(range(len(c))).contiguous().numpy().tobytes()).hexdigest())"
    )
    command = [sys.executable, "-c", program]
    running = [
        subprocess.Popen([*command, str(part.root), str(cache)], stdout=subprocess.PIPE, text=True) for part in parts
    ]
    for process, part in zip(running, parts, strict=True):
        output, _ = process.communicate(timeout=120)
        assert output.strip() == hashlib.sha256(plain(part).tobytes()).hexdigest()
    pixels, index = store_files(cache)
    lines = index.read_text().splitlines()
    assert len(lines) == len(set(lines)) == 180
    assert pixels.stat().st_size == 180 * SIZE * SIZE * 3


def test_a_missing_crop_is_named(tmp_path: Path) -> None:
    manifest = write_crops(tmp_path / "crops", 4)
    manifest.files[2].unlink()
    with pytest.raises(UserError, match=r"row 2 .*2\.png"):
        load_crops(manifest, SIZE, tmp_path / "cache")


def test_a_changed_crop_is_named(tmp_path: Path) -> None:
    manifest = write_crops(tmp_path / "crops", 4)
    manifest.files[3].write_bytes(manifest.files[0].read_bytes())
    with pytest.raises(UserError, match=r"row 3 .*3\.png has changed"):
        load_crops(manifest, SIZE, tmp_path / "cache")


@pytest.mark.parametrize("damage", ["cut", "text"])
def test_a_crop_that_cannot_be_decoded_is_named_and_the_rest_is_kept(
    tmp_path: Path, damage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(faces.loading, "_CHUNK", 2)
    manifest = write_crops(tmp_path / "crops", 6)
    bad = manifest.files[5]
    if damage == "cut":
        bad.write_bytes(bad.read_bytes()[:200])
    if damage == "text":
        bad.write_text("no picture")
    rows = [row(file, str(number)) for number, file in enumerate(manifest.files)]
    manifest = Manifest.build(rows, manifest.root)
    with pytest.raises(UserError, match=r"row 5 .*5\.png cannot be decoded"):
        load_crops(manifest, SIZE, tmp_path / "cache")
    kept = store_files(tmp_path / "cache")[1].read_text().splitlines()
    assert len(kept) == 4  # the chunks before


@pytest.mark.parametrize("mode", ["I;16", "LA", "RGBA", "P", "L", "1", "CMYK"])
def test_training_sees_what_ingest_saw(mode: str) -> None:
    values = np.random.default_rng(0).integers(0, 256, (16, 16, 4), dtype=np.uint8)
    deep = Image.fromarray(values[..., 0].astype(np.uint16) * 257)
    image = deep if mode == "I;16" else Image.fromarray(values, "RGBA").convert("RGB" if mode in "CMYK" else mode)
    buffer = io.BytesIO()
    image.save(buffer, "tiff" if mode == "CMYK" else "png")
    np.testing.assert_array_equal(decode(buffer.getvalue(), 16), decode_image(buffer.getvalue()).pixels)


def test_pictures_that_are_not_square_are_squeezed_and_other_modes_become_rgb() -> None:
    wide = np.zeros((10, 40), dtype=np.uint8)
    wide[:, 20:] = 200
    buffer = io.BytesIO()
    Image.fromarray(wide).save(buffer, "png")
    square = decode(buffer.getvalue(), 20)
    assert square.shape == (20, 20, 3)
    assert (square[:, :8] == 0).all()
    assert (square[:, 12:] == 200).all()


def test_a_picture_is_turned_upright() -> None:
    pixels = np.zeros((16, 16, 3), dtype=np.uint8)
    pixels[:4] = 255
    buffer, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 3  # orientation: upside down
    Image.fromarray(pixels).save(buffer, "png", exif=exif)
    np.testing.assert_array_equal(decode(buffer.getvalue(), 16), pixels[::-1])


def test_reduced_jpeg_decoding_is_within_a_grey_level_or_two() -> None:
    y, x = np.mgrid[:512, :512]
    picture = np.stack([127 + 90 * np.sin(x / 23) * np.cos(y / 31), x / 2, y / 2], axis=2).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "jpeg", quality=95)
    with Image.open(buffer) as image:
        full = np.asarray(image.convert("RGB").resize((64, 64), Image.Resampling.BICUBIC)).astype(int)
    assert np.abs(decode(buffer.getvalue(), 64) - full).mean() < 1
    assert np.abs(decode(buffer.getvalue(), 64) - full).max() <= 4


@pytest.mark.parametrize("damage", ["pixel", "checksum", "sha256", "cut", "shift", "swap"])
def test_a_damaged_store_is_never_served(tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    manifest, cache = write_crops(tmp_path / "crops", 6), tmp_path / "cache"
    other = load_crops(manifest, SIZE, cache)  # has a map, but has read nothing yet
    pixels, index = store_files(cache)
    data, lines = bytearray(pixels.read_bytes()), bytearray(index.read_bytes())
    length, size = len(lines) // 6, SIZE * SIZE * 3
    if damage == "pixel":
        data[2 * size + 7] ^= 1
    if damage == "checksum":
        lines[2 * length + 70] ^= 1
    if damage == "sha256":
        lines[2 * length + 3] = ord("x")
    if damage == "cut":
        del lines[2 * length + 5 :]
    if damage == "shift":
        del lines[length + 5]
    if damage == "swap":  # two pictures change places, each with its own checksum
        data[:size], data[size : 2 * size] = data[size : 2 * size], data[:size]
        lines[65:73], lines[length + 65 : length + 73] = lines[length + 65 : length + 73], lines[65:73]
    with pixels.open("r+b") as file:
        file.write(data)
    index.write_bytes(lines)
    if damage in ("pixel", "swap"):
        np.testing.assert_array_equal(other.batch(range(6)).numpy(), plain(manifest))
        assert "is damaged" in caplog.text
    for _ in range(2):
        caplog.clear()
        np.testing.assert_array_equal(load_crops(manifest, SIZE, cache).batch(range(6)).numpy(), plain(manifest))
    assert "is damaged" not in caplog.text  # it was repaired


def test_a_damaged_picture_whose_crop_is_gone_is_named(tmp_path: Path) -> None:
    manifest, cache = write_crops(tmp_path / "crops", 3), tmp_path / "cache"
    crops = load_crops(manifest, SIZE, cache)
    with store_files(cache)[0].open("r+b") as file:
        file.write(b"damage")
    manifest.files[0].unlink()
    assert torch.equal(crops.batch([1, 2]), torch.from_numpy(plain_of(manifest, [1, 2])))
    with pytest.raises(UserError, match=r"row 0 of the manifest: no crop at .*0\.png"):
        crops.batch([1, 0])


def test_a_picture_is_checked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    crops = load_crops(write_crops(tmp_path / "crops", 3), SIZE, tmp_path / "cache")
    checked: list[str] = []
    real = faces.loading._checksum
    monkeypatch.setattr(faces.loading, "_checksum", lambda *of: checked.append(of[0]) or real(*of))
    for _ in range(2):
        crops.batch([0, 1])
    assert len(checked) == 2


def test_a_store_without_checksums_is_decoded_anew(tmp_path: Path) -> None:
    manifest, cache = write_crops(tmp_path / "crops", 5), tmp_path / "cache"
    cache.mkdir()
    pixels, index = store_files(cache)
    pixels.write_bytes(bytes(5 * SIZE * SIZE * 3))
    index.write_text("".join(f"{digest}\n" for digest in manifest.rows["sha256"]))
    np.testing.assert_array_equal(load_crops(manifest, SIZE, cache).batch(range(5)).numpy(), plain(manifest))
    assert pixels.stat().st_size == 5 * SIZE * SIZE * 3
    assert [len(line) for line in index.read_text().splitlines()] == [73] * 5
