"""Verdicts on files: the faces, the figures, what cannot be judged, and what was judged before."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from classifier.models.detector import Detector
from classifier.scoring import score
from core.errors import UserError
from core.manifest import Manifest
from pipelines.cli import app
from pipelines.prediction import predict as module
from pipelines.prediction.drawing import draw, saliency
from pipelines.prediction.media_faces import PredictConfig
from pipelines.prediction.model import ServedModel, serve_model
from pipelines.prediction.predict import list_files, predict, predict_file


@pytest.fixture(scope="module")
def served(model_folder: Path) -> ServedModel:
    return serve_model(str(model_folder), device="cpu")


def test_scores_are_those_of_the_scoring_of_manifests(served: ServedModel, faces: Path, cache: Path) -> None:
    rows = Manifest.read(faces).select(split="test", dataset="near")
    told = list(predict(rows.files, served, PredictConfig(already_cropped=True)))
    expected = score(served.network, rows, cache)
    assert [said.likelihood for said in told] == pytest.approx(expected.tolist(), abs=1e-6)
    assert {said.interval_method for said in told} == {"venn-abers"}
    assert all(said.verdict == served.verdict(said.likelihood or 0) for said in told)


def test_every_kind_of_file_has_its_row(served: ServedModel, media: Path) -> None:
    os.mkfifo(media / "pipe.png")
    try:
        told = {Path(said.path).name: said for said in predict(list_files([media]), served)}
    finally:
        (media / "pipe.png").unlink()
    assert [Path(path).name for path in map(str, list_files([media]))] == [name for name in told if name != "pipe.png"]
    one, two, clip = told["one.png"], told["two.png"], told["clip.mp4"]
    assert len(one.faces) == 1
    left, top, right, bottom = one.faces[0].box
    assert 140 < (left + right) / 2 < 324
    assert 70 < (top + bottom) / 2 < 294
    assert one.low is not None
    assert one.high is not None
    assert 0 <= one.low <= one.high <= 1
    assert {face.track for face in two.faces} == {0, 1}
    assert two.likelihood == max(face.likelihood for face in two.faces)
    assert any("highest of 2 faces" in warning for warning in two.warnings)
    assert clip.kind == "video"
    assert clip.frames == 4
    assert [face.time_s for face in clip.faces] == [0.0, 1.0, 2.0, 3.0]
    assert {face.track for face in clip.faces} == {0}
    assert clip.likelihood == pytest.approx(np.mean([face.likelihood for face in clip.faces]))
    assert clip.interval_method == "block-bootstrap"
    assert clip.low is not None
    assert clip.low <= (clip.likelihood or 0)
    assert (told["meadow.png"].verdict, told["meadow.png"].frames) == ("no-face", 1)
    assert "no face of 32 pixels" in told["meadow.png"].reason
    assert told["notes.txt"].verdict == "unreadable"
    assert told["pipe.png"].reason == "not a regular file"


def test_a_video_that_is_cut_short_is_judged_by_what_is_left(served: ServedModel, media: Path, tmp_path: Path) -> None:
    data = (media / "clip.mp4").read_bytes()
    (tmp_path / "half.mp4").write_bytes(data[: len(data) // 2])
    (tmp_path / "empty.mp4").write_bytes(b"")
    for name in ("half.mp4", "empty.mp4"):
        said = predict_file(tmp_path / name, served)
        assert said.verdict == "unreadable" or said.warnings


def test_what_was_judged_before_is_not_looked_at_again(
    served: ServedModel, media: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files, journal = list_files([media]), tmp_path / "cache" / "predictions.jsonl"
    running = predict(files, served, None, journal)
    first = [next(running) for _ in range(2)]
    running.close()  # as Ctrl-C does
    seen: list[Path] = []
    whole = module._predicted

    def watched(rest: list[Path], *others: object) -> object:
        seen.extend(rest)
        return whole(rest, *others)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "_predicted", watched)
    told = list(predict(files, served, None, journal))
    assert told[:2] == first
    assert seen == files[2:]
    with journal.open("a") as lines:
        lines.write('{"key": "torn')
    seen.clear()
    assert list(predict(files, served, None, journal)) == told
    assert seen == []
    os.utime(files[0])
    list(predict(files, served, PredictConfig(margin=0.3), journal))
    assert seen == files[:1]
    seen.clear()
    list(predict(files, served, PredictConfig(margin=0.2), journal))
    assert seen == files


def test_the_band_decides_what_is_uncertain(make_detector: Callable[..., Detector], tmp_path: Path) -> None:
    detector = make_detector(skilled=False)
    detector.band = (0.2, 0.8)  # type: ignore[assignment]
    served = serve_model(str(detector.save(tmp_path)), device="cpu")
    assert [served.verdict(p) for p in (0.1, 0.2, 0.79, 0.8)] == ["real", "uncertain", "uncertain", "fake"]
    assert served.intervals is None


def test_pictures_show_boxes_and_maps(served: ServedModel, media: Path, tmp_path: Path) -> None:
    config = PredictConfig()
    for name, faces in (("one.png", 1), ("clip.mp4", 4)):
        said = predict_file(media / name, served, config)
        assert len(said.faces) == faces
        picture = draw(said, served, tmp_path, config)
        assert picture is not None
        with Image.open(picture) as image:
            assert image.width > 800
            assert len(image.convert("RGB").resize((200, 100)).getcolors(20_000) or ()) > 500
    said = predict_file(media / "deep" / "er" / "two.png", served, config)
    with Image.open(media / "deep" / "er" / "two.png") as image:
        heat = saliency(np.array(image), said.faces, served, config)
    assert heat.shape == (360, 960)
    assert heat.max() <= 1
    assert draw(predict_file(media / "meadow.png", served), served, tmp_path, config) is None


def test_onnx_says_the_same(served: ServedModel, model_folder: Path, media: Path) -> None:
    pytest.importorskip("onnxruntime")
    other = serve_model(str(model_folder), runtime="onnx")
    ours, theirs = (predict_file(media / "one.png", model) for model in (served, other))
    assert theirs.likelihood == pytest.approx(ours.likelihood, abs=1e-3)
    with pytest.raises(UserError, match="models export"):
        serve_model(str(model_folder), runtime="onnx-int8")


def test_the_command(model_folder: Path, media: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = CliRunner()
    common = ["--model", str(model_folder), "--set", "device=cpu"]
    result = run.invoke(app, ["predict", str(media), *common, "--json", "--csv", "told.csv", "--out", "drawn"])
    assert result.exit_code == 0, result.output
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert {Path(line["path"]).name: line["verdict"] for line in lines}["meadow.png"] == "no-face"
    table = list(csv.DictReader(io.StringIO((tmp_path / "told.csv").read_text())))
    assert len(table) == len(lines) == 5
    assert len(list((tmp_path / "drawn").iterdir())) == 3
    assert not (tmp_path / "mlruns").exists()  # a folder needs no registry
    listed = run.invoke(app, ["predict", "-", *common], input=f"{media / 'one.png'}\n\n{tmp_path / 'gone.png'}\n")
    assert listed.exit_code == 0, listed.output
    assert "gone.png" in listed.stdout
    assert "unreadable" in listed.stdout
    assert "venn-abers: how often" in listed.stdout
    assert run.invoke(app, ["predict", str(media), "--dry-run", "--set", "margin=0.1"]).stdout.splitlines()[2] == (
        "margin: 0.1"
    )
    missing = run.invoke(app, ["predict", "no-such-file", *common])
    assert isinstance(missing.exception, UserError)
    (tmp_path / "bare").mkdir()
    for nothing in (["predict", "bare", *common], ["predict", str(media)]):
        assert isinstance(run.invoke(app, nothing).exception, ValueError)
