"""Ensembles: one folder, one interface, and weights that are found on val without looking at the row they judge."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import expit

from classifier.config import DetectorConfig
from classifier.models.detector import Detector
from classifier.models.ensemble import Ensemble, load_detector, resized
from classifier.scoring import milliseconds_per_image, score
from classifier.stacking import combine, fit
from core.errors import UserError
from core.manifest import Manifest
from faces.loading import decode

Small = Callable[..., DetectorConfig]


def random_detector(small: Small, seed: int, **changes: object) -> Detector:
    """With a head that tells pictures apart, unlike a fresh one."""
    detector = Detector.create(small(seed=seed, **changes)).eval()
    with torch.no_grad():
        detector.module.get_classifier().weight.mul_(40)  # type: ignore[operator]
    detector.temperature = 1.0 + seed / 4
    return detector


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randint(0, 256, (5, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_its_logit_is_linear_in_its_members(small: Small, images: torch.Tensor) -> None:
    members = [random_detector(small, 0), random_detector(small, 1, backbone="resnet18")]
    ensemble = Ensemble(members, [0.25, 0.75], 0.5, temperature=2.0).eval()
    with torch.inference_mode():
        expected = 0.25 * members[0](images) / 1.0 + 0.75 * members[1](images) / 1.25 + 0.5
        torch.testing.assert_close(ensemble(images), expected)
        torch.testing.assert_close(ensemble.probability(images), torch.sigmoid(expected / 2))
    assert ensemble.config.backbone == "2 x tf_efficientnet_lite0 + resnet18"


def test_it_comes_back_from_its_folder(small: Small, images: torch.Tensor, tmp_path: Path) -> None:
    ensemble = Ensemble([random_detector(small, 0), random_detector(small, 3)], [0.4, 0.6], -0.1, threshold=0.3)
    folder = ensemble.eval().save(tmp_path / "e")
    assert {path.name for path in folder.iterdir()} == {"weights.safetensors", "config.json"}
    again = load_detector(folder, "cpu")
    assert isinstance(again, Ensemble)
    assert (again.digest, again.threshold, again.weights) == (ensemble.digest, 0.3, (0.4, 0.6))
    with torch.inference_mode():
        assert torch.equal(again(images), ensemble(images))
    assert isinstance(load_detector(ensemble.detectors[0].save(tmp_path / "d"), "cpu"), Detector)
    text = (folder / "config.json").read_text()
    (folder / "config.json").write_text(text.replace('"bias": -0.1', '"bias": -0.2'))
    with pytest.raises(UserError, match="are not of one ensemble"):
        load_detector(folder, "cpu")
    (folder / "config.json").write_text(text.replace('"weights"', '"weighs"'))
    with pytest.raises(UserError, match="cannot be rebuilt"):
        load_detector(folder, "cpu")


def test_members_of_other_sizes_see_the_picture_scaled_down(
    small: Small, write_faces: Callable[..., Manifest], tmp_path: Path
) -> None:
    manifest = write_faces(real=4, fake=4, splits=("val",), side=64)
    file = manifest.files[0].read_bytes()
    large = torch.from_numpy(decode(file, 64).copy()).permute(2, 0, 1)[None]
    small_one = torch.from_numpy(decode(file, 32).copy()).permute(2, 0, 1)[None]
    gap = (resized(large, 32).int() - small_one.int()).abs()
    assert gap.max() <= 1  # as crops are decoded at that size
    members = [random_detector(small, 0), random_detector(small, 1, image_size=64)]
    ensemble = Ensemble(members, [0.5, 0.5]).eval()
    assert ensemble.config.image_size == 64
    own = [score(member, manifest, tmp_path / "cache") for member in members]
    logits = sum(np.log(p / (1 - p.astype(np.float64))) for p in own) / 2
    np.testing.assert_allclose(score(ensemble, manifest, tmp_path / "cache"), expit(logits), atol=0.02)


def test_one_model_is_no_ensemble(small: Small) -> None:
    with pytest.raises(UserError, match="two models or more, not 1"):
        Ensemble([random_detector(small, 0)], [1.0])


def test_latency_is_measured_for_each(small: Small) -> None:
    one = random_detector(small, 0)
    times = milliseconds_per_image([one, Ensemble([one, random_detector(small, 1)], [0.5, 0.5]).eval()], repeats=5)
    assert len(times) == 2
    assert min(times) > 0


def simulated(seed: int = 0, count: int = 400) -> tuple[np.ndarray, np.ndarray, list[tuple[np.ndarray, np.ndarray]]]:
    """A good member, a poor one, and one of noise; folds over rows."""
    random = np.random.default_rng(seed)
    targets = random.integers(0, 2, count)
    truth = 2.0 * targets - 1
    logits = np.stack([2 * truth + 2 * random.normal(size=count), 0.5 * truth + random.normal(size=count)], axis=1)
    logits = np.column_stack([logits, random.normal(size=count)])
    order = random.permutation(count)
    folds = [(np.setdiff1d(order, part), part) for part in np.array_split(order, 5)]
    return logits, targets, folds


def log_loss(logits: np.ndarray, targets: np.ndarray) -> float:
    return float(-np.mean(np.where(targets == 1, np.log(expit(logits)), np.log(expit(-logits)))))


def test_weights_find_the_good_member() -> None:
    logits, targets, folds = simulated()
    weights, bias, _ = fit(logits, targets, folds, "weighted")
    assert bias == 0
    assert weights.min() >= 0
    assert weights.sum() == pytest.approx(1)
    grid = [np.array([a, b, 1 - a - b]) for a in np.linspace(0, 1, 41) for b in np.linspace(0, 1 - a, 21)]
    best = min(log_loss(logits @ each, targets) for each in grid)
    assert log_loss(logits @ weights, targets) <= best + 1e-6
    assert fit(logits, targets, folds, "mean")[0] == pytest.approx([1 / 3] * 3)


def test_rows_left_out_are_judged_by_weights_that_never_saw_them() -> None:
    """What a fold's own labels say changes the final weights, but not the logits by which that fold is judged."""
    logits, targets, folds = simulated()
    own = folds[0][1]
    weights, _, left_out = fit(logits, targets, folds, "weighted")
    changed = targets.copy()
    changed[own] = 1 - changed[own]
    other_weights, _, other = fit(logits, changed, folds, "weighted")
    np.testing.assert_array_equal(left_out[own], other[own])
    assert np.abs(weights - other_weights).max() > 0.01


