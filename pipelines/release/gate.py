"""The gate's rules: what a candidate must hold, in YAML, and what each rule says of one candidate.

A rule that is asked for and was not measured refuses: nothing is promoted on trust.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from classifier.evaluation import MEAN, Evaluation
from core.config import read_yaml, validate
from metrics.intervals import Difference
from tracking.runs import PROBE_AUC, ROBUST_WORST_AUC

# What a non-inferior candidate can be better in: the field of `Costs`, and its unit.
_GAINS = {"latency": ("ms_per_image", "ms an image"), "size": ("megabytes", "MB"), "calibration": ("ece", "ECE")}


class AgainstChampion(BaseModel):
    """How a candidate must stand to the champion, by mean AUC over the test datasets, on the same groups."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    rule: Literal["better", "non-inferior"] = "better"
    margin: float = Field(0.01, gt=0, lt=0.5, description="AUC that a non-inferior candidate may lie below, at most")
    gain: Literal["latency", "size", "calibration"] | None = Field(
        None, description="what a non-inferior candidate is better in; it is measured"
    )
    least_gain: float = Field(0.1, gt=0, lt=1, description="share by which that must be lower than the champion's")
    because: str = Field("", description="a reason in words, where it cannot be measured")

    @model_validator(mode="after")
    def _has_a_reason(self) -> Self:
        if self.rule == "non-inferior" and not (self.gain or self.because.strip()):
            raise ValueError(f"a non-inferior candidate needs a reason: give gain ({', '.join(_GAINS)}) or because")
        return self


class Gate(BaseModel):
    """Rules; those left out are not asked for. Lineage is always asked for."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    datasets: tuple[str, ...] = Field((), description="test datasets that are looked at; by default the model's own")
    champion: AgainstChampion = AgainstChampion()
    min_worst_auc_low: float | None = Field(None, ge=0, le=1, description="lower bound of AUC on the worst dataset")
    max_ece: float | None = Field(None, ge=0, le=1, description="calibration error on the worst dataset, by source")
    min_robust_auc: float | None = Field(None, ge=0, le=1, description="AUC at the worst step of the robustness ladder")
    max_ms_per_image: float | None = Field(None, gt=0, description="median of one image, measured on this machine")
    max_probe_auc: float | None = Field(None, ge=0.5, le=1, description="what the shortcut audit's probe may reach")
    licence: bool = Field(False, description="the version must say under which licence it may be used")


def read_gate(path: Path | None) -> Gate:
    """The gate in a YAML file; without one, the candidate must be better than the champion.

    Raises:
        UserError: no such file, a misspelt key, or a value out of range.
    """
    return Gate() if path is None else validate(Gate, read_yaml(path), str(path))


@dataclass(frozen=True)
class Costs:
    """What a model costs, and how far its probabilities lie off: what a non-inferior candidate can be better in."""

    ms_per_image: float = math.nan
    megabytes: float = math.nan
    ece: float = math.nan


@dataclass(frozen=True)
class Evidence:
    """Everything that the rules look at."""

    version: int
    champion: int | None
    evaluation: Evaluation  # of the candidate, by source
    paired: Mapping[str, Difference]  # candidate minus champion, by dataset and their mean
    metrics: Mapping[str, float]  # of the candidate's logged model
    costs: Costs = Costs()
    champion_costs: Costs = Costs()
    licence: str = ""
    untraced: tuple[str, ...] = ()  # what of the lineage is missing, in words


@dataclass(frozen=True)
class Check:
    """One rule's answer."""

    rule: str
    passed: bool
    wanted: str
    measured: str


def main_difference(paired: Mapping[str, Difference]) -> tuple[str, Difference]:
    """The difference that decides, and what it is of: the mean over datasets, or the only one."""
    datasets = [name for name in paired if name not in (MEAN, "all")]
    if MEAN in paired:
        return f"mean AUC over {', '.join(datasets)}", paired[MEAN]
    return f"AUC on {datasets[0]}", paired[datasets[0]]


def signed(difference: Difference) -> str:
    """The difference and its interval in words."""
    return f"{difference.value:+.3f} [{difference.low:+.3f}, {difference.high:+.3f}]"


