"""What was computed of files, kept by their content: measured once, found again under any name and in any manifest."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from core.files import atomic


class ContentCache:
    """Rows of one NumPy dtype by SHA-256, in a folder of shards that are only ever added, each in one atomic step.

    Processes may fill one cache at the same time: at worst a key stands in two shards, with the same row. A shard
    that is damaged counts as absent, and what it held is computed again.

    Args:
        folder: of the shards; made when the first one is written.
        dtype: of a row, which may have a shape, such as `(float32, (1280,))`.
    """

    def __init__(self, folder: Path, dtype: np.typing.DTypeLike) -> None:
        self.folder = folder
        self._dtype = np.dtype([("sha256", "S64"), ("row", dtype)])
        self._places: dict[bytes, tuple[Path, int]] = {}
        self._read: set[Path] = set()

    def lacking(self, keys: Sequence[str]) -> list[int]:
        """The first place in `keys` of each key that the cache does not hold."""
        self._look()
        first = {key: place for place, key in reversed(list(enumerate(keys)))}
        return sorted(place for key, place in first.items() if key.encode() not in self._places)

    def add(self, keys: Sequence[str], rows: Sequence[object] | NDArray[np.generic]) -> None:
        """Keep one row a key."""
        if not len(keys):
            return
        shard = np.empty(len(keys), dtype=self._dtype)
        shard["sha256"], shard["row"] = np.asarray(keys, dtype="S64"), rows
        checksum = hashlib.sha256(shard.tobytes()).hexdigest()[:16]
        with atomic(self.folder / f"{checksum}.npy") as temporary, temporary.open("wb") as file:
            np.save(file, shard, allow_pickle=False)

    def rows(self, keys: Sequence[str]) -> NDArray[np.generic]:
        """[len(keys)] rows.

        Raises:
            KeyError: the cache does not hold a key.
        """
        self._look()
        places = [self._places[key.encode()] for key in keys]
        shards = {file: np.load(file, mmap_mode="r")["row"] for file in {file for file, _ in places}}
        result = np.empty(len(keys), dtype=self._dtype["row"])
        for place, (file, row) in enumerate(places):
            result[place] = shards[file][row]
        return result

    def _look(self) -> None:
        """Read the keys of shards that have come since the last look."""
        for file in sorted(set(self.folder.glob("*.npy")) - self._read):
            self._read.add(file)
            try:
                shard = np.load(file, allow_pickle=False)
            except (OSError, ValueError, EOFError):
                continue
            if shard.dtype == self._dtype and hashlib.sha256(shard.tobytes()).hexdigest()[:16] == file.stem:
                self._places |= {bytes(key): (file, row) for row, key in enumerate(shard["sha256"])}
