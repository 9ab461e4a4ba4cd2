"""The record of a comparison holds every figure, whatever it says."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import pytest

from tests.pipelines.synthetic_faces import configuration, pictures

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Call the script in this process: a new one loads torch for seconds."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))

    def run(*words: str) -> dict[str, Any]:
        monkeypatch.setattr("sys.argv", ["synthetic_lift", *words])
        importlib.import_module("synthetic_lift").main()
        return json.loads(capsys.readouterr().out)

    return run


def test_every_figure_is_in_the_record_and_a_second_call_repeats_them(tmp_path: Path, call: Any) -> None:
    pictures(tmp_path / "near", 24, 0, real=60, fake=30)
    pictures(tmp_path / "far", 8, 1, real=30, fake=30)
    out, plot = tmp_path / "new" / "lift.json", tmp_path / "new" / "lift.png"
    words = [str(configuration(tmp_path, ("near", "far"))), "--out", str(out), "--plot", str(plot)]
    record = call(*words)
    assert json.loads(out.read_text()) == record
    assert {"hardware", "versions", "date", "goal", "hours"} <= set(record)
    assert (record["ratio"], record["met"]) == (1.0, True)
    assert {(row["arm"], row["dataset"]) for row in record["table"]} == {
        (arm, dataset) for arm in ("none", "oversampling") for dataset in ("near", "far", "mean")
    }
    assert len(record["conclusions"]) == 3
    assert record["lift"] == {}  # no arm with synthetic faces
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert call(*words)["table"] == record["table"]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["none.yaml"], "no configuration at none.yaml"),
        (["--workers", "0"], "--workers 0 is none"),
        (["--data", "nowhere"], "no folder at nowhere/stylegan140k (faces.source)"),
        (["--set", "comparison.arms=[none, gann]"], "did you mean 'gan'?"),
    ],
)
def test_what_cannot_be_compared_is_one_sentence(
    words: list[str], sentence: str, call: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(BENCHMARKS.parent)
    with pytest.raises(SystemExit) as end:
        call(*words)
    assert end.value.code == 2
    assert sentence in capsys.readouterr().err


def test_the_kept_configuration_asks_for_every_arm() -> None:
    from core.config import read_yaml, validate
    from pipelines.configuration import ARMS, RunConfig

    path = BENCHMARKS / "synthetic_lift.yaml"
    plan = validate(RunConfig, read_yaml(path), str(path)).comparison
    assert plan.arms == ARMS
    assert len(plan.seeds) >= 3
