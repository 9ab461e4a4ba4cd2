"""A detector: the network, what its input and its output mean, and its folder on disk."""

from __future__ import annotations

import json
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

import torch
from numpy.typing import ArrayLike
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as encode
from torch import Tensor, nn

from classifier.calibration import Band, fit_band, fit_temperature, fit_threshold, probabilities
from classifier.config import DetectorConfig
from classifier.models.backbones import Colour, create, spec, state_digest
from classifier.models.forensics import ForensicNetwork, kinds_of
from core.device import pick_device
from core.errors import UserError
from core.files import write_bytes, write_json

WEIGHTS, CONFIG = "weights.safetensors", "config.json"
FORMAT = 1


class CalibratedModel(nn.Module, ABC):
    """What detectors and ensembles share: uint8 faces [B, 3, S, S] in, the logit of "fake" out, calibrated on val.

    Attributes:
        temperature: divides the logit before the sigmoid.
        threshold: P(fake) from which a face is called fake, fixed on val.
        band: where the model abstains, fixed on val; None where it never was.
        manifest_digest: of the manifest that it was trained or fitted on; "" for none.
    """

    def __init__(
        self, threshold: float = 0.5, band: Band | None = None, temperature: float = 1.0, manifest_digest: str = ""
    ) -> None:
        super().__init__()
        self.threshold = threshold
        self.band = band
        self.temperature = temperature
        self.manifest_digest = manifest_digest

    @property
    @abstractmethod
    def digest(self) -> str:
        """16 hex digits of what decides the scores."""

    @abstractmethod
    def describe(self) -> dict[str, object]:
        """What `config.json` holds: plain values from which the model is rebuilt around its weights."""

    @abstractmethod
    def _tensors(self) -> Mapping[str, Tensor]:
        """What `weights.safetensors` holds."""

    def probability(self, images: Tensor) -> Tensor:
        """uint8 [B, 3, S, S] -> [B] calibrated P(fake)."""
        return torch.sigmoid(self(images) / self.temperature)

    def calibrate(self, logits: ArrayLike, targets: ArrayLike) -> None:
        """Fit temperature, threshold and band to logits [N] of val rows, and whether each is fake (1) or real (0)."""
        self.temperature = fit_temperature(logits, targets)
        scores = probabilities(logits, self.temperature)
        self.threshold = fit_threshold(scores, targets)
        self.band = fit_band(scores, targets, self.threshold)

    def calibration(self) -> dict[str, object]:
        """The part of `describe` that `read_calibration` reads."""
        names = ("threshold", "band", "temperature", "manifest_digest")
        return {name: getattr(self, name) for name in names} | {"digest": self.digest}

    def save(self, folder: Path | str) -> Path:
        """Write `weights.safetensors`, then `config.json`, whose presence says that both are complete."""
        folder = Path(folder)
        (folder / CONFIG).unlink(missing_ok=True)
        state = {key: tensor.detach().cpu().contiguous() for key, tensor in self._tensors().items()}
        write_bytes(folder / WEIGHTS, encode(state))
        write_json(folder / CONFIG, self.describe())
        return folder


