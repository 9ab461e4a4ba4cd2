"""What users get wrong: each mistake is one sentence on stderr and exit 2."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from pipelines.cli import main


@pytest.fixture
def fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Call the command line in an empty folder, in this process (a new one loads torch for seconds); its sentence."""
    monkeypatch.chdir(tmp_path)

    def call(*words: str) -> str:
        monkeypatch.setattr("sys.argv", ["counterforge", *words])
        with pytest.raises(SystemExit) as end:
            main()
        assert end.value.code == 2
        lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1
        return lines[0]

    return call


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
        (["faces", "audit", "nowhere"], "no manifest at nowhere"),
        (["faces", "audit", "nowhere", "--quality", "80"], "--normalise OUT"),
        (["gan", "train", "nowhere", "--out", "o"], "no manifest at nowhere"),
        (["gan", "train", "nowhere", "--out", "o", "--image-size", "48"], "48 is not a power of two: take 32 or 64"),
        (["run", "none.yaml"], "no configuration at none.yaml"),
        (["demo", "--set", "gan.presett=tiny"], "did you mean preset?"),
        (["demo", "--set", "detector.backbone=resnet19"], "resnet18"),
        (["demo", "--set", "synthetic_share=1.4"], "synthetic_share 1.4"),
        (["balance", "nowhere", "--generator", "g", "--out", "o", "--share", "1.4"], "share 1.4"),
        (["balance", "nowhere", "--out", "o", "--method", "swap+gan"], "method 'swap' is not known"),
        (["demo", "--set", "synthetic_method=swap"], "method 'swap' is not known"),
        (["gan", "sample", "g", "--out", "o", "--psi", "high"], "psi 'high' is not a number"),
        (["gan", "sample", "nowhere", "--out", "o"], "no generator at nowhere"),
        (["demo", "--set", "mlruns=/proc/nothing"], "/proc"),
        (["study", "status", "none"], "no study is called 'none'"),
        (["models", "promote", "7"], "has no version '7': nothing is registered yet"),
        (["evaluate", "--model", "champion"], "champion"),
        (["models", "rollback"], "no previous champion"),
        (["models", "promote", "challenger"], "nothing is registered yet"),
        (["models", "promote", "1", "--gate", "none.yaml"], "no configuration at none.yaml"),
        (["models", "promote", "0123456789abcdef0123456789abcdef"], "0123456789abcdef0123456789abcdef"),
        (["models", "compare", "1", "champion"], "has no version '1'"),
        (["models", "card", "previous"], "has no version 'previous'"),
        (["models", "export", "4", "--out", "o"], "has no version '4'"),
        (["models", "import", "nowhere"], "is no exported model"),
        (["models", "tag", "1", "licence"], "name=value"),
        (["explain", "champion", "nowhere", "--out", "o"], "no manifest at nowhere"),
        (["ensemble", "1", "2", "--manifest", "nowhere", "--out", "o"], "no manifest at nowhere"),
    ],
)
def test_a_mistake_is_one_sentence(fail: Callable[..., str], words: list[str], sentence: str) -> None:
    assert sentence in fail(*words)


def test_an_empty_folder_and_a_single_class_are_named(fail: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "empty" in fail("faces", "ingest", "empty", "--out", "o")
    one = pictures(tmp_path / "one", "real")
    assert "fake" in fail("faces", "ingest", str(one), "--out", "o2", "--already-cropped")


def test_a_server_that_does_not_answer_is_named(fail: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    sentence = fail("models", "list")
    assert "127.0.0.1:9" in sentence


def test_a_misspelt_rule_of_the_gate_is_named(fail: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "gate.yaml").write_text("min_worst_auc: 0.6\n")
    sentence = fail("models", "promote", "1", "--gate", "gate.yaml")
    assert "min_worst_auc is not a key" in sentence
    assert "did you mean min_worst_auc_low?" in sentence


def test_ctrl_c_ends_a_command_with_a_sentence_and_130(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "pipelines.cli", "demo"], cwd=tmp_path, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    assert "[1/" in process.stderr.readline()
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "stopped; what is done is kept" in said
    assert "Traceback" not in said
