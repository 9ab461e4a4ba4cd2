"""The samplers that a study can take, by name.

A sampler is made anew for every trial, seeded by the study's seed and the number of trials that went before: what
it suggests then depends on the history alone, and a killed study goes on as if it had not been killed (but for CMA-ES,
which mixes the running number of a trial into its seed: it goes on, on another path).
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Literal, get_args

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler

from faces.errors import UserError

SamplerName = Literal["gp", "tpe", "cmaes", "random", "grid"]
SAMPLERS: tuple[str, ...] = get_args(SamplerName)
# Random trials before a model is fitted. Optuna's own default is 10, which is more than a small study has in all.
STARTUP_TRIALS = 5


def sampler(name: SamplerName, space: Mapping[str, BaseDistribution], seed: int, position: int) -> BaseSampler:
    """The sampler for the trial that `position` finished trials went before.

    Raises:
        UserError: the sampler cannot search such a space; the sentence says which one can.
    """
    here = (seed * 1_000_003 + position) % 2**32
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        match name:
            case "gp":
                return optuna.samplers.GPSampler(seed=here, n_startup_trials=STARTUP_TRIALS)
            case "tpe":
                return optuna.samplers.TPESampler(seed=here, n_startup_trials=STARTUP_TRIALS, multivariate=True)
            case "cmaes":
                _refuse_categorical(space)
                return optuna.samplers.CmaEsSampler(seed=here, n_startup_trials=STARTUP_TRIALS)
            case "random":
                return optuna.samplers.RandomSampler(seed=here)
            case "grid":
                # The order of the grid is drawn from the seed, so it must be the same for every trial.
                return optuna.samplers.GridSampler(grid(space), seed=seed)


def grid(space: Mapping[str, BaseDistribution]) -> dict[str, list[float | int | str | bool | None]]:
    """Every value of each parameter.

    Raises:
        UserError: a parameter is continuous.
    """
    values: dict[str, list[float | int | str | bool | None]] = {}
    for name, distribution in space.items():
        if isinstance(distribution, CategoricalDistribution):
            values[name] = list(distribution.choices)
        elif isinstance(distribution, IntDistribution):
            values[name] = list(range(distribution.low, distribution.high + 1, distribution.step))
        elif isinstance(distribution, FloatDistribution) and distribution.step is not None:
            count = round((distribution.high - distribution.low) / distribution.step) + 1
            values[name] = [distribution.low + i * distribution.step for i in range(count)]
        else:
            raise UserError(
                f"sampler grid cannot list the continuous parameter {name} (study.space.{name}): "
                "give it choices or a step, or take sampler gp"
            )
    return values


def _refuse_categorical(space: Mapping[str, BaseDistribution]) -> None:
    names = [name for name, distribution in space.items() if isinstance(distribution, CategoricalDistribution)]
    if names:
        raise UserError(
            f"sampler cmaes searches numbers only, and {', '.join(names)} has choices (study.space): "
            "take sampler gp or tpe, or fix that parameter"
        )
