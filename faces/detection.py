"""Face detection: boxes and landmarks in whole frames, and the square crop around a box.

Detection runs on a copy of the frame that is downscaled to `max_side`; boxes come back in the pixels of the frame.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from core.errors import UserError

Pixels = NDArray[np.uint8]
# Frames that go through MTCNN at once: on a CPU more gain nothing and cost memory, a GPU wants more.
_BATCH_CPU, _BATCH_GPU = 8, 64
# MTCNN's first network sees 12 x 12 pixels; below 20 it was never trained (Zhang et al. 2016, section III).
_SMALLEST_FACE = 20


@dataclass(frozen=True)
class Face:
    """A detected face in pixels of the frame, which the box never leaves.

    `box`: left, top, right, bottom. `landmarks` [5, 2] x, y: the eye at the left of the picture, the one at the right,
    nose, left and right corner of the mouth; None where the detector has none.
    """

    box: tuple[float, float, float, float]
    confidence: float  # in [0, 1]
    landmarks: NDArray[np.float32] | None = None

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
        UserError: facenet-pytorch is not installed.
    """

    def __init__(self, *, max_side: int = 640, min_face_pixels: int = 32, device: str = "auto") -> None:
        try:
            from facenet_pytorch import MTCNN
        except ImportError as error:
            raise UserError(
                f"the face detector mtcnn needs facenet-pytorch ({error}): "
                "run `pip install --no-deps facenet-pytorch==2.6.0`"
            ) from error
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        self.max_side, self.min_face_pixels = max_side, min_face_pixels
        self._batch = _BATCH_CPU if device == "cpu" else _BATCH_GPU
        # Its layers are initialised before their weights are read, which would shift the caller's random numbers.
        with torch.random.fork_rng(devices=[]):
            self._mtcnn = MTCNN(keep_all=True, device=torch.device(device)).eval()

    def detect(self, frames: Sequence[Pixels]) -> list[list[Face]]:
        """See `FaceDetector.detect`; frames of one size go through the networks together."""
        found: list[list[Face]] = [[] for _ in frames]
        for indices in _by_size(frames, self._batch):
            first = frames[indices[0]]
            scale = min(1.0, self.max_side / max(first.shape[:2]))
            self._mtcnn.min_face_size = max(_SMALLEST_FACE, int(self.min_face_pixels * scale))
            if min(first.shape[:2]) * scale < self._mtcnn.min_face_size + 1:
                continue  # MTCNN fails on a picture that is smaller than the smallest face
            small = np.stack([_downscaled(frames[i], scale) for i in indices])
            with _one_thread():
                boxes, confidences, landmarks = self._mtcnn.detect(small, landmarks=True)
            for i, some_boxes, some_confidences, some_landmarks in zip(
                indices, boxes, confidences, landmarks, strict=True
            ):
                if some_boxes is not None:
                    found[i] = _faces(
                        np.asarray(some_boxes, dtype=np.float32),
                        np.asarray(some_confidences, dtype=np.float32),
                        np.asarray(some_landmarks, dtype=np.float32),
                        scale=scale,
                        frame=frames[i],
                    )
        return found


class OpenCvDetector:
    """YuNet (Wu et al. 2023) in OpenCV: several times as fast as MTCNN on a CPU.

    OpenCV ships neither its weights nor, since 5.0, Haar cascades, so the model is a local file: `model`, the
    `face_detection_yunet_2023mar.onnx` of OpenCV's model zoo.

    Raises:
        UserError: no model was given, there is no such file, or OpenCV cannot read it.
    """

    def __init__(
        self,
        model: Path | None = None,
        *,
        max_side: int = 640,
        min_face_pixels: int = 32,  # noqa: ARG002 - all detectors are built alike; YuNet has no such setting
        device: str = "auto",  # noqa: ARG002
    ) -> None:
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
            small = _downscaled(frame, scale)
            self._network.setInputSize((small.shape[1], small.shape[0]))
            # Rows: x, y, w, h, five landmarks (x, y) in MTCNN's order, score.
            rows = self._network.detect(np.ascontiguousarray(small[..., ::-1]))[1]
            rows = np.zeros((0, 15), dtype=np.float32) if rows is None else np.asarray(rows, dtype=np.float32)
            boxes = np.concatenate([rows[:, :2], rows[:, :2] + rows[:, 2:4]], axis=1)
            found.append(_faces(boxes, rows[:, 14], rows[:, 4:14].reshape(-1, 5, 2), scale=scale, frame=frame))
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


def crop(frame: Pixels, box: tuple[float, float, float, float], margin: float = 0.3) -> Pixels:
    """The square around a box, its side the box's longer side plus `margin` of it at each end.

    A square that would leave the frame is moved inwards, and one larger than the frame is cut to the frame's shorter
    side: every pixel of a crop is a pixel of the frame, none is mirrored or made up, for those would be traces of ours.

    Args:
        frame: [H, W, 3] uint8.
        box: left, top, right, bottom in pixels.
        margin: at least 0.

    Returns:
        [S, S, 3] uint8, a copy.
    """
    height, width = frame.shape[:2]
    left, top, right, bottom = box
    side = round(max(right - left, bottom - top) * (1 + 2 * margin))
    side = max(1, min(side, height, width))
    x = round(min(max((left + right - side) / 2, 0), width - side))
    y = round(min(max((top + bottom - side) / 2, 0), height - side))
    return frame[y : y + side, x : x + side].copy()


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
    sizes: dict[tuple[int, ...], list[int]] = {}
    for i, frame in enumerate(frames):
        sizes.setdefault(frame.shape, []).append(i)
    for indices in sizes.values():
        for start in range(0, len(indices), batch):
            yield indices[start : start + batch]


def _downscaled(frame: Pixels, scale: float) -> Pixels:
    if scale >= 1:
        return frame
    size = (max(1, round(frame.shape[1] * scale)), max(1, round(frame.shape[0] * scale)))
    return np.asarray(cv2.resize(frame, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)


def _faces(
    boxes: NDArray[np.float32],
    confidences: NDArray[np.float32],
    landmarks: NDArray[np.float32],
    *,
    scale: float,
    frame: Pixels,
) -> list[Face]:
    """Faces in pixels of the frame, clipped to it, the largest first; boxes that lie outside are dropped."""
    height, width = frame.shape[:2]
    clipped = (boxes / scale).clip(min=0, max=np.array([width, height, width, height], dtype=np.float32))
    faces = [
        Face((float(box[0]), float(box[1]), float(box[2]), float(box[3])), float(confidence), points / scale)
        for box, confidence, points in zip(clipped, confidences, landmarks, strict=True)
        if box[2] - box[0] >= 1 and box[3] - box[1] >= 1
    ]
    return sorted(faces, key=lambda face: face.width * face.height, reverse=True)
