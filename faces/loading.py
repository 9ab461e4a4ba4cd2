"""Decode once: crops become one memory-mapped uint8 array a size, and are found in it by their content hash.

A store is two files, `crops-<size>.u8` (raw pixels, one picture after another) and `crops-<size>.index` (one sha256 a
line, in the same order). Both only grow, under a lock file that lets several processes share them: pixels are flushed
first, their lines follow, and whatever a killed process left behind the last whole line is overwritten. Nothing that
the index names ever changes, so that reading needs no lock.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from core.errors import UserError
from core.files import sha256
from core.manifest import Manifest
from core.progress import progress_bar

_CHUNK = 256  # pictures decoded between two writes: what a killed process loses
_DEEP = ("I", "F")  # first letter of Pillow's modes of more than 8 bits, whose conversion to RGB clips


@dataclass(frozen=True)
class Crops:
    """The N pictures of a manifest, in its order, within the store's memory map."""

    pixels: NDArray[np.uint8]  # [M, S, S, 3], the whole store
    places: NDArray[np.int64]  # [N], where each row of the manifest stands in it

    def __len__(self) -> int:
        return len(self.places)

    def batch(self, indices: Sequence[int] | NDArray[np.int64]) -> Tensor:
        """uint8 [B, 3, S, S] RGB in channels_last, for those rows of the manifest.

        One copy, out of the memory map: batches taken one after another hold no more memory than one.
        """
        picked = self.pixels[self.places[np.asarray(indices, dtype=np.int64)]]
        return torch.from_numpy(picked).permute(0, 3, 1, 2)


def load_crops(manifest: Manifest, image_size: int, cache: Path) -> Crops:
    """The manifest's crops at `image_size` pixels, decoding what the store in `cache` lacks.

    A crop that is not square is squeezed to a square: the whole face stays in the picture. A crop that the store
    holds is not looked at again, so that its file may be gone.

    Raises:
        UserError: a crop is missing, cannot be decoded, or is not the file that the manifest describes.
    """
    store = _Store(Path(cache), image_size)
    hashes: list[str] = manifest.rows["sha256"].tolist()
    places = store.places()
    first = {digest: row for row, digest in reversed(list(enumerate(hashes)))}  # crops that stand in two rows: once
    lacking = sorted(row for digest, row in first.items() if digest not in places)
    if lacking:
        places = _decode_into(store, manifest, lacking)
    return Crops(store.pixels(len(places)), np.array([places[digest] for digest in hashes], dtype=np.int64))


def decode(data: bytes, image_size: int) -> NDArray[np.uint8]:
    """uint8 [S, S, 3] of an encoded picture: RGB, upright, resized once with anti-aliasing (bicubic).

    A JPEG of four times the size and more is decoded at a half, a quarter or an eighth, at no less than twice the
    size: a grey level or two from the full decoding, several times as fast.
    """
    with Image.open(io.BytesIO(data)) as image:
        if image.mode.startswith(_DEEP):
            raise ValueError(f"pictures of mode {image.mode} have more than 8 bits a channel, convert them to 8")
        image.draft(None, (2 * image_size, 2 * image_size))
        rgb = ImageOps.exif_transpose(image).convert("RGB")
        if rgb.size != (image_size, image_size):
            rgb = rgb.resize((image_size, image_size), Image.Resampling.BICUBIC)
        return np.asarray(rgb)


def _decode_into(store: _Store, manifest: Manifest, rows: list[int]) -> dict[str, int]:
    """Decode rows of the manifest into the store; returns the place of everything that the store then holds."""
    files, hashes = manifest.files, manifest.rows["sha256"].tolist()

    def one(row: int) -> NDArray[np.uint8]:
        try:
            data = files[row].read_bytes()
        except OSError as error:
            raise UserError(f"row {row} of the manifest: no crop at {files[row]}: ingest the faces again") from error
        if sha256(data) != hashes[row]:
            raise UserError(f"row {row} of the manifest: {files[row]} has changed since: ingest the faces again")
        try:
            return decode(data, store.image_size)
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise UserError(f"row {row} of the manifest: {files[row]} cannot be decoded: {error}") from error

    places: dict[str, int] = {}
    with (
        ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool,
        progress_bar(len(rows), f"decode to {store.image_size} px", "crop") as bar,
    ):
        for start in range(0, len(rows), _CHUNK):
            chunk = rows[start : start + _CHUNK]
            # The lock is held for one chunk: processes that want the same crops take turns, and none decodes twice.
            with store.lock:
                places = store.mended()
                fresh = [row for row in chunk if hashes[row] not in places]
                store.append([hashes[row] for row in fresh], pool.map(one, fresh), places)
            bar.update(len(chunk))
    return places


class _Store:
    """The files of one image size in a cache folder."""

    def __init__(self, cache: Path, image_size: int) -> None:
        cache.mkdir(parents=True, exist_ok=True)
        self.image_size = image_size
        self._bytes = image_size * image_size * 3
        self._pixels, self._index = (cache / f"crops-{image_size}.{end}" for end in ("u8", "index"))
        self.lock = FileLock(cache / f"crops-{image_size}.lock")

    def pixels(self, count: int) -> NDArray[np.uint8]:
        """[count, S, S, 3], read as they are touched."""
        shape = (count, self.image_size, self.image_size, 3)
        return np.memmap(self._pixels, np.uint8, "r", shape=shape) if count else np.zeros(shape, np.uint8)

    def places(self) -> dict[str, int]:
        """Place of each sha256, from the whole lines of the index whose pixels are there."""
        if not self._index.exists() or not self._pixels.exists():
            return {}
        whole = self._index.read_bytes()
        lines = whole[: whole.rfind(b"\n") + 1].decode("ascii", errors="replace").splitlines()
        kept: dict[str, int] = {}
        for line in lines[: self._pixels.stat().st_size // self._bytes]:
            if len(line) != 64 or line in kept:  # not written by us: nothing behind it can be trusted
                break
            kept[line] = len(kept)
        return kept

    def mended(self) -> dict[str, int]:
        """The places, after whatever a killed process left behind them is cut off. Needs the lock."""
        places = self.places()
        if self._index.exists() and self._index.stat().st_size != 65 * len(places):
            os.truncate(self._index, 65 * len(places))
        return places

    def append(self, hashes: list[str], pictures: Iterator[NDArray[np.uint8]], places: dict[str, int]) -> None:
        """Add pictures behind the given places, and their places to them. Needs the lock."""
        if not hashes:
            return
        self._pixels.touch()
        with self._pixels.open("r+b") as file:
            file.seek(len(places) * self._bytes)
            for picture in pictures:
                file.write(picture.tobytes())
            file.flush()
            os.fsync(file.fileno())
        with self._index.open("a") as lines:
            lines.write("".join(f"{digest}\n" for digest in hashes))
        for digest in hashes:
            places[digest] = len(places)
