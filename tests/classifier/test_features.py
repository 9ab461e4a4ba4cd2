"""Stored features are those of the backbone, computed once, and a head trained on them is the head trained without."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import classifier.scoring
from classifier.config import DetectorConfig
from classifier.models.backbones import pooled
from classifier.models.detector import Detector
from classifier.scoring import backbone_digest, frozen_features, score
from classifier.training import train
from core.manifest import Manifest
from faces.loading import load_crops

Faces = Callable[..., Manifest]
Small = Callable[..., DetectorConfig]


def test_they_are_what_the_head_sees(write_faces: Faces, small: Small, tmp_path: Path) -> None:
    rows, detector = write_faces(), Detector.create(small())
    features = frozen_features(detector, rows, tmp_path)
    assert features.dtype == np.float32
    images = load_crops(rows, 32, tmp_path).batch(np.arange(len(rows)))
    with torch.inference_mode():
        expected = pooled(detector.eval().module, detector.normalise(images)).numpy()
    np.testing.assert_allclose(features, expected, atol=1e-5)


def test_only_what_is_lacking_is_computed(
    write_faces: Faces, small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, detector = write_faces(), Detector.create(small())
    counts: list[int] = []

    def counted(module: torch.nn.Module, images: torch.Tensor) -> torch.Tensor:
        counts.append(len(images))
        return pooled(module, images)

    monkeypatch.setattr(classifier.scoring, "pooled", counted)
    monkeypatch.setattr(classifier.scoring, "_SHARD_ROWS", 3)
    monkeypatch.setattr(classifier.scoring, "BATCH_SIZE", 2)
    first = frozen_features(detector, rows.select(split="train"), tmp_path)
    assert sum(counts) == len(first) == 20
    everything = frozen_features(detector, rows, tmp_path)
    assert sum(counts) == 40
    np.testing.assert_array_equal(everything[:20], first)
    # Another head is the same backbone.
    other = Detector.create(small())
    torch.nn.init.normal_(other.module.get_parameter("classifier.weight"))
    assert backbone_digest(other) == backbone_digest(detector)
    np.testing.assert_array_equal(frozen_features(other, rows, tmp_path), everything)
    assert sum(counts) == 40
    # Another backbone, or another size, is another store.
    frozen_features(Detector.create(small(seed=1)), rows, tmp_path)
    assert sum(counts) == 80
    frozen_features(Detector.create(small(image_size=48)), rows, tmp_path)
    assert sum(counts) == 120


def test_a_crop_that_stands_twice_is_computed_once(write_faces: Faces, small: Small, tmp_path: Path) -> None:
    rows = write_faces(splits=("train",))
    twice = Manifest(rows.rows.iloc[[0, 1, 0]].reset_index(drop=True), rows.root)
    features = frozen_features(Detector.create(small()), twice, tmp_path)
    np.testing.assert_array_equal(features[0], features[2])
    assert not np.array_equal(features[0], features[1])


@pytest.mark.parametrize(
    "changes",
    [
        {"frozen_epochs": 3, "dropout": 0.0},
        {"finetune": "head", "dropout": 0.3},
        {"finetune": "head", "forensics": "srm+spectrum"},
    ],
)
def test_training_on_them_is_training_through_the_backbone(
    write_faces: Faces, small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, object]
) -> None:
    rows = write_faces()
    config = small(epochs=3, augmentation=0.0, learning_rate=0.01, **changes)
    with_store = Detector.load(train(rows, config, tmp_path / "a", tmp_path / "cache"), "cpu")
    assert list((tmp_path / "cache" / "features").glob("*/*.npy"))
    monkeypatch.setattr("classifier.training._stored", lambda *_: False)
    without = Detector.load(train(rows, config, tmp_path / "b", tmp_path / "cache"), "cpu")
    np.testing.assert_allclose(
        score(with_store, rows, tmp_path / "cache"), score(without, rows, tmp_path / "cache"), atol=1e-4
    )
    assert with_store.threshold == pytest.approx(without.threshold, abs=1e-4)
    assert backbone_digest(with_store) == backbone_digest(Detector.create(config)), "a frozen backbone stays as it was"


def test_a_whole_job_on_them_looks_at_no_picture(
    write_faces: Faces, small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = write_faces()
    frozen_features(Detector.create(small()), rows, tmp_path / "cache")
    monkeypatch.setattr("classifier.training.load_crops", lambda *_: pytest.fail("looked at pictures"))
    config = small(finetune="head", augmentation=0.0)
    assert Detector.load(train(rows, config, tmp_path / "out", tmp_path / "cache"), "cpu").temperature != 1


def test_forensic_branches_share_the_backbones_store(write_faces: Faces, small: Small, tmp_path: Path) -> None:
    rows = write_faces(splits=("train",))
    plain, beside = Detector.create(small()), Detector.create(small(forensics="srm"))
    assert backbone_digest(plain) == backbone_digest(beside)
    np.testing.assert_array_equal(
        frozen_features(plain, rows, tmp_path / "a"), frozen_features(beside, rows, tmp_path / "b")
    )
