"""ONNX files answer as PyTorch does, for any batch; int8 nearly so, and it says by how much."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from classifier.config import DetectorConfig
from classifier.export import FLOAT, INT8, TOLERANCE, Parity, export_onnx, onnx_scores, parity, quantise
from classifier.models.detector import Detector
from classifier.models.ensemble import Ensemble
from core.errors import UserError
from faces.loading import Crops

pytest.importorskip("onnxruntime")


def sharp(small: Callable[..., DetectorConfig], backbone: str, seed: int = 0, **changes: object) -> Detector:
    detector = Detector.create(small(backbone=backbone, seed=seed, **changes)).eval()
    with torch.no_grad():
        detector.module.get_classifier().weight.mul_(30)  # type: ignore[operator]
    detector.temperature = 1.7
    return detector


@pytest.fixture
def crops() -> Crops:
    """Blobs, not noise: on noise every picture's features are alike, and no quantised range is in use."""
    random = np.random.default_rng(0)
    low = torch.from_numpy(random.integers(0, 256, (24, 3, 4, 4)).astype(np.float32))
    pixels = torch.nn.functional.interpolate(low, (32, 32), mode="bicubic").clamp(0, 255).permute(0, 2, 3, 1)
    return Crops(pixels.numpy().astype(np.uint8), np.arange(24))


@pytest.mark.parametrize("backbone", ["tf_efficientnet_lite0", "resnet18", "vit_small"])
def test_any_batch_and_the_same_answer(
    backbone: str, small: Callable[..., DetectorConfig], crops: Crops, tmp_path: Path
) -> None:
    detector = sharp(small, backbone)
    file = export_onnx(detector, tmp_path / FLOAT)
    assert sorted(path.name for path in tmp_path.iterdir()) == [FLOAT]
    for batch in (1, 7):
        assert parity(detector, file, crops, np.arange(24), batch).max_logit < TOLERANCE
    _, probability = onnx_scores(file, [crops.batch(np.arange(5))])
    with torch.inference_mode():
        np.testing.assert_allclose(probability, detector.probability(crops.batch(np.arange(5))), atol=1e-5)


def test_int8_is_small_and_near(small: Callable[..., DetectorConfig], crops: Crops, tmp_path: Path) -> None:
    detector = sharp(small, "resnet18")
    exact = export_onnx(detector, tmp_path / FLOAT)
    file = quantise(exact, tmp_path / INT8, crops, np.arange(16))
    assert file.stat().st_size < 0.35 * exact.stat().st_size
    near = parity(detector, file, crops, np.arange(24))
    assert 0 < near.mean_probability < 0.1
    ours, theirs = (onnx_scores(path, [crops.batch(np.arange(24))])[0] for path in (exact, file))
    assert np.corrcoef(ours, theirs)[0, 1] > 0.9
    assert "on 24 pictures" in str(near)
    with pytest.raises(UserError, match="int8 needs train faces"):
        quantise(exact, tmp_path / INT8, crops, [])


def test_an_ensemble_is_one_file(small: Callable[..., DetectorConfig], crops: Crops, tmp_path: Path) -> None:
    ensemble = Ensemble([sharp(small, "resnet18"), sharp(small, "resnet18", 1)], [0.3, 0.9], 0.2, temperature=0.8)
    file = export_onnx(ensemble.eval(), tmp_path / FLOAT)
    assert parity(ensemble, file, crops, np.arange(24)).max_logit < TOLERANCE
    mixed = Ensemble([sharp(small, "resnet18"), sharp(small, "resnet18", image_size=48)], [0.5, 0.5]).eval()
    with pytest.raises(UserError, match="of different sizes"):
        export_onnx(mixed, tmp_path / "mixed.onnx")


def test_a_wrong_file_shows(small: Callable[..., DetectorConfig], crops: Crops, tmp_path: Path) -> None:
    file = export_onnx(sharp(small, "resnet18"), tmp_path / FLOAT)
    found = parity(sharp(small, "resnet18", seed=4), file, crops, np.arange(24))
    assert isinstance(found, Parity)
    assert found.max_logit > TOLERANCE