def check(gate: Gate, evidence: Evidence) -> list[Check]:
    """The answer of every rule that the gate asks for, that against the champion first."""
    checks = [_against_champion(gate.champion, evidence)]
    results, names = evidence.evaluation.results, evidence.evaluation.datasets
    if gate.min_worst_auc_low is not None:
        lows = {name: results[name].intervals["auc"].low for name in names}
        worst = min(names, key=lambda name: -math.inf if math.isnan(lows[name]) else lows[name])
        text = f"{results[worst].intervals['auc']} on {worst}"
        if math.isnan(lows[worst]):
            text = f"{worst} has too few identities or sources for an interval"
        wanted = f"lower bound of AUC on the worst dataset at least {gate.min_worst_auc_low:g}"
        checks.append(Check("worst dataset", lows[worst] >= gate.min_worst_auc_low, wanted, text))
    if gate.max_ece is not None:
        worst = max(names, key=lambda name: results[name].metrics["ece"])
        value = results[worst].metrics["ece"]
        wanted = f"calibration error on the worst dataset at most {gate.max_ece:g}"
        checks.append(Check("calibration", value <= gate.max_ece, wanted, f"{value:.3f} on {worst}"))
    if gate.min_robust_auc is not None:
        wanted = f"AUC at the worst step of the robustness ladder at least {gate.min_robust_auc:g}"
        text, lowest = _logged(evidence.metrics, ROBUST_WORST_AUC, min, "evaluate --robustness")
        checks.append(Check("robustness", lowest >= gate.min_robust_auc, wanted, text))
    if gate.max_ms_per_image is not None:
        value = evidence.costs.ms_per_image
        wanted = f"at most {gate.max_ms_per_image:g} ms an image"
        checks.append(Check("latency", value <= gate.max_ms_per_image, wanted, _figure(value, "ms an image")))
    if gate.max_probe_auc is not None:
        wanted = f"AUC of the shortcut audit's probe at most {gate.max_probe_auc:g}"
        text, highest = _logged(evidence.metrics, PROBE_AUC, max, "run")
        checks.append(Check("audit", highest <= gate.max_probe_auc, wanted, text))
    if gate.licence:
        licence = evidence.licence
        checks.append(Check("licence", bool(licence), "a licence on the version", licence or "none"))
    found = "; ".join(evidence.untraced) or "all of them"
    checks.append(Check("lineage", not evidence.untraced, "manifest, generator and code that can be traced", found))
    return checks


def _against_champion(rule: AgainstChampion, evidence: Evidence) -> Check:
    over, difference = main_difference(evidence.paired)
    figure = signed(difference)
    if evidence.champion is None:
        wanted = f"{over} above 0.5 (the 95 % interval excludes zero), there is no champion yet"
        return Check("champion", difference.low > 0, wanted, f"{figure} against 0.5")
    rival = f"version {evidence.champion}"
    if rule.rule == "better":
        wanted = f"{over} above that of {rival} (the 95 % interval excludes zero)"
        return Check("champion", difference.low > 0, wanted, figure)
    near = difference.low > -rule.margin
    wanted = f"{over} at most {rule.margin:g} below that of {rival} (the 95 % interval lies above -{rule.margin:g})"
    if rule.gain is None:
        return Check("champion", near, f"{wanted}, because {rule.because.strip()}", figure)
    attribute, unit = _GAINS[rule.gain]
    ours, theirs = (getattr(costs, attribute) for costs in (evidence.costs, evidence.champion_costs))
    gained = ours <= (1 - rule.least_gain) * theirs
    wanted += f", and {rule.gain} at least {rule.least_gain:.0%} lower"
    measured = f"{figure}; {_figure(ours, unit)} against {_figure(theirs, unit)}"
    return Check("champion", near and gained, wanted, measured)


def _logged(metrics: Mapping[str, float], name: str, worst: Callable[..., str], command: str) -> tuple[str, float]:
    """The worst value over datasets of a figure that another command logged on the model, in words and as it is."""
    found = {key.removeprefix(f"{name}/"): value for key, value in metrics.items() if key.startswith(f"{name}/")}
    if not found:
        return f"not measured: `counterforge {command}` does", math.nan
    dataset = worst(found, key=found.__getitem__)
    return f"{found[dataset]:.3f} on {dataset}", found[dataset]


def _figure(value: float, unit: str) -> str:
    return "not measured" if math.isnan(value) else f"{value:.3g} {unit}"
