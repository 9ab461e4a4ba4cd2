"""The commands that docs/studies.md begins with, run as they stand there, in an empty folder."""

from __future__ import annotations

import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import requests
import yaml

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "studies.md").read_text(encoding="utf-8")
COMMANDS = re.search(r"\n((?:    counterforge .*\n)+)", PAGE)
SMALL = {"detector": {"image_size": 48, "epochs": 1}, "study_detector": {"image_size": 32}}


def command(line: str) -> list[str]:
    program, *words = shlex.split(line, comments=True)
    assert program == "counterforge"
    return [sys.executable, "-m", "pipelines.cli", *words]


def run(line: str, folder: Path, wanted: tuple[int, ...] = (0,)) -> str:
    done = subprocess.run(command(line), cwd=folder, env=environment(), capture_output=True, text=True, timeout=500)
    assert done.returncode in wanted, f"{line}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "COUNTERFORGE_"))}
    return {**kept, "PYTHONPATH": str(ROOT), "COLUMNS": "160"}


def answers(line: str, folder: Path) -> bool:
    """Whether the MLflow UI comes up and knows the study's project; it is stopped afterwards."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = command(f"{line.split('#')[0]} --port {port}")
    process = subprocess.Popen(words, cwd=folder, env=environment(), stdout=subprocess.DEVNULL)
    address, body = f"http://127.0.0.1:{port}/ajax-api/2.0/mlflow/experiments/search", {"max_results": 10}
    deadline = time.monotonic() + 240
    try:
        while time.monotonic() < deadline and process.poll() is None:
            try:
                listed = requests.post(address, json=body, timeout=10).json()["experiments"]
                return "faces" in {each["name"] for each in listed}
            except (requests.RequestException, KeyError):
                time.sleep(0.3)
        return False
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(timeout=60)


@pytest.mark.slow
def test_the_first_lines_of_the_page_work_for_a_stranger(tmp_path: Path) -> None:
    example = re.search(r"```yaml\n(project:.*?)```", PAGE, re.DOTALL)
    assert example is not None
    assert COMMANDS is not None
    config = yaml.safe_load(example[1])
    for section, values in SMALL.items():
        config[section] |= values
    config["study"]["trials"] = 2
    (tmp_path / "try.yaml").write_text(yaml.safe_dump(config))
    launch, status, report, ui, register, promote = (line.strip() for line in COMMANDS[1].splitlines())

    launched = run(launch, tmp_path)
    (name,) = set(re.findall(r"faces-[0-9a-f]{8}", launched))
    assert f"    counterforge study register {name}\n" in launched
    assert "2 of 2 done" in run(status, tmp_path)
    reported = run(report, tmp_path)
    assert f"/runs/try/studies/{name}/report.html" in reported
    assert f"    counterforge study register {name}\n" in reported
    assert answers(ui, tmp_path)
    registered = run(register, tmp_path)
    assert "version 1 is the challenger: trial " in registered
    assert "trained at full cost" in registered
    assert registered.endswith("    counterforge models promote challenger\n")
    assert '"version": 1' in run(f"{register.split('#')[0].strip()} --json", tmp_path)
    # Two tiny trials need not beat the floor, but the gate has to judge them.
    judged = run(promote, tmp_path, (0, 1))
    assert re.search(r"^(not )?promoted: version 1 ", judged, re.MULTILINE)
