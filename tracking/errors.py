"""What goes wrong with tracking, in sentences that say what to do."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager


class TrackingError(ValueError):
    """A mistake in the tracking environment or in what was asked of it, which the user can mend.

    Its message is one sentence: what is wrong, where, and what to do. The command line prints it and exits 2.
    """


# What the libraries below say, and what the user can do about it. The first match counts.
_REMEDIES = (
    ("disk is full", "free some disk space and run the same command again"),
    ("no space left", "free some disk space and run the same command again"),
    ("readonly database", "make the folder writable for this user"),
    ("read-only file system", "choose a folder on a disk that can be written"),
    ("permission denied", "make the folder writable for this user"),
    (
        "database is locked",
        "another job holds it: wait for that job, or share one MLflow server (see mlruns/README.md)",
    ),
    ("malformed", "the database is damaged: restore it from a copy"),
    ("schema", "bring it up to date with `mlflow db upgrade` after making a copy"),
    ("max retries exceeded", "start the MLflow server again and run the same command again"),
    ("failed with exception", "start the MLflow server again and run the same command again"),
    ("does not exist", "check the name or id"),
    ("not found", "check the name or id"),
)


def remedy_for(reason: str) -> str:
    """What the user can do about a failure whose library message is `reason`."""
    lowered = reason.lower()
    return next((remedy for sign, remedy in _REMEDIES if sign in lowered), "see the message and run the command again")


def first_line(error: BaseException) -> str:
    """The part of a library's message that a person can read: one line, at most 300 characters."""
    if isinstance(error, OSError) and error.errno is not None:
        return f"{errno.errorcode.get(error.errno, error.errno)}: {error.strerror}"
    lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return lines[0].strip()[:300]


@contextmanager
def explained(doing: str, where: str) -> Iterator[None]:
    """Turn what MLflow, SQLAlchemy, SQLite and the file system raise inside into one `TrackingError`.

    `doing` completes "cannot ..."; `where` names the tracking URI or the path.
    """
    import sqlite3

    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except TrackingError:
        raise
    except (MlflowException, SQLAlchemyError, sqlite3.Error, OSError) as error:
        reason = first_line(error)
        raise TrackingError(f"cannot {doing} ({where}): {reason.rstrip('.')}; {remedy_for(str(error))}") from error
