"""How long a job took that was perhaps killed and resumed."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

_EVERY_SECONDS = 10.0  # what a killed attempt loses at most


@contextmanager
def stopwatch(path: Path) -> Iterator[Callable[[], float]]:
    """Inside, the seconds of all attempts so far are kept in `path`; once a block has ended well, no more are added."""
    before, finished = _read(path)
    started, over = time.monotonic(), threading.Event()

    def elapsed() -> float:
        return before if finished else before + time.monotonic() - started

    def keep() -> None:
        while not over.wait(_EVERY_SECONDS):
            _write(path, elapsed(), finished)

    thread = threading.Thread(target=keep, daemon=True)
    thread.start()
    ended_well = finished
    try:
        yield elapsed
        ended_well = True
    finally:
        over.set()
        thread.join()
        _write(path, elapsed(), ended_well)


def _read(path: Path) -> tuple[float, bool]:
    try:
        content = json.loads(path.read_text())
        return float(content["seconds"]), bool(content["finished"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0.0, False


def _write(path: Path, seconds: float, finished: bool) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(json.dumps({"seconds": seconds, "finished": finished}))
    temporary.replace(path)
