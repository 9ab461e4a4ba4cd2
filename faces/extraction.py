"""From one picture or video to its crops: decode, detect, choose, cut, encode, and note what became of it.

Each media file becomes a `Record` of the journal: rows of the manifest and reasons for what gave no crop. The work of
many files runs side by side: threads decode and encode while the detector sees batches that run across files.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import imagehash
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, field_validator

from core.files import sha256
from core.names import Name
from core.progress import in_order
from core.splits import DEFAULT_SHARES, Shares
from faces.detection import DETECTORS, Face, FaceDetector, Pixels, crop, detector, overlap
from faces.journal import Record, Rejection
from faces.layouts import LAYOUTS
from faces.media import Frame, MediaFile, UnreadableError, decode_image, read_frames, read_image

# Frames and ends of files that go through the detector at once; at 1080p some 100 MB, twice over for the reading ahead.
_EVENTS_AT_ONCE = 16
# Intersection over union of a face in two frames some seconds apart; the heads of speakers move little.
_SAME_FACE = 0.2
_GROUPS = ("method", "identity", "identity2", "source")  # of name_pattern


class IngestConfig(BaseModel):
    """How media become crops. The defaults suit talking-head videos and portraits."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    dataset: Name | None = Field(default=None, min_length=1, description="name of the dataset; the folder's by default")
    already_cropped: bool = Field(
        default=False, description="pictures are face crops: keep their bytes, detect nothing"
    )
    every_seconds: float = Field(default=3.0, gt=0, description="seconds between sampled frames of a video")
    max_frames_per_video: int | None = Field(default=None, gt=0, description="of a video or a folder of frames")
    faces: Literal["largest", "all"] = Field(
        default="largest", description="largest: one a frame, in a video the one that goes on from the frame before"
    )
    margin: float = Field(default=0.3, ge=0, le=2, description="share of the box's side added at each end")
    min_face_pixels: int = Field(default=32, ge=1, description="shorter side of the box in the full frame")
    min_confidence: float = Field(default=0.9, ge=0, le=1)
    detector: str = "mtcnn"
    detector_model: Path | None = Field(default=None, description="model file of the detector opencv")
    detector_max_side: int = Field(
        default=640, ge=64, description="frames are downscaled to this for detection, pixels"
    )
    device: str = "auto"
    layout: str = Field(
        default="auto", description="how the authors packed the dataset, see `counterforge faces layouts`"
    )
    splits: Literal["auto", "official", "hash", "person-disjoint"] = Field(
        default="auto", description="auto: the authors' split if there is one, else by a hash of the group's name"
    )
    compression: Literal["raw", "c23", "c40"] | None = Field(
        default=None, description="of FaceForensics++ and DFD; needed where several lie there"
    )
    frame_folders: Literal["auto", "always", "never"] = Field(
        default="auto", description="plain folders: whether a folder of numbered pictures is one video"
    )
    name_pattern: str | None = Field(
        default=None,
        description="plain folders: regular expression searched in the file name without its suffix (of a frame, in "
        "that of its folder), and else in the path relative to the source, with groups method, identity, identity2, "
        r"source: (?:(?P<method>[A-Za-z0-9]+)__)?(?P<identity>\d+)(?:_(?P<identity2>\d+))?",
    )
    limit: int | None = Field(default=None, gt=0, description="at most so many media files of each label")
    split_shares: Shares = DEFAULT_SHARES
    seed: int = Field(default=0, ge=0, description="of the splits, and of the choice under `limit`")

    @field_validator("name_pattern")
    @classmethod
    def _has_known_groups(cls, pattern: str | None) -> str | None:
        if pattern is None:
            return None
        try:
            groups = set(re.compile(pattern).groupindex)
        except re.error as error:
            raise ValueError(f"name_pattern {pattern!r} is no regular expression: {error}") from error
        if not groups or groups - set(_GROUPS):
            raise ValueError(f"name_pattern {pattern!r} must have named groups out of {', '.join(_GROUPS)}")
        return pattern

    @field_validator("layout")
    @classmethod
    def _is_known_layout(cls, name: str) -> str:
        if name != "auto" and name not in LAYOUTS:
            raise ValueError(f"there is no layout {name!r}: choose auto or one of {', '.join(LAYOUTS)}")
        return name

    @field_validator("detector")
    @classmethod
    def _is_known(cls, name: str) -> str:
        if name not in DETECTORS:
            raise ValueError(f"there is no face detector {name!r}: choose one of {', '.join(sorted(DETECTORS))}")
        return name

    @field_validator("split_shares")
    @classmethod
    def _are_shares(cls, shares: Shares) -> Shares:
        # No share for train is right for a dataset that is only tested on.
        if min(shares) < 0 or sum(shares) <= 0:
            raise ValueError(f"split_shares {shares} must not be negative, and one of train, val, test must be above 0")
        return shares


