"""Steps are skipped when, and only when, inputs are the same and outputs still stand; a run sees ingest's own files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from faces.survey import survey
from pipelines.configuration import RunConfig
from pipelines.inputs import Steps, _inputs


def test_a_step_runs_again_for_new_inputs_or_lost_outputs_only(tmp_path: Path) -> None:
    product = tmp_path / "product"
    calls: list[str] = []

    def do(inputs: str) -> dict[str, object]:
        def work() -> dict[str, object]:
            calls.append(inputs)
            product.write_text(inputs)
            return {"file": str(product), "inputs": inputs}

        return Steps(tmp_path / "steps", 1).do("make", [inputs], work, lambda r: [Path(str(r["file"]))])

    assert do("a") == do("a") == {"file": str(product), "inputs": "a"}
    assert calls == ["a"]
    do("b")
    product.unlink()
    do("b")
    assert calls == ["a", "b", "b"]


def test_a_step_that_failed_is_done_again(tmp_path: Path) -> None:
    def fail() -> dict[str, object]:
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        Steps(tmp_path, 1).do("make", ["a"], fail)
    assert Steps(tmp_path, 1).do("make", ["a"], lambda: {"x": 1}) == {"x": 1}


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"inputs": "x"}'])
def test_a_damaged_record_counts_as_none(tmp_path: Path, damage: str) -> None:
    (tmp_path / "make.json").write_text(damage)
    assert Steps(tmp_path, 1).do("make", ["a"], lambda: {"x": 1}) == {"x": 1}


def test_a_record_whose_result_was_altered_counts_as_none(tmp_path: Path) -> None:
    Steps(tmp_path, 1).do("make", ["a"], lambda: {"x": 1, "auc": float("nan"), 2: (0.1, 3)})
    text = (tmp_path / "make.json").read_text()
    assert Steps(tmp_path, 1).do("make", ["a"], lambda: {})["x"] == 1
    for damaged in (text.replace('"x": 1', '"x": 2'), text.replace("checksum", "checksun").replace('"x": 1', '"x": 2')):
        (tmp_path / "make.json").write_text(damaged)
        assert Steps(tmp_path, 1).do("make", ["a"], lambda: {"x": 5}) == {"x": 5}


def test_a_record_of_before_there_were_checksums_holds(tmp_path: Path) -> None:
    Steps(tmp_path, 1).do("make", ["a"], lambda: {"x": 1})
    record = json.loads((tmp_path / "make.json").read_text())
    del record["checksum"]
    (tmp_path / "make.json").write_text(json.dumps(record))
    assert Steps(tmp_path, 1).do("make", ["a"], lambda: {"x": 5}) == {"x": 1}


def test_a_run_sees_the_files_that_ingest_sees(tmp_path: Path) -> None:
    """Linked folders too, and neither hidden files nor its own output."""
    store, source = tmp_path / "store", tmp_path / "set"
    for name in ("real/a.png", "fake/swap/b.png", "fake/.hidden.png"):
        (store / name).parent.mkdir(parents=True, exist_ok=True)
        (store / name).write_bytes(b"1")
    source.mkdir()
    (source / "real").symlink_to(store / "real")
    (source / "fake").symlink_to(store / "fake")
    (source / "runs" / "faces").mkdir(parents=True)
    (source / "runs" / "faces" / "crop.png").write_bytes(b"1")
    config = RunConfig.model_validate(
        {"project": "p", "out": source / "runs", "faces": [{"source": source, "dataset": "d"}],
         "datasets": {"train": ["d"]}}
    )  # fmt: skip
    before = _inputs(config)
    listed = [name for name, _, _ in json.loads(before[before.rindex("}[") + 1 :])]
    assert listed == sorted(entry.path for entry in survey(source, out=source / "runs").entries)
    (store / "fake" / "swap" / "c.png").write_bytes(b"1")
    assert _inputs(config) != before
