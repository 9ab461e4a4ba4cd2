"""Face detection: boxes and landmarks in whole frames and in crops, and the square crop around a box.

In frames, detection runs on a copy that is downscaled to `max_side`; boxes come back in the pixels of the frame.

Crops and generated faces are small; MTCNN was made for photographs. Every one is therefore brought to one size first:
all of 128 photographs of faces were then found after they had been shrunk to 24 pixels, 97 % after 16. And it gets a
border: where a face reaches the edge of a picture, MTCNN places the landmarks beside it (in one tight crop out of
seven, by a tenth of the crop and more), since it squeezes what is left of its box into a whole one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from core.cache import ContentCache
from core.device import pick_device
from core.errors import UserError
from core.manifest import Manifest
from core.progress import progress_bar
from faces.media import UnreadableError, decode_image

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float32]
# Frames that go through MTCNN at once: on a CPU more gain nothing and cost memory, a GPU wants more.
_BATCH_CPU, _BATCH_GPU = 8, 64
# MTCNN's first network sees 12 x 12 pixels; below 20 it was never trained (Zhang et al. 2016, section III).
_SMALLEST_FACE = 20

MIN_CONFIDENCE = 0.9  # of the face in a crop
# Longer side in pixels to which crops are brought, and the least share of it that a face takes: a crop is nearly all
# face, and every octave of sizes that need not be searched saves time.
_SIDE, _LEAST_SHARE = 128, 0.3
_BORDER = 24  # around it, in the crop's mean colour
_CHUNK = 64
_NUMBERS = 15  # of a face in the cache: confidence, box, five landmarks; nan where there is none


@dataclass(frozen=True)
class Face:
    """A detected face in pixels of the frame, which the box never leaves.

    `box`: left, top, right, bottom. `landmarks` [5, 2] x, y: the eye at the left of the picture, the one at the right,
    nose, left and right corner of the mouth; None where the detector has none.
    """

    box: tuple[float, float, float, float]
    confidence: float  # in [0, 1]
    landmarks: Floats | None = None

    @property
    def width(self) -> float:
        """Of the box, in pixels."""
        return self.box[2] - self.box[0]

    @property
    def height(self) -> float:
        """Of the box, in pixels."""
        return self.box[3] - self.box[1]


class FaceDetector(Protocol):
    """What finds faces: anything with this method plugs in."""

    def detect(self, frames: Sequence[Pixels]) -> list[list[Face]]:
        """Faces of each frame [H, W, 3] uint8 RGB (sizes may differ), the largest first."""
        ...


class MtcnnDetector:
    """MTCNN (Zhang et al. 2016) with the weights that facenet-pytorch carries; works offline.

    Args:
        max_side: the longer side of the frames that the networks see, pixels.
        min_face_pixels: faces below this size in the full frame need not be found, which saves time.
        device: `auto`, `cpu`, `cuda`, ...

    Raises:
        UserError: facenet-pytorch is not installed, or there is no such device.
    """

    def __init__(self, *, max_side: int = 640, min_face_pixels: int = 32, device: str = "auto") -> None:
        try:
            from facenet_pytorch import MTCNN
        except ImportError as error:
            raise UserError(
                f"the face detector mtcnn needs facenet-pytorch ({error}): "
                "run `pip install --no-deps facenet-pytorch==2.6.0`"
            ) from error
        place = pick_device(device)
        self.max_side, self.min_face_pixels = max_side, min_face_pixels
        self._batch = _BATCH_CPU if place.type == "cpu" else _BATCH_GPU
        # Its layers are initialised before their weights are read, which would shift the caller's random numbers.
        with torch.random.fork_rng(devices=[]):
            self._mtcnn = MTCNN(keep_all=True, device=place).eval()

    def detect(self, frames: Sequence[Pixels]) -> list[list[Face]]:
        """See `FaceDetector.detect`; frames of one size go through the networks together."""
        found: list[list[Face]] = [[] for _ in frames]
        for indices in _by_size(frames, self._batch):
            first = frames[indices[0]]
            scale = min(1.0, self.max_side / max(first.shape[:2]))
            self._mtcnn.min_face_size = max(_SMALLEST_FACE, int(self.min_face_pixels * scale))
            if min(first.shape[:2]) * scale < self._mtcnn.min_face_size + 1:
                continue  # MTCNN fails on a picture that is smaller than the smallest face
            small = np.stack([_scaled(frames[i], scale) for i in indices])
            with _one_thread():
                boxes, confidences, landmarks = self._mtcnn.detect(small, landmarks=True)
            for i, *faces in zip(indices, boxes, confidences, landmarks, strict=True):
                if faces[0] is not None:
                    found[i] = _faces(scale, frames[i], *(np.asarray(each, dtype=np.float32) for each in faces))
        return found


class OpenCvDetector:
    """YuNet (Wu et al. 2023) in OpenCV: several times as fast as MTCNN on a CPU.

    OpenCV ships neither its weights nor, since 5.0, Haar cascades, so the model is a local file: `model`, the
    `face_detection_yunet_2023mar.onnx` of OpenCV's model zoo.

    Raises:
        UserError: no model was given, there is no such file, or OpenCV cannot read it.
    """

    # All detectors are built alike: YuNet has no use for the smallest face and the device.
    def __init__(self, model: Path | None = None, *, max_side: int = 640, **_: object) -> None:
        remedy = (
            "set detector_model to a local copy of face_detection_yunet_2023mar.onnx from OpenCV's model zoo, "
            "or use the detector mtcnn"
        )
        if model is None:
            raise UserError(f"the face detector opencv has no weights of its own: {remedy}")
        if not Path(model).is_file():
            raise UserError(f"there is no model file {model} for the face detector opencv: {remedy}")
        try:
            # Low threshold here; whoever calls decides by the confidence.
            self._network = cv2.FaceDetectorYN.create(str(model), "", (320, 320), 0.5, 0.3, 500)
        except cv2.error as error:
            raise UserError(f"{model} is not a YuNet model that OpenCV {cv2.__version__} reads: {remedy}") from error
        self.max_side = max_side

    def detect(self, frames: Sequence[Pixels]) -> list[list[Face]]:
        """See `FaceDetector.detect`."""
        found: list[list[Face]] = []
        for frame in frames:
            scale = min(1.0, self.max_side / max(frame.shape[:2]))
            small = _scaled(frame, scale)
            self._network.setInputSize((small.shape[1], small.shape[0]))
            # Rows: x, y, w, h, five landmarks (x, y) in MTCNN's order, score.
            rows = self._network.detect(np.ascontiguousarray(small[..., ::-1]))[1]
            rows = np.zeros((0, 15), dtype=np.float32) if rows is None else np.asarray(rows, dtype=np.float32)
            boxes = np.concatenate([rows[:, :2], rows[:, :2] + rows[:, 2:4]], axis=1)
            found.append(_faces(scale, frame, boxes, rows[:, 14], rows[:, 4:14].reshape(-1, 5, 2)))
        return found


DETECTORS: dict[str, Callable[..., FaceDetector]] = {"mtcnn": MtcnnDetector, "opencv": OpenCvDetector}


def detector(
    name: str = "mtcnn",
    *,
    max_side: int = 640,
    min_face_pixels: int = 32,
    device: str = "auto",
    model: Path | None = None,
) -> FaceDetector:
    """Build the detector called `name`.

    Raises:
        UserError: no detector has that name, or what it needs is missing.
    """
    if name not in DETECTORS:
        raise UserError(f"there is no face detector {name!r}: choose one of {', '.join(sorted(DETECTORS))}")
    extra = {"model": model} if name == "opencv" else {}
    return DETECTORS[name](max_side=max_side, min_face_pixels=min_face_pixels, device=device, **extra)


def overlap(a: Face, b: Face) -> float:
    """Intersection over union of two boxes, in [0, 1]."""
    width = min(a.box[2], b.box[2]) - max(a.box[0], b.box[0])
    height = min(a.box[3], b.box[3]) - max(a.box[1], b.box[1])
    shared = max(width, 0) * max(height, 0)
    return shared / (a.width * a.height + b.width * b.height - shared)


def crop(frame: Pixels, box: tuple[float, float, float, float], margin: float = 0.3) -> Pixels:
    """The pixels of `crop_square`: [S, S, 3] uint8, a copy, of a frame [H, W, 3] uint8.

    Every pixel of a crop is a pixel of the frame, none is mirrored or made up, for those would be traces of ours.
    """
    x, y, side = crop_square((frame.shape[0], frame.shape[1]), box, margin)
    return frame[y : y + side, x : x + side].copy()


def crop_square(
    shape: tuple[int, int], box: tuple[float, float, float, float], margin: float = 0.3
) -> tuple[int, int, int]:
    """Left, top and side S of the square around a box, S the box's longer side plus `margin` of it at each end.

    A square that would leave the frame is moved inwards, and one larger than the frame is cut to the frame's shorter
    side.

    Args:
        shape: H, W of the frame.
        box: left, top, right, bottom in pixels.
        margin: at least 0.
    """
    height, width = shape
    left, top, right, bottom = box
    side = round(max(right - left, bottom - top) * (1 + 2 * margin))
    side = max(1, min(side, height, width))
    x = round(min(max((left + right - side) / 2, 0), width - side))
    y = round(min(max((top + bottom - side) / 2, 0), height - side))
    return x, y, side


@contextmanager
def _one_thread() -> Iterator[None]:
    """MTCNN is hundreds of tiny operations: on two cores it ran four times as fast with one thread as with two."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _by_size(frames: Sequence[Pixels], batch: int) -> Iterator[list[int]]:
    for _, same in groupby(sorted(range(len(frames)), key=lambda i: frames[i].shape), lambda i: frames[i].shape):
        indices = list(same)
        yield from (indices[start : start + batch] for start in range(0, len(indices), batch))


