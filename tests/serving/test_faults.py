"""The service is killed outright with jobs under way: the next one ends them, and each has one answer."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import requests

ROOT = Path(__file__).parents[2]


@contextmanager
def service(data: Path, model: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    words = ["serve", "--data", str(data), "--model", str(model), "--port", str(port), "--set", "workers=1"]
    command = [sys.executable, "-c", "from pipelines.cli import main; main()", *words]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, cwd=data, env=environment, start_new_session=True) as process:
        try:
            for _ in range(600):
                with suppress(requests.ConnectionError):
                    if requests.get(f"http://127.0.0.1:{port}/readyz", timeout=5).ok:
                        break
                assert process.poll() is None
                time.sleep(0.1)
            yield process
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.slow
def test_no_job_is_lost_and_none_is_answered_twice(model_folder: Path, media: Path, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}/v1/verdicts"
    video = (media / "clip.mp4").read_bytes()
    with service(tmp_path, model_folder, port) as process:
        ids = []
        for number in range(5):
            sent = requests.post(f"{address}?wait=0", files={"file": (f"{number}.mp4", video)}, timeout=60)
            assert sent.status_code == 202
            ids.append(sent.json()["id"])
        while not any(requests.get(f"{address}/{id}", timeout=60).json()["status"] == "running" for id in ids):
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGKILL)
    with service(tmp_path, model_folder, port):
        deadline = time.monotonic() + 120
        told = [requests.get(f"{address}/{id}", timeout=60).json() for id in ids]
        while any(one["status"] in ("queued", "running") for one in told):
            assert time.monotonic() < deadline, told
            time.sleep(0.3)
            told = [requests.get(f"{address}/{id}", timeout=60).json() for id in ids]
        assert {one["status"] for one in told} == {"done"}
        assert len({one["likelihood"] for one in told}) == 1
        assert len(requests.get(address, timeout=60).json()) == 5
