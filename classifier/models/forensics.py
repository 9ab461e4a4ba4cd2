"""Forensic features beside RGB: small branches over fixed transforms, fused late with what a backbone sees.

A branch turns the pixels into maps or figures from which the face is gone (`classifier.models.filters`), and a
small network into 64 numbers. They stand beside the backbone's pooled features, and one linear layer reads all of
them: whatever the branches add, the backbone's part is the same as without them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from classifier.models.filters import SRM_MAPS, TEXTURE_MAPS, Spectrum, grey, srm_kernels, srm_maps, texture_maps
from core.errors import UserError

Colour = tuple[float, float, float]
WIDTH = 64  # of what each branch adds to the head's input
NONE = "none"


class ForensicNetwork(nn.Module):
    """Normalised images [B, 3, S, S] -> [B, 1], as a timm network, and with the parts of its interface that we use.

    Attributes:
        backbone: the timm network, its classifier taken off.
        branches: by kind.
        classifier: the head, [F + 64 * branches] -> [1].
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, backbone: nn.Module, head: nn.Linear, kinds: Iterable[str], mean: Colour, std: Colour, image_size: int
    ) -> None:
        super().__init__()
        backbone.reset_classifier(0)  # type: ignore[operator]
        self.backbone = backbone
        self.branches = nn.ModuleDict({kind: BRANCHES[kind](image_size) for kind in kinds})
        self.classifier = nn.Linear(head.in_features + WIDTH * len(self.branches), 1)
        nn.init.normal_(self.classifier.weight, std=0.01)
        with torch.no_grad():
            self.classifier.weight[:, : head.in_features] = head.weight
            assert head.bias is not None
            self.classifier.bias.copy_(head.bias)
        self.register_buffer("mean", torch.tensor(mean).reshape(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).reshape(3, 1, 1), persistent=False)

    def fused(self, seen: Tensor, images: Tensor) -> Tensor:
        """[B, F + 64 * branches] input of the head, of the backbone's features [B, F] and normalised images."""
        if torch.is_autocast_enabled(images.device.type):
            with torch.autocast(images.device.type, enabled=False):  # residuals are finer than bfloat16's steps
                fixed = self._fixed(images.float())
        else:  # a program that is exported has no autocast, and may not name it
            fixed = self._fixed(images)
        branches = [cast("_Branch", branch)(each) for branch, each in zip(self.branches.values(), fixed, strict=True)]
        return torch.cat([seen.float(), *(each.float() for each in branches)], dim=1)

    def _fixed(self, images: Tensor) -> list[Tensor]:
        pixels = (images * self.std + self.mean) * 255
        return [cast("_Branch", branch).transform(pixels) for branch in self.branches.values()]

    def forward_features(self, images: Tensor) -> Tensor:
        """[B, F + 64 * branches] input of the head."""
        backbone = self.backbone
        seen = backbone.forward_head(backbone.forward_features(images), pre_logits=True)  # type: ignore[operator]
        return self.fused(seen, images)

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        """The logit [B, 1], or the head's input as it is."""
        return features if pre_logits else cast("Tensor", self.classifier(features))

    def forward(self, images: Tensor) -> Tensor:
        """See the class."""
        return self.forward_head(self.forward_features(images))

    def get_classifier(self) -> nn.Module:
        """The head."""
        return self.classifier


def kinds_of(text: str) -> tuple[str, ...]:
    """The branches that "none", "srm" or "srm+texture" names, in the order of BRANCHES.

    Raises:
        UserError: there is no such branch, or one is named twice.
    """
    named = [] if text == NONE else text.split("+")
    for kind in named:
        if kind not in BRANCHES or named.count(kind) > 1:
            raise UserError(
                f"forensics {text!r} is not to be had: give none, or some of {', '.join(BRANCHES)} joined by +"
            )
    return tuple(kind for kind in BRANCHES if kind in named)


def backbone_of(module: nn.Module) -> nn.Module:
    """The timm network that looks at RGB: the backbone of a ForensicNetwork, any other network itself."""
    return module.backbone if isinstance(module, ForensicNetwork) else module


class _Branch(nn.Module):
    """A fixed transform of the pixels [B, 3, S, S] in [0, 255], and a network over it that learns: [B, 64]."""

    network: nn.Module

    def transform(self, pixels: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, fixed: Tensor) -> Tensor:
        return cast("Tensor", self.network(fixed))


class _Maps(_Branch):
    """Maps of the same size as the picture, and three convolutions over them."""

    kernels: Tensor

    def __init__(self, maps: Callable[[Tensor, Tensor], Tensor], channels: int) -> None:
        super().__init__()
        self.maps = maps
        self.register_buffer("kernels", srm_kernels(), persistent=False)
        widths = (channels, 32, 48, WIDTH)
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [nn.Conv2d(before, after, 3, 2, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
        self.network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())

    def transform(self, pixels: Tensor) -> Tensor:
        return self.maps(pixels, self.kernels)


class _Frequencies(_Branch):
    """Figures of the spectrum, each standardised over the faces, and a layer over them."""

    def __init__(self, image_size: int) -> None:
        super().__init__()
        self.spectrum = Spectrum(image_size)
        width = self.spectrum.width
        self.network = nn.Sequential(_Standardised(width), nn.Linear(width, WIDTH), nn.ReLU())

    def transform(self, pixels: Tensor) -> Tensor:
        return cast("Tensor", self.spectrum(grey(pixels)))


class _Standardised(nn.BatchNorm1d):
    """Batch norm that takes a batch of one face by the statistics so far, where torch's refuses it."""

    def forward(self, x: Tensor) -> Tensor:
        if self.training and len(x) == 1:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        return super().forward(x)


BRANCHES: dict[str, Callable[[int], _Branch]] = {
    "srm": lambda _: _Maps(srm_maps, SRM_MAPS),
    "spectrum": _Frequencies,
    "texture": lambda _: _Maps(texture_maps, TEXTURE_MAPS),
}
