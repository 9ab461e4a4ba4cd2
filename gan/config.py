"""What a generator is and how it is trained: one table of presets, one typed configuration."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from core.device import Precision
from core.errors import UserError
from gan.networks import resolutions


class Preset(NamedTuple):
    """What one dial sets. Channels at a resolution are `channel_base / resolution`, within the two bounds."""

    channel_base: int
    channel_max: int
    channel_min: int
    z_width: int
    w_width: int
    batch_size: int
    gamma: float
    learning_rate: float
    noise_inputs: bool

    def channels(self, image_size: int) -> dict[int, int]:
        """Resolution -> channels for 4, 8, ..., `image_size`."""
        bounds = self.channel_min, self.channel_max
        return {size: min(max(self.channel_base // size, bounds[0]), bounds[1]) for size in resolutions(image_size)}


PRESETS: dict[str, Preset] = {
    #                base   max  min   z    w  batch  gamma    lr    noise
    "tiny": Preset(  1024,   64,  16,  64,  64,    8,   0.2, 1.0e-2, False),  # a demonstration in a minute on a CPU
    "small": Preset( 2048,  128,  32, 128, 128,   16,   1.0, 5.0e-3, False),  # 20 minutes to hours on a CPU
    "base": Preset( 16384,  512,  64, 256, 256,   64,   1.0, 2.0e-3, True),   # a GPU
}  # fmt: skip
# Noise inputs stay off where there are minutes: 12 kimg of ORL faces had grain all over with them, and none without.

DEFAULT_MINUTES = 20.0
ARCHITECTURE = ("image_size", "channels", "z_width", "w_width", "mapping_depth", "noise_inputs")
# What may change between the calls of one job: none of it moves the path that the weights take (beyond rounding).
FREE_FIELDS = (
    "minutes", "kimg", "accumulate", "compiled", "checkpoint_every_seconds", "samples_every_kimg",
    "validate_every_kimg", "patience_kimg",
)  # fmt: skip


class GanConfig(BaseModel):
    """How to train a generator. Unset network fields follow `preset`; `resolved()` shows every value.

    Give the budget as `minutes` of training (counted across resumes) or as `kimg`, thousands of real pictures shown;
    with neither it is 20 minutes.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    preset: Literal["tiny", "small", "base"] = "small"
    image_size: int = Field(64, ge=16, le=256, description="side of the pictures, a power of two")
    minutes: float | None = Field(None, gt=0, description="budget of training time")
    kimg: float | None = Field(None, gt=0, description="budget of thousands of real pictures shown")
    batch_size: int | None = Field(None, gt=0, multiple_of=4, description="real pictures a step")
    accumulate: int = Field(1, ge=1, description="micro-batches a step, for a batch that memory does not hold at once")
    learning_rate: float | None = Field(None, gt=0, lt=1, description="of both Adams, before the lazy rescaling")

    learn_from: Literal["real", "fake"] = Field("real", description="label of the train rows to learn (none synthetic)")
    start_from: str | None = Field(None, description="folder of a generator of this or of half this size to start from")
    condition: Literal["none", "method", "dataset"] = Field("none", description="column that gives pictures a label")
    condition_start_kimg: float = Field(10.0, ge=0, description="labels have no effect until here ...")
    condition_end_kimg: float = Field(30.0, gt=0, description="... and full effect from here on")

    z_width: int | None = Field(None, gt=0)
    w_width: int | None = Field(None, gt=0)
    mapping_depth: int = Field(2, ge=1, le=8)
    blur: bool = Field(False, description="[1, 3, 3, 1] filter before halving in the discriminator, not 2x2 averages")
    noise_inputs: bool | None = Field(None, description="per-pixel noise into every layer of the generator")
    style_mixing: float = Field(0.5, ge=0, le=1, description="probability that a fake mixes two latents")

    loss: Literal["relativistic", "ns-r1"] = "relativistic"
    gamma: float | None = Field(None, ge=0, description="weight of the gradient penalties")
    penalty_every: int = Field(8, ge=1, description="steps between two penalties, each scaled up to make up for it")
    penalty_precision: Literal["float32", "same"] = "float32"

    augment: Literal["ada", "diffaugment", "none"] = "ada"
    ada_target: float = Field(0.6, ge=0, le=1, description="share of reals on the real side that ADA steers for")
    ada_kimg: float = Field(50.0, gt=0, description="thousands of pictures in which the probability can go from 0 to 1")
    flip: bool = Field(True, description="mirror the real pictures at random")

    ema_kimg: float = Field(10.0, gt=0, description="half-life of the averaged weights")
    ema_rampup: float = Field(0.05, gt=0, description="half-life at most this share of the pictures shown so far")

    seed: int = Field(0, ge=0)
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1, ...")
    precision: Precision = "auto"
    compiled: bool | None = Field(None, description="torch.compile for the main passes; by default on CUDA only")
    checkpoint_every_seconds: float = Field(60.0, gt=0)
    samples_every_kimg: float = Field(5.0, gt=0, description="between two grids of samples in out/samples")
    validate_every_kimg: float | None = Field(10.0, gt=0, description="between two validations")
    patience_kimg: float | None = Field(None, gt=0, description="stop early after so long without a smaller distance")

    @field_validator("image_size")
    @classmethod
    def _power_of_two(cls, value: int) -> int:
        if value & (value - 1):
            below = 1 << (value.bit_length() - 1)
            raise ValueError(f"image_size {value} is not a power of two: take {below} or {below * 2}")
        return value

    @model_validator(mode="after")
    def _fits_together(self) -> GanConfig:
        if self.minutes is not None and self.kimg is not None:
            raise ValueError(f"minutes {self.minutes:g} and kimg {self.kimg:g} are two budgets: give one of them")
        if self.condition_end_kimg <= self.condition_start_kimg:
            raise ValueError(
                f"condition_end_kimg {self.condition_end_kimg:g} is not after condition_start_kimg"
                f" {self.condition_start_kimg:g}: leave the labels time to come in"
            )
        if self.condition != "none" and self.kimg is not None and self.kimg < self.condition_end_kimg:
            raise ValueError(
                f"kimg {self.kimg:g} ends before the labels count in full: lower condition_end_kimg"
                f" {self.condition_end_kimg:g} or raise kimg"
            )
        batch = self.batch_size or PRESETS[self.preset].batch_size
        if batch % (4 * self.accumulate):
            raise ValueError(
                f"batch_size {batch} in {self.accumulate} micro-batches does not leave multiples of 4 pictures to each:"
                f" take a batch_size that {4 * self.accumulate} divides, or another accumulate"
            )
        if self.patience_kimg is not None and self.validate_every_kimg is None:
            raise ValueError("patience_kimg needs the validation that validate_every_kimg null turns off: give both")
        return self

    def resolved(self) -> GanConfig:
        """The same configuration with every unset field filled from the preset."""
        unset = (name for name in Preset._fields if getattr(self, name, "") is None)
        filled: dict[str, Any] = {name: getattr(PRESETS[self.preset], name) for name in unset}
        if self.minutes is None and self.kimg is None:
            filled["minutes"] = DEFAULT_MINUTES
        return self.model_copy(update=filled)

    @property
    def architecture(self) -> dict[str, Any]:
        """What `Generator` is built with, its labels apart: the fields of ARCHITECTURE, of a resolved configuration."""
        return {name: getattr(self, name) for name in ARCHITECTURE}

    @property
    def channels(self) -> dict[int, int]:
        """Resolution -> channels, of the generator and of the discriminator."""
        return PRESETS[self.preset].channels(self.image_size)


def refuse_changes(before: Mapping[str, Any], config: GanConfig, out: Path) -> None:
    """Refuse, by a UserError, what differs from the configuration that a job in `out` was begun with, but may not."""
    now = config.model_dump(mode="json")
    for name, field in GanConfig.model_fields.items():
        then = before.get(name, field.default)  # an older version knew fewer settings
        if name not in FREE_FIELDS and then != now[name]:
            raise UserError(
                f"{out} was begun with {name} {then}, not {now[name]}:"
                " give that value to resume, or another folder to start anew"
            )
