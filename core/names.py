"""Names that come from data and reach a path: datasets, methods, studies.

A new name is checked where it is given; an old one is made safe where it becomes a file's name.
"""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator

from core.files import digest

MOST_BYTES = 100  # with what is added to a name, a file system's 255 are not reached
_UNSAFE = re.compile(r"[^\w .+,=@()\[\]-]+")


def is_safe(name: str) -> bool:
    """Whether a name can be that of a file in any folder: it leads nowhere else, is not hidden, and not too long."""
    return bool(
        name.strip()
        and name.isprintable()
        and not name.startswith((".", " "))
        and not set("/\\") & set(name)
        and len(name.encode()) <= MOST_BYTES
    )


def checked(name: str) -> str:
    """The name itself.

    Raises:
        ValueError: it is not safe.
    """
    if not is_safe(name):
        raise ValueError(
            f"the name {name[:MOST_BYTES]!r} cannot be a folder's: take at most {MOST_BYTES} bytes, without slashes, "
            "control characters or a dot in front"
        )
    return name


Name = Annotated[str, AfterValidator(checked)]
"""A name in a configuration that becomes part of a path."""


def file_name(name: str) -> str:
    """The name itself where it is safe; else what can be kept of it, and a digest that tells it from others."""
    if is_safe(name):
        return name
    plain = _UNSAFE.sub("-", name).strip("-. ").encode()[:40].decode(errors="ignore")
    kept = plain if plain.isprintable() else ""
    return f"{kept}-{digest(name, length=12)}".lstrip("-")


def leads_away(name: str) -> bool:
    """Whether a name, taken for a path, leads out of the folder that it is joined to, or is no path at all."""
    parts = re.split(r"[/\\]", name)
    return "\0" in name or ".." in parts or not parts[0]
