"""What the project ships runs for a stranger: as a dry run, for real where small, or up to a sentence that says why."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from pipelines.cli import main

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.fixture
def call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Call the command line in an empty folder, in this process; its exit status, output and errors."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)

    def run(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["counterforge", *words])
        with pytest.raises(SystemExit) as end:
            main()
        out, err = capsys.readouterr()
        return int(end.value.code or 0), out, err

    return run


@pytest.mark.parametrize(
    "words",
    [
        ("demo",),
        ("run", "faces.yaml"),
        ("study", "launch", "faces.yaml"),
        ("compare", "faces.yaml"),
        ("matrix", "faces.yaml"),
        ("compare", "comparison.yaml"),
        ("run", "comparison.yaml"),
    ],
    ids=" ".join,
)
def test_a_dry_run_prints_the_configuration(words: tuple[str, ...], call: Callable[..., tuple[int, str, str]]) -> None:
    words = tuple(str(CONFIGS / word) if word.endswith(".yaml") else word for word in words)
    status, out, err = call(*words, "--dry-run")
    assert (status, err) == (0, "")
    assert "tf_efficientnet_lite0" in out
    assert not list(Path.cwd().iterdir())


@pytest.mark.parametrize("command", [("run",), ("compare",), ("study", "launch")], ids=" ".join)
def test_a_placeholder_is_explained(command: tuple[str, ...], call: Callable[..., tuple[int, str, str]]) -> None:
    status, _, err = call(*command, str(CONFIGS / "faces.yaml"))
    assert status == 2
    assert "no folder at path/to/your/dataset (faces.source): give a folder that holds real/ and fake/" in err


def test_the_comparison_runs(call: Callable[..., tuple[int, str, str]]) -> None:
    small = ["detector.image_size=32", "detector.epochs=1", "comparison.seeds=[0,1]"]
    settings = [word for setting in (*small, "comparison.arms=[none,self-blend]") for word in ("--set", setting)]
    status, out, _ = call("compare", str(CONFIGS / "comparison.yaml"), *settings, "--json")
    assert status == 0
    arms = {row["arm"] for row in json.loads(out)["table"]}
    assert arms == {"none", "self-blend"}
    assert Path("runs/comparison").is_dir()