def extract(media: list[MediaFile], out: Path, config: IngestConfig) -> Iterator[Record]:
    """Records of the media, each after its crops are on disk; not in the order of `media`."""
    if not media:
        return
    with ThreadPoolExecutor(max_workers=min(16, (os.cpu_count() or 2) + 1)) as pool:
        if config.already_cropped:
            yield from in_order(pool, lambda item: _copy_crop(item, out, config), media, ahead=64)
        else:
            finder = detector(
                config.detector,
                max_side=config.detector_max_side,
                min_face_pixels=config.min_face_pixels,
                device=config.device,
                model=config.detector_model,
            )
            yield from _detect(media, finder, out, config, pool)


def _copy_crop(item: MediaFile, out: Path, config: IngestConfig) -> Record:
    record = Record.of(item)
    try:
        if item.kind == "video":
            raise UnreadableError("a video is not a face crop: ingest videos without already_cropped")
        data = item.path.read_bytes()
        frame = decode_image(data)
        height, width = frame.pixels.shape[:2]
        if min(height, width) < config.min_face_pixels:
            raise UnreadableError(f"{width} x {height} pixels are below min_face_pixels {config.min_face_pixels}")
        path = PurePosixPath("crops", item.name)
        _write(out / path, data)
        record.rows.append(_crop_fields(frame, path, data, frame.pixels) | {"width": width, "height": height})
    except UnreadableError as error:
        record.rejected.append(Rejection(str(error)))
    except OSError as error:
        record.rejected.append(Rejection(f"cannot be copied: {error.strerror}"))
    return record


def _detect(
    media: list[MediaFile], finder: FaceDetector, out: Path, config: IngestConfig, pool: ThreadPoolExecutor
) -> Iterator[Record]:
    """Decode, detect in batches that run across files, crop and encode; decoding is a batch ahead of detection."""
    records: dict[str, Record] = {}
    before: dict[str, Face] = {}  # the first face of the file's last frame that had one
    with ThreadPoolExecutor(max_workers=1) as ahead:
        batches = _batched(_decoded(media, config, pool), _EVENTS_AT_ONCE)
        coming = ahead.submit(next, batches, None)
        while (batch := coming.result()) is not None:
            coming = ahead.submit(next, batches, None)
            frames = [(item, event) for item, event in batch if isinstance(event, Frame)]
            searched = iter(finder.detect([frame.pixels for item, frame in frames if _boxes(item) is None]))
            found = [boxes if (boxes := _boxes(item)) is not None else next(searched) for item, _ in frames]
            jobs: list[Callable[[], tuple[MediaFile, dict[str, Any]]]] = []
            for (item, frame), faces in zip(frames, found, strict=True):
                record = records.setdefault(item.name, Record.of(item))
                given = _boxes(item) is not None
                kept = _large(faces, config) if given else _choose(faces, config, before.get(item.name))
                if isinstance(kept, str):
                    record.rejected.append(Rejection(kept, frame.time_s))
                    continue
                before[item.name] = kept[0]
                numbers = [faces.index(face) if given else number for number, face in enumerate(kept)]
                jobs += [
                    _encoding(item, frame, face, number, out, config)
                    for number, face in zip(numbers, kept, strict=True)
                ]
            for item, row in in_order(pool, lambda job: job(), jobs):
                records[item.name].rows.append(row)
            for item, event in batch:
                if isinstance(event, UnreadableError):
                    records.setdefault(item.name, Record.of(item)).rejected.append(Rejection(str(event)))
                elif event is None:
                    before.pop(item.name, None)
                    record = records.pop(item.name) if item.name in records else Record.of(item)
                    if not record.rows and not record.rejected:
                        record.rejected.append(Rejection("the video has no frames"))
                    yield record


