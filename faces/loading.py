"""Decode once: crops become one memory-mapped uint8 array a size, and are found in it by their content hash.

A store is two files, `crops-<size>.u8` (raw pixels, one picture after another) and `crops-<size>.index` (one sha256 a
line, in the same order). Both only grow: pixels are flushed first, the index line follows, and whatever a killed
process left behind the last whole line is overwritten. A lock file lets several processes share a store.
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import os
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from faces.errors import UserError
from faces.manifest import Manifest

_CHUNK = 256  # pictures decoded between two writes


@dataclass(frozen=True)
class Crops:
    """The N pictures of a manifest, in its order, within the store's memory map."""

    pixels: NDArray[np.uint8]  # [M, S, S, 3], the whole store
    places: NDArray[np.int64]  # [N], where each row of the manifest stands in it

    def __len__(self) -> int:
        return len(self.places)

    def batch(self, indices: Sequence[int] | NDArray[np.int64]) -> Tensor:
        """uint8 [B, 3, S, S] RGB in channels_last, for those rows of the manifest."""
        picked = self.pixels[self.places[np.asarray(indices, dtype=np.int64)]]
        return torch.from_numpy(picked).permute(0, 3, 1, 2)


def load_crops(manifest: Manifest, image_size: int, cache: Path) -> Crops:
    """The manifest's crops at `image_size` pixels, decoding what the store in `cache` lacks.

    A crop that is not square is squeezed to a square: the whole face stays in the picture.

    Raises:
        UserError: a crop is missing, cannot be decoded, or is not the file that the manifest describes.
    """
    cache = Path(cache)
    cache.mkdir(parents=True, exist_ok=True)
    store, index = cache / f"crops-{image_size}.u8", cache / f"crops-{image_size}.index"
    hashes = manifest.rows["sha256"].tolist()
    with _locked(cache / f"crops-{image_size}.lock"):
        places = _read_index(index, store, image_size)
        lacking = [i for i, digest in enumerate(hashes) if digest not in places]
        # One decoding for crops that stand in the manifest twice.
        lacking = list({hashes[i]: i for i in reversed(lacking)}.values())[::-1]
        if lacking:
            _append(manifest, lacking, places, store, index, image_size)
    count = len(places)
    shape = (count, image_size, image_size, 3)
    pixels = np.memmap(store, np.uint8, "r", shape=shape) if count else np.zeros(shape, np.uint8)
    return Crops(pixels, np.array([places[digest] for digest in hashes], dtype=np.int64))


def decode(data: bytes, image_size: int) -> NDArray[np.uint8]:
    """uint8 [S, S, 3] of an encoded picture: RGB, resized once with anti-aliasing (bicubic)."""
    with Image.open(io.BytesIO(data)) as image:
        rgb = image.convert("RGB")
        if rgb.size != (image_size, image_size):
            rgb = rgb.resize((image_size, image_size), Image.Resampling.BICUBIC)
        return np.asarray(rgb)


def _append(
    manifest: Manifest, rows: list[int], places: dict[str, int], store: Path, index: Path, image_size: int
) -> None:
    files, hashes = manifest.files, manifest.rows["sha256"].tolist()

    def one(row: int) -> NDArray[np.uint8]:
        try:
            data = files[row].read_bytes()
        except OSError as error:
            raise UserError(f"row {row} of the manifest: no crop at {files[row]}: ingest the faces again") from error
        if hashlib.sha256(data).hexdigest() != hashes[row]:
            raise UserError(f"row {row} of the manifest: {files[row]} has changed since: ingest the faces again")
        try:
            return decode(data, image_size)
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise UserError(f"row {row} of the manifest: {files[row]} cannot be decoded: {error}") from error

    size = image_size * image_size * 3
    mode = "r+b" if store.exists() else "w+b"
    with store.open(mode) as pixels, index.open("a") as lines, ThreadPoolExecutor(os.cpu_count()) as pool:
        pixels.seek(len(places) * size)
        wait = 0.5 if sys.stderr.isatty() else 15
        with tqdm(total=len(rows), desc=f"decoding to {image_size} px", unit="crop", mininterval=wait, delay=2) as bar:
            for start in range(0, len(rows), _CHUNK):
                chunk = rows[start : start + _CHUNK]
                for picture in pool.map(one, chunk):
                    pixels.write(picture.tobytes())
                pixels.flush()
                os.fsync(pixels.fileno())
                for row in chunk:
                    places[hashes[row]] = len(places)
                lines.write("".join(f"{hashes[row]}\n" for row in chunk))
                lines.flush()
                bar.update(len(chunk))


def _read_index(index: Path, store: Path, image_size: int) -> dict[str, int]:
    """Place of each sha256; a torn last line, and lines beyond the pixels, are cut off."""
    if not index.exists() or not store.exists():
        index.unlink(missing_ok=True)
        return {}
    whole = index.read_bytes()
    lines = whole[: whole.rfind(b"\n") + 1].decode().splitlines()
    lines = lines[: store.stat().st_size // (image_size * image_size * 3)]
    kept = "".join(f"{line}\n" for line in lines).encode()
    if kept != whole:
        with index.open("r+b") as file:
            file.truncate(len(kept))
    return {line: place for place, line in enumerate(lines)}


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
