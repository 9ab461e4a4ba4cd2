"""What a study is asked to do: one section of the YAML file, and which of its settings do not go together."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, model_validator

from core.errors import UserError
from core.names import Name
from tuning.space import LISTING, Choice, PrunerName, Range, SamplerName, Value, combinations, conditional

Objective = Literal["mean_auc", "worst_auc", "mean_auc_low", "worst_auc_low", "ece", "latency_ms", "size_mb"]
# Whether more is better.
MAXIMISED: dict[str, bool] = {name: "auc" in name for name in get_args(Objective)}

DEFAULT_SPACE: dict[str, Range | Choice] = {
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

    name: Name = Field("study", pattern=r"^[\w.-]+$")
    sampler: SamplerName = "tpe"
    seed: int = Field(0, ge=0)
    space: dict[str, Range | Choice] = DEFAULT_SPACE
    fixed: dict[str, Value] = Field(default_factory=dict, description="parameters that every trial shares")
    enqueue: tuple[dict[str, Value], ...] = Field((), description="starting points, tried first")
    generators: dict[str, Path] = Field(
        default_factory=dict, description="other generators' checkpoints by a name; search `generator` over the names"
    )

    objectives: tuple[Objective, ...] = Field(("mean_auc",), min_length=1, description="several: a Pareto front")
    constraints: dict[Literal["ece", "latency_ms", "size_mb"], float] = Field({}, description="upper bounds")
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
    storage: str | None = Field(None, description="postgresql://... for many machines, or else a journal in mlruns")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if len(set(self.objectives)) < len(self.objectives):
            raise ValueError("objectives names one twice: leave one of them out")
        if both := sorted(set(self.fixed) & set(self.space)):
            raise ValueError(f"{', '.join(both)} is both fixed and searched: leave it out of one of the two")
        if self.patience is not None and len(self.objectives) > 1:
            raise ValueError("patience follows one objective, and there are several: use trials or hours")
        if not self.space:
            raise ValueError("space is empty: search at least one parameter")
        return self

    @property
    def directions(self) -> list[Literal["minimize", "maximize"]]:
        """Optuna's direction of each objective."""
        return ["maximize" if MAXIMISED[name] else "minimize" for name in self.objectives]


def check_sampler(config: StudyConfig) -> None:
    """Refuse a sampler that cannot search the space or goes ill with the pruner: a `UserError` says which to take."""
    name, pruner, folds, trials = config.sampler, config.pruner, config.folds, config.trials
    chosen = ", ".join(key for key, values in config.space.items() if isinstance(values, Choice))
    sometimes = ", ".join(conditional(config.space))
    many = f"study.objectives has {len(config.objectives)}"
    cmaes, pruned, several = name == "cmaes", pruner != "none", len(config.objectives) > 1
    refusals = {
        f"sampler gp ignores pruned trials, so pruner {pruner} would waste them (study.pruner): "
        "take pruner none, or sampler tpe with pruner hyperband": name == "gp" and pruned,
        f"pruner {pruner} takes one objective, and {many}: take pruner none": pruned and several,
        f"pruner wilcoxon compares trials by fold and study.folds is {folds}: "
        "set folds to 5, or take pruner hyperband": pruner == "wilcoxon" and folds < 3,
        f"sampler cmaes searches numbers only, and {chosen} has choices (study.space): "
        "take sampler gp or tpe, or fix that parameter": cmaes and chosen,
        f"sampler cmaes needs the same parameters in every trial, and {sometimes} has a condition (study.space): "
        "take sampler tpe": cmaes and sometimes,
        f"sampler cmaes takes one objective, and {many}: take nsga2 or gp": cmaes and several,
        "sampler cmaes takes no constraints (study.constraints): take sampler gp or tpe": cmaes and config.constraints,
        f"sampler grid cannot search {sometimes}, which not every trial has (study.space): "
        "take sampler bruteforce": name == "grid" and sometimes,
    }
    for sentence, refused in refusals.items():
        if refused:
            raise UserError(sentence)
    if name in LISTING and (count := len(combinations(config.space))) > trials:
        raise UserError(
            f"sampler {name} would need {count:,} trials and study.trials is {trials}: raise it to {count}, use fewer "
            "choices or larger steps, or take sampler gp"
        )