def _scaled(frame: Pixels, scale: float) -> Pixels:
    if scale == 1:
        return frame
    size = (max(1, round(frame.shape[1] * scale)), max(1, round(frame.shape[0] * scale)))
    return cv2.resize(frame, size, interpolation=cv2.INTER_CUBIC if scale > 1 else cv2.INTER_AREA)


def _faces(scale: float, frame: Pixels, boxes: Floats, confidences: Floats, landmarks: Floats) -> list[Face]:
    """Faces in pixels of the frame, clipped to it, the largest first; boxes that lie outside are dropped."""
    height, width = frame.shape[:2]
    clipped = (boxes / scale).clip(min=0, max=np.array([width, height, width, height], dtype=np.float32))
    inside = (clipped[:, 2:] - clipped[:, :2] >= 1).all(axis=1)
    faces = [
        Face((left, top, right, bottom), confidence, points / scale)
        for (left, top, right, bottom), confidence, points in zip(
            clipped[inside].tolist(), confidences[inside].tolist(), landmarks[inside], strict=True
        )
    ]
    return sorted(faces, key=lambda face: face.width * face.height, reverse=True)


def crop_detector() -> FaceDetector:
    """MTCNN, set to pictures that are nearly all face."""
    return MtcnnDetector(max_side=_SIDE + 2 * _BORDER, min_face_pixels=round(_SIDE * _LEAST_SHARE))


