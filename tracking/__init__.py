"""MLflow: where runs live, runs, logged models, the registry and the UI."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from core import lazy_exports

if TYPE_CHECKING:
    from tracking.models import fetch_model as fetch_model
    from tracking.models import log_detector as log_detector
    from tracking.models import score_model as score_model
    from tracking.registry import Registry as Registry
    from tracking.registry import Version as Version
    from tracking.runs import Run as Run
    from tracking.runs import run as run
    from tracking.runs import test_openings as test_openings
    from tracking.store import Store as Store
    from tracking.store import TrackingError as TrackingError
    from tracking.store import open_store as open_store

# Before MLflow is imported: it decides at import whether it reports its use.
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")  # jobs draw bars of their own

_HOMES = {
    **dict.fromkeys(("fetch_model", "log_detector", "score_model"), "models"),
    **dict.fromkeys(("Registry", "Version"), "registry"),
    **dict.fromkeys(("Run", "run", "test_openings"), "runs"),
    **dict.fromkeys(("Store", "TrackingError", "open_store"), "store"),
}
__all__ = [*_HOMES]
__getattr__ = lazy_exports(__name__, _HOMES)
