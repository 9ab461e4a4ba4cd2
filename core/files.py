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

from core.errors import UserError

_CHECKSUM = "checksum"


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` to write to; it takes the place of `path` when the block ends well.

    A kill, a full disk or an error leaves the old file, or none. Nothing temporary stays after an error.

    Raises:
        UserError: the disk is full, or cannot be written for another reason.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with refusing_if_unwritable(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def refusing_if_unwritable(path: Path) -> Iterator[None]:
    """Make one sentence, a UserError that names `path`, of what the system says while `path` is written."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        # torch raises a RuntimeError of its own while it handles the system's.
        reason = error if isinstance(error, OSError) else error.__context__
        if not isinstance(reason, OSError):
            raise
        kept = "what stood there before is whole" if path.exists() else "nothing stood there before"
        raise UserError(
            f"{path} could not be written ({(reason.strerror or str(reason)).lower()}); {kept}:"
            " free some space or take another folder, and run the same command again"
        ) from error


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


def sealed(content: Mapping[str, Any]) -> dict[str, Any]:
    """What JSON can hold, with a checksum that `unsealed` takes out again."""
    return {**content, _CHECKSUM: digest(json.dumps(content))}


def unsealed(content: Any) -> dict[str, Any]:
    """What `sealed` was given, after JSON; of before there were checksums, the content as it is.

    Raises:
        ValueError: it is no object, or another one than was sealed.
    """
    if not isinstance(content, dict):
        raise ValueError("it is not an object")
    rest = {name: value for name, value in content.items() if name != _CHECKSUM}
    if len(rest) < len(content) and content[_CHECKSUM] != digest(json.dumps(rest)):
        raise ValueError("its checksum does not fit")
    return rest


def read_record(path: Path) -> dict[str, Any] | None:
    """What was sealed and written as JSON; None where there is no file, or a damaged one."""
    try:
        return unsealed(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, RecursionError):
        return None


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
    if hasattr(value, "tolist"):  # numpy's scalars and arrays
        return _finite(value.tolist())
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
