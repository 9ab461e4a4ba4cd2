"""Where the face is in a crop: a box and five landmarks, found once a crop and kept by its content hash.

Crops and generated faces are small; MTCNN was made for photographs. Every picture is therefore brought to one size
first: all of 128 photographs of faces were then found after they had been shrunk to 24 pixels, 97 % after 16. And it
gets a border: where a face reaches the edge of a picture, MTCNN places the landmarks beside it (in one tight crop out
of seven, by a tenth of the crop and more), since it squeezes what is left of its box into a whole one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from core.cache import ContentCache
from core.errors import UserError
from core.manifest import Manifest
from core.progress import progress_bar
from faces.detection import Face, FaceDetector, MtcnnDetector, Pixels
from faces.media import UnreadableError, decode_image

MIN_CONFIDENCE = 0.9
# Longer side in pixels that the detector sees, and the least share of it that a face takes: a crop is nearly all face,
# and every octave of sizes that need not be searched saves time.
_SIDE, _LEAST_SHARE = 128, 0.3
_BORDER = 24  # around it, in the crop's mean colour
_CHUNK = 64
_NUMBERS = 15  # of a face in the cache: confidence, box, five landmarks; nan where there is none


def crop_detector() -> FaceDetector:
    """MTCNN, set to pictures that are nearly all face."""
    return MtcnnDetector(max_side=_SIDE + 2 * _BORDER, min_face_pixels=round(_SIDE * _LEAST_SHARE))


def faces_in_crops(
    pictures: Sequence[Pixels], finder: FaceDetector, min_confidence: float = MIN_CONFIDENCE
) -> list[Face | None]:
    """The largest face of each crop, in the crop's own pixels.

    Args:
        pictures: [H, W, 3] uint8 RGB each; sizes may differ.
        finder: see `crop_detector`.
        min_confidence: of the detector, in [0, 1].

    Returns:
        One face or None a picture.
    """
    scales = [_SIDE / max(picture.shape[:2]) for picture in pictures]
    found = finder.detect([_framed(picture, scale) for picture, scale in zip(pictures, scales, strict=True)])
    faces: list[Face | None] = []
    for scale, candidates in zip(scales, found, strict=True):
        sure = [face for face in candidates if face.confidence >= min_confidence and face.landmarks is not None]
        faces.append(_shrunk(sure[0], scale) if sure else None)
    return faces


def share_with_face(pictures: Sequence[Pixels], finder: FaceDetector) -> float:
    """Share of crops in which a face is found, in [0, 1]. See `faces_in_crops`; at least one picture."""
    found = 0
    for start in range(0, len(pictures), _CHUNK):
        found += sum(face is not None for face in faces_in_crops(pictures[start : start + _CHUNK], finder))
    return found / len(pictures)


def crop_faces(manifest: Manifest, cache: Path) -> list[Face | None]:
    """The face in each crop of a manifest; what `cache` knows is not looked at again.

    Raises:
        UserError: a crop is missing or cannot be decoded, or the detector is not installed.
    """
    known = ContentCache(cache / "landmarks", ("<f8", (_NUMBERS,)))
    hashes: list[str] = manifest.rows["sha256"].tolist()
    files, lacking = manifest.files, known.lacking(hashes)
    if lacking:
        finder = crop_detector()
        with progress_bar(len(lacking), "landmarks", "crop") as bar:
            for start in range(0, len(lacking), _CHUNK):
                chunk = lacking[start : start + _CHUNK]
                faces = faces_in_crops([_pixels(files[row]) for row in chunk], finder)
                known.add([hashes[row] for row in chunk], [_numbers(face) for face in faces])
                bar.update(len(chunk))
    return [_face(numbers) for numbers in known.rows(hashes)]


def _framed(picture: Pixels, scale: float) -> Pixels:
    size = (max(1, round(picture.shape[1] * scale)), max(1, round(picture.shape[0] * scale)))
    resized = cv2.resize(picture, size, interpolation=cv2.INTER_CUBIC if scale > 1 else cv2.INTER_AREA)
    colour = resized.mean(axis=(0, 1)).tolist()
    return np.asarray(cv2.copyMakeBorder(resized, *(_BORDER,) * 4, cv2.BORDER_CONSTANT, value=colour))


def _shrunk(face: Face, scale: float) -> Face:
    left, top, right, bottom = ((value - _BORDER) / scale for value in face.box)
    assert face.landmarks is not None
    points: NDArray[np.float32] = ((face.landmarks - _BORDER) / scale).astype(np.float32)
    return Face((left, top, right, bottom), face.confidence, points)


def _pixels(path: Path) -> Pixels:
    try:
        return decode_image(path.read_bytes()).pixels
    except (OSError, UnreadableError) as error:
        raise UserError(f"the crop {path} cannot be read ({error}): ingest the faces again") from error


def _numbers(face: Face | None) -> list[float]:
    if face is None or face.landmarks is None:
        return [math.nan] * _NUMBERS
    return [face.confidence, *face.box, *face.landmarks.ravel().tolist()]


def _face(numbers: NDArray[np.float64]) -> Face | None:
    if np.isnan(numbers[0]):
        return None
    confidence, left, top, right, bottom, *points = numbers.tolist()
    return Face((left, top, right, bottom), confidence, np.array(points, dtype=np.float32).reshape(5, 2))
