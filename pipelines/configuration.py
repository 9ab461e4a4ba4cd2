"""The configuration of a whole run: one YAML file, one section a floor of the house."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from classifier.config import DetectorConfig
from faces.extraction import IngestConfig
from gan.balancing import mixture
from gan.config import GanConfig
from gan.forging.forge import METHODS, WITHOUT_GENERATOR
from pipelines.release.gate import Gate
from tuning.config import StudyConfig

NONE = "none"
# What can be done without new faces, as the detector's own setting names it.
PLAIN = {NONE: "none", "class weights": "weights", "oversampling": "oversample"}
ARMS = (*PLAIN, "self-blend", "gan", "gan-matched", "gan-composite", "self-blend+gan-composite")
# Fewer show next to nothing of the chance that lies in a seed, so that nothing is claimed of them.
CLAIM_SEEDS = 3
Mode = Literal["one-by-one", "leave-one-dataset-out", "leave-one-method-out"]


class SourceConfig(IngestConfig):
    """A dataset to ingest: a folder with `real/` and `fake/`, and how its faces are found."""

    source: Path


class DatasetsConfig(BaseModel):
    """Which dataset plays which part. What stands in no list is test only."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    train: tuple[str, ...] = Field(min_length=1, description="train and val rows of these shape the detectors")
    validation: tuple[str, ...] = Field((), description="left out of training; their val rows choose between detectors")
    test: tuple[str, ...] = Field((), description="their test rows are scored at the end; all datasets by default")

    @model_validator(mode="after")
    def _apart(self) -> DatasetsConfig:
        both = set(self.train) & set(self.validation)
        if both:
            raise ValueError(f"{', '.join(sorted(both))} stands in train and in validation: a dataset has one part")
        return self


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


class MatrixConfig(BaseModel):
    """Which detectors a generalisation matrix trains."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    mode: Mode = Field("one-by-one", description="a row for each dataset, for all but one, or for all methods but one")
    datasets: tuple[str, ...] = Field((), description="to train on; by default all with both labels in train and val")
    seeds: tuple[int, ...] = Field((0,), description="each row is trained once by each")

    @field_validator("seeds")
    @classmethod
    def _are_seeds(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        return unique_seeds(seeds)


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


class PromotionConfig(BaseModel):
    """When the best detector of a run becomes the champion."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    enabled: bool = True
    datasets: tuple[str, ...] = Field((), description="test datasets that the gate looks at; all by default")
    gate: Gate = Gate()


class RunConfig(BaseModel):
    """From media to a promoted model."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    project: str = Field(pattern=r"^[\w.-]+$", description="name of the MLflow experiment")
    out: Path = Field(description="folder of everything but the tracking database")
    mlruns: Path = Path("mlruns")
    embedded: bool = Field(False, description="use the embedded faces instead of `faces`")
    faces: tuple[SourceConfig, ...] = ()
    datasets: DatasetsConfig
    keep_train_fakes: float = Field(1.0, gt=0, le=1, description="share of train fakes that stays, to have few of them")
    gan: GanConfig = GanConfig()
    detector: DetectorConfig = DetectorConfig()
    synthetic_share: float = Field(0.5, gt=0, lt=1, description="of the arm with synthetic faces, unless searched")
    psi: float = Field(0.7, ge=0, le=1.5, description="of the synthetic faces, unless searched")
    synthetic_method: str = Field("gan", description="kind of the synthetic faces, unless searched (see balance)")
    compare_methods: tuple[str, ...] = Field((), description="further kinds, each with an arm of its own")
    study: StudyConfig | None = None
    study_detector: dict[str, int | float | str] = Field(
        default_factory=dict, description="detector settings that make the trials cheaper than the final arms"
    )
    comparison: ComparisonConfig = ComparisonConfig()
    matrix: MatrixConfig = MatrixConfig()
    promotion: PromotionConfig = PromotionConfig()

    @field_validator("synthetic_method")
    @classmethod
    def _is_a_method(cls, text: str) -> str:
        mixture(text)
        return text

    @field_validator("compare_methods")
    @classmethod
    def _are_methods(cls, texts: tuple[str, ...]) -> tuple[str, ...]:
        for text in texts:
            mixture(text)
        return texts

    @model_validator(mode="after")
    def _has_faces(self) -> RunConfig:
        if bool(self.faces) == self.embedded:
            raise ValueError("give either datasets in `faces`, or `embedded: true`")
        names = [source.dataset or source.source.resolve().name for source in self.faces]
        twice = {name for name in names if names.count(name) > 1}
        if twice:
            raise ValueError(f"two datasets are called {', '.join(sorted(twice))}: give each its own `dataset` name")
        return self
