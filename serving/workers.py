"""Decoding and face detection in processes of their own, with a deadline: a hostile file kills its worker only.

pebble replaces a worker that died or was stopped at its deadline; the standard library's pool would be dead for good.
"""

from __future__ import annotations

import asyncio
import multiprocessing
from collections.abc import Callable
from concurrent.futures import TimeoutError as DeadlineError
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import av
from pebble import ProcessExpired, ProcessPool

from faces.detection import FaceDetector, Pixels
from faces.media import UnreadableError, media_kind, open_video, opened, read_frames, read_image
from pipelines.prediction.media_faces import Kind, MediaFaces, PredictConfig, face_finder, find_faces

_TASKS_A_WORKER = 500  # then a fresh one: whatever a library leaks goes with it
T = TypeVar("T")


class RefusedError(Exception):
    """A file that is not taken: the HTTP status, and a sentence."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(status, detail)
        self.status, self.detail = status, detail


@dataclass(frozen=True)
class Limits:
    """What a file may be, told before anything of it is decoded."""

    max_pixels: int
    max_seconds: float


class Workers:
    """Processes that look into files."""

    def __init__(self, count: int, deadline_seconds: float) -> None:
        self.count, self.deadline_seconds = count, deadline_seconds
        self.lost = 0  # workers that died or were stopped at their deadline
        self._pool = ProcessPool(
            max_workers=count, max_tasks=_TASKS_A_WORKER, context=multiprocessing.get_context("spawn")
        )

    async def inspect(self, path: Path, limits: Limits) -> Kind:
        """Whether the file is a picture or a video.

        Raises:
            RefusedError: 413 beyond a limit, 415 neither, 422 at the deadline or where it kills its worker.
        """
        return await self._run(inspect, path, limits)

    async def find_faces(self, path: Path, image_size: int, config: PredictConfig) -> MediaFaces:
        """The faces of one file; raises as `inspect` does."""
        return await self._run(look, path, image_size, config)

    async def frame(self, path: Path, index: int | None, config: PredictConfig) -> Pixels:
        """uint8 [H, W, 3]: a picture, or the frame of a video with that number; raises as `inspect` does."""
        return await self._run(frame, path, index, config)

    async def _run(self, function: Callable[..., T], *arguments: Any) -> T:
        future = self._pool.schedule(function, args=arguments, timeout=self.deadline_seconds)
        try:
            return await asyncio.wrap_future(future)
        except DeadlineError as error:
            self.lost += 1
            detail = f"the file took more than {self.deadline_seconds:g} s to look at: send a shorter or smaller one"
            raise RefusedError(422, detail) from error
        except ProcessExpired as error:
            self.lost += 1
            raise RefusedError(422, "the file ended the process that looked at it: it is damaged or hostile") from error

    def stop(self) -> None:
        """End all workers at once."""
        self._pool.stop()  # type: ignore[no-untyped-call]
        self._pool.join()


def inspect(path: Path, limits: Limits) -> Kind:
    """See `Workers.inspect`; in a worker."""
    try:
        kind = media_kind(path)
        width, height, seconds = _video(path) if kind == "video" else (*_picture(path), 0.0)
    except UnreadableError as error:
        raise RefusedError(415, f"neither a picture nor a video that can be read: {error}") from error
    if width * height > limits.max_pixels:
        raise RefusedError(413, f"{width} x {height} pixels are more than {limits.max_pixels}: send it smaller")
    if seconds > limits.max_seconds:
        raise RefusedError(413, f"{seconds:.0f} s are more than {limits.max_seconds:g}: send a part of it")
    return kind


def _picture(path: Path) -> tuple[int, int]:
    try:
        with opened(path.read_bytes()) as image:
            return image.size
    except UnreadableError:
        raise
    except Exception as error:  # Pillow's plugins raise a dozen kinds over damaged files
        raise UnreadableError("no picture that can be read") from error


def _video(path: Path) -> tuple[int, int, float]:
    try:
        with open_video(path) as container:
            if not container.streams.video:
                raise UnreadableError("it has no picture, only sound")
            stream = container.streams.video[0]
            return stream.width, stream.height, (container.duration or 0) / av.time_base
    except (av.FFmpegError, OSError, ValueError) as error:
        raise UnreadableError("no video that can be read") from error


def look(path: Path, image_size: int, config: PredictConfig) -> MediaFaces:
    """See `Workers.find_faces`; in a worker."""
    (found,) = [of for done in find_faces([path], image_size, config, _finder(config)) for of in done]
    return found


def frame(path: Path, index: int | None, config: PredictConfig) -> Pixels:
    """See `Workers.frame`; in a worker."""
    try:
        if index is None:
            return read_image(path).pixels
        for each in read_frames(path, config.every_seconds, config.max_frames):
            if each.index == index:
                return each.pixels
    except UnreadableError as error:
        raise RefusedError(410, f"the upload cannot be read any more: {error}") from error
    raise RefusedError(410, "the frame is not found any more")


@lru_cache(maxsize=1)
def _finder(config: PredictConfig) -> FaceDetector | None:
    return face_finder(config.model_copy(update={"device": "cpu"}))