_Event = tuple[MediaFile, Frame | UnreadableError | None]  # None: that was all of this file


def _decoded(media: list[MediaFile], config: IngestConfig, pool: ThreadPoolExecutor) -> Iterator[_Event]:
    """Frames of all files in turn, then what ended a file early if anything did, then None for its end."""

    def picture(item: MediaFile) -> tuple[MediaFile, Frame | UnreadableError]:
        try:
            return item, read_image(item.path)
        except UnreadableError as error:
            return item, error

    for item, event in in_order(pool, picture, (item for item in media if item.kind == "image")):
        yield item, event
        yield item, None
    for item in media:
        if item.kind == "video":
            try:
                for frame in read_frames(item.path, config.every_seconds, config.max_frames_per_video):
                    yield item, frame
            except UnreadableError as error:
                yield item, error
            yield item, None


def _choose(faces: list[Face], config: IngestConfig, before: Face | None = None) -> list[Face] | str:
    """The faces to keep, or the reason why there are none.

    Of `largest` the face that overlaps the one `before` wins over a somewhat larger one elsewhere: a picture shown
    behind a speaker is not the person that the video is about, and not forged where the speaker is.
    """
    sure = [face for face in faces if face.confidence >= config.min_confidence]
    if not sure:
        return f"no face found above confidence {config.min_confidence:g}" if faces else "no face found"
    large = _large(sure, config)
    if isinstance(large, str) or config.faces == "all":
        return large
    near = [face for face in large if before is not None and overlap(face, before) >= _SAME_FACE]
    rivals = [face for face in near if face.width * face.height * 2 >= large[0].width * large[0].height]
    return (rivals or large)[:1]


def _large(faces: list[Face], config: IngestConfig) -> list[Face] | str:
    large = [face for face in faces if min(face.width, face.height) >= config.min_face_pixels]
    return large or f"face smaller than {config.min_face_pixels} pixels"


def _boxes(item: MediaFile) -> list[Face] | None:
    """The faces that the dataset's authors mark, one an entry; None where they mark none."""
    boxes = [entry.box for entry in item.entries if entry.box is not None]
    return [Face(box, 1.0) for box in boxes] or None


def _encoding(
    item: MediaFile, frame: Frame, face: Face, number: int, out: Path, config: IngestConfig
) -> Callable[[], tuple[MediaFile, dict[str, Any]]]:
    """The job of cutting, encoding and writing one crop, for any thread."""

    def job() -> tuple[MediaFile, dict[str, Any]]:
        pixels = crop(frame.pixels, face.box, config.margin)
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "png", compress_level=3)  # a fifth of the default's time, 5 % larger
        name = f"{number}.png" if frame.index is None else f"{frame.index:06d}-{number}.png"
        path = PurePosixPath("crops", item.name, name)
        data = buffer.getvalue()
        _write(out / path, data)
        size = {"width": max(1, round(face.width)), "height": max(1, round(face.height))}
        which = {"face": number} if len(item.entries) > 1 else {}
        return item, which | _crop_fields(frame, path, data, pixels) | size

    return job


def _crop_fields(frame: Frame, path: PurePosixPath, data: bytes, pixels: Pixels) -> dict[str, Any]:
    return {
        "path": str(path),
        "frame": frame.index,
        "time_s": frame.time_s,
        "codec": frame.codec,
        "sha256": sha256(data),
        "phash": str(imagehash.phash(Image.fromarray(pixels))),
    }


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def _batched(events: Iterator[_Event], size: int) -> Iterator[list[_Event]]:
    while batch := list(islice(events, size)):
        yield batch
