"""The configuration of a whole run: one YAML file, one section a floor of the house."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from classifier.config import DetectorConfig
from core.names import Name
from faces.extraction import IngestConfig
from gan.balancing import mixture
from gan.config import GanConfig
from pipelines.experiments.arms import ARMS, NONE, Arm
from pipelines.release.gate import Gate
from tuning.config import StudyConfig

Mode = Literal["one-by-one", "leave-one-dataset-out", "leave-one-method-out"]


def _arms(arms: tuple[str, ...]) -> tuple[str, ...]:
    if not arms:
        raise ValueError(f"no arm to compare: name some of {', '.join(ARMS)}")
    for arm in arms:
        Arm.parse(arm)
    _once("the arm", arms)
    if len(arms) < 2:
        raise ValueError(f"there is nothing beside the arm {arms[0]!r} to compare: name a second arm")
    return arms


def _seeds(seeds: tuple[int, ...]) -> tuple[int, ...]:
    if not seeds:
        raise ValueError("no seed to train by: give some, such as [0, 1, 2]")
    _once("the seed", seeds)
    return seeds


def _method(text: str) -> str:
    mixture(text)
    return text


def _once(what: str, values: tuple[object, ...]) -> None:
    twice = next((value for value in values if values.count(value) > 1), None)
    if twice is not None:
        raise ValueError(f"{what} {twice!r} stands twice: name each once")


Arms = Annotated[tuple[str, ...], AfterValidator(_arms)]
Seeds = Annotated[tuple[Annotated[int, Field(ge=0, lt=2**31)], ...], AfterValidator(_seeds)]
Method = Annotated[str, AfterValidator(_method)]


class SourceConfig(IngestConfig):
    """A dataset to ingest: a folder with `real/` and `fake/` or a public layout, and how its faces are found."""

    source: Path


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class DatasetsConfig(_Section):
    """Which dataset plays which part. What stands in no list is test only."""

    train: tuple[str, ...] = Field(min_length=1, description="train and val rows of these shape the detectors")
    validation: tuple[str, ...] = Field((), description="left out of training; their val rows choose between detectors")
    test: tuple[str, ...] = Field((), description="their test rows are scored at the end; all datasets by default")

    @model_validator(mode="after")
    def _apart(self) -> DatasetsConfig:
        both = set(self.train) & set(self.validation)
        if both:
            raise ValueError(f"{', '.join(sorted(both))} stands in train and in validation: a dataset has one part")
        return self


class ComparisonConfig(_Section):
    """What `compare` trains: arms, seeds, and where the generator comes from."""

    arms: Arms = Field(ARMS, description="see pipelines.experiments.arms; mixtures of methods are joined by +")
    seeds: Seeds = Field((0, 1, 2), description="each arm is trained once by each")
    reference: str = Field(NONE, description="the arm that all others are held against")
    generator: str = Field("train", description="train (by the section gan), none, or the folder of a checkpoint")

    @model_validator(mode="after")
    def _has_a_reference(self) -> ComparisonConfig:
        if self.reference not in self.arms:
            among = f"among the arms {', '.join(self.arms)}"
            raise ValueError(f"the reference {self.reference!r} is not {among}: add it, or name another")
        return self

    @property
    def generator_folder(self) -> Path | None:
        """Where a generator was given, and None where it is trained or there is none."""
        return Path(self.generator) if self.generator not in ("train", "none") else None


class ExperimentConfig(_Section):
    """What `run` compares; see `pipelines.experiments.arms.trials_of_run` for the arms by default."""

    arms: Arms | None = Field(None, description="as in `comparison`, the reference first; by default from other keys")
    seeds: Seeds | None = Field(None, description="each arm is trained once by each; by default detector.seed alone")


class MatrixConfig(_Section):
    """Which detectors a cross-dataset generalisation matrix trains."""

    mode: Mode = Field("one-by-one", description="a row for each dataset, for all but one, or for all methods but one")
    datasets: tuple[str, ...] = Field((), description="to train on; by default all with both labels in train and val")
    seeds: Seeds = Field((0,), description="each row is trained once by each")


class PromotionConfig(_Section):
    """When the best detector of a run becomes the champion."""

    enabled: bool = True
    datasets: tuple[str, ...] = Field((), description="test datasets that the gate looks at; all by default")
    gate: Gate = Gate()


class RunConfig(_Section):
    """From media to a promoted model."""

    project: Name = Field(pattern=r"^[\w.-]+$", description="name of the MLflow experiment")
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
    synthetic_method: Method = Field("gan", description="kind of the synthetic faces, unless searched (see balance)")
    compare_methods: tuple[Method, ...] = Field((), description="further kinds, each with an arm of its own")
    study: StudyConfig | None = None
    study_detector: dict[str, int | float | str] = Field(
        default_factory=dict, description="detector settings that make the trials cheaper than the final arms"
    )
    experiment: ExperimentConfig = ExperimentConfig()
    comparison: ComparisonConfig = ComparisonConfig()
    matrix: MatrixConfig = MatrixConfig()
    promotion: PromotionConfig = PromotionConfig()

    @model_validator(mode="after")
    def _has_faces(self) -> RunConfig:
        if bool(self.faces) == self.embedded:
            raise ValueError("give either datasets in `faces`, or `embedded: true`")
        names = [source.dataset or source.source.resolve().name for source in self.faces]
        twice = {name for name in names if names.count(name) > 1}
        if twice:
            raise ValueError(f"two datasets are called {', '.join(sorted(twice))}: give each its own `dataset` name")
        return self
