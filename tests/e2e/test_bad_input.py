"""What users get wrong: each mistake is one sentence on stderr and exit 2."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]


def fail(folder: Path, *words: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", "from pipelines.cli import main; main()", *words],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    return lines[0]


def pictures(folder: Path, *labels: str) -> Path:
    for label in labels:
        (folder / label).mkdir(parents=True)
        for number in range(3):
            shade = (40 * number, 90, 10 if label == "real" else 200)
            Image.new("RGB", (48, 48), shade).save(folder / label / f"{number}.png")
    return folder


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["faces", "ingest", "nowhere", "--out", "o"], "nowhere"),
        (["gan", "train", "nowhere", "--out", "o"], "no manifest at nowhere"),
        (["run", "none.yaml"], "no configuration at none.yaml"),
        (["demo", "--set", "gan.presett=tiny"], "did you mean preset?"),
        (["demo", "--set", "detector.backbone=resnet19"], "resnet18"),
        (["demo", "--set", "synthetic_share=1.4"], "synthetic_share 1.4"),
        (["balance", "nowhere", "--generator", "g", "--out", "o", "--share", "1.4"], "share 1.4"),
        (["demo", "--set", "mlruns=/proc/nothing"], "/proc"),
        (["study", "status", "none"], "no study is called 'none'"),
        (["models", "promote", "7"], "7"),
        (["evaluate", "--model", "champion"], "champion"),
        (["models", "rollback"], "no previous champion"),
    ],
)
def test_a_mistake_is_one_sentence(tmp_path: Path, words: list[str], sentence: str) -> None:
    assert sentence in fail(tmp_path, *words)


def test_an_empty_folder_and_a_single_class_are_named(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "empty" in fail(tmp_path, "faces", "ingest", "empty", "--out", "o")
    one = pictures(tmp_path / "one", "real")
    assert "fake" in fail(tmp_path, "faces", "ingest", str(one), "--out", "o2", "--already-cropped")


def test_a_server_that_does_not_answer_is_named(tmp_path: Path) -> None:
    sentence = fail(tmp_path, "models", "list", MLFLOW_TRACKING_URI="http://127.0.0.1:9")
    assert "127.0.0.1:9" in sentence
