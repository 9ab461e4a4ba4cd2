"""Explanations: a detector whose only evidence is a planted patch must be explained at the patch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from classifier.config import DetectorConfig
from classifier.explanation import METHODS, Method, explain, iou, pointing
from classifier.models.backbones import head, pooled
from classifier.models.detector import Detector
from classifier.models.ensemble import Ensemble
from core.errors import UserError

SIDE = 64
PLACE = (slice(48, 64), slice(0, 16))  # below left, far from the middle, and one square of a transformer


class PatchNetwork(nn.Module):
    """Convolutions whose answer is how much redder than blue the reddest places are."""

    def __init__(self) -> None:
        super().__init__()
        self.smooth = nn.Conv2d(3, 2, 5, stride=4, padding=2)
        self.act = nn.ReLU()
        self.fc = nn.Linear(2, 1)
        with torch.no_grad():
            self.smooth.weight.zero_()
            self.smooth.weight[0, 0] = 0.04
            self.smooth.weight[0, 2] = -0.04
            self.smooth.weight[1, 1] = 0.04
            self.smooth.bias.zero_()
            self.fc.weight.copy_(torch.tensor([[4.0, 0.0]]))
            self.fc.bias.fill_(-1.0)

    def forward(self, images: Tensor) -> Tensor:
        return self.fc(self.act(self.smooth(images)).mean(dim=(2, 3)))


def patch_detector() -> Detector:
    config = DetectorConfig(backbone="resnet18", weights="none", image_size=SIDE, device="cpu")
    return Detector(PatchNetwork(), config, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)).eval()


def pictures(count: int = 3) -> tuple[Tensor, np.ndarray]:
    """Grey noise with a red patch, and where the patch is."""
    random = torch.Generator().manual_seed(0)
    grey = torch.randint(90, 150, (count, 1, SIDE, SIDE), generator=random)
    images = grey.expand(-1, 3, -1, -1).clone()
    images[:, 0, PLACE[0], PLACE[1]] += 100
    images[:, 2, PLACE[0], PLACE[1]] -= 80
    mask = np.zeros((SIDE, SIDE), dtype=bool)
    mask[PLACE] = True
    return images.to(torch.uint8), mask


@pytest.mark.parametrize("method", METHODS)
def test_a_planted_patch_is_found(method: Method) -> None:
    images, mask = pictures()
    maps = explain(patch_detector(), images, method)
    assert maps.shape == (3, SIDE, SIDE)
    assert maps.min() >= 0
    assert maps.max(axis=(1, 2)) == pytest.approx(1)
    for heat in maps:
        assert pointing(heat, mask) == 1
        assert iou(heat, mask) > 0.4


@pytest.mark.parametrize("backbone", ["resnet18", "tf_efficientnet_lite0", "densenet121", "vgg16_bn", "vit_small"])
def test_every_kind_of_network_can_be_explained(backbone: str) -> None:
    """Real architectures, with random weights, and a head that likes the features of these pictures."""
    size = 64
    detector = Detector.create(DetectorConfig(backbone=backbone, weights="none", image_size=size, device="cpu")).eval()
    images, _ = pictures(4)
    with torch.no_grad():
        features = pooled(detector.module, detector.normalise(images)).mean(dim=0, keepdim=True)
        head(detector.module).weight.copy_(features / features.norm())
    before = {key: value.clone() for key, value in detector.state_dict().items()}
    maps = explain(detector, images[:2], "grad-cam")
    assert maps.shape == (2, size, size)
    assert np.isfinite(maps).all()
    assert maps.max() == pytest.approx(1)
    assert all(torch.equal(before[key], value) for key, value in detector.state_dict().items())


def test_a_transformers_tokens_are_laid_out_in_their_places() -> None:
    """A head that reads one patch's brightness: the map is highest there. Transposed tokens would mirror it."""
    detector = Detector.create(DetectorConfig(backbone="vit_small", weights="none", image_size=SIDE, device="cpu"))
    detector.eval()
    images, mask = pictures(2)
    network = detector.module

    class First(nn.Module):
        """The embedding of the patches, one block without attention, and the mean over all places."""

        def __init__(self) -> None:
            super().__init__()
            self.patch_embed = network.patch_embed
            self.num_prefix_tokens = 1
            self.blocks = nn.ModuleList([nn.ModuleDict({"norm1": nn.Identity()})])
            self.blocks[0].norm1 = nn.Identity()  # type: ignore[union-attr]

        def forward(self, x: Tensor) -> Tensor:
            tokens = torch.cat([torch.zeros(len(x), 1, 384), self.patch_embed(x)], dim=1)
            return self.blocks[0].norm1(tokens)[:, 1:].relu().mean(dim=(1, 2)).unsqueeze(1)  # type: ignore[union-attr]

    tiny = First()
    with torch.no_grad():
        tiny.patch_embed.proj.weight.zero_()
        tiny.patch_embed.proj.bias.zero_()
        tiny.patch_embed.proj.weight[:, 0], tiny.patch_embed.proj.weight[:, 2] = 0.01, -0.01
    planted = Detector(tiny, detector.config, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)).eval()
    for heat in explain(planted, images, "grad-cam"):
        assert pointing(heat, mask) == 1


def test_an_ensemble_is_explained_by_its_members() -> None:
    images, mask = pictures(2)
    blind = patch_detector()
    with torch.no_grad():
        blind.module.fc.weight.zero_()  # type: ignore[union-attr]
    ensemble = Ensemble([patch_detector(), blind], [0.7, 0.3])
    maps = explain(ensemble, images, "occlusion")
    np.testing.assert_allclose(maps, explain(patch_detector(), images, "occlusion"), atol=1e-6)
    assert all(pointing(heat, mask) == 1 for heat in maps)


def test_nothing_that_speaks_for_fake_is_a_map_of_zeros() -> None:
    detector = patch_detector()
    with torch.no_grad():
        detector.module.fc.weight.zero_()  # type: ignore[union-attr]
    for method in METHODS:
        assert not explain(detector, pictures(1)[0], method).any()


def test_a_network_of_one_pixel_is_named() -> None:
    config = DetectorConfig(backbone="resnet18", weights="none", image_size=SIDE, device="cpu")
    flat = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIDE * SIDE, 1))
    detector = Detector(flat, config, (0.5,) * 3, (0.5,) * 3)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="no feature map of more than one pixel"):
        explain(detector, pictures(1)[0], "grad-cam")
