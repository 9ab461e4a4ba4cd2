"""One process at a time, and the others wait. The kernel drops a lock with the process that holds it."""

from __future__ import annotations

import functools
import inspect
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ParamSpec, TypeVar

from filelock import FileLock, Timeout

from core.errors import UserError
from core.files import write_text

_Given = ParamSpec("_Given")
_Result = TypeVar("_Result")


@contextmanager
def one_at_a_time(folder: Path, job: str) -> Iterator[None]:
    """Hold a folder for the time of the block; whoever comes second waits, after one line on stderr that says for whom.

    A process that dies lets go of it. The same process may hold it twice.

    Args:
        folder: is made where it is missing.
        job: what is done there, such as `a training`.

    Raises:
        UserError: a file stands where the folder belongs.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise UserError(f"{error.filename} is a file where a folder belongs ({folder}): give another folder") from error
    holder = folder / ".job.pid"  # the lock file itself is emptied by whoever tries it
    lock = FileLock(folder.resolve() / ".job.lock", is_singleton=True)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        print(f"{job} in {folder} waits for {_holder(holder)} to end there (Ctrl-C: stop waiting)", file=sys.stderr)
        lock.acquire()
    try:
        if lock.lock_counter == 1:
            write_text(holder, str(os.getpid()))
        yield
    finally:
        if lock.lock_counter == 1:
            holder.unlink(missing_ok=True)
        lock.release()


def alone_in(folder: str, job: str) -> Callable[[Callable[_Given, _Result]], Callable[_Given, _Result]]:
    """A function of which, of all processes, one at a time works in a folder (see `one_at_a_time`).

    Args:
        folder: the argument that names it, such as `out` or `config.out`.
    """

    def alone(function: Callable[_Given, _Result]) -> Callable[_Given, _Result]:
        signature, (name, _, attribute) = inspect.signature(function), folder.partition(".")

        @functools.wraps(function)
        def waiting(*args: _Given.args, **kwargs: _Given.kwargs) -> _Result:
            value = signature.bind(*args, **kwargs).arguments[name]
            with one_at_a_time(getattr(value, attribute) if attribute else value, job):
                return function(*args, **kwargs)

        return waiting

    return alone


def _holder(file: Path) -> str:
    try:
        number = int(file.read_text())
        os.kill(number, 0)
        return f"process {number}"
    except (OSError, ValueError, OverflowError):  # it has just begun, or what a killed one wrote still stands there
        return "another process"
