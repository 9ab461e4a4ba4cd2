"""Decode once: crops become one memory-mapped uint8 array a size, and are found in it by their content hash.

A store is two files, `crops-<size>.u8` (raw pixels, one picture after another) and `crops-<size>.index` (one line of
sha256 and checksum a picture, in the same order). Both only grow, under a lock file that lets several processes share
them: pixels are flushed first, their lines follow, and whatever a killed process left behind the last whole line is
overwritten. Nothing that the index names ever changes, so that reading needs no lock, but a picture that no longer fits
its checksum: who reads it first decodes it anew, and puts it and its line back where they were.
"""

from __future__ import annotations

import logging
import os
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from core.errors import UserError
from core.files import refusing_if_unwritable, sha256
from core.manifest import Manifest
from core.progress import progress_bar
from faces.media import opened, upright

_CHUNK = 256  # pictures decoded between two writes: what a killed process loses
_LINE = 64 + 1 + 8 + 1  # bytes of an index line: sha256, space, checksum, newline

_Check = Callable[[NDArray[np.int64], NDArray[np.uint8]], None]
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Crops:
    """The N pictures of a manifest, in its order, within the store's memory map."""

    pixels: NDArray[np.uint8]  # [M, S, S, 3], the whole store
    places: NDArray[np.int64]  # [N], where each row of the manifest stands in it
    check: _Check | None = None  # given rows [B] and their pictures [B, S, S, 3], replaces those that are damaged

    def __len__(self) -> int:
        return len(self.places)

    def batch(self, indices: Sequence[int] | NDArray[np.int64]) -> Tensor:
        """uint8 [B, 3, S, S] RGB in channels_last, for those rows of the manifest.

        One copy, out of the memory map: batches taken one after another hold no more memory than one.
        """
        rows = np.asarray(indices, dtype=np.int64)
        picked = self.pixels[self.places[rows]]
        if self.check is not None:
            self.check(rows, picked)
        return torch.from_numpy(picked).permute(0, 3, 1, 2)


def load_crops(manifest: Manifest, image_size: int, cache: Path) -> Crops:
    """The manifest's crops at `image_size` pixels, decoding what the store in `cache` lacks.

    A crop that is not square is squeezed to a square: the whole face stays in the picture. A crop that the store
    holds is not looked at again, so that its file may be gone, unless the store is damaged there.

    Raises:
        UserError: a crop is missing, cannot be decoded, or is not the file that the manifest describes; so may
            `Crops.batch`, where the store is damaged.
    """
    store = _Store(Path(cache), image_size)
    hashes: list[str] = manifest.rows["sha256"].tolist()
    entries = store.entries()
    first = {digest: row for row, digest in reversed(list(enumerate(hashes)))}  # crops that stand in two rows: once
    lacking = sorted(row for digest, row in first.items() if digest not in entries)
    if lacking:
        entries = _decode_into(store, manifest, lacking)
    own = [entries[digest] for digest in hashes]
    seen = np.zeros(len(own), dtype=np.bool_)

    def check(rows: NDArray[np.int64], pictures: NDArray[np.uint8]) -> None:
        """Each row once, on the copy that is served."""
        for at in np.flatnonzero(~seen[rows]).tolist():
            row = int(rows[at])
            place, checksum = own[row]
            if _checksum(hashes[row], pictures[at]) != checksum:
                _log.warning("%s is damaged: row %d of the manifest is decoded again", store, row)
                pictures[at] = _decoded(manifest.files[row], hashes[row], row, image_size)
                store.repair(place, hashes[row], pictures[at])
            seen[row] = True

    return Crops(store.pixels(), np.array([place for place, _ in own], dtype=np.int64), check)


def decode(data: bytes, image_size: int) -> NDArray[np.uint8]:
    """uint8 [S, S, 3] of an encoded picture: RGB, upright, resized once with anti-aliasing (bicubic).

    A JPEG of four times the size and more is decoded at a half, a quarter or an eighth, at no less than twice the
    size: a grey level or two from the full decoding, several times as fast.
    """
    with opened(data) as image:
        image.draft(None, (2 * image_size, 2 * image_size))
        picture = upright(image)
        if picture.size != (image_size, image_size):
            picture = picture.resize((image_size, image_size), Image.Resampling.BICUBIC)
        return np.asarray(picture)


def _decoded(file: Path, digest: str, row: int, image_size: int) -> NDArray[np.uint8]:
    """[S, S, 3] of the crop in one row of a manifest."""
    try:
        data = file.read_bytes()
    except OSError as error:
        raise UserError(f"row {row} of the manifest: no crop at {file}: ingest the faces again") from error
    if sha256(data) != digest:
        raise UserError(f"row {row} of the manifest: {file} has changed since: ingest the faces again")
    try:
        return decode(data, image_size)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"row {row} of the manifest: {file} cannot be decoded: {error}") from error


