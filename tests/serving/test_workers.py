"""Worker processes: one that hangs or dies costs its own file, and the next one is looked at."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from faces.media import UnreadableError
from pipelines.prediction.media_faces import PredictConfig
from serving.workers import Limits, RefusedError, Workers, inspect

LIMITS = Limits(10**7, 60)


@pytest.fixture(scope="module")
def workers() -> Iterator[Workers]:
    started = Workers(1, deadline_seconds=20)
    yield started
    started.stop()


def test_a_hang_and_a_death_cost_their_own_file(workers: Workers, media: Path) -> None:
    async def all_of_it() -> None:
        assert await workers.inspect(media / "one.png", LIMITS) == "image"
        workers.deadline_seconds = 0.5
        with pytest.raises(RefusedError, match=r"more than 0\.5 s") as late:
            await workers._run(time.sleep, 30)
        workers.deadline_seconds = 60
        with pytest.raises(RefusedError, match="ended the process") as dead:
            await workers._run(os._exit, 3)
        assert (late.value.status, dead.value.status, workers.lost) == (422, 422, 2)
        found = await workers.find_faces(media / "one.png", 32, PredictConfig())
        assert len(found.crops) == 1

    asyncio.run(all_of_it())


def test_a_refusal_crosses_the_processes_whole(workers: Workers, media: Path) -> None:
    with pytest.raises(RefusedError, match="480 x 360 pixels are more than 1000") as told:
        asyncio.run(workers.inspect(media / "one.png", Limits(1000, 60)))
    assert told.value.status == 413


def test_every_kind_that_ingest_takes_is_taken(tmp_path: Path) -> None:
    picture = Image.new("RGB", (40, 30), (90, 80, 70))
    for kind in ("png", "jpeg", "webp", "gif", "tiff", "bmp"):
        picture.save(tmp_path / "upload", kind)
        assert inspect(tmp_path / "upload", LIMITS) == "image"
    heif = pytest.importorskip("pillow_heif")
    heif.from_pillow(picture).save(tmp_path / "upload")
    assert inspect(tmp_path / "upload", LIMITS) == "image"


def test_what_is_no_medium_is_refused(tmp_path: Path) -> None:
    (tmp_path / "upload").write_bytes(b"neither")
    with pytest.raises(RefusedError) as told:
        inspect(tmp_path / "upload", LIMITS)
    assert told.value.status == 415
    assert isinstance(told.value.__cause__, UnreadableError)
