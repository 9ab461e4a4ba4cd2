"""A detector goes to disk and comes back the same, or is refused in a sentence."""

import json
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from classifier.config import DetectorConfig
from classifier.models.detector import CONFIG, WEIGHTS, Detector
from classifier.models.ensemble import Ensemble, load_detector
from core.device import autocast, pick_device, pick_precision
from core.errors import UserError

Small = Callable[..., DetectorConfig]


def images(count: int = 3, side: int = 32) -> torch.Tensor:
    return torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def detector(small: Small) -> Detector:
    made = Detector.create(small()).eval()
    made.temperature, made.threshold, made.manifest_digest = 1.7, 0.41, "0123456789abcdef"
    return made


def test_it_comes_back_bit_for_bit_without_a_network(
    detector: Detector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    detector.config = detector.config.model_copy(update={"weights": "imagenet"})
    detector.save(tmp_path / "d")
    monkeypatch.setattr("classifier.models.backbones.imagenet_file", lambda *_: pytest.fail("asked for weights"))
    again = Detector.load(tmp_path / "d", "cpu")
    assert not again.training
    assert again.describe() == detector.describe()
    with torch.inference_mode():
        assert torch.equal(again(images()), detector(images()))
    assert sorted(file.name for file in (tmp_path / "d").iterdir()) == [CONFIG, WEIGHTS]


def test_the_weights_are_the_networks_own_names(detector: Detector, tmp_path: Path) -> None:
    detector.save(tmp_path)
    assert load_file(tmp_path / WEIGHTS).keys() == detector.module.state_dict().keys()


def test_forward_normalises_and_gives_one_logit_a_face(detector: Detector) -> None:
    with torch.inference_mode():
        logits = detector(images())
        expected = detector.module((images().double() - 127).div(128).float())[:, 0]
        torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)
        assert logits.shape == (3,)
        torch.testing.assert_close(detector.probability(images()), torch.sigmoid(logits / 1.7))


def test_floats_are_refused(detector: Detector) -> None:
    with pytest.raises(ValueError, match="uint8"):
        detector(images().float())


def test_the_digest_follows_what_decides_the_scores(detector: Detector) -> None:
    before = detector.digest
    assert len(before) == 16
    detector.threshold = 0.9
    assert detector.digest == before
    detector.temperature = 2.0
    assert detector.digest != before


def test_missing_and_mixed_folders_are_refused(detector: Detector, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no detector in .* train one"):
        Detector.load(tmp_path)
    detector.save(tmp_path)
    state = load_file(tmp_path / WEIGHTS)
    save_file({key: tensor + 1 for key, tensor in state.items()}, tmp_path / WEIGHTS)
    with pytest.raises(UserError, match="not of one detector"):
        Detector.load(tmp_path)
    (tmp_path / WEIGHTS).write_bytes(b"torn")
    with pytest.raises(UserError, match="cannot be rebuilt"):
        Detector.load(tmp_path)
    described = json.loads((tmp_path / CONFIG).read_text())
    del described["threshold"]
    (tmp_path / CONFIG).write_text(json.dumps(described))
    with pytest.raises(UserError, match=r"damaged .threshold: Field required"):
        Detector.load(tmp_path)
    (tmp_path / CONFIG).write_text("{")
    with pytest.raises(UserError, match="damaged"):
        Detector.load(tmp_path)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", 0),
        ("temperature", float("nan")),
        ("temperature", 1e-300),
        ("threshold", 1.5),
        ("threshold", float("nan")),
        ("threshold", "half"),
        ("band", [0.7, 0.3]),
        ("band", [0.1, float("inf")]),
        ("band", [0.5]),
        ("std", [1, 1, 0]),
        ("mean", [0, 0, float("nan")]),
        ("config", None),
        ("digest", {}),
        ("format", 2),
    ],
)
def test_values_out_of_their_range_are_refused(detector: Detector, tmp_path: Path, name: str, value: object) -> None:
    detector.save(tmp_path)
    described = json.loads((tmp_path / CONFIG).read_text())
    (tmp_path / CONFIG).write_text(json.dumps(described | {name: value}))
    with pytest.raises(UserError, match=rf"{name}|finite"):
        load_detector(tmp_path, "cpu")


@pytest.mark.parametrize("content", ["[]", "true", '"members"', "[" * 100_000, "1" * 5000])
def test_a_description_that_is_no_object_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / CONFIG).write_text(content)
    with pytest.raises(UserError, match="damaged"):
        load_detector(tmp_path, "cpu")


def test_weights_that_are_not_finite_are_refused(detector: Detector, tmp_path: Path) -> None:
    with torch.no_grad():
        next(detector.module.parameters())[0] = float("nan")
    detector.save(tmp_path / "one")
    Ensemble([detector, deepcopy(detector)], [0.5, 0.5]).save(tmp_path / "two")
    for folder in ("one", "two"):
        with pytest.raises(UserError, match=r"is not finite.*make it again"):
            load_detector(tmp_path / folder, "cpu")


def test_whoever_shares_the_folder_may_read_the_weights(detector: Detector, tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    detector.save(tmp_path / "one")
    Ensemble([detector, deepcopy(detector)], [0.5, 0.5]).save(tmp_path / "two")
    for folder in ("one", "two"):
        assert (tmp_path / folder / WEIGHTS).stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_save_killed_half_way_is_no_detector(
    detector: Detector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    detector.save(tmp_path)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("classifier.models.detector.write_json", killed)
    with pytest.raises(KeyboardInterrupt):
        detector.save(tmp_path)
    with pytest.raises(UserError, match="no detector"):
        Detector.load(tmp_path)


def test_devices_that_are_not_there_are_refused() -> None:
    assert pick_device("cpu") == torch.device("cpu")
    with pytest.raises(UserError, match="not known to torch"):
        pick_device("gpu")
    if not torch.cuda.is_available():
        assert pick_device("auto") == torch.device("cpu")
        with pytest.raises(UserError, match="is not available"):
            pick_device("cuda")


@pytest.mark.parametrize(
    ("able", "precision"), [({"avx512_bf16": True}, "bfloat16"), ({"amx_bf16": True}, "bfloat16"), ({}, "float32")]
)
def test_bf16_only_where_the_cpu_multiplies_it(
    able: dict[str, bool], precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able)
    assert pick_precision("auto", torch.device("cpu")) == precision
    assert pick_precision("float32", torch.device("cpu")) == "float32"
    with autocast(torch.device("cpu"), precision):
        product = torch.ones(2, 2) @ torch.ones(2, 2)
    assert product.dtype == getattr(torch, precision)


def test_strided_depthwise_convolutions_train_in_float32_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    cpu, wide = torch.device("cpu"), nn.Conv2d(8, 8, 3, stride=2)
    depthwise, unstrided = nn.Conv2d(8, 8, 3, stride=2, groups=8), nn.Conv2d(8, 8, 3, groups=8)
    assert pick_precision("auto", cpu, nn.Sequential(wide, depthwise)) == "float32"
    assert pick_precision("auto", cpu, nn.Sequential(wide, unstrided)) == "bfloat16"
    assert pick_precision("bfloat16", cpu, depthwise) == "bfloat16"
