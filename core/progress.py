"""What a long job shows, and when it stops: progress bars, reports, and Ctrl-C held back until a step is whole."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from types import FrameType
from typing import Any, TypeVar

from tqdm import tqdm

Item = TypeVar("Item")
Result = TypeVar("Result")
# Where a training job sends its metrics: called with name -> value, and the step that they belong to.
Report = Callable[[Mapping[str, float], int], None]


def ignore(_metrics: Mapping[str, float], _step: int) -> None:
    """A report that goes nowhere."""


def progress_bar(total: int | None, what: str, unit: str, *, delay: float = 2, **options: Any) -> tqdm:
    """A bar of `total` units, which is refreshed twice a second on a terminal and every 15 s elsewhere, as in a log.

    Args:
        delay: seconds before it appears at all.
        options: others of tqdm's, such as `initial` and `leave`.
    """
    interval = 0.5 if sys.stderr.isatty() else 15
    return tqdm(total=total, desc=what, unit=unit, delay=delay, mininterval=interval, file=sys.stderr, **options)


def in_threads(
    function: Callable[[Item], Result], items: Sequence[Item], what: str, unit: str, chunk: int
) -> Iterator[list[Result]]:
    """What a thread a core makes of the items, in their order, `chunk` at a time; a bar counts them."""
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool, progress_bar(len(items), what, unit) as bar:
        for start in range(0, len(items), chunk):
            results = []
            for result in pool.map(function, items[start : start + chunk]):
                results.append(result)
                bar.update()
            yield results


def in_order(
    pool: ThreadPoolExecutor, function: Callable[[Item], Result], items: Iterable[Item], ahead: int = 8
) -> Iterator[Result]:
    """`pool.map` that holds at most `ahead` results, and drops what waits when the consumer stops."""
    items = iter(items)
    waiting: deque[Future[Result]] = deque(pool.submit(function, item) for item in islice(items, ahead))
    try:
        while waiting:
            result = waiting.popleft().result()
            waiting.extend(pool.submit(function, item) for item in islice(items, 1))
            yield result
    finally:
        for future in waiting:
            future.cancel()


@contextmanager
def deferred_interrupt() -> Iterator[Callable[[], bool]]:
    """Hold back the first Ctrl-C until the step is whole, so that what is saved is a state between two steps.

    A second one interrupts at once. `kill` counts as Ctrl-C where the program has made it one. Signals reach the main
    thread only; elsewhere there is nothing to hold back.
    """
    seen: list[int] = []

    def remember(number: int, frame: FrameType | None) -> None:
        if seen:
            signal.default_int_handler(number, frame)
        seen.append(number)

    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    held = [signal.SIGINT]
    if signal.getsignal(signal.SIGTERM) is signal.default_int_handler:
        held.append(signal.SIGTERM)
    before = {number: signal.signal(number, remember) for number in held}
    try:
        yield lambda: bool(seen)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
