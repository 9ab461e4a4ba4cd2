"""Arrays in, figures out: binary metrics, bootstrap, intervals, repeated runs, permutation, distances."""

from __future__ import annotations

from typing import TYPE_CHECKING

from core import lazy_exports

if TYPE_CHECKING:
    from metrics.binary import compute as compute
    from metrics.intervals import bootstrap_all as bootstrap_all
    from metrics.intervals import paired_difference as paired_difference
    from metrics.repeated import over_seeds as over_seeds

_HOMES = {"bootstrap_all": "intervals", "compute": "binary", "over_seeds": "repeated", "paired_difference": "intervals"}
__all__ = [*_HOMES]
__getattr__ = lazy_exports(__name__, _HOMES)
