"""The state of a training on disk: one file of tensors and plain containers, whole or absent, checked when read.

The file is torch's: a ZIP archive, which keeps a CRC-32 of each of its parts. torch itself does not compare them.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Set
from pathlib import Path
from typing import Any

import torch

from core.errors import UserError
from core.files import atomic


def write_state(path: Path, state: Mapping[str, Any]) -> None:
    """Write in one atomic step.

    Raises:
        UserError: the disk is full, or cannot be written for another reason; what stood there is untouched.
    """
    with atomic(path) as temporary, temporary.open("wb") as file:
        torch.save(dict(state), file)  # given a name, torch would lose the system's reason for a failure


def read_state(path: Path, names: Set[str]) -> dict[str, Any] | None:
    """What `write_state` wrote, on the CPU; None where there is no file.

    Args:
        path: of the file.
        names: what the state must hold.

    Raises:
        UserError: the file is damaged, or is the state of something else.
    """
    if not path.is_file():
        return None
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged is not None:
            raise ValueError(f"the checksum of {damaged} does not fit")
        state = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(state, dict) or not names <= state.keys():
            raise ValueError(f"it does not hold {', '.join(sorted(names))}")
    except Exception as error:  # both readers raise whatever they stumble over in a damaged file
        raise UserError(f"{path} is damaged or not a training state ({error}): delete it to start anew") from error
    return state