def test_stacking_of_noise_looks_good_only_where_it_was_fitted() -> None:
    random = np.random.default_rng(0)
    noise, targets = random.normal(size=(80, 40)), random.integers(0, 2, 80)
    folds = [(np.setdiff1d(np.arange(80), part), part) for part in np.array_split(random.permutation(80), 5)]
    weights, bias, left_out = fit(noise, targets, folds, "stacking")
    assert log_loss(left_out, targets) > log_loss(noise @ weights + bias, targets) + 0.05


@pytest.mark.parametrize("combination", ["mean", "weighted", "stacking"])
def test_combining_calibrates_on_val(
    combination: str, small: Small, write_faces: Callable[..., Manifest], tmp_path: Path
) -> None:
    manifest = write_faces(real=16, fake=12, splits=("train", "val"))
    members = [random_detector(small, seed) for seed in range(3)]
    made = combine(members, manifest, tmp_path, combination)  # type: ignore[arg-type]
    assert made.rows == 28
    assert len(made.member_auc) == 3
    assert 0 < made.ensemble.threshold < 1
    assert made.ensemble.manifest_digest == manifest.digest
    assert made.ensemble.config.combination == combination
    assert score(made.ensemble, manifest, tmp_path).shape == (56,)
    with pytest.raises(UserError, match="under two identities or sources of a class"):
        combine(members, manifest.select(label="real"), tmp_path)
