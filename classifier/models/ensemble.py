"""Several detectors as one: the same interface, one folder, its own temperature and threshold.

The logit of an ensemble is linear in its members' calibrated logits, sum_m w_m z_m / T_m + b: a mean, a mean weighted
on val, or a logistic regression (`classifier.training.stacking` finds w and b). Members may be of different backbones
and sizes. The ensemble sees the largest of their sizes, and scales down for the smaller ones with anti-aliasing.

On disk it looks like a detector: `weights.safetensors` with the members' tensors behind their numbers (`0.`, `1.`, ...)
and a `config.json`, which has `members`. Whatever keeps, fetches and serves a detector's folder takes it as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, cast

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as encode
from torch import Tensor, nn
from torch.nn import functional as F

from classifier.calibration import Band, described_band
from classifier.models.backbones import state_digest
from classifier.models.detector import CONFIG, WEIGHTS, Detector, read_description
from core.device import pick_device
from core.errors import UserError
from core.files import write_bytes, write_json

Combination = Literal["mean", "weighted", "stacking"]
_FORMAT = 1


class EnsembleConfig(BaseModel):
    """What an ensemble is made of; `image_size` and `backbone` as a detector's configuration has them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    combination: Combination = "mean"
    image_size: int = Field(ge=16, le=1024)
    backbone: str


class Ensemble(nn.Module):
    """uint8 faces [B, 3, S, S] in, the logit of "fake" out, as `Detector` does it.

    Attributes:
        members: the detectors, in order.
        weights: [M] of their calibrated logits; `bias`: what is added.
        config: `config.image_size` is S.
        temperature, threshold, band: of the whole, fitted on val.
        manifest_digest: of the manifest that it was fitted on.
    """

    def __init__(
        self,
        members: Sequence[Detector],
        weights: Sequence[float],
        bias: float = 0.0,
        *,
        combination: Combination = "mean",
        threshold: float = 0.5,
        band: Band | None = None,
        temperature: float = 1.0,
        manifest_digest: str = "",
    ) -> None:
        if len(members) < 2 or len(members) != len(weights):
            raise UserError(f"an ensemble needs two models or more, not {len(members)}: name more of them")
        super().__init__()
        self.members = nn.ModuleList(members)
        self.weights = tuple(float(weight) for weight in weights)
        self.bias = float(bias)
        self.threshold = threshold
        self.band = band
        self.temperature = temperature
        self.manifest_digest = manifest_digest
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

    def probability(self, images: Tensor) -> Tensor:
        """uint8 [B, 3, S, S] -> [B] calibrated P(fake)."""
        return torch.sigmoid(self(images) / self.temperature)

    @property
    def digest(self) -> str:
        """16 hex digits of what decides its scores."""
        parts = {f"{number}.{member.digest}": torch.zeros(1) for number, member in enumerate(self.detectors)}
        numbers = torch.tensor([*self.weights, self.bias, self.temperature], dtype=torch.float64)
        return state_digest({**parts, ".numbers": numbers})

    def describe(self) -> dict[str, object]:
        """What `config.json` holds."""
        return {
            "format": _FORMAT,
            "combination": self.config.combination,
            "image_size": self.config.image_size,
            "weights": list(self.weights),
            "bias": self.bias,
            "threshold": self.threshold,
            "band": self.band,
            "temperature": self.temperature,
            "manifest_digest": self.manifest_digest,
            "digest": self.digest,
            "members": [member.describe() for member in self.detectors],
        }

    def save(self, folder: Path | str) -> Path:
        """Write `weights.safetensors`, then `config.json`, whose presence says that both are complete."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / CONFIG).unlink(missing_ok=True)
        state = {
            f"{number}.{key}": tensor.detach().cpu().contiguous()
            for number, member in enumerate(self.detectors)
            for key, tensor in member.module.state_dict().items()
        }
        write_bytes(folder / WEIGHTS, encode(state))
        write_json(folder / CONFIG, self.describe())
        return folder


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
    try:
        tensors = load_file(folder / WEIGHTS)
        members = []
        for number, member in enumerate(described["members"]):
            prefix = f"{number}."
            own = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
            members.append(Detector.rebuild(member, own))
        ensemble = Ensemble(
            members,
            described["weights"],
            float(described["bias"]),
            combination=described["combination"],
            threshold=float(described["threshold"]),
            band=described_band(described),
            temperature=float(described["temperature"]),
            manifest_digest=str(described["manifest_digest"]),
        )
    except (KeyError, TypeError, ValidationError, OSError, SafetensorError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"the ensemble in {folder} cannot be rebuilt ({reason}): make it again") from error
    if ensemble.digest != described.get("digest"):
        raise UserError(f"{CONFIG} and {WEIGHTS} in {folder} are not of one ensemble: make it again")
    return ensemble.to(pick_device(device)).eval()


def resized(images: Tensor, size: int) -> Tensor:
    """uint8 [B, 3, S, S] -> uint8 [B, 3, size, size], bicubic with anti-aliasing, as crops are decoded."""
    if images.shape[-1] == size:
        return images
    scaled = F.interpolate(images.float(), (size, size), mode="bicubic", antialias=True, align_corners=False)
    return scaled.round().clamp(0, 255).to(torch.uint8)
