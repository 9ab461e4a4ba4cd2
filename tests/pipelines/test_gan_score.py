"""`counterforge gan score`, called as a user calls it: what it prints stands in the MLflow run too."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from faces.orl import embedded
from gan.checkpoint import GeneratorCard, save_generator
from pipelines.cli import main
from tracking.store import open_store


def test_the_share_of_findable_faces_is_printed_and_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    card = GeneratorCard(
        image_size=16,
        channels={4: 8, 8: 8, 16: 8},
        z_width=8,
        w_width=8,
        mapping_depth=1,
        noise_inputs=False,
        manifest="none",
        kimg=0,
    )
    folder = save_generator(card.build(), card, tmp_path / "generator")
    reals = embedded(tmp_path / "faces").select(label="real", split="train")
    reals = reals.where(np.arange(len(reals)) < 24)
    reals.write(tmp_path / "reals.parquet")
    words = [str(folder), str(tmp_path / "reals.parquet"), "--out", str(tmp_path / "out"), "--samples", "8", "--json"]
    folders = ["--cache", str(tmp_path / "cache"), "--mlruns", str(tmp_path / "mlruns")]
    monkeypatch.setattr("sys.argv", ["counterforge", "gan", "score", *words, *folders])
    with pytest.raises(SystemExit) as end:
        main()
    assert not end.value.code
    metrics = json.loads(capsys.readouterr().out)["metrics"]
    assert metrics["faces_found"] == 0  # its weights are as they were drawn
    assert metrics["faces_found_floor"] >= 0.75

    store = open_store(tmp_path / "mlruns")
    experiment = store.client.get_experiment_by_name("generators")
    (logged,) = store.client.search_runs([experiment.experiment_id])
    assert logged.data.metrics["faces_found"] == metrics["faces_found"]
    assert logged.data.metrics["faces_found_floor"] == metrics["faces_found_floor"]
