"""Which code a model was made by: the commit where there is one, and always the version and a hash of the sources."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from importlib import metadata
from pathlib import Path

_PACKAGES = ("faces", "gan", "classifier", "tracking", "tuning", "pipelines", "serving")


@lru_cache(maxsize=1)
def code_version() -> str:
    """Such as `counterforge 0.1.0 3f9c01d2a7b4`: a commit says nothing of uncommitted changes, and a wheel has none.

    The digits are of the names and contents of all Python files of the packages, so that a checkout can be held
    against them.
    """
    house = Path(__file__).parents[1]
    total = hashlib.sha256()
    for package in _PACKAGES:
        for file in sorted((house / package).rglob("*.py")):
            total.update(f"{file.relative_to(house).as_posix()}\0".encode() + file.read_bytes() + b"\0")
    try:
        version = metadata.version("counterforge")
    except metadata.PackageNotFoundError:
        version = "unknown"
    return f"counterforge {version} {total.hexdigest()[:12]}"
