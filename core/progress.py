"""Progress bars on stderr: lively on a terminal, a line now and then in a log, silent for what is over at once."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any

from tqdm import tqdm

# Where a training job sends its metrics: called with name -> value, and the step that they belong to.
Report = Callable[[Mapping[str, float], int], None]


def ignore(_metrics: Mapping[str, float], _step: int) -> None:
    """A report that goes nowhere."""


def progress_bar(total: int | None, what: str, unit: str, *, delay: float = 2, **options: Any) -> tqdm:
    """A bar of `total` units, which is refreshed twice a second on a terminal and every 15 s elsewhere.

    Args:
        delay: seconds before it appears at all.
        options: others of tqdm's, such as `initial` and `leave`.
    """
    interval = 0.5 if sys.stderr.isatty() else 15
    return tqdm(total=total, desc=what, unit=unit, delay=delay, mininterval=interval, file=sys.stderr, **options)
