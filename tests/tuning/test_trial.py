"""One trained, validated and logged detector: what is refused before anything is trained."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from core.errors import UserError
from core.manifest import Manifest
from pipelines.cli import main
from tuning.trial import TrialContext, TrialSpec, train_and_log


def without(manifest: Manifest, dataset: str, *labels: str) -> Manifest:
    rows = manifest.rows
    gone = (rows["dataset"] == dataset) & (rows["split"] == "val") & rows["label"].isin(labels)
    return manifest.where(~gone.to_numpy(dtype=bool))


@pytest.mark.parametrize(
    ("dataset", "labels", "held"),
    [("b", ("real", "fake"), "of b holds no rows"), ("b", ("fake",), "of b holds only real faces")],
)
def test_a_dataset_without_val_rows_is_refused_before_training(
    base: TrialSpec, context: TrialContext, dataset: str, labels: tuple[str, ...], held: str
) -> None:
    with pytest.raises(UserError, match=f"{held}, .* val share above 0"):
        train_and_log(base, replace(context, manifest=without(context.manifest, dataset, *labels)), name="unjudged")
    assert not (context.work / "detectors").exists()


def test_train_says_so_and_exits_with_2(
    manifest: Manifest, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    own = without(manifest.select(dataset="a"), "a", "real", "fake").write(tmp_path / "manifest.parquet")
    words = ["train", str(own), "--out", str(tmp_path / "out"), "--mlruns", str(tmp_path / "mlruns"), "--no-audit"]
    monkeypatch.setattr("sys.argv", ["counterforge", *words, "--set", "weights=none", "--set", "image_size=32"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert "the val split of a holds no rows" in capsys.readouterr().err


def test_a_damaged_record_is_written_anew_without_training_again(
    base: TrialSpec, context: TrialContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = train_and_log(base, context, name="one")
    (record,) = trained.path.glob("trained-*.json")
    sound = record.read_text()
    assert train_and_log(base, context, name="one").objective == trained.objective
    record.write_text(sound.replace('"objective": 0.', '"objective": 9.').replace('"objective": 1.', '"objective": 9.'))
    assert record.read_text() != sound
    monkeypatch.setattr("classifier.training._Job", lambda *_: pytest.fail("trained again"))
    assert train_and_log(base, context, name="one").objective == trained.objective
    assert '"objective": 9.' not in record.read_text()
