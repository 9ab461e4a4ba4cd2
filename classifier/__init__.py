"""The detectors: networks, training, calibration, evaluation, explanation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from core import lazy_exports

if TYPE_CHECKING:
    from classifier.config import DetectorConfig as DetectorConfig
    from classifier.evaluation import compare as compare
    from classifier.evaluation import evaluate as evaluate
    from classifier.explanation import explain as explain
    from classifier.models.detector import Detector as Detector
    from classifier.models.ensemble import Ensemble as Ensemble
    from classifier.models.ensemble import load_detector as load_detector
    from classifier.scoring import score as score
    from classifier.training import train as train

_HOMES = {
    "Detector": "models.detector",
    "DetectorConfig": "config",
    "Ensemble": "models.ensemble",
    "compare": "evaluation",
    "evaluate": "evaluation",
    "explain": "explanation",
    "load_detector": "models.ensemble",
    "score": "scoring",
    "train": "training",
}
__all__ = [*_HOMES]
__getattr__ = lazy_exports(__name__, _HOMES)
