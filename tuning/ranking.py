"""Which trials are better than which: constraints first, then who is beaten by none, then the first objective."""

from __future__ import annotations

from collections.abc import Sequence

from optuna.trial import FrozenTrial, TrialState

from tuning.config import MAXIMISED, StudyConfig


def feasible(trial: FrozenTrial) -> bool:
    """Whether a finished trial keeps every constraint."""
    return all(value <= 0 for value in trial.constraints.values())


def gains(trial: FrozenTrial, config: StudyConfig) -> list[float]:
    """The trial's values, turned such that more is better."""
    return [v if MAXIMISED[name] else -v for name, v in zip(config.objectives, trial.values, strict=True)]


def beats(one: Sequence[float], other: Sequence[float]) -> bool:
    """Whether `one` is at least as good in everything and better in something (Pareto)."""
    return all(a >= b for a, b in zip(one, other, strict=True)) and any(a > b for a, b in zip(one, other, strict=True))


def front(trials: Sequence[FrozenTrial], config: StudyConfig) -> list[FrozenTrial]:
    """Finished trials that keep the constraints and that no other one beats."""
    allowed = [t for t in trials if t.state == TrialState.COMPLETE and feasible(t)]
    points = {t.number: gains(t, config) for t in allowed}
    return [t for t in allowed if not any(beats(other, points[t.number]) for other in points.values())]


def ranked(trials: Sequence[FrozenTrial], config: StudyConfig) -> list[FrozenTrial]:
    """Finished trials, the best first: those that keep the constraints, by how many beat them, then by objective."""
    complete = [t for t in trials if t.state == TrialState.COMPLETE]
    points = {t.number: gains(t, config) for t in complete}
    beaten = dict.fromkeys(points, 0)
    if len(config.objectives) > 1:
        beaten = {n: sum(beats(other, mine) for other in points.values()) for n, mine in points.items()}
    return sorted(complete, key=lambda t: (not feasible(t), beaten[t.number], -points[t.number][0], t.number))
