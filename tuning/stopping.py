"""When a study no longer pays: its trials are done, its hours are spent, or nothing got better beyond noise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median

from optuna.trial import FrozenTrial, TrialState

from faces.errors import UserError
from tuning.claims import ERROR, finished, had_turn
from tuning.config import MAXIMISED, StudyConfig

# A study in which this many trials in a row fail has a fault that more trials do not mend.
MAX_FAILURES = 3
NOISE = "noise"  # the standard error of a trial's objective


def stop_reason(trials: Sequence[FrozenTrial], config: StudyConfig, places: int) -> str | None:
    """A sentence that says why no further trial should start, or None."""
    done = finished(trials)
    if len(done) >= places:
        return f"all {places} trials are done"
    if config.hours is not None:
        spent = hours_spent(trials)
        if spent >= config.hours:
            return f"{spent:.2f} of {config.hours:g} hours are spent"
    if config.patience is not None and (gain := recent_gain(done, config)) is not None:
        value, noise = gain
        if value <= noise:
            return (
                f"the last {config.patience} trials gained {value:.4f} in {config.objectives[0]}, "
                f"within the noise of {noise:.4f}"
            )
    return None


def hours_spent(trials: Sequence[FrozenTrial]) -> float:
    """Hours of all trials that ended, lost ones too."""
    return sum(t.duration.total_seconds() for t in trials if t.duration is not None) / 3600


def recent_gain(done: Sequence[FrozenTrial], config: StudyConfig) -> tuple[float, float] | None:
    """What the best value gained in the last `patience` trials, and the noise of one trial; None while it is early.

    The noise is the standard error of the objective (from the intervals over groups or the spread over folds,
    whichever is larger), the median over the trials. A gain below it can be luck in which rows are in val.
    """
    patience = config.patience or 0
    sign = 1 if MAXIMISED[config.objectives[0]] else -1
    complete = [t for t in done if t.state == TrialState.COMPLETE]
    recent = {t.number for t in done[-patience:]}
    before = [sign * t.values[0] for t in complete if t.number not in recent]
    if len(done) <= patience or not before:
        return None
    best = max(sign * t.values[0] for t in complete)
    noises = [float(t.user_attrs[NOISE]) for t in complete if not math.isnan(float(t.user_attrs.get(NOISE, math.nan)))]
    return best - max(before), median(noises) if noises else 0.0


def check_failures(trials: Sequence[FrozenTrial], name: str) -> None:
    """Give up where the last trials all failed.

    Raises:
        UserError: with the last one's reason.
    """
    last = sorted(had_turn(trials), key=lambda t: t.datetime_complete or t.datetime_start)[-MAX_FAILURES:]  # type: ignore[arg-type,return-value]
    if len(last) == MAX_FAILURES and all(t.state == TrialState.FAIL for t in last):
        raise UserError(
            f"the last {MAX_FAILURES} trials of {name} failed: {last[-1].user_attrs[ERROR]} "
            "(mend that, then launch it under another study.name or with --new)"
        )