def _decode_into(store: _Store, manifest: Manifest, rows: list[int]) -> dict[str, tuple[int, str]]:
    """Decode rows of the manifest into the store; returns the entries that the store then holds."""
    files, hashes = manifest.files, manifest.rows["sha256"].tolist()

    def one(row: int) -> NDArray[np.uint8]:
        return _decoded(files[row], hashes[row], row, store.image_size)

    entries: dict[str, tuple[int, str]] = {}
    with (
        ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool,
        progress_bar(len(rows), f"decode to {store.image_size} px", "crop") as bar,
    ):
        for start in range(0, len(rows), _CHUNK):
            chunk = rows[start : start + _CHUNK]
            # The lock is held for one chunk: processes that want the same crops take turns, and none decodes twice.
            with store.lock:
                entries = store.mended()
                fresh = [row for row in chunk if hashes[row] not in entries]
                entries |= store.append([hashes[row] for row in fresh], pool.map(one, fresh))
            bar.update(len(chunk))
    return entries


def _checksum(digest: str, picture: NDArray[np.uint8]) -> str:
    """8 hex digits (CRC-32) of a picture and of the sha256 that it stands under."""
    return f"{zlib.crc32(picture.data, zlib.crc32(digest.encode())):08x}"


class _Store:
    """The files of one image size in a cache folder."""

    def __init__(self, cache: Path, image_size: int) -> None:
        cache.mkdir(parents=True, exist_ok=True)
        self.image_size = image_size
        self._bytes = image_size * image_size * 3
        self._pixels, self._index = (cache / f"crops-{image_size}.{end}" for end in ("u8", "index"))
        self.lock = FileLock(cache / f"crops-{image_size}.lock")

    def __str__(self) -> str:
        return str(self._pixels)

    def pixels(self) -> NDArray[np.uint8]:
        """[M, S, S, 3], read as they are touched."""
        count = self._pixels.stat().st_size // self._bytes if self._pixels.exists() else 0
        shape = (count, self.image_size, self.image_size, 3)
        return np.memmap(self._pixels, np.uint8, "r", shape=shape) if count else np.zeros(shape, np.uint8)

    def entries(self) -> dict[str, tuple[int, str]]:
        """Place and checksum of each sha256, from the whole lines of the index whose pixels are there.

        A damaged line is a place like any other, under a name that nobody asks for. Places are counted in bytes, so
        that it moves none behind it.
        """
        if not self._index.exists() or not self._pixels.exists():
            return {}
        text = self._index.read_bytes().decode("latin-1")
        if text[64:65] == "\n":  # of before there were checksums
            return {}
        count = min(len(text) // _LINE, self._pixels.stat().st_size // self._bytes)
        lines = (text[_LINE * place : _LINE * (place + 1)] for place in range(count))
        return {line[:64]: (place, line[65:73]) for place, line in enumerate(lines)}

    def mended(self) -> dict[str, tuple[int, str]]:
        """The entries, after whatever a killed process left behind them is cut off. Needs the lock."""
        entries = self.entries()
        whole = _LINE * (1 + max((place for place, _ in entries.values()), default=-1))
        if self._index.exists() and self._index.stat().st_size != whole:
            os.truncate(self._index, whole)
        return entries

    def append(self, hashes: list[str], pictures: Iterator[NDArray[np.uint8]]) -> dict[str, tuple[int, str]]:
        """Add pictures behind the last line of the index; returns their entries. Needs the lock, and `mended`."""
        start = self._index.stat().st_size // _LINE if self._index.exists() else 0
        added: dict[str, tuple[int, str]] = {}
        if not hashes:
            return added
        with refusing_if_unwritable(self._pixels):
            self._pixels.touch()
            with self._pixels.open("r+b") as file:
                file.seek(start * self._bytes)
                for digest, picture in zip(hashes, pictures, strict=True):
                    file.write(picture.tobytes())
                    added[digest] = (start + len(added), _checksum(digest, picture))
                file.flush()
                os.fsync(file.fileno())
        with refusing_if_unwritable(self._index), self._index.open("a") as lines:
            lines.write("".join(f"{digest} {checksum}\n" for digest, (_, checksum) in added.items()))
        return added

    def repair(self, place: int, digest: str, picture: NDArray[np.uint8]) -> None:
        """Write a picture and its line where they stood, in which other processes' memory maps see it."""
        line = f"{digest} {_checksum(digest, picture)}\n".encode()
        for path, start, data in (
            (self._pixels, place * self._bytes, picture.tobytes()),
            (self._index, place * _LINE, line),
        ):
            with self.lock, refusing_if_unwritable(path), path.open("r+b") as file:
                file.seek(start)
                file.write(data)
