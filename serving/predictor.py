"""From a file to an answer: workers find the faces, and those of all requests go through the model together."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.prediction.media_faces import MediaFaces, PredictConfig
from pipelines.prediction.model import ServedModel
from pipelines.prediction.predict import FilePrediction, sum_up
from serving.workers import RefusedError, Workers

_MOST_FACES = 64  # in one pass


@dataclass(frozen=True)
class Answer:
    """What the model said about one file, and where the time went."""

    said: FilePrediction
    model: ServedModel
    timings_ms: Mapping[str, float]


class Batcher:
    """Collects faces for a few milliseconds, and scores those of one model in one pass."""

    def __init__(self, window_ms: float) -> None:
        self._window = window_ms / 1000
        self._waiting: asyncio.Queue[tuple[ServedModel, NDArray[np.uint8], asyncio.Future[NDArray[np.float32]]]]
        self._waiting = asyncio.Queue()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="score")
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """In the running event loop."""
        self._task = asyncio.create_task(self._serve())

    async def stop(self) -> None:
        """End; who still waits is told so."""
        if self._task is not None:
            self._task.cancel()
        self._thread.shutdown(wait=True)

    async def logits(self, model: ServedModel, faces: NDArray[np.uint8]) -> NDArray[np.float32]:
        """[N] logits of uint8 faces [N, S, S, 3]."""
        if not len(faces):
            return np.zeros(0, np.float32)
        future: asyncio.Future[NDArray[np.float32]] = asyncio.get_running_loop().create_future()
        await self._waiting.put((model, faces, future))
        return await future

    async def in_thread(self, function: Any, *arguments: Any) -> Any:
        """Run what computes in the thread that scores, so that cores are not fought over."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *arguments)

    async def _serve(self) -> None:
        while True:
            batch = [await self._waiting.get()]
            until = time.monotonic() + self._window
            while sum(len(faces) for _, faces, _ in batch) < _MOST_FACES:
                try:
                    batch.append(await asyncio.wait_for(self._waiting.get(), max(until - time.monotonic(), 0)))
                except TimeoutError:
                    break
            for model in {id(model): model for model, _, _ in batch}.values():
                own = [(faces, future) for of, faces, future in batch if of is model]
                await self._score(model, own)

    async def _score(
        self, model: ServedModel, own: list[tuple[NDArray[np.uint8], asyncio.Future[NDArray[np.float32]]]]
    ) -> None:
        faces = np.concatenate([faces for faces, _ in own])
        parts = [faces[start : start + _MOST_FACES] for start in range(0, len(faces), _MOST_FACES)]
        try:
            logits = np.concatenate([await self.in_thread(model.logits, part) for part in parts])
        except Exception as error:
            for _, future in own:
                if not future.done():
                    future.set_exception(error)
            return
        for faces, future in own:
            if not future.done():  # the client may have gone
                future.set_result(logits[: len(faces)])
            logits = logits[len(faces) :]


class Predictor:
    """Judges files; the model is taken once for each, so that an answer never mixes two."""

    def __init__(self, workers: Workers, batcher: Batcher, config: PredictConfig) -> None:
        self.workers, self.batcher, self.config = workers, batcher, config

    async def judge(self, path: Path, model: ServedModel) -> Answer:
        """Raises RefusedError where the file cannot be read, or its worker died of it."""
        started = time.perf_counter()
        found: MediaFaces = await self.workers.find_faces(path, model.image_size, self.config)
        seen = time.perf_counter()
        if not found.sightings and found.problem:
            raise RefusedError(415, f"the file cannot be read: {found.problem}")
        faces = np.stack(found.crops) if found.crops else np.zeros((0, 1, 1, 3), np.uint8)
        logits = await self.batcher.logits(model, faces)
        scored = time.perf_counter()
        said = await self.batcher.in_thread(sum_up, found, logits, model, self.config)
        ended = time.perf_counter()
        spans = {
            "faces": seen - started,
            "scoring": scored - seen,
            "interval": ended - scored,
            "total": ended - started,
        }
        return Answer(said, model, {name: round(1000 * span, 1) for name, span in spans.items()})
