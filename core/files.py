"""Files that are whole or absent: atomic writes, content digests, JSON lines.

For a lock between processes take `filelock.FileLock`: the kernel drops it with the process that holds it.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` to write to; it takes the place of `path` when the block ends well.

    A kill, a full disk or an error leaves the old file, or none. Nothing temporary stays after an error.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(path: Path, data: bytes) -> None:
    """Write atomically."""
    with atomic(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 atomically."""
    write_bytes(path, text.encode())


def write_json(path: Path, content: object) -> None:
    """Write JSON atomically, with an indent of two and a newline at the end."""
    write_text(path, json.dumps(content, indent=2) + "\n")


def strict_json(value: object, indent: int | None = None) -> str:
    """JSON that every reader takes: nan and infinities, which JSON does not have, become null; a path is its text."""
    return json.dumps(_finite(value), indent=indent, allow_nan=False, default=str)


def with_nan(value: Any) -> Any:
    """What was read from JSON, with nan in place of null."""
    if isinstance(value, dict):
        return {key: with_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [with_nan(item) for item in value]
    return math.nan if value is None else value


def _finite(value: object) -> object:
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def sha256(content: bytes | Path) -> str:
    """64 hex digits of bytes, or of a file's content.

    Raises:
        OSError: the file cannot be read.
    """
    if isinstance(content, bytes):
        return hashlib.sha256(content).hexdigest()
    with content.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(*texts: str, length: int = 16) -> str:
    """The first hex digits of the SHA-256 of several texts; ("a", "bc") and ("ab", "c") differ."""
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:length]


def append_lines(path: Path, entries: Iterable[object]) -> None:
    """Add one JSON line an entry in a single write, begun on a line of its own.

    Processes that share the file cannot tear each other's lines, and a line torn by a kill spoils none after it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps(entry, separators=(",", ":")) + "\n" for entry in entries)
    with path.open("ab") as file:
        file.write(("\n" + lines).encode())


def read_lines(path: Path) -> Iterator[Any]:
    """The entries of a file of JSON lines; a line that a kill has torn is passed over, a missing file is empty."""
    if not path.is_file():
        return
    for line in path.read_bytes().splitlines():
        if line.strip():
            try:
                yield json.loads(line)
            except ValueError:
                continue
