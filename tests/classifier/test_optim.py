"""What learns in which epoch, for every family of backbones; and that training moves exactly that."""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from timm.optim import param_groups_layer_decay
from torch import nn

from classifier.config import DetectorConfig
from classifier.models.backbones import BACKBONES, create, spec
from classifier.models.detector import Detector
from classifier.optim import layers, learning, new_keys, optimizer, prepare
from classifier.training import train
from core.manifest import Manifest

Faces = Callable[..., Manifest]
Small = Callable[..., DetectorConfig]


@pytest.mark.parametrize("name", [name for name in BACKBONES if not name.startswith("vgg19")])
def test_every_backbone_has_layers_and_norms(name: str) -> None:
    size = spec(name).minimal_size
    config = DetectorConfig(
        backbone=name, weights="none", image_size=size, epochs=9, frozen_epochs=1, finetune="gradual"
    )
    with torch.device("meta"):
        import timm

        module = timm.create_model(spec(name).timm_name, num_classes=1)
    names = {key for key, _ in module.named_parameters()}
    depth = layers(module)
    assert depth.keys() | new_keys(module) == names
    assert not depth.keys() & new_keys(module)
    assert len(set(depth.values())) >= 8
    opened = [learning(module, config, epoch) for epoch in range(9)]
    assert opened[0] == new_keys(module)
    assert all(before < after for before, after in pairwise(opened[:5]))
    assert opened[4] == opened[8] == names
    norms = learning(module, config.model_copy(update={"finetune": "norms"}), 1)
    assert new_keys(module) < norms < names
    assert all(module.get_parameter(key).ndim == 1 for key in norms - new_keys(module))


@pytest.mark.parametrize("finetune", ["norms", "gradual", "head"])
def test_that_and_nothing_else_moves(write_faces: Faces, small: Small, tmp_path: Path, finetune: str) -> None:
    config = small(finetune=finetune, epochs=4, backbone="resnet18", early_stopping_epochs=0, label_smoothing=0.1)
    start = Detector.create(config).module
    out = train(write_faces(splits=("train",)), config, tmp_path / "out", tmp_path / "cache")
    end = load_file(out / "weights.safetensors")
    moved = {key for key, _ in start.named_parameters() if not torch.equal(start.state_dict()[key], end[key])}
    statistics = {
        key for key in end if key.endswith("running_mean") and not torch.equal(start.state_dict()[key], end[key])
    }
    if finetune == "norms":
        assert moved == learning(start, config, 1)
        assert len(statistics) == 20
    elif finetune == "gradual":
        assert moved == {key for key, _ in start.named_parameters()}
    else:
        assert moved == {"fc.weight", "fc.bias"}
        assert not statistics


@pytest.mark.parametrize("name", ["resnet18", "tf_efficientnet_lite0", "vit_small"])
def test_layers_scales_are_timms_but_for_one_factor(name: str) -> None:
    module = create(name, "none", 32)
    groups = optimizer(module, 1e-3, 0.02, layer_decay=0.75).param_groups
    ours = {weight: group["scale"] for group in groups if not group["head"] for weight in group["params"]}
    theirs = {
        weight: group["lr_scale"]
        for group in param_groups_layer_decay(module, 0.02, layer_decay=0.75)
        for weight in group["params"]
    }
    assert len(set(ours.values())) > 5
    factors = [theirs[weight] / scale for weight, scale in ours.items()]
    assert factors == pytest.approx([factors[0]] * len(factors))


def test_statistics_of_closed_layers_stay() -> None:
    config = DetectorConfig(
        backbone="resnet18", weights="none", image_size=32, epochs=8, frozen_epochs=0, finetune="gradual"
    )
    module = Detector.create(config).module
    prepare(module, config, 0)
    norms = {name: child.training for name, child in module.named_modules() if isinstance(child, nn.BatchNorm2d)}
    assert norms["layer4.1.bn1"]
    assert not norms["bn1"]
    assert not norms["layer2.0.bn1"]
    prepare(module, config, 7)
    assert all(child.training for child in module.modules())
