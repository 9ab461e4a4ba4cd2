"""Atomic writes, digests and JSON lines."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from core.files import append_lines, atomic, digest, read_lines, sha256, strict_json, with_nan, write_json, write_text


def test_an_error_leaves_the_old_file_and_nothing_temporary(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file.txt"
    write_text(path, "old")
    with pytest.raises(TypeError), atomic(path) as temporary:
        temporary.write_text("half of the n" + 1)  # type: ignore[operator]
    assert path.read_text() == "old"
    assert [file.name for file in path.parent.iterdir()] == ["file.txt"]


def test_json_ends_with_a_newline(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"a": [1]})
    assert (tmp_path / "a.json").read_text() == '{\n  "a": [\n    1\n  ]\n}\n'


def test_digests_are_sha256_and_tell_the_parts_apart(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"face")
    assert sha256(b"face") == sha256(tmp_path / "file") == hashlib.sha256(b"face").hexdigest()
    assert digest("a", "bc") != digest("ab", "c")
    assert len(digest("a", length=24)) == 24


def test_torn_lines_are_passed_over_and_spoil_none_after_them(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    assert list(read_lines(path)) == []
    append_lines(path, [{"a": 1}, [2]])
    with path.open("ab") as file:
        file.write(b'{"torn": ')
    append_lines(path, ["whole"])
    assert list(read_lines(path)) == [{"a": 1}, [2], "whole"]


def test_what_is_not_a_number_is_null_in_json() -> None:
    assert strict_json({"a": [float("nan"), 1.5], "b": {"c": float("-inf")}, "d": (True, None)}) == (
        '{"a": [null, 1.5], "b": {"c": null}, "d": [true, null]}'
    )


def test_numbers_of_numpy_are_numbers() -> None:
    values = {
        "a": np.float32("nan"),
        "b": np.int64(3),
        "c": np.bool_(True),
        "d": np.array([1.5, np.inf]),
        "e": np.float32(0.5),
    }
    assert json.loads(strict_json(values)) == {"a": None, "b": 3, "c": True, "d": [1.5, None], "e": 0.5}


def test_null_is_read_as_nan() -> None:
    read = with_nan(json.loads(strict_json({"a": [float("nan"), 1.5], "b": Path("c")})))
    assert np.isnan(read["a"][0])
    assert (read["a"][1], read["b"]) == (1.5, "c")
