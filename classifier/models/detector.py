"""A detector: the network, what its input and its output mean, and its folder on disk."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as encode
from torch import Tensor, nn

from classifier.calibration import Band, described_band
from classifier.config import DetectorConfig
from classifier.models.backbones import Built, Colour, create, head, state_digest
from classifier.models.forensics import ForensicNetwork, kinds_of
from core.device import pick_device
from core.errors import UserError
from core.files import write_bytes, write_json

WEIGHTS, CONFIG = "weights.safetensors", "config.json"
_FORMAT = 1


class Detector(nn.Module):
    """uint8 faces [B, 3, S, S] in, the logit of "fake" out.

    Attributes:
        module: the timm network, or a ForensicNetwork around it: normalised images [B, 3, S, S] -> [B, 1].
        config: what it was trained by; `config.image_size` is S.
        mean, std: [3, 1, 1] of RGB in [0, 1], on the detector's device.
        temperature: divides the logit before the sigmoid.
        threshold: P(fake) from which a face is called fake, fixed on val.
        band: where it would rather give no verdict, fixed on val; None where it never was.
        manifest_digest: of the manifest that it was trained on; "" for none.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        module: nn.Module,
        config: DetectorConfig,
        mean: Colour,
        std: Colour,
        *,
        threshold: float = 0.5,
        band: Band | None = None,
        temperature: float = 1.0,
        manifest_digest: str = "",
    ) -> None:
        super().__init__()
        self.module = module.to(memory_format=torch.channels_last)
        self.config = config
        self.threshold = threshold
        self.band = band
        self.temperature = temperature
        self.manifest_digest = manifest_digest
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).reshape(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).reshape(3, 1, 1), persistent=False)

    @classmethod
    def create(cls, config: DetectorConfig) -> Detector:
        """An untrained one on the CPU: the backbone with its weights, and a fresh head.

        Raises:
            UserError: the weights cannot be had or do not fit.
        """
        built = _network(config, config.weights, config.seed)
        return cls(built.module, config, built.mean, built.std)

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
        try:
            detector = cls.rebuild(described, load_file(folder / WEIGHTS))
        except (KeyError, TypeError, ValidationError, OSError, SafetensorError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"the detector in {folder} cannot be rebuilt ({reason}): train it again") from error
        if detector.digest != described.get("digest"):
            raise UserError(f"{CONFIG} and {WEIGHTS} in {folder} are not of one detector: train it again")
        return detector.to(pick_device(device)).eval()

    @classmethod
    def rebuild(cls, described: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Detector:
        """The detector that `describe` described, around its tensors, on the CPU; raises what pydantic and torch do."""
        config = DetectorConfig.model_validate(described["config"])
        detector = cls(
            _network(config, "none").module,
            config,
            cast("Colour", tuple(described["mean"])),
            cast("Colour", tuple(described["std"])),
            threshold=float(described["threshold"]),
            band=described_band(described),
            temperature=float(described["temperature"]),
            manifest_digest=str(described["manifest_digest"]),
        )
        detector.module.load_state_dict(dict(tensors))
        return detector

    def save(self, folder: Path | str) -> Path:
        """Write `weights.safetensors`, then `config.json`, whose presence says that both are complete."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / CONFIG).unlink(missing_ok=True)
        state = {key: tensor.detach().cpu().contiguous() for key, tensor in self.module.state_dict().items()}
        write_bytes(folder / WEIGHTS, encode(state))  # safetensors' own save_file writes for its owner alone
        write_json(folder / CONFIG, self.describe())
        return folder

    def describe(self) -> dict[str, object]:
        """What `config.json` holds: plain values from which the detector is rebuilt around its weights."""
        return {
            "format": _FORMAT,
            "config": self.config.model_dump(),
            "mean": self.mean.flatten().tolist(),
            "std": self.std.flatten().tolist(),
            "threshold": self.threshold,
            "band": self.band,
            "temperature": self.temperature,
            "manifest_digest": self.manifest_digest,
            "digest": self.digest,
        }

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

    def probability(self, images: Tensor) -> Tensor:
        """uint8 [B, 3, S, S] -> [B] calibrated P(fake)."""
        return torch.sigmoid(self(images) / self.temperature)


def _network(config: DetectorConfig, weights: str, seed: int = 0) -> Built:
    built = create(config.backbone, weights, config.image_size, seed)
    kinds = kinds_of(config.forensics)
    if not kinds:
        return built
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = ForensicNetwork(built.module, head(built.module), kinds, built.mean, built.std, config.image_size)
    return built._replace(module=module)


def read_description(folder: Path) -> dict[str, Any] | None:
    """The `config.json` of a finished detector, or None where there is none.

    Raises:
        UserError: it is there, but damaged.
    """
    file = folder / CONFIG
    if not file.is_file():
        return None
    try:
        return cast("dict[str, Any]", json.loads(file.read_text(encoding="utf-8")))
    except ValueError as error:
        raise UserError(f"{file} is damaged ({error}): delete it and train again") from error
