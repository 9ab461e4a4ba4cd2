"""The search space of a study: which parameters of a trial are searched, and between which bounds."""

from __future__ import annotations

from collections.abc import Mapping

from optuna.distributions import (
    BaseDistribution,
    CategoricalChoiceType,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from pydantic import BaseModel, ConfigDict, model_validator


class Range(BaseModel):
    """Numbers from `low` to `high`, both included; whole numbers where both bounds are whole."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    low: int | float
    high: int | float
    step: int | float | None = None
    log: bool = False

    @model_validator(mode="after")
    def _in_order(self) -> Range:
        if self.low > self.high:
            raise ValueError(f"low {self.low} is above high {self.high}")
        if self.log and self.low <= 0:
            raise ValueError(f"low {self.low} cannot be searched on a log scale: give a bound above 0")
        if self.log and self.step is not None:
            raise ValueError("a log scale takes no step: leave one of the two out")
        return self

    def distribution(self) -> BaseDistribution:
        """The same range in Optuna's words."""
        if isinstance(self.low, int) and isinstance(self.high, int) and not isinstance(self.step, float):
            return IntDistribution(self.low, self.high, log=self.log, step=self.step or 1)
        return FloatDistribution(float(self.low), float(self.high), log=self.log, step=self.step)


class Choice(BaseModel):
    """One of several values."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    choices: tuple[bool | int | float | str, ...]

    def distribution(self) -> BaseDistribution:
        """The same choices in Optuna's words."""
        values: tuple[CategoricalChoiceType, ...] = self.choices
        return CategoricalDistribution(values)


Space = dict[str, Range | Choice]


def distributions(space: Mapping[str, Range | Choice]) -> dict[str, BaseDistribution]:
    """Optuna's distributions by parameter name, sorted so that the order in the file does not matter."""
    return {name: space[name].distribution() for name in sorted(space)}
