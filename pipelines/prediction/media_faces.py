"""The faces of a picture or video: decode, find, follow from frame to frame, and cut them for a model.

Files run side by side: threads decode ahead, while frames of any files go through the face detector in batches.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field

from core.progress import in_order
from faces.detection import Face, FaceDetector, Pixels, crop, detector, overlap
from faces.media import Frame, UnreadableError, media_kind, read_frames, read_image

Kind = Literal["image", "video"]
_FRAMES_AT_ONCE = 16  # through the face detector; at 1080p some 100 MB
_SAME_FACE = 0.2  # intersection over union of one face in two sampled frames


class PredictConfig(BaseModel):
    """How media are looked at. What cuts the faces should be as it was at ingest."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    every_seconds: float = Field(default=1.0, gt=0, description="seconds between sampled frames of a video")
    max_frames: int = Field(default=300, gt=0, description="at most so many frames of a video")
    margin: float = Field(default=0.3, ge=0, le=2, description="share of the box's side added at each end")
    min_face_pixels: int = Field(default=32, ge=1, description="shorter side of a face's box")
    min_confidence: float = Field(default=0.9, ge=0, le=1, description="of the face detector")
    already_cropped: bool = Field(default=False, description="pictures are face crops: detect nothing")
    device: str = "auto"


@dataclass(frozen=True)
class Sighting:
    """One face in one frame: the number of its track, and where and when it was seen."""

    track: int
    face: Face
    frame: int | None = None
    time_s: float | None = None


@dataclass
class MediaFaces:
    """What was found in one file; grows while its frames come in.

    Attributes:
        frames: how many were looked at.
        problem: what ended the file early, or kept it from being read at all.
        crops: uint8 [S, S, 3] of each sighting.
    """

    path: Path
    kind: Kind | None = None
    frames: int = 0
    problem: str = ""
    sightings: list[Sighting] = field(default_factory=list)
    crops: list[Pixels] = field(default_factory=list)
    tracks: int = 0
    last: list[tuple[int, Face]] = field(default_factory=list)  # of the last frame with faces


def face_finder(config: PredictConfig) -> FaceDetector | None:
    """The face detector; None where files are face crops already."""
    if config.already_cropped:
        return None
    return detector(min_face_pixels=config.min_face_pixels, device=config.device)


def find_faces(
    files: Sequence[Path], image_size: int, config: PredictConfig, finder: FaceDetector | None
) -> Iterator[list[MediaFaces]]:
    """The files in order, as they are done; a list, maybe empty, for each batch of frames.

    Args:
        image_size: S of the crops, scaled as crops are for training (bicubic with anti-aliasing).
    """
    with ThreadPoolExecutor(min(16, (os.cpu_count() or 2) + 1)) as pool, ThreadPoolExecutor(1) as ahead:
        events = _events(files, config, pool)
        coming = ahead.submit(lambda: list(islice(events, 2 * _FRAMES_AT_ONCE)))
        while batch := coming.result():
            coming = ahead.submit(lambda: list(islice(events, 2 * _FRAMES_AT_ONCE)))
            _see(batch, finder, image_size, config)
            yield [of for of, event in batch if event is None]


_Event = tuple[MediaFaces, Frame | UnreadableError | None]  # None: that was all of this file


def _events(files: Sequence[Path], config: PredictConfig, pool: ThreadPoolExecutor) -> Iterator[_Event]:
    """Frames of all files in turn, then what ended a file early if anything did, then None for its end."""

    def opened(path: Path) -> _Event:
        of = MediaFaces(path)
        try:
            if path.exists() and not path.is_file():
                return of, UnreadableError("not a regular file")
            of.kind = media_kind(path)
            return of, read_image(path) if of.kind == "image" else None
        except UnreadableError as error:
            return of, error

    for of, event in in_order(pool, opened, files):
        if event is not None:
            yield of, event
        else:
            try:
                for frame in read_frames(of.path, config.every_seconds, config.max_frames):
                    yield of, frame
            except UnreadableError as error:
                yield of, error
        yield of, None


def _see(batch: Sequence[_Event], finder: FaceDetector | None, image_size: int, config: PredictConfig) -> None:
    """Find and cut the faces of the frames in a batch."""
    frames = [(of, event) for of, event in batch if isinstance(event, Frame)]
    pictures = [frame.pixels for _, frame in frames]
    found = finder.detect(pictures) if finder else [[_whole(pixels)] for pixels in pictures]
    for (of, frame), faces in zip(frames, found, strict=True):
        of.frames += 1
        sure = [
            face
            for face in faces
            if face.confidence >= config.min_confidence and min(face.width, face.height) >= config.min_face_pixels
        ]
        if not sure:
            continue
        of.last = _tracked(sure, of)
        for track, face in of.last:
            cut = frame.pixels if config.already_cropped else crop(frame.pixels, face.box, config.margin)
            of.crops.append(resized(cut, image_size))
            of.sightings.append(Sighting(track, face, frame.index, frame.time_s))
    for of, event in batch:
        if isinstance(event, UnreadableError):
            of.problem = str(event)


def _whole(pixels: Pixels) -> Face:
    height, width = pixels.shape[:2]
    return Face((0.0, 0.0, float(width), float(height)), 1.0)


def _tracked(faces: Sequence[Face], of: MediaFaces) -> list[tuple[int, Face]]:
    """Each face with the number of the track of the last frame that it overlaps most, or a new one."""
    free = list(of.last)
    tracked = []
    for face in faces:
        best = max(free, key=lambda one: overlap(face, one[1]), default=None)
        if best is not None and overlap(face, best[1]) >= _SAME_FACE:
            free.remove(best)
            tracked.append((best[0], face))
        else:
            tracked.append((of.tracks, face))
            of.tracks += 1
    return tracked


def resized(face: Pixels, image_size: int) -> Pixels:
    """uint8 [S, S, 3] of a crop [H, W, 3]."""
    if face.shape[:2] == (image_size, image_size):
        return face
    return np.asarray(Image.fromarray(face).resize((image_size, image_size), Image.Resampling.BICUBIC))
