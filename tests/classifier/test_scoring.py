"""Scores depend on the crop and the detector, and on nothing else."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from classifier.config import DetectorConfig
from classifier.models.detector import Detector
from classifier.scoring import score
from core.manifest import Manifest


@pytest.fixture
def rows(write_faces: Callable[..., Manifest]) -> Manifest:
    return write_faces(real=9, fake=8)


@pytest.fixture
def detector(small: Callable[..., DetectorConfig]) -> Detector:
    made = Detector.create(small())
    made.temperature = 0.5
    return made


def test_scores_are_the_calibrated_probabilities_in_the_rows_order(
    detector: Detector, rows: Manifest, tmp_path: Path
) -> None:
    from faces.loading import load_crops

    scores = score(detector, rows, tmp_path / "cache")
    assert scores.dtype == np.float32
    assert detector.training, "the mode is left as it was"
    crops = load_crops(rows, 32, tmp_path / "cache")
    with torch.inference_mode():
        expected = detector.eval().probability(crops.batch(np.arange(len(rows))))
    np.testing.assert_allclose(scores, expected.numpy(), atol=1e-5)


def test_the_batch_size_changes_rounding_only(detector: Detector, rows: Manifest, tmp_path: Path) -> None:
    whole = score(detector, rows, tmp_path)
    for size in (1, 5, 34):
        np.testing.assert_allclose(score(detector, rows, tmp_path, batch_size=size), whole, atol=1e-5)


def test_shuffled_rows_get_the_same_scores_to_the_bit(detector: Detector, rows: Manifest, tmp_path: Path) -> None:
    order = np.random.default_rng(0).permutation(len(rows))
    shuffled = Manifest(rows.rows.iloc[order].reset_index(drop=True), rows.root)
    scores = score(detector, rows, tmp_path, batch_size=4)
    np.testing.assert_array_equal(score(detector, shuffled, tmp_path, batch_size=4), scores[order])
    np.testing.assert_array_equal(score(detector, rows, tmp_path, batch_size=4), scores)


def test_bf16_scores_are_near(detector: Detector, rows: Manifest, tmp_path: Path) -> None:
    exact = score(detector, rows, tmp_path)
    np.testing.assert_allclose(score(detector, rows, tmp_path, precision="bfloat16"), exact, atol=0.02)


def test_no_rows_no_scores(detector: Detector, rows: Manifest, tmp_path: Path) -> None:
    assert score(detector, rows.select(split="test"), tmp_path).shape == (0,)
