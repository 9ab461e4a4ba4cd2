"""What a comparison compares: arms that differ in nothing but what they do about the shortage of fakes, and seeds."""

from __future__ import annotations

import difflib
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from classifier.config import DetectorConfig
from faces.errors import UserError
from gan.balancing import mixture
from gan.forging.forge import METHODS, WITHOUT_GENERATOR
from tuning.trial import TrialSpec

NONE = "none"
# What can be done without new faces, as the detector's own setting names it.
PLAIN = {NONE: "none", "class weights": "weights", "oversampling": "oversample"}
ARMS = (*PLAIN, "self-blend", "gan", "gan-matched", "gan-composite", "self-blend+gan-composite")
# Fewer show next to nothing of the chance that lies in a seed, so that nothing is claimed of them.
CLAIM_SEEDS = 3
# Between the first synthetic faces of two seeds: no training set takes so many that they would meet.
_STRIDE = 1_000_000


class ComparisonConfig(BaseModel):
    """Arms, seeds, and where the generator comes from."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    arms: tuple[str, ...] = Field(ARMS, description=f"of {', '.join(ARMS)}, or another mixture of methods joined by +")
    seeds: tuple[int, ...] = Field((0, 1, 2), description="each arm is trained once by each")
    reference: str = Field(NONE, description="the arm that all others are held against")
    generator: str = Field("train", description="train (by the section gan), none, or the folder of a checkpoint")

    @field_validator("arms")
    @classmethod
    def _are_arms(cls, arms: tuple[str, ...]) -> tuple[str, ...]:
        if not arms:
            raise ValueError(f"no arm to compare: name some of {', '.join(ARMS)}")
        for arm in arms:
            _check(arm)
        _once("the arm", arms)
        return arms

    @field_validator("seeds")
    @classmethod
    def _are_seeds(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        return unique_seeds(seeds)

    @model_validator(mode="after")
    def _has_a_reference(self) -> ComparisonConfig:
        if self.reference not in self.arms:
            raise ValueError(
                f"the reference {self.reference!r} is not among the arms {', '.join(self.arms)}: "
                "add it, or name another"
            )
        if len(self.arms) < 2:
            raise ValueError(f"there is nothing beside the arm {self.arms[0]!r} to compare: name a second arm")
        return self

    @property
    def forged(self) -> tuple[str, ...]:
        """The arms with synthetic faces."""
        return tuple(arm for arm in self.arms if arm not in PLAIN)

    @property
    def needing_generator(self) -> tuple[str, ...]:
        """The arms whose faces come from a generator, wholly or in part."""
        return tuple(arm for arm in self.forged if any(m not in WITHOUT_GENERATOR for m in mixture(arm)))

    @property
    def generator_folder(self) -> Path | None:
        """Where a generator was given, and None where it is trained or there is none."""
        return Path(self.generator) if self.generator not in ("train", "none") else None


def contender(arm: str, seed: int, detector: DetectorConfig, share: float, psi: float) -> TrialSpec:
    """The detector of an arm and a seed.

    Arms with synthetic faces neither weight nor oversample, so that each differs from `none` in one thing. Each seed
    draws its own head, order and augmentation, and its own synthetic faces.

    Raises:
        UserError: the detector's other settings do not allow the arm.
    """
    settings = detector.model_dump() | {"seed": seed, "balance": PLAIN.get(arm, "none")}
    try:
        own = DetectorConfig.model_validate(settings)
    except ValidationError as error:
        reason = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise UserError(f"the arm {arm} cannot be trained by these settings of the detector: {reason}") from error
    if arm in PLAIN:
        return TrialSpec(detector=own)
    forging: dict[str, int | float | str] = {"method": arm, "seed": seed * _STRIDE}
    return TrialSpec.model_validate({"detector": own, "synthetic_share": share, "psi": psi, "forging": forging})


def unique_seeds(seeds: tuple[int, ...]) -> tuple[int, ...]:
    """The seeds, if each can be one and none stands twice.

    Raises:
        ValueError: there is none, one is out of its range, or one stands twice.
    """
    if not seeds:
        raise ValueError(f"no seed to train by: give {CLAIM_SEEDS} or more, such as [0, 1, 2]")
    for seed in seeds:
        if not 0 <= seed < 2**31:
            raise ValueError(f"the seed {seed} is not in 0 to {2**31 - 1}: give another one")
    _once("the seed", seeds)
    return seeds


def _check(arm: str) -> None:
    if arm in PLAIN:
        return
    try:
        mixture(arm)
    except ValueError as error:
        parts = [part.partition(":")[0].strip() for part in arm.split("+")]
        if all(part in METHODS for part in parts):
            raise ValueError(f"arm {arm!r}: {error}") from error
        near = difflib.get_close_matches(arm, [*ARMS, *METHODS], n=1, cutoff=0.5)
        remedy = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(ARMS)}"
        raise ValueError(f"there is no arm {arm!r}: {remedy}") from error


def _once(what: str, values: tuple[object, ...]) -> None:
    twice = next((value for value in values if values.count(value) > 1), None)
    if twice is not None:
        raise ValueError(f"{what} {twice!r} stands twice: name each once")
