"""The best checkpoint by kernel distance, early stop, and both within exact resume."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import gan.quality
from core.manifest import Manifest
from gan.checkpoint import load_generator, load_state, read_card
from gan.config import GanConfig
from gan.networks import Generator
from gan.quality import Validation
from gan.training import train
from metrics.distributions import Estimate


@pytest.fixture(scope="module")
def with_val(write_faces: Callable[..., Manifest], tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """24 train faces and 50 val faces."""
    blobs = write_faces(tmp_path_factory.mktemp("with-val"), count=74)
    rows = blobs.rows.copy()
    rows.loc[24:, "split"] = "val"
    return Manifest.build(rows, blobs.root)


@pytest.fixture
def config(smallest: GanConfig) -> GanConfig:
    return smallest.model_copy(update={"kimg": 0.12, "validate_every_kimg": 0.04})


def script(figures: list[float]) -> Callable[[Validation, Generator], Estimate]:
    """Stands in for the distance where a test is about what follows from it: one figure after another."""
    told = itertools.chain(figures, itertools.repeat(9.0))
    return lambda _validation, _generator: Estimate(next(told), 0.1)


Seen = list[tuple[int, Mapping[str, float]]]


def kept(seen: Seen) -> Callable[[Mapping[str, float], int], None]:
    return lambda metrics, step: seen.append((step, dict(metrics)))


def test_distance_is_measured_reported_and_written_on_the_card(
    with_val: Manifest, cache: Path, config: GanConfig, tmp_path: Path
) -> None:
    seen: Seen = []
    folder = train(with_val, config, tmp_path, cache, kept(seen))
    found = {step: metrics["kd_val"] for step, metrics in seen if "kd_val" in metrics}
    assert list(found) == [40, 80, 120]
    best = min(found, key=lambda step: found[step])
    card = read_card(folder)
    assert (card.kimg, card.kd_val) == (best / 1000, found[best])
    assert card.kd_val_sd is not None
    reals = with_val.select(split="val")
    again = Validation(reals, 16, cache, next(load_generator(folder).parameters()).device)
    assert again.distance(load_generator(folder)).mean == pytest.approx(found[best], rel=1e-5)
    assert seen[-1][1]["validation_seconds"] > 0


def test_killed_between_validations_equals_uninterrupted(
    with_val: Manifest, cache: Path, config: GanConfig, differences: Callable[[Any, Any], list[str]], tmp_path: Path
) -> None:
    class Press:
        """Ctrl-C at the report of 80 pictures, where a validation is due right afterwards."""

        def __call__(self, metrics: Mapping[str, float], step: int) -> None:
            if "kd_val" in metrics and step == 80:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(with_val, config, tmp_path / "two", cache, Press())
    assert load_state(tmp_path / "two" / "training.pt")["trainer"]["steps"] == 10
    for name in ("one", "two"):
        train(with_val, config, tmp_path / name, cache)
    one, two = (load_state(tmp_path / name / "training.pt") for name in ("one", "two"))
    for name in ("trainer", "best", "validated_at"):
        assert not differences(one[name], two[name]), name
    cards = [read_card(tmp_path / name / "generator") for name in ("one", "two")]
    assert cards[0] == cards[1]


def test_best_is_published_and_the_last_is_kept_in_the_state(
    with_val: Manifest, cache: Path, config: GanConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Validation, "distance", script([3.0, 1.0, 2.0]))
    folder = train(with_val, config, tmp_path, cache)
    card = read_card(folder)
    assert (card.kimg, card.kd_val, card.kd_val_sd) == (0.08, 1.0, 0.1)
    state = load_state(tmp_path / "training.pt")
    assert state["trainer"]["steps"] == 15
    published, last = load_generator(folder).constant, state["trainer"]["averaged"]["constant"]
    assert np.array_equal(published, state["best"]["weights"]["constant"])
    assert not np.array_equal(published, last)
    # A generator that was lost, or is an older one, is published again by the next call.
    (folder / "weights.safetensors").unlink()
    assert read_card(train(with_val, config, tmp_path, cache)).kimg == 0.08


def test_training_stops_when_nothing_becomes_better(
    with_val: Manifest, cache: Path, config: GanConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Validation, "distance", script([3.0, 1.0, 2.0, 1.5]))
    patient = config.model_copy(update={"kimg": 4.0, "patience_kimg": 0.08})
    folder = train(with_val, patient, tmp_path, cache)
    assert load_state(tmp_path / "training.pt")["trainer"]["steps"] == 20
    assert read_card(folder).kimg == 0.08
    before = (tmp_path / "training.pt").stat().st_mtime_ns
    train(with_val, patient, tmp_path, cache)
    assert (tmp_path / "training.pt").stat().st_mtime_ns == before
    train(with_val, patient.model_copy(update={"patience_kimg": 0.12}), tmp_path, cache)
    assert load_state(tmp_path / "training.pt")["trainer"]["steps"] == 25


def test_validation_does_not_move_the_weights_nor_spend_the_budget(
    with_val: Manifest, cache: Path, config: GanConfig, differences: Callable[[Any, Any], list[str]], tmp_path: Path
) -> None:
    train(with_val, config, tmp_path / "with", cache)
    train(with_val, config.model_copy(update={"validate_every_kimg": None}), tmp_path / "without", cache)
    one, other = (load_state(tmp_path / name / "training.pt") for name in ("with", "without"))
    assert not differences(one["trainer"], other["trainer"])
    assert one["validation_seconds"] > 0
    assert other["validation_seconds"] == 0


def test_too_few_faces_are_said_and_nothing_is_held_out(
    blobs: Manifest, cache: Path, config: GanConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = train(blobs, config, tmp_path, cache)
    assert "0 faces in the val split are too few to validate on" in caplog.text
    assert read_card(folder).kd_val is None
    assert read_card(folder).kimg == pytest.approx(0.12)


def test_faces_of_other_data_sets_do_not_choose(
    with_val: Manifest, cache: Path, config: GanConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = with_val.rows.copy()
    rows.loc[rows.index[-5:], "dataset"] = "another"
    train(Manifest.build(rows, with_val.root), config, tmp_path, cache)
    assert "45 faces in the val split are too few" in caplog.text


def test_many_faces_are_a_fixed_choice(with_val: Manifest, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gan.quality, "MOST_VALIDATION_FACES", 20)
    chosen = [Validation(with_val, 16, cache, torch.device("cpu")) for _ in range(2)]
    assert len(chosen[0].faces) == 20
    assert chosen[0].faces.digest == chosen[1].faces.digest