def faces_in_crops(
    pictures: Sequence[Pixels], finder: FaceDetector, min_confidence: float = MIN_CONFIDENCE
) -> list[Face | None]:
    """The largest face of each crop, in the crop's own pixels; None where there is none.

    Args:
        pictures: [H, W, 3] uint8 RGB each; sizes may differ.
        finder: see `crop_detector`.
        min_confidence: of the detector, in [0, 1].
    """
    scales = [_SIDE / max(picture.shape[:2]) for picture in pictures]
    found = finder.detect([_framed(picture, scale) for picture, scale in zip(pictures, scales, strict=True)])
    faces: list[Face | None] = []
    for scale, candidates in zip(scales, found, strict=True):
        sure = (face for face in candidates if face.confidence >= min_confidence and face.landmarks is not None)
        face = next(sure, None)
        faces.append(None if face is None else _unframed(face, scale))
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
    resized = _scaled(picture, scale)
    colour = resized.mean(axis=(0, 1)).tolist()
    return cv2.copyMakeBorder(resized, *(_BORDER,) * 4, cv2.BORDER_CONSTANT, value=colour)


def _unframed(face: Face, scale: float) -> Face:
    left, top, right, bottom = ((value - _BORDER) / scale for value in face.box)
    assert face.landmarks is not None
    return Face((left, top, right, bottom), face.confidence, ((face.landmarks - _BORDER) / scale).astype(np.float32))


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
    confidence, left, top, right, bottom, *points = numbers.tolist()
    if math.isnan(confidence):
        return None
    return Face((left, top, right, bottom), confidence, np.array(points, dtype=np.float32).reshape(5, 2))
