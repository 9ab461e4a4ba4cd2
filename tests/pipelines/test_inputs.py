"""What a run starts from: it sees the very files that ingest sees."""

from __future__ import annotations

import json
from pathlib import Path

from faces.survey import survey
from pipelines.configuration import RunConfig
from pipelines.inputs import _inputs


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
