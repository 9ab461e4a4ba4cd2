"""The same command typed twice: the second waits, says for whom, and returns what the first made."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from core.manifest import Manifest
from tests.pipelines.conftest import draw
from tests.pipelines.synthetic_faces import configuration, pictures
from tracking.registry import Registry
from tracking.runs import test_openings as openings_of
from tracking.store import open_store

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow


class Command:
    """A command that runs, with what it says in files."""

    def __init__(self, folder: Path, number: int, *words: str) -> None:
        self.out, self.err = folder / f"out-{number}", folder / f"err-{number}"
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "MLFLOW_TRACKING_URI": ""}
        with self.out.open("wb") as out, self.err.open("wb") as err:
            line = [sys.executable, "-m", "pipelines.cli", *words, "--json"]
            self.process = subprocess.Popen(line, cwd=folder, env=environment, stdout=out, stderr=err)

    def waits_for(self, other: Command) -> None:
        said = f"waits for process {other.process.pid} to end there"
        self.until(lambda: said in self.err.read_text())

    def until(self, happened: Any) -> None:
        deadline = time.monotonic() + 400
        while not happened():
            assert self.process.poll() is None, self.err.read_text()[-3000:]
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def result(self) -> Any:
        self.process.send_signal(signal.SIGCONT)
        assert self.process.wait(timeout=500) == 0, self.err.read_text()[-3000:]
        return json.loads(self.out.read_text())


def twice(folder: Path, out: Path, *words: str) -> tuple[Command, Command]:
    """The first holds the folder, and is halted until the second says that it waits."""
    first = Command(folder, 1, *words)
    first.until((out / ".job.pid").exists)
    first.process.send_signal(signal.SIGSTOP)
    second = Command(folder, 2, *words)
    second.waits_for(first)
    return first, second


def finished_runs(mlruns: Path, project: str) -> list[str]:
    store = open_store(mlruns)
    runs = store.client.search_runs([store.experiment(project)], max_results=100)
    assert {run.info.status for run in runs} == {"FINISHED"}
    return sorted(str(run.info.run_name) for run in runs)


@pytest.fixture
def faces(tmp_path: Path) -> str:
    (tmp_path / "faces").mkdir()
    rows = draw(tmp_path / "faces", "near", contrast=24, seed=0, each=24)
    return str(Manifest.build(rows, tmp_path / "faces").write(tmp_path / "faces" / "manifest.parquet"))


TRAIN = ["--out", "detector", "--weights", "none", "--epochs", "2", "--set", "image_size=32", "--set", "device=cpu"]


def test_two_trainings_make_one_model_and_one_version(tmp_path: Path, faces: str) -> None:
    first, second = twice(tmp_path, tmp_path / "detector", "train", faces, *TRAIN)
    third = Command(tmp_path, 3, "train", faces, *TRAIN)
    third.waits_for(first)
    third.process.send_signal(signal.SIGINT)  # who does not want to wait ends it, and nothing else
    assert third.process.wait(timeout=60) == 130
    assert "Traceback" not in third.err.read_text()
    assert first.result() == second.result()
    store = open_store(tmp_path / "mlruns")
    assert len(Registry(store).versions()) == 1
    assert len(store.client.search_logged_models([store.experiment("detectors")])) == 1
    assert finished_runs(tmp_path / "mlruns", "detectors") == ["train tf_efficientnet_lite0"]


def test_the_second_takes_over_from_one_that_is_killed(tmp_path: Path, faces: str) -> None:
    first, second = twice(tmp_path, tmp_path / "detector", "train", faces, *TRAIN)
    first.process.kill()
    assert second.result()["version"] == 1
    assert len(Registry(open_store(tmp_path / "mlruns")).versions()) == 1


def test_two_trainings_of_a_generator_make_one(tmp_path: Path, faces: str) -> None:
    words = ["gan", "train", faces, "--out", "g", "--preset", "tiny", "--image-size", "16", "--kimg", "0.3"]
    first, second = twice(tmp_path, tmp_path / "g", *words)
    assert first.result() == second.result()
    assert finished_runs(tmp_path / "mlruns", "generators") == ["generator"]


def test_two_comparisons_open_the_test_rows_once(tmp_path: Path) -> None:
    pictures(tmp_path / "near", 24, 0, real=40, fake=40)
    config = str(configuration(tmp_path, ("near",)))
    first, second = twice(tmp_path, tmp_path / "out", "compare", config)
    one, other = first.result(), second.result()
    assert one["table"] == other["table"]
    assert one["openings"] == other["openings"] == {"near": 1}
    assert finished_runs(tmp_path / "mlruns", "weave").count("comparison") == 1


def test_two_runs_make_one_version(tmp_path: Path) -> None:
    pictures(tmp_path / "near", 24, 0, real=60, fake=60)
    config = str(
        configuration(
            tmp_path,
            ("near",),
            gan={"preset": "tiny", "image_size": 16, "kimg": 0.3, "batch_size": 8},
            experiment={"arms": ["none", "gan"], "seeds": [0]},
            keep_train_fakes=0.5,
        )
    )
    first, second = twice(tmp_path, tmp_path / "out", "run", config)
    one, other = first.result(), second.result()
    assert one["table"] == other["table"]
    assert one["verdict"] == other["verdict"]
    store = open_store(tmp_path / "mlruns")
    assert len(Registry(store).versions()) == 1
    assert openings_of(store, "weave") == {"near": 2}  # by the experiment, and by the gate for its one model
    assert second.err.read_text().count("unchanged, done before") >= 5
