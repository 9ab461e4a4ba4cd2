"""The cache keyed by content."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from core.cache import ContentCache

KEYS = [f"{number:064x}" for number in range(5)]


def test_rows_come_back_in_the_order_asked_and_are_found_by_others(tmp_path: Path) -> None:
    mine, other = (ContentCache(tmp_path / "cache", (np.float32, (3,))) for _ in range(2))
    rows = np.arange(15, dtype=np.float32).reshape(5, 3)
    assert mine.lacking([KEYS[1], KEYS[0], KEYS[1]]) == [0, 1]
    mine.add(KEYS[:2], rows[:2])
    other.add(KEYS[2:], rows[2:])
    assert mine.lacking(KEYS) == []
    np.testing.assert_array_equal(mine.rows([KEYS[4], KEYS[0], KEYS[4]]), rows[[4, 0, 4]])
    with pytest.raises(KeyError):
        mine.rows(["f" * 64])


@pytest.mark.parametrize("place", [3, 100, -3])
def test_a_damaged_shard_counts_as_absent(tmp_path: Path, place: int) -> None:
    cache = ContentCache(tmp_path, [("width", "<i8"), ("codec", "U8")])
    cache.add(KEYS, [(number, "jpeg") for number in range(5)])
    (shard,) = tmp_path.glob("*.npy")
    data = bytearray(shard.read_bytes())
    data[place] ^= 0xFF
    shard.write_bytes(bytes(data))
    assert ContentCache(tmp_path, [("width", "<i8"), ("codec", "U8")]).lacking(KEYS) == [0, 1, 2, 3, 4]


def test_a_cache_of_another_kind_of_row_holds_nothing(tmp_path: Path) -> None:
    ContentCache(tmp_path, np.float32).add(KEYS, np.zeros(5, dtype=np.float32))
    assert ContentCache(tmp_path, np.float64).lacking(KEYS) == [0, 1, 2, 3, 4]
