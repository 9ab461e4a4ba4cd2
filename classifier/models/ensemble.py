"""Several detectors as one: the same interface, one folder, its own temperature and threshold.

The logit of an ensemble is linear in its members' calibrated logits, sum_m w_m z_m / T_m + b: a mean, a mean weighted
on val, or a logistic regression (`classifier.stacking` finds w and b). Members may be of different backbones
and sizes. The ensemble sees the largest of their sizes, and scales down for the smaller ones with anti-aliasing.

On disk it looks like a detector: `weights.safetensors` with the members' tensors behind their numbers (`0.`, `1.`, ...)
and a `config.json`, which has `members`. Whatever keeps, fetches and serves a detector's folder takes it as it is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, cast

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.nn import functional as F

from classifier.models.backbones import state_digest
from classifier.models.detector import FORMAT, CalibratedModel, Detector, read_calibration, read_description, rebuilt
from core.errors import UserError

Combination = Literal["mean", "weighted", "stacking"]


class EnsembleConfig(BaseModel):
    """What an ensemble is made of; `image_size` and `backbone` as a detector's configuration has them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    combination: Combination = "mean"
    image_size: int = Field(ge=16, le=1024)
    backbone: str


class Ensemble(CalibratedModel):
    """uint8 faces [B, 3, S, S] in, the logit of "fake" out, as `Detector` does it.

    Attributes:
        members: the detectors, in order.
        weights: [M] of their calibrated logits; `bias`: what is added.
        config: `config.image_size` is S.

    Raises:
        UserError: there are under two members, or not as many weights.
    """

    def __init__(
        self,
        members: Sequence[Detector],
        weights: Sequence[float],
        bias: float = 0.0,
        *,
        combination: Combination = "mean",
        **calibration: Any,
    ) -> None:
        if len(members) < 2 or len(members) != len(weights):
            raise UserError(f"an ensemble needs two models or more, not {len(members)}: name more of them")
        super().__init__(**calibration)
        self.members = nn.ModuleList(members)
        self.weights = tuple(float(weight) for weight in weights)
        self.bias = float(bias)
        names = dict.fromkeys(member.config.backbone for member in members)
        self.config = EnsembleConfig(
            combination=combination,
            image_size=max(member.config.image_size for member in members),
            backbone=f"{len(members)} x {' + '.join(names)}",
        )

    @property
    def detectors(self) -> list[Detector]:
        """The members, as what they are."""
        return [cast("Detector", member) for member in self.members]

    @property
    def mean(self) -> Tensor:
        """[3, 1, 1] of the first member: who asks for a detector's device asks its mean."""
        return self.detectors[0].mean

    def member_logits(self, images: Tensor) -> Tensor:
        """uint8 [B, 3, S, S] -> [B, M] calibrated logits z_m / T_m."""
        scaled: dict[int, Tensor] = {}
        columns = []
        for member in self.detectors:
            size = member.config.image_size
            if size not in scaled:
                scaled[size] = resized(images, size)
            columns.append(member(scaled[size]) / member.temperature)
        return torch.stack(columns, dim=1)

    def forward(self, images: Tensor) -> Tensor:
        """uint8 [B, 3, S, S] -> [B] float32 logits of "fake", not yet divided by the ensemble's temperature."""
        each = self.member_logits(images)
        return each @ torch.tensor(self.weights, dtype=each.dtype, device=each.device) + self.bias

    @property
    def digest(self) -> str:
        """16 hex digits of what decides its scores."""
        parts = {f"{number}.{member.digest}": torch.zeros(1) for number, member in enumerate(self.detectors)}
        numbers = torch.tensor([*self.weights, self.bias, self.temperature], dtype=torch.float64)
        return state_digest({**parts, ".numbers": numbers})

    def describe(self) -> dict[str, object]:
        """See `CalibratedModel`."""
        return {
            "format": FORMAT,
            "combination": self.config.combination,
            "image_size": self.config.image_size,
            "weights": list(self.weights),
            "bias": self.bias,
            **self.calibration(),
            "members": [member.describe() for member in self.detectors],
        }

    def _tensors(self) -> Mapping[str, Tensor]:
        return {
            f"{number}.{key}": tensor
            for number, member in enumerate(self.detectors)
            for key, tensor in member.module.state_dict().items()
        }

    @classmethod
    def rebuild(cls, described: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Ensemble:
        """The ensemble that `describe` described, around its members' tensors, on the CPU."""
        members = []
        for number, member in enumerate(described["members"]):
            prefix = f"{number}."
            own = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
            members.append(Detector.rebuild(member, own))
        weights, bias, combination = described["weights"], float(described["bias"]), described["combination"]
        if not all(map(math.isfinite, (*weights, bias))):
            raise ValueError("its weights are not finite")
        return cls(members, weights, bias, combination=combination, **read_calibration(described))


FaceModel = Detector | Ensemble


def load_detector(folder: Path | str, device: str = "auto") -> FaceModel:
    """The detector or the ensemble in `folder`, in eval mode; needs no network.

    Raises:
        UserError: there is none, or its files do not belong together.
    """
    folder = Path(folder)
    described = read_description(folder)
    if described is None or "members" not in described:
        return Detector.load(folder, device)
    return rebuilt(Ensemble.rebuild, folder, described, device)


def resized(images: Tensor, size: int) -> Tensor:
    """uint8 [B, 3, S, S] -> uint8 [B, 3, size, size], bicubic with anti-aliasing, as crops are decoded."""
    if images.shape[-1] == size:
        return images
    scaled = F.interpolate(images.float(), (size, size), mode="bicubic", antialias=True, align_corners=False)
    return scaled.round().clamp(0, 255).to(torch.uint8)
