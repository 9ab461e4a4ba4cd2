"""What decides how a detector is trained."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from classifier.models.backbones import OFFLINE_BACKBONE, check_size, spec
from classifier.models.forensics import NONE, kinds_of
from core.device import Precision


class DetectorConfig(BaseModel):
    """Transfer learning of one detector: the head alone for `frozen_epochs`, then what `finetune` says.

    Raises a ValueError (pydantic's ValidationError) that names the field where a value is out of its range.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    backbone: str = Field(default=OFFLINE_BACKBONE, description="a key of classifier.models.backbones.BACKBONES")
    weights: str = Field(default="imagenet", min_length=1, description="imagenet, none, or a file of weights")
    image_size: int = Field(default=192, ge=16, le=1024, description="side of the square that the network sees, pixels")
    forensics: str = Field(default=NONE, description="none, or some of srm, spectrum, texture, joined by +")
    batch_size: int = Field(default=32, ge=2, le=4096)
    epochs: int = Field(default=5, ge=1, le=1000)
    frozen_epochs: int = Field(default=1, ge=0, description="of `epochs`, how many train the head alone, first")
    finetune: Literal["full", "gradual", "norms", "head"] = Field(
        default="full", description="what learns after them, see classifier.optim"
    )
    learning_rate: float = Field(default=1e-3, gt=0, le=10, description="of the head, at its peak")
    backbone_learning_rate_factor: float = Field(default=0.5, gt=0, le=10, description="times learning_rate")
    layer_decay: float = Field(default=1.0, gt=0, le=1, description="of the rate, from each layer to the one below")
    weight_decay: float = Field(default=0.02, ge=0, le=10)
    warmup_share: float = Field(default=0.1, ge=0, lt=1, description="of a phase's steps, before the cosine")
    balance: Literal["none", "weights", "oversample"] = "weights"
    paired: bool = Field(default=False, description="a fake stands in a batch with the real that it was made from")
    augmentation: float = Field(default=0.3, ge=0, le=1, description="strength of faces.augmentation")
    dropout: float = Field(default=0.2, ge=0, lt=1, description="before the classifier")
    label_smoothing: float = Field(default=0.05, ge=0, lt=0.5)
    mixup: float = Field(default=0.0, ge=0, le=10, description="alpha of Beta(alpha, alpha), mixes pictures; 0 is off")
    early_stopping_epochs: int = Field(default=4, ge=0, description="stop after so many without a better AUC; 0 never")
    ema_decay: float = Field(default=0.0, ge=0, lt=1, description="average of the weights; 0 is off")
    seed: int = Field(default=0, ge=0, lt=2**31)
    device: str = Field(default="auto", description="auto, cpu, cuda, cuda:1")
    precision: Precision = "auto"
    checkpoint_every_seconds: float = Field(default=60, ge=0)

    @field_validator("precision", mode="before")
    @classmethod
    def _earlier_name(cls, name: object) -> object:
        """Detectors that were saved before version 0.2 call the precisions 32 and bf16."""
        return {"32": "float32", "bf16": "bfloat16"}.get(str(name), name)

    @field_validator("backbone")
    @classmethod
    def _known_backbone(cls, name: str) -> str:
        spec(name)
        return name

    @field_validator("forensics")
    @classmethod
    def _known_forensics(cls, text: str) -> str:
        return "+".join(kinds_of(text)) or NONE

    @property
    def head_epochs(self) -> int:
        """How many epochs, from the first, the backbone is frozen in."""
        return self.epochs if self.finetune == "head" else self.frozen_epochs

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        check_size(self.backbone, self.image_size)
        if self.frozen_epochs > self.epochs:
            raise ValueError(
                f"frozen_epochs {self.frozen_epochs} is more than epochs {self.epochs}: lower it, or train longer"
            )
        if self.paired and self.balance == "oversample":
            raise ValueError(
                "paired batches repeat reals by themselves, which oversample would undo: set balance to weights or none"
            )
        return self


# Fields that change neither the weights nor the order of the data: a job may go on with other ones.
WITHOUT_EFFECT = frozenset({"checkpoint_every_seconds"})


def differences(old: DetectorConfig, new: DetectorConfig) -> list[str]:
    """Sentences "field: old, now new" for the fields that decide the result and differ."""
    before, after = old.model_dump(), new.model_dump()
    return [
        f"{name}: {before[name]!r}, now {after[name]!r}"
        for name in before
        if name not in WITHOUT_EFFECT and before[name] != after[name]
    ]
