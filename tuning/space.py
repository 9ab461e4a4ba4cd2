"""The search space of a study, and the samplers and pruners that search it.

A space says which parameters of a trial are searched, between which bounds, and when they exist. A sampler is made
anew for every trial, seeded by the study's seed and the trial's slot: what it suggests then depends on the history
alone, and a killed study goes on as if it had not been killed (but for CMA-ES, which mixes the running number of a
trial into its seed: it goes on, on another path). `grid` and `bruteforce` draw nothing: the slot of a trial decides its
values, so that each combination is tried exactly once, whichever workers die.
"""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from math import prod
from typing import Annotated, Any, Literal

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler
from optuna.trial import Trial
from pydantic import BaseModel, BeforeValidator, ConfigDict, model_validator

from core.errors import UserError

SamplerName = Literal["gp", "tpe", "cmaes", "nsga2", "random", "grid", "bruteforce"]
PrunerName = Literal["none", "hyperband", "median", "wilcoxon"]
LISTING = ("grid", "bruteforce")
# Random trials before a model is fitted. Optuna's own default is 10, which is more than a small study has in all.
STARTUP_TRIALS = 5
# Children of one generation of NSGA-II. Optuna's own default is 50: a study of 60 trials would hardly evolve.
POPULATION = 12
Value = bool | int | float | str
# More combinations than this are nobody's plan, and listing them would only fill the memory.
MAX_LISTED = 100_000


class Span(BaseModel):
    """Values of a number from `low` to `high`, both included; an open side is left out."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    low: float | None = None
    high: float | None = None

    def holds(self, value: object) -> bool:
        """Whether a number lies within."""
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return number and (self.low is None or value >= self.low) and (self.high is None or value <= self.high)  # type: ignore[operator]


Condition = Annotated[tuple[Value, ...] | Span, BeforeValidator(lambda its: [its] if isinstance(its, Value) else its)]
"""One of several values, or within a span; one value may stand for a list of it."""


class _Searched(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    when: dict[str, Condition] = {}
    """The parameter exists only where each named one has one of these values: {backbone: [resnet50, vit_small]}."""

    def exists(self, values: Mapping[str, object]) -> bool:
        """Whether a trial with these values has the parameter; one that a missing parameter allows is missing too."""
        return all(
            name in values and (wanted.holds(values[name]) if isinstance(wanted, Span) else values[name] in wanted)
            for name, wanted in self.when.items()
        )


class Range(_Searched):
    """Numbers from `low` to `high`, both included; whole numbers where both bounds are whole."""

    low: int | float
    high: int | float
    step: int | float | None = None
    log: bool = False

    @model_validator(mode="after")
    def _in_order(self) -> Range:
        if self.low > self.high:
            raise ValueError(f"low {self.low} is above high {self.high}, so the range is empty: exchange the two")
        if self.log and self.low <= 0:
            raise ValueError(f"low {self.low} cannot be searched on a log scale: give a bound above 0")
        if self.log and self.step is not None:
            raise ValueError("a log scale takes no step: leave one of the two out")
        if self.step is not None and self.step <= 0:
            raise ValueError(f"step {self.step} must be above 0")
        return self

    def distribution(self) -> BaseDistribution:
        """The same range in Optuna's words."""
        if isinstance(self.low, int) and isinstance(self.high, int) and not isinstance(self.step, float):
            return IntDistribution(self.low, self.high, log=self.log, step=self.step or 1)
        return FloatDistribution(float(self.low), float(self.high), log=self.log, step=self.step)

    def listed(self) -> list[Value] | None:
        """Every value, or None where they cannot be counted."""
        distribution = self.distribution()
        if isinstance(distribution, IntDistribution):
            return list(range(distribution.low, distribution.high + 1, distribution.step))
        if isinstance(distribution, FloatDistribution) and distribution.step is not None:
            count = round((distribution.high - distribution.low) / distribution.step) + 1
            return [round(distribution.low + i * distribution.step, 12) for i in range(count)]
        return [self.low] if self.low == self.high else None


class Choice(_Searched):
    """One of several values."""

    choices: tuple[Value, ...]

    @model_validator(mode="after")
    def _some(self) -> Choice:
        if not self.choices:
            raise ValueError("choices is empty: give at least one value")
        return self

    def distribution(self) -> BaseDistribution:
        """The same choices in Optuna's words."""
        return CategoricalDistribution(self.choices)

    def listed(self) -> list[Value] | None:
        """Every value."""
        return list(self.choices)


Space = Mapping[str, Range | Choice]


def distributions(space: Space) -> dict[str, BaseDistribution]:
    """Optuna's distributions by parameter name, sorted so that the order in the file does not matter."""
    return {name: space[name].distribution() for name in sorted(space)}


def conditional(space: Space) -> list[str]:
    """Names of the parameters that not every trial has."""
    return sorted(name for name, values in space.items() if values.when)


def in_order(space: Space) -> list[str]:
    """The names, sorted, each after those that decide whether it exists; a `UserError` for impossible conditions."""
    for name, values in space.items():
        for parent, wanted in values.when.items():
            if parent not in space:
                remedy = nearest(parent, space, "search it too, or drop the condition")
                raise UserError(f"study.space.{name}.when names {parent}, which is not searched: {remedy}")
            drawn = space[parent].listed()
            if drawn is not None and not isinstance(wanted, Span) and not set(wanted) & set(drawn):
                raise UserError(
                    f"study.space.{name}.when wants {parent} to be {', '.join(map(str, wanted))}, which it never is: "
                    f"its values are {', '.join(map(str, drawn))}"
                )
    ordered: list[str] = []
    left = sorted(space)
    while left:
        ready = [name for name in left if set(space[name].when) <= set(ordered)]
        if not ready:
            raise UserError(f"study.space: the conditions of {', '.join(left)} lead back to themselves: drop one")
        ordered += ready
        left = [name for name in left if name not in ready]
    return ordered


