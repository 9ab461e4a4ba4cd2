"""Names and values as MLflow accepts them."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping
from typing import Any

from tracking.errors import TrackingError

# Limits of MLflow's database columns.
MAX_NAME = 250
MAX_PARAM = 6000
MAX_TAG = 5000
MAX_DATASET_NAME = 500
MAX_DIGEST = 36
# What one command logs on a model, as `<name>/<data set>`, and the gate of promotion reads.
ROBUST_WORST_AUC = "robust_worst_auc"
PROBE_AUC = "probe_auc"


def metric_name(name: str) -> str:
    """`name` as MLflow accepts it: other signs than letters, digits, `_ - . /` and space become `_`.

    Raises:
        TrackingError: nothing is left of it, or it is longer than 250 characters.
    """
    clean = posixpath.normpath(re.sub(r"[^/\w.\- ]", "_", name).strip("/ ") or ".")
    if clean.startswith(".") or len(clean) > MAX_NAME:
        raise TrackingError(f"{name[:80]!r} cannot name a metric or parameter: use letters, digits, _, -, . and /")
    return clean


def shortened(value: object, limit: int) -> str:
    """`str(value)`, cut to `limit` characters with a note of the original length."""
    text = str(value)
    note = f"... ({len(text)} characters)"
    return text if len(text) <= limit else text[: limit - len(note)] + note


def flattened(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one: `{"train": {"epochs": 3}}` becomes `{"train.epochs": 3}`."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            flat |= flattened(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat
