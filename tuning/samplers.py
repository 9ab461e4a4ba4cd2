"""The samplers and pruners that a study can take, by name, and which of them do not go together.

A sampler is made anew for every trial, seeded by the study's seed and the trial's slot: what it suggests then depends
on the history alone, and a killed study goes on as if it had not been killed (but for CMA-ES, which mixes the running
number of a trial into its seed: it goes on, on another path). `grid` and `bruteforce` draw nothing: the slot of a
trial decides its values, so that each combination is tried exactly once, whichever workers die.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Literal, get_args

import optuna
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler

from core.errors import UserError
from tuning.space import Choice, Range, Value, combinations, conditional

SamplerName = Literal["gp", "tpe", "cmaes", "nsga2", "random", "grid", "bruteforce"]
SAMPLERS: tuple[str, ...] = get_args(SamplerName)
PrunerName = Literal["none", "hyperband", "median", "wilcoxon"]
PRUNERS: tuple[str, ...] = get_args(PrunerName)
LISTING = ("grid", "bruteforce")
# Random trials before a model is fitted. Optuna's own default is 10, which is more than a small study has in all.
STARTUP_TRIALS = 5
# Children of one generation of NSGA-II. Optuna's own default is 50: a study of 60 trials would hardly evolve.
POPULATION = 12


def sampler(name: SamplerName, space: Mapping[str, Range | Choice], seed: int, slot: int) -> BaseSampler:
    """The sampler for the trial in the given slot of its study."""
    here = (seed * 1_000_003 + slot) % 2**32
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        match name:
            case "gp":
                return optuna.samplers.GPSampler(seed=here, n_startup_trials=STARTUP_TRIALS)
            case "tpe":
                return optuna.samplers.TPESampler(
                    seed=here,
                    n_startup_trials=STARTUP_TRIALS,
                    multivariate=True,
                    group=bool(conditional(space)),
                    constant_liar=True,  # trials that run elsewhere count as bad for now, so that none is drawn twice
                )
            case "cmaes":
                return optuna.samplers.CmaEsSampler(seed=here, n_startup_trials=STARTUP_TRIALS)
            case "nsga2":
                return optuna.samplers.NSGAIISampler(seed=here, population_size=POPULATION)
            case "random" | "grid" | "bruteforce":
                return optuna.samplers.RandomSampler(seed=here)


def pruner(name: PrunerName, max_resource: int) -> BasePruner:
    """The pruner, for trials that report up to `max_resource` times (epochs, or folds for wilcoxon)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        match name:
            case "none":
                return optuna.pruners.NopPruner()
            case "median":
                return optuna.pruners.MedianPruner(n_startup_trials=STARTUP_TRIALS, n_warmup_steps=1)
            case "hyperband":
                return optuna.pruners.HyperbandPruner(min_resource=1, max_resource=max(max_resource, 1))
            case "wilcoxon":
                return optuna.pruners.WilcoxonPruner(p_threshold=0.1, n_startup_steps=2)


def plan(name: SamplerName, space: Mapping[str, Range | Choice], seed: int) -> list[dict[str, Value]] | None:
    """All trials of a sampler that lists its space, in the order in which they are tried; None for the others."""
    return combinations(space, seed) if name in LISTING else None


def check_sampler(
    name: SamplerName,
    space: Mapping[str, Range | Choice],
    *,
    pruned_by: PrunerName = "none",
    folds: int = 1,
    objectives: Sequence[str] = ("mean_auc",),
    constrained: bool = False,
    trials: int | None = None,
) -> None:
    """Refuse a sampler that cannot search such a space, or that does not go with the pruner.

    Raises:
        UserError: what does not fit, and which one to take instead.
    """
    chosen = ", ".join(key for key, values in space.items() if isinstance(values, Choice))
    sometimes = ", ".join(conditional(space))
    many = f"study.objectives has {len(objectives)}"
    cmaes, pruned, several = name == "cmaes", pruned_by != "none", len(objectives) > 1
    refusals = {
        f"sampler gp ignores pruned trials, so pruner {pruned_by} would waste them (study.pruner): "
        "take pruner none, or sampler tpe with pruner hyperband": name == "gp" and pruned,
        f"pruner {pruned_by} takes one objective, and {many}: take pruner none": pruned and several,
        f"pruner wilcoxon compares trials by fold and study.folds is {folds}: "
        "set folds to 5, or take pruner hyperband": pruned_by == "wilcoxon" and folds < 3,
        f"sampler cmaes searches numbers only, and {chosen} has choices (study.space): "
        "take sampler gp or tpe, or fix that parameter": cmaes and chosen,
        f"sampler cmaes needs the same parameters in every trial, and {sometimes} has a condition (study.space): "
        "take sampler tpe": cmaes and sometimes,
        f"sampler cmaes takes one objective, and {many}: take nsga2 or gp": cmaes and several,
        "sampler cmaes does not support constraints (study.constraints): take sampler gp or tpe": cmaes and constrained,
        f"sampler grid cannot search {sometimes}, which not every trial has (study.space): "
        "take sampler bruteforce": name == "grid" and sometimes,
    }
    for sentence, refused in refusals.items():
        if refused:
            raise UserError(sentence)
    if name in LISTING and (count := len(combinations(space))) > (trials or count):
        raise UserError(
            f"sampler {name} would need {count:,} trials and study.trials is {trials}: raise it to {count}, use fewer "
            "choices or larger steps, or take sampler gp"
        )
