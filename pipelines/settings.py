"""The configuration of a whole run: one YAML file, one section a floor of the house."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from classifier.config import DetectorConfig
from faces.extraction import IngestConfig
from gan.balancing import mixture
from gan.config import GanConfig
from pipelines.contenders import ComparisonConfig
from pipelines.gate import Gate
from pipelines.layouts import MatrixConfig
from tuning.config import StudyConfig


class SourceConfig(IngestConfig):
    """A data set to ingest: a folder with `real/` and `fake/`, and how its faces are found."""

    source: Path


class DomainsConfig(BaseModel):
    """Which data set plays which part. What stands in no list is test only."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    train: tuple[str, ...] = Field(min_length=1, description="train and val rows of these shape the detectors")
    validation: tuple[str, ...] = Field((), description="left out of training; their val rows choose between detectors")
    test: tuple[str, ...] = Field((), description="their test rows are scored at the end; all data sets by default")

    @model_validator(mode="after")
    def _apart(self) -> DomainsConfig:
        both = set(self.train) & set(self.validation)
        if both:
            raise ValueError(f"{', '.join(sorted(both))} stands in train and in validation: a domain has one part")
        return self


class PromotionConfig(BaseModel):
    """When the best detector of a run becomes the champion."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    enabled: bool = True
    domains: tuple[str, ...] = Field((), description="test domains that the gate looks at; all by default")
    gate: Gate = Gate()


class RunConfig(BaseModel):
    """From media to a promoted model."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    project: str = Field(pattern=r"^[\w.-]+$", description="name of the MLflow experiment")
    out: Path = Field(description="folder of everything but the tracking database")
    mlruns: Path = Path("mlruns")
    embedded: bool = Field(False, description="use the embedded faces instead of `faces`")
    faces: tuple[SourceConfig, ...] = ()
    domains: DomainsConfig
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
            raise ValueError("give either data sets in `faces`, or `embedded: true`")
        names = [source.dataset or source.source.resolve().name for source in self.faces]
        twice = {name for name in names if names.count(name) > 1}
        if twice:
            raise ValueError(f"two data sets are called {', '.join(sorted(twice))}: give each its own `dataset` name")
        return self