class Detector(CalibratedModel):
    """One network: uint8 faces [B, 3, S, S] in, the logit of "fake" out.

    Attributes:
        module: the timm network, or a ForensicNetwork around it: normalised images [B, 3, S, S] -> [B, 1].
        config: what it was trained by; `config.image_size` is S.
        mean, std: [3, 1, 1] of RGB in [0, 1], on the detector's device.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, module: nn.Module, config: DetectorConfig, mean: Colour, std: Colour, **calibration: Any
    ) -> None:
        super().__init__(**calibration)
        self.module = module.to(memory_format=torch.channels_last)
        self.config = config
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).reshape(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).reshape(3, 1, 1), persistent=False)

    @classmethod
    def create(cls, config: DetectorConfig) -> Detector:
        """An untrained one on the CPU: the backbone with its weights, and a fresh head.

        Raises:
            UserError: the weights are not available or do not fit.
        """
        row = spec(config.backbone)
        return cls(_network(config, config.weights, config.seed), config, row.mean, row.std)

    @classmethod
    def load(cls, folder: Path | str, device: str = "auto") -> Detector:
        """Read one that `save` wrote, in eval mode; needs no network.

        Raises:
            UserError: there is none, or its files do not belong together.
        """
        folder = Path(folder)
        described = read_description(folder)
        if described is None:
            raise UserError(f"no detector in {folder} ({CONFIG} is missing): train one with `counterforge train`")
        return rebuilt(cls.rebuild, folder, described, device)

    @classmethod
    def rebuild(cls, described: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Detector:
        """The detector that `describe` described, around its tensors, on the CPU; raises what pydantic and torch do."""
        config = DetectorConfig.model_validate(described["config"])
        mean, std = (cast("Colour", tuple(described[name])) for name in ("mean", "std"))
        if not min(std) > 0:
            raise ValueError(f"std is {std}, which must be above 0")
        detector = cls(_network(config, "none"), config, mean, std, **read_calibration(described))
        detector.module.load_state_dict(dict(tensors))
        return detector

    def describe(self) -> dict[str, object]:
        """See `CalibratedModel`."""
        return {
            "format": FORMAT,
            "config": self.config.model_dump(),
            "mean": self.mean.flatten().tolist(),
            "std": self.std.flatten().tolist(),
            **self.calibration(),
        }

    def _tensors(self) -> Mapping[str, Tensor]:
        return cast("Mapping[str, Tensor]", self.module.state_dict())

    @property
    def digest(self) -> str:
        """16 hex digits of what decides its scores: weights, input and temperature."""
        extra = torch.tensor([float(self.config.image_size), self.temperature], dtype=torch.float64)
        return state_digest({**self.module.state_dict(), ".mean": self.mean, ".std": self.std, ".extra": extra})

    def normalise(self, images: Tensor) -> Tensor:
        """uint8 [B, 3, S, S] -> float32 of mean 0 and std 1 over ImageNet, channels last."""
        if images.dtype != torch.uint8:
            raise ValueError(f"images must be uint8, not {images.dtype}")
        scaled = (images.to(torch.float32) / 255 - self.mean) / self.std
        return scaled.contiguous(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> Tensor:
        """uint8 [B, 3, S, S] -> [B] float32 logits of "fake", not yet divided by the temperature."""
        return cast("Tensor", self.module(self.normalise(images))).squeeze(1).float()


def _network(config: DetectorConfig, weights: str, seed: int = 0) -> nn.Module:
    module = create(config.backbone, weights, config.image_size, seed)
    kinds = kinds_of(config.forensics)
    if not kinds:
        return module
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return ForensicNetwork(module, kinds, spec(config.backbone), config.image_size)


def read_description(folder: Path) -> dict[str, Any] | None:
    """The `config.json` of a finished detector or ensemble, whose values are checked; None where there is none.

    Raises:
        UserError: it is there, but damaged.
    """
    file = folder / CONFIG
    if not file.is_file():
        return None
    try:
        described = json.loads(file.read_text(encoding="utf-8"))
        read_calibration(described)
        if "members" not in described:
            DetectorConfig.model_validate(described.get("config"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{file} is damaged ({_reason(error)}): delete it and train again") from error
    return cast("dict[str, Any]", described)


def _reason(error: Exception) -> str:
    """In a few words; of what pydantic says, the first thing that is wrong."""
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False, include_input=False)[0]
        return f"{'.'.join(map(str, first['loc'])) or 'it'}: {first['msg']}"
    return " ".join(str(error).split())[:200]


class Calibration(BaseModel):
    """What every `config.json` of a model must hold beside what rebuilds its network."""

    model_config = ConfigDict(allow_inf_nan=False)

    format: Literal[1]
    threshold: float = Field(ge=0, le=1)
    band: tuple[float, float] | None = Field(None, description="None in those of before there were bands")
    temperature: float = Field(ge=1e-6, le=1e6)
    manifest_digest: str = Field(max_length=64)
    digest: str = Field(max_length=64)

    @field_validator("band")
    @classmethod
    def _ordered(cls, band: tuple[float, float] | None) -> Band | None:
        if band is not None and not 0 <= band[0] <= band[1] <= math.nextafter(1, 2):  # just above 1: never called fake
            raise ValueError("is not two ordered probabilities")
        return None if band is None else Band(*band)


def read_calibration(described: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of `CalibratedModel` out of a `config.json`; raises a ValueError where one is out of its range."""
    checked = Calibration.model_validate(described)
    return {name: getattr(checked, name) for name in ("threshold", "band", "temperature", "manifest_digest")}


Model = TypeVar("Model", bound=CalibratedModel)


def rebuilt(
    rebuild: Callable[[Mapping[str, Any], Mapping[str, Tensor]], Model],
    folder: Path,
    described: Mapping[str, Any],
    device: str,
) -> Model:
    """The model of a folder on a device, in eval mode.

    Raises:
        UserError: its files cannot be read or do not belong together.
    """
    kind = "ensemble" if "members" in described else "detector"
    try:
        model = rebuild(described, load_file(folder / WEIGHTS))
        for name, tensor in (*model.named_parameters(), *model.named_buffers()):
            if not bool(torch.isfinite(tensor).all()):
                raise ValueError(f"{name} is not finite")
    except (LookupError, TypeError, ValueError, ArithmeticError, OSError, SafetensorError, RuntimeError) as error:
        raise UserError(f"the {kind} in {folder} cannot be rebuilt ({_reason(error)}): make it again") from error
    if model.digest != described["digest"]:
        raise UserError(f"{CONFIG} and {WEIGHTS} in {folder} are not of one {kind}: make it again")
    return model.to(pick_device(device)).eval()
