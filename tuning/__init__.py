"""Optuna studies over the whole chain: search spaces, samplers, trials, workers, studies."""

from __future__ import annotations

from typing import TYPE_CHECKING

from core import lazy_exports

if TYPE_CHECKING:
    from tuning.config import StudyConfig as StudyConfig
    from tuning.space import Choice as Choice
    from tuning.space import Range as Range
    from tuning.storage import load as load
    from tuning.study import StudyResult as StudyResult
    from tuning.study import launch as launch
    from tuning.trial import TrialContext as TrialContext
    from tuning.trial import TrialSpec as TrialSpec
    from tuning.trial import train_and_log as train_and_log

_HOMES = {
    **dict.fromkeys(("Choice", "Range"), "space"),
    **dict.fromkeys(("StudyResult", "launch"), "study"),
    **dict.fromkeys(("TrialContext", "TrialSpec", "train_and_log"), "trial"),
    **{"StudyConfig": "config", "load": "storage"},
}
__all__ = [*_HOMES]
__getattr__ = lazy_exports(__name__, _HOMES)
