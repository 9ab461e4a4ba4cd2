"""Several models, each trained with several seeds, on the same test rows: intervals over groups and over seeds.

What is estimated is the metric that a model reaches on average over seeds and over groups (identities or sources), so
that another seed is chance just as another group is. Neither the frames of a group nor the S scores that one group has
from S seeds count as if they were independent. For the difference d_s of two models by seed s, and likewise for one
model's own metric,

    variance of mean_s d_s  =  G + E / S

    G   over groups: of mean_s d_s under the replicates of `metrics.bootstrap`, in which all seeds of all models see
        the same groups
    E   over seeds: the sample variance of d_1..d_S on all groups, S - 1 degrees of freedom

Groups and seeds are crossed factors. What they share, their interaction I, stands in both terms, I / S too often: so
the interval errs on the safe side, if less than a bootstrap of both factors at once, which has it 2 I / S too often
(Owen 2007, Annals of Applied Statistics 1, "The pigeonhole bootstrap"). To subtract it would hold 90 % instead of 95 in
the simulation below, as three seeds tell E too badly. Degrees of freedom by Welch and Satterthwaite over the two terms.
The interval itself is that of `metrics.intervals`, on the logit scale.

Measured coverage of 95 % intervals of a difference that is zero, 40 groups of 4 frames, 3 seeds, 200 draws each: 98.5 %
where seeds do not matter, 97 % where most of the spread is theirs.

A single seed shows no variance over seeds: its interval is over groups alone, and `Repeated.seeds` says so.

The mean over datasets draws groups independently in each, while a seed is one for all: E is the variance of the S
means. It is taken on the plain scale.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import hypot, inf, isnan, nan, sqrt
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from metrics.binary import RANKED, Floats, Ranking, validated
from metrics.bootstrap import Draws, Spreads
from metrics.intervals import Difference, Interval, difference_margins, logit_interval

_NOTHING = 1e-12  # a margin below this is rounding


class Groups(NamedTuple):
    """What the groups of one dataset say about a mean over S seeds: its variance G, and the degrees of freedom."""

    variance: float
    df: float


_UNKNOWN = Groups(nan, nan)


@dataclass(frozen=True)
class Repeated:
    """A model's metric over its seeds, and its difference to the reference (None for the reference itself).

    `per_seed` and `differences` are the S figures on all groups; `own_groups` and `groups` what the groups say about
    the metric and about the difference, on the plain scale: the mean over datasets adds them up.
    """

    interval: Interval
    difference: Difference | None
    per_seed: tuple[float, ...]
    differences: tuple[float, ...] = ()
    own_groups: Groups = _UNKNOWN
    groups: Groups = _UNKNOWN

    @property
    def seeds(self) -> int:
        """How many seeds the figures rest on."""
        return len(self.per_seed)


@dataclass(frozen=True)
class Sample:
    """One dataset: targets [N], groups [N], and the scores [S, N] in [0, 1] of each model, a row a seed.

    The seeds of all models come in the same order.
    """

    targets: ArrayLike
    groups: NDArray[np.generic]
    scores: Mapping[str, Floats]


class _Own(NamedTuple):
    """One model on one dataset: S figures, S columns of replicates, on the logit scale where 0 < mean < 1."""

    per_seed: Floats
    replicates: Floats  # [B, S], plain scale
    mean: float
    slope: float  # of the scale at the mean

    @property
    def inside(self) -> bool:
        return 0 < self.mean < 1


def over_seeds(
    sample: Sample,
    reference: str | None = None,
    *,
    metric: str = "auc",
    level: float = 0.95,
    replicates: int = 2000,
    seed: int = 0,
) -> dict[str, Repeated]:
    """Every model's metric, and its difference to `reference`, by model.

    Args:
        metric: auc, ap or eer, which look at no threshold.

    Raises:
        ValueError: models differ in their number of seeds, or a score is no probability.
    """
    if len({scores.shape for scores in sample.scores.values()}) != 1:
        raise ValueError("the models differ in their numbers of seeds or rows")
    function = RANKED[metric]
    targets = np.asarray(sample.targets, dtype=np.int64)
    draws = Draws(targets, sample.groups, seed)
    everything = np.ones((1, len(targets)))
    models: dict[str, _Own] = {}
    weights: list[Floats] = []
    for name, scores in sample.scores.items():
        rankings = [Ranking(*validated(targets, row)) for row in scores]
        per_seed = np.array([float(function(ranking(everything))[0]) for ranking in rankings])
        columns: list[Floats] = []
        if draws.possible and not np.isnan(per_seed).any():
            codes = [draws.codes[ranking.order] for ranking in rankings]
            for counts in draws.chunks(replicates):  # the same ones for every model
                pairs = zip(rankings, codes, strict=True)
                columns.append(
                    np.stack([function(ranking(counts[:, code], in_order=True)) for ranking, code in pairs], axis=1)
                )
                if not models:
                    weights.append(counts)
        mean = float(per_seed.mean())
        slope = 1 / (mean * (1 - mean)) if 0 < mean < 1 else 1.0
        models[name] = _Own(per_seed, np.concatenate(columns) if columns else np.zeros((0, 0)), mean, slope)
    known = all(model.replicates.size for model in models.values())
    found = {}
    for name, model in models.items():
        base = models[reference] if reference is not None and name != reference else None
        shift = model.per_seed - base.per_seed if base is not None else np.zeros(0)
        figures = tuple(map(float, model.per_seed)), tuple(map(float, shift))
        if not known:
            value = Interval(model.mean, nan, nan, level)
            difference = Difference(float(shift.mean()), nan, nan, level) if base is not None else None
            found[name] = Repeated(value, difference, *figures)
            continue
        own = _interval(model, draws, weights, level)
        groups = _groups(model.replicates, draws, weights)
        if base is None:
            found[name] = Repeated(own, None, *figures, groups)
            continue
        assert reference is not None
        if np.array_equal(sample.scores[name], sample.scores[reference]):
            difference = Difference(0.0, 0.0, 0.0, level, 0.5)
        else:
            difference = _compared(model, base, draws, weights, level)
        between = _groups(model.replicates - base.replicates, draws, weights)
        found[name] = Repeated(own, difference, *figures, groups, between)
    return found


def mean_over_sets(parts: Sequence[Repeated], level: float = 0.95) -> Repeated:
    """One model over several datasets, every one counting the same.

    Raises:
        ValueError: there is no dataset.
    """
    if not parts:
        raise ValueError("a mean over no dataset")
    per_seed = np.mean([part.per_seed for part in parts], axis=0)
    error, df = _error([part.own_groups for part in parts], per_seed)
    value, half = float(per_seed.mean()), _margin(error, df, level)
    interval = Interval(value, max(value - half, 0.0) if half == half else nan, min(value + half, 1.0), level)
    if half != half:
        interval = Interval(value, nan, nan, level)
    if any(part.difference is None for part in parts):
        return Repeated(interval, None, tuple(map(float, per_seed)))
    differences = np.mean([part.differences for part in parts], axis=0)
    error, df = _error([part.groups for part in parts], differences)
    half = _margin(error, df, level)
    difference = _difference(float(differences.mean()), half, half, df, level)
    return Repeated(interval, difference, tuple(map(float, per_seed)), tuple(map(float, differences)))


def two_sided(difference: Difference) -> float:
    """The p-value that belongs to a difference's confidence; nan where there is no interval."""
    if isnan(difference.probability):
        return nan
    return 2 * min(difference.probability, 1 - difference.probability)


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected for their number, so that the chance that any of them is below 0.05 by accident is 0.05.

    Holm 1979, Scandinavian Journal of Statistics 6, "A simple sequentially rejective multiple test procedure". nan
    stays nan and is not counted.
    """
    known = [i for i in np.argsort(p_values, kind="stable").tolist() if not isnan(p_values[i])]
    corrected, highest = [nan] * len(p_values), 0.0
    for rank, i in enumerate(known):
        highest = max(highest, min(1.0, (len(known) - rank) * p_values[i]))
        corrected[i] = highest
    return corrected


def _groups(replicates: Floats, draws: Draws, weights: Sequence[Floats]) -> Groups:
    """G and its df from S columns [B, S] of replicates."""
    spreads, start = Spreads(draws), 0
    means = replicates.mean(axis=1, keepdims=True)
    for counts in weights:
        spreads.add(counts, means[start : start + len(counts)])
        start += len(counts)
    ((error, df),) = spreads.result()
    return Groups(error**2, df)


def _error(parts: Sequence[Groups], per_seed: Floats) -> tuple[float, float]:
    """Standard error and degrees of freedom of the mean over sets and seeds, by the formula above."""
    k, s = len(parts), len(per_seed)
    components = [(part.variance / k**2, part.df) for part in parts]
    if s > 1:
        components.append((float(np.var(per_seed, ddof=1)) / s, s - 1))
    total = sum(variance for variance, _ in components)
    if isnan(total):
        return nan, nan
    doubt = sum(variance**2 / df for variance, df in components)
    return sqrt(total), max(total**2 / doubt, 1.0) if doubt else inf


def _interval(model: _Own, draws: Draws, weights: Sequence[Floats], level: float) -> Interval:
    error, df = _error([_groups(model.replicates * model.slope, draws, weights)], model.per_seed * model.slope)
    return logit_interval(model.mean, error / model.slope, df, level=level, pairs=draws.pairs)


def _compared(a: _Own, b: _Own, draws: Draws, weights: Sequence[Floats], level: float) -> Difference:
    value = a.mean - b.mean
    if not (a.inside and b.inside):  # replicates see no spread at 0 or 1: MOVER with the exact bound, as for two models
        first, second = (_interval(model, draws, weights, level) for model in (a, b))
        below = hypot(first.value - first.low, second.high - second.value)
        above = hypot(first.high - first.value, second.value - second.low)
        return _difference(value, below, above, float(draws.groups), level)
    seeds = [a.per_seed * a.slope, b.per_seed * b.slope]
    drawn = [a.replicates * a.slope, b.replicates * b.slope]
    (x, _), (y, _), (d, df) = (
        _error([_groups(columns, draws, weights)], figures)
        for columns, figures in ((drawn[0], seeds[0]), (drawn[1], seeds[1]), (drawn[0] - drawn[1], seeds[0] - seeds[1]))
    )
    below, above = difference_margins((a.mean, b.mean), (x, y, d), df, level)
    return _difference(value, below, above, df, level)


def _margin(error: float, df: float, level: float) -> float:
    return float(stats.t.ppf((1 + level) / 2, df)) * error if not isnan(error) else nan


def _difference(value: float, below: float, above: float, df: float, level: float) -> Difference:
    if isnan(below) or isnan(above):
        return Difference(value, nan, nan, level)
    low, high = max(value - below, -1.0), min(value + above, 1.0)
    margin = below if value > 0 else above
    if margin <= _NOTHING:
        sure = float(np.sign(value)) if abs(value) > _NOTHING else 0.0
        return Difference(value, low, high, level, 0.5 + 0.5 * sure)
    confidence = float(stats.t.cdf(stats.t.ppf((1 + level) / 2, df) * value / margin, df))
    return Difference(value, low, high, level, confidence)
