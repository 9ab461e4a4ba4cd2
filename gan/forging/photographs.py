"""The train photographs that fakes are blended into, and where the face is in each."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from faces.detection import Face
from faces.errors import UserError
from faces.landmarks import crop_faces
from faces.manifest import Manifest

Floats = NDArray[np.float32]


class Photographs:
    """Train reals whose face was found, in an order that no other real changes: by a hash of each one's content.

    Raises:
        UserError: no face was found in any of them.
    """

    def __init__(self, reals: Manifest, cache: Path) -> None:
        faces = crop_faces(reals, cache)
        self.manifest = reals
        self.order = [row for row in content_order(reals) if faces[row] is not None]
        self._faces = faces
        if not self.order:
            raise UserError(
                f"no face was found in any of the {len(reals)} train reals in {reals.root}, and blends need one: "
                "look at them with `counterforge faces show`, or take the method gan"
            )

    def __len__(self) -> int:
        return len(self.order)

    def row(self, number: int) -> int:
        """Row of the photograph that stands at `number`, over and over again."""
        return self.order[number % len(self.order)]

    def face(self, row: int) -> Face:
        """The face in a photograph."""
        face = self._faces[row]
        assert face is not None
        return face

    def landmarks(self, row: int) -> Floats:
        """[5, 2] in pixels of the photograph."""
        points = self.face(row).landmarks
        assert points is not None
        return points

    def descent(self, row: int) -> dict[str, Any]:
        """What a forgery inherits from the photograph that it was composed from."""
        inherited = ("dataset", "identity", "source", "frame", "time_s", "width", "height", "codec")
        fields = {name: self.manifest.rows[name][row] for name in inherited}
        return fields | {"parent": self.manifest.rows["sha256"][row]}


def content_order(manifest: Manifest) -> list[int]:
    """Rows in an order that a hash of their content gives: no other row changes it, and neighbours are strangers."""
    hashes = manifest.rows["sha256"].tolist()
    return sorted(range(len(hashes)), key=lambda row: hashlib.sha256(f"order/{hashes[row]}".encode()).digest())
