"""What a conditional generator is told of each face: the value of one column of the manifest."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from faces.errors import UserError
from faces.manifest import Manifest


class Labels(NamedTuple):
    """Labels of N faces."""

    names: tuple[str, ...]  # in the order of their numbers
    numbers: Tensor  # int64 [N]

    @property
    def shares(self) -> Tensor:
        """[labels], the share of the faces that has each."""
        counts = torch.bincount(self.numbers, minlength=len(self.names))
        return counts / counts.sum()


def label_faces(faces: Manifest, condition: str) -> Labels | None:
    """Labels from a column, or None for `none`.

    Raises:
        UserError: all faces have the same value.
    """
    if condition == "none":
        return None
    names, numbers = np.unique(faces.rows[condition].to_numpy(dtype=np.str_), return_inverse=True)
    if len(names) < 2:
        raise UserError(
            f"condition {condition} needs faces of 2 or more, and all train faces to learn from are {names[0]}:"
            " take condition none, or other faces (learn_from)"
        )
    return Labels(tuple(map(str, names)), torch.from_numpy(numbers.astype(np.int64)))
