"""The whole loop by the command that users type: killed and resumed, repeated, promoted, evaluated, rolled back."""

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
import yaml

from core.config import read_yaml
from tracking.registry import Registry
from tracking.store import open_store

ROOT = Path(__file__).parents[2]
SMALL: dict[str, Any] = {
    "gan": {"preset": "tiny", "image_size": 16, "kimg": 0.5, "batch_size": 8},
    "detector": {"image_size": 32, "epochs": 2, "frozen_epochs": 1, "batch_size": 32},
    "study_detector": {"epochs": 1},
}


def command(*words: str) -> list[str]:
    return [sys.executable, "-c", "from pipelines.cli import main; main()", *words]


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)} | {"MLFLOW_TRACKING_URI": ""}


def call(folder: Path, *words: str, check: int = 0) -> str:
    done = subprocess.run(command(*words), cwd=folder, env=environment(), capture_output=True, text=True, timeout=500)
    assert done.returncode == check, done.stderr[-3000:]
    return done.stdout


def kill_after(folder: Path, sign: Path, pattern: str, *words: str) -> None:
    """Start a command and SIGKILL it as soon as a file shows that it has come to a certain place."""
    process = subprocess.Popen(
        command(*words), cwd=folder, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 300
    while not list(sign.glob(pattern)):
        assert process.poll() is None, f"ended before {sign / pattern} came"
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()


@pytest.fixture(scope="module")
def config() -> dict[str, Any]:
    content = read_yaml(ROOT / "pipelines" / "demo.yaml") | SMALL
    content["study"] = content["study"] | {"trials": 2}
    return content


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory, config: dict[str, Any]) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("whole")
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return folder, json.loads(call(folder, "run", "config.yaml", "--json"))


def champions(folder: Path) -> list[int]:
    models = json.loads(call(folder, "models", "list", "--json"))
    return [model["version"] for model in models if "champion" in model["aliases"]]


def test_it_ends_in_a_table_a_report_and_a_verdict(uninterrupted: tuple[Path, dict[str, Any]]) -> None:
    folder, result = uninterrupted
    assert {row["arm"] for row in result["table"]} == {"class weights", "gan with class weights"}
    assert {row["dataset"] for row in result["table"]} == {"orl-swap", "orl-resynth", "mean"}
    assert result["reference"] == "class weights"
    assert all(0 <= row["low"] <= row["auc"] <= row["high"] <= 1 for row in result["table"])
    html = (folder / result["report"]).read_text()
    assert "http" not in html.replace("http-equiv", "")  # nothing is loaded from elsewhere
    assert html.count("data:image/png;base64,") >= 8
    assert not result["verdict"]["promoted"], "two epochs on 32 pixels learn nothing"
    assert "does not beat the floor (AUC 0.5" in result["verdict"]["reason"]
    assert champions(folder) == []
    call(folder, "models", "promote", str(result["verdict"]["version"]), check=1)
    assert champions(folder) == []


def test_run_again_it_answers_from_what_it_has(uninterrupted: tuple[Path, dict[str, Any]]) -> None:
    folder, result = uninterrupted
    content = read_yaml(folder / "config.yaml")
    settings = [f"--set={key}={json.dumps(content[key])}" for key in (*SMALL, "study")]
    for words in (["run", "config.yaml", "--json"], ["demo", *settings, "--json"]):
        done = subprocess.run(command(*words), cwd=folder, env=environment(), capture_output=True, text=True)
        assert json.loads(done.stdout)["table"] == result["table"]
        assert done.stderr.count("unchanged") == 7
    for word in (f"verdict    {result['verdict']['reason']}", "class weights", "next:"):
        assert word in call(folder, "demo", *settings)


def test_evaluate_gives_the_figures_of_the_report(uninterrupted: tuple[Path, dict[str, Any]]) -> None:
    folder, result = uninterrupted
    again = json.loads(call(folder, "evaluate", "--model", str(result["verdict"]["version"]), "--json"))
    for row in result["table"]:
        if row["arm"] == result["candidate"] and row["dataset"] != "mean":
            interval = again["by_source"]["results"][row["dataset"]]["intervals"]["auc"]
            assert interval["value"] == row["auc"]
            assert (interval["low"], interval["high"]) == pytest.approx((row["low"], row["high"]), abs=1e-12)
    assert again["openings"]["orl-swap"] >= 2
    band = again["abstention"]
    assert 0 <= band["low"] <= band["high"]
    assert {row["dataset"] for row in band["datasets"]} == {"orl-swap", "orl-resynth"}
    names = ("roc", "precision_recall", "confusion", "reliability", "histograms")
    runs = [{path.parent for path in (folder / "mlruns").rglob(f"figures/{name}.png")} for name in names]
    assert len(set.intersection(*runs)) == 1


def test_the_champion_is_not_replaced_by_its_equal(uninterrupted: tuple[Path, dict[str, Any]]) -> None:
    """A worse or equal candidate is refused with a reason and exit 1, and the alias stays."""
    folder, result = uninterrupted
    first = result["verdict"]["version"]
    Registry(open_store(folder / "mlruns")).promote(first, {}, why="somebody must be the first")
    assert champions(folder) == [first]
    manifest = folder / "runs" / "demo" / "faces" / "manifest.parquet"
    settings = ["--set", "image_size=32", "--set", "frozen_epochs=1", "--epochs", "1", "--seed", "5"]
    made = json.loads(call(folder, "train", str(manifest), "--out", "again", *settings, "--json"))
    assert made["remarks"] == []
    refused = json.loads(call(folder, "models", "promote", str(made["version"]), "--json", check=1))
    assert refused["difference"]["low"] <= 0
    assert "must lie above zero" in refused["reason"]
    assert champions(folder) == [first]


def test_killed_at_three_moments_it_ends_in_the_same_table(
    tmp_path: Path, config: dict[str, Any], uninterrupted: tuple[Path, dict[str, Any]]
) -> None:
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    out = tmp_path / "runs" / "demo"
    kill_after(tmp_path, out, "steps/faces.json", "run", "config.yaml")
    kill_after(tmp_path, out, "detectors/*/trained-*.json", "run", "config.yaml")
    kill_after(tmp_path, out, "steps/study.json", "run", "config.yaml")
    result = json.loads(call(tmp_path, "run", "config.yaml", "--json"))
    assert result["table"] == uninterrupted[1]["table"]
    assert result["differences"] == uninterrupted[1]["differences"]
