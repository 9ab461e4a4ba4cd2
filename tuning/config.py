"""What a study is asked to do: one section of the YAML file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from tuning.samplers import PrunerName, SamplerName
from tuning.space import Choice, Range, Space, Value

Objective = Literal["mean_auc", "worst_auc", "mean_auc_low", "worst_auc_low", "ece", "latency_ms", "size_mb"]
# Whether more is better.
MAXIMISED: dict[str, bool] = {
    "mean_auc": True,
    "worst_auc": True,
    "mean_auc_low": True,
    "worst_auc_low": True,
    "ece": False,
    "latency_ms": False,
    "size_mb": False,
}

DEFAULT_SPACE: Space = {
    "learning_rate": Range(low=1e-4, high=3e-3, log=True),
    "augmentation": Range(low=0.0, high=1.0),
    "synthetic_share": Range(low=0.2, high=0.6, step=0.1),
    "psi": Choice(choices=(0.5, 0.7, 1.0)),
}


def _default_pruner(given: Mapping[str, Any]) -> PrunerName:
    """Hyperband where a trial's epochs can be judged alone: it paid in benchmarks/search_quality.py."""
    judged = len(given.get("objectives", ())) == 1 and given.get("folds") == 1 and not given.get("constraints")
    return "hyperband" if given.get("sampler") == "tpe" and judged else "none"


class StudyConfig(BaseModel):
    """A search: what is searched, by which sampler, for what, and when it ends."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field("study", pattern=r"^[\w.-]+$")
    sampler: SamplerName = "tpe"
    seed: int = Field(0, ge=0)
    space: dict[str, Range | Choice] = DEFAULT_SPACE
    fixed: dict[str, Value] = Field(default_factory=dict, description="parameters that every trial shares")
    enqueue: tuple[dict[str, Value], ...] = Field((), description="starting points, tried first")
    generators: dict[str, Path] = Field(
        default_factory=dict, description="other generators' checkpoints by a name; search `generator` over the names"
    )

    objectives: tuple[Objective, ...] = Field(("mean_auc",), min_length=1, description="several: a Pareto front")
    constraints: dict[Literal["ece", "latency_ms", "size_mb"], float] = Field(
        default_factory=dict, description="upper bounds"
    )
    folds: int = Field(1, ge=1, le=20, description="1: the manifest's own val; more: cross-validation by group")
    pruner: PrunerName = Field(
        default_factory=_default_pruner,
        description="by default hyperband for tpe with one objective, one fold and no constraints, or else none",
    )

    trials: int = Field(20, ge=1, description="total, those of earlier launches counted in")
    hours: float | None = Field(None, gt=0, description="of trials, all workers and launches together")
    patience: int | None = Field(None, ge=2, description="trials without a gain beyond noise, after which it ends")
    retries: int = Field(5, ge=0, description="how often a trial is resumed whose worker was killed")
    keep: int = Field(5, ge=1, description="trials whose weights stay on disk and in MLflow: the best ones")
    warm_start: str | None = Field(None, description="an earlier study over the same space to learn from")
    storage: str | None = Field(
        None, description="postgresql://... for many machines; by default a journal in the tracking folder"
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if len(set(self.objectives)) < len(self.objectives):
            raise ValueError("objectives names one twice: leave one of them out")
        both = set(self.fixed) & set(self.space)
        if both:
            raise ValueError(f"{', '.join(sorted(both))} is both fixed and searched: leave it out of one of the two")
        if self.patience is not None and len(self.objectives) > 1:
            raise ValueError("patience follows one objective, and there are several: use trials or hours")
        if not self.space:
            raise ValueError("space is empty: search at least one parameter")
        return self

    @property
    def directions(self) -> list[Literal["minimize", "maximize"]]:
        """Optuna's direction of each objective."""
        return ["maximize" if MAXIMISED[name] else "minimize" for name in self.objectives]
