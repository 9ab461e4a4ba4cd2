"""Optuna studies over the whole chain: search spaces, samplers, trials, workers, studies."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

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
    "StudyConfig": "config",
    "Choice": "space",
    "Range": "space",
    "load": "storage",
    "StudyResult": "study",
    "launch": "study",
    "TrialContext": "trial",
    "TrialSpec": "trial",
    "train_and_log": "trial",
}
__all__ = [*_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