def nearest(name: str, known: Iterable[str], otherwise: str) -> str:
    """The end of a sentence about a name that is not known: a question with the one it resembles, or `otherwise`."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"did you mean {near[0]}?" if near else otherwise


def suggest(trial: Trial, space: Space) -> dict[str, Value]:
    """Draw every parameter that the trial has."""
    values: dict[str, Value] = {}
    for name in in_order(space):
        if not space[name].exists(values):
            continue
        match space[name].distribution():
            case CategoricalDistribution(choices=choices):
                values[name] = trial.suggest_categorical(name, choices)  # type: ignore[assignment]
            case IntDistribution() as whole:
                values[name] = trial.suggest_int(name, whole.low, whole.high, step=whole.step, log=whole.log)
            case FloatDistribution() as real:
                values[name] = trial.suggest_float(name, real.low, real.high, step=real.step, log=real.log)
    return values


def combinations(space: Space, seed: int | None = None) -> list[dict[str, Value]]:
    """Every combination once, by a seed shuffled; a `UserError` where a value is continuous, or they are too many."""
    listed: dict[str, list[Value]] = {}
    for name in in_order(space):
        values = space[name].listed()
        if values is None:
            raise UserError(
                f"the continuous parameter {name} (study.space.{name}) cannot be listed: "
                "give it choices or a step, or take sampler gp"
            )
        listed[name] = values
    most = prod(map(len, listed.values()))
    if most > MAX_LISTED:
        raise UserError(
            f"the space has up to {most:,} combinations, more than the {MAX_LISTED:,} that can be listed: "
            "use fewer choices or larger steps, or take sampler gp"
        )
    every: list[dict[str, Value]] = [{}]
    for name, values in listed.items():
        every = [
            {**point, **more}
            for point in every
            for more in ([{name: value} for value in values] if space[name].exists(point) else [{}])
        ]
    if seed is not None:
        every = [every[i] for i in np.random.default_rng(seed).permutation(len(every))]
    return every


def check_point(space: Space, point: Mapping[str, object], where: str) -> None:
    """Refuse a starting point with a name that is not searched, or a value that is never drawn, by a `UserError`."""
    for name, value in point.items():
        if name not in space:
            remedy = nearest(name, space, f"searched are {', '.join(sorted(space))}")
            raise UserError(f"{where}.{name} is not searched by this study: {remedy}")
        match space[name], space[name].listed():
            case Range(low=low, high=high), None:
                inside = isinstance(value, int | float) and low <= value <= high
            case _, drawn:
                inside = value in (drawn or ())
        if not inside:
            raise UserError(f"{where}.{name}: {value!r} is not in study.space.{name}: give a value that it holds")


def described(space: Space) -> list[dict[str, str]]:
    """The space for people: one row a parameter."""
    rows = []
    for name, values in space.items():
        if isinstance(values, Choice):
            text = " | ".join(map(str, values.choices))
        else:
            how = ", log" if values.log else f", step {values.step}" if values.step is not None else ""
            text = f"{values.low} to {values.high}{how}"
        when = []
        for parent, wanted in values.when.items():
            if isinstance(wanted, tuple):
                when.append(f"{parent} is {' or '.join(map(str, wanted))}")
            else:
                low = f"{wanted.low:g} <= " if wanted.low is not None else ""
                when.append(f"{low}{parent}" + (f" <= {wanted.high:g}" if wanted.high is not None else ""))
        rows.append({"parameter": name, "values": text, "exists when": " and ".join(when)})
    return rows


@contextmanager
def stable() -> Iterator[None]:
    """Without the warnings that an interface of Optuna is experimental: the range of its versions is pinned."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        yield


@stable()
def sampler(name: SamplerName, space: Space, seed: int, slot: int) -> BaseSampler:
    """The sampler for the trial in the given slot of its study."""
    here = (seed * 1_000_003 + slot) % 2**32
    match name:
        case "gp":
            return optuna.samplers.GPSampler(seed=here, n_startup_trials=STARTUP_TRIALS)
        case "tpe":
            # A constant liar: trials that run elsewhere count as bad for now, so that none is drawn twice.
            known: dict[str, Any] = {"seed": here, "n_startup_trials": STARTUP_TRIALS, "constant_liar": True}
            return optuna.samplers.TPESampler(multivariate=True, group=bool(conditional(space)), **known)
        case "cmaes":
            return optuna.samplers.CmaEsSampler(seed=here, n_startup_trials=STARTUP_TRIALS)
        case "nsga2":
            return optuna.samplers.NSGAIISampler(seed=here, population_size=POPULATION)
        case "random" | "grid" | "bruteforce":
            return optuna.samplers.RandomSampler(seed=here)


@stable()
def pruner(name: PrunerName, max_resource: int) -> BasePruner:
    """The pruner, for trials that report up to `max_resource` times (epochs, or folds for wilcoxon)."""
    match name:
        case "none":
            return optuna.pruners.NopPruner()
        case "median":
            return optuna.pruners.MedianPruner(n_startup_trials=STARTUP_TRIALS, n_warmup_steps=1)
        case "hyperband":
            return optuna.pruners.HyperbandPruner(min_resource=1, max_resource=max(max_resource, 1))
        case "wilcoxon":
            return optuna.pruners.WilcoxonPruner(p_threshold=0.1, n_startup_steps=2)


def plan(name: SamplerName, space: Space, seed: int) -> list[dict[str, Value]] | None:
    """All trials of a sampler that lists its space, in the order in which they are tried; None for the others."""
    return combinations(space, seed) if name in LISTING else None
