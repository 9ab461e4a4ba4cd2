"""Where studies live: a journal of their own on one machine, PostgreSQL for many.

A journal is a file `studies/<name>.journal` in the tracking folder that is only ever appended to, so that any number
of processes of one machine may work on one study; nothing has to be started. Two things Optuna leaves open are
closed here: the lock is the kernel's, which a killed process cannot leave behind, and a line that a kill or a full disk
tore is cut off before the next one is written.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, TypeVar
from urllib.parse import urlsplit

import optuna
from optuna.storages import (
    BaseStorage,
    JournalStorage,
    RDBStorage,
    RetryHeartbeatStaleTrialCallback,
    get_storage,
)
from optuna.storages.journal import JournalFileBackend
from sqlalchemy import Engine, text
from sqlalchemy.exc import IntegrityError, ProgrammingError, SQLAlchemyError

from core.errors import UserError

# A worker over a database counts as dead after so long a silence; it says six times as often that it lives.
SILENCE_SECONDS = int(os.environ.get("COUNTERFORGE_SILENCE_SECONDS", "90"))
BEAT_SECONDS = max(1, SILENCE_SECONDS // 6)
# How long work waits for a database that went away.
PATIENCE_SECONDS = 300.0
_SUFFIX = ".journal"
# What a call to the database raises while it is away.
AWAY = (SQLAlchemyError, optuna.exceptions.StorageInternalError)
_Result = TypeVar("_Result")
_log = logging.getLogger(__name__)


class StorageAwayError(UserError):
    """The database of a study did not come back in time; nothing is held against the trial that found out."""


class JournalLock:
    """The kernel's lock on a file beside the journal; whoever gets it mends the journal's end."""

    def __init__(self, journal: Path) -> None:
        self._journal = journal
        self._held: IO[bytes] | None = None

    def acquire(self) -> bool:
        """Wait for the lock."""
        held = self._journal.with_suffix(".lock").open("ab")
        fcntl.flock(held, fcntl.LOCK_EX)
        self._held = held
        _cut_torn_line(self._journal)
        return True

    def release(self) -> None:
        """Let go of it; the kernel does so too when the process ends in whatever way."""
        if self._held is not None:
            self._held.close()
            self._held = None


def _cut_torn_line(journal: Path) -> None:
    try:
        with journal.open("r+b") as file:
            end = file.seek(0, os.SEEK_END)
            if not end:
                return
            file.seek(end - 1)
            if file.read(1) == b"\n":
                return
            start = max(0, end - 1_000_000)
            file.seek(start)
            file.truncate(start + file.read().rfind(b"\n") + 1)
    except FileNotFoundError:
        return


class StudyStorage:
    """One place that holds studies: the tracking folder, one journal, or a database.

    Attributes:
        address: what `optuna-dashboard` and `study worker` take: the path of a journal, or a URL.
    """

    def __init__(self, address: str, *, beat_seconds: int = BEAT_SECONDS, silence_seconds: int = SILENCE_SECONDS):
        self.address = address
        self._beat, self._silence = beat_seconds, silence_seconds
        self._storage: Any = None  # Optuna keeps the type with the heartbeat to itself
        self._database: RDBStorage | None = None

    @property
    def is_database(self) -> bool:
        """Whether several machines may work on it."""
        return "://" in self.address

    @property
    def path(self) -> Path:
        """The journal."""
        return Path(self.address)

    @property
    def shown(self) -> str:
        """The address without its password."""
        password = urlsplit(self.address).password if self.is_database else None
        return self.address.replace(f":{password}@", ":...@") if password else self.address

    def storage(self, patience_seconds: float = 0) -> Any:
        """Optuna's storage, opened once; a database that is away is waited for as long as is said.

        Raises:
            UserError: it cannot be reached or read.
        """
        deadline = time.monotonic() + patience_seconds
        while self._storage is None:
            try:
                self._storage = self._open_database() if self.is_database else self._open_journal()
            except (*AWAY, OSError, ValueError, ImportError) as error:
                if isinstance(error, AWAY) and time.monotonic() < deadline:
                    time.sleep(1)
                    continue
                lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
                raise UserError(
                    f"the storage of studies {self.shown} cannot be opened ({lines[0][:200]}): start its server or "
                    "correct the address (study.storage)"
                ) from error
        return self._storage

    def _open_journal(self) -> BaseStorage:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        lock = JournalLock(self.path)
        with suppress(PermissionError):  # who may only read needs no mending
            lock.acquire()
            lock.release()
        return JournalStorage(JournalFileBackend(self.address, lock_obj=lock))  # type: ignore[arg-type]

    def _open_database(self) -> BaseStorage:
        if not self.address.startswith(("postgresql://", "postgresql+psycopg://")):
            raise UserError(
                f"study.storage {self.shown} is no PostgreSQL address: give postgresql://user:password@host/name, or "
                "leave it out to keep the study in the tracking folder"
            )
        address = self.address.replace("postgresql://", "postgresql+psycopg://", 1)
        for last in (False, False, True):
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                    self._database = RDBStorage(
                        address,
                        engine_kwargs={"pool_pre_ping": True, "connect_args": {"connect_timeout": 5}},
                        heartbeat_interval=self._beat,
                        grace_period=self._silence,
                        # Whether a lost trial is tried again, and how often, tuning.queue decides under its lock.
                        heartbeat_stale_trial_callback=None,
                    )
                # The cache that a study would put around it: finished trials are read once.
                return get_storage(self._database)
            except (IntegrityError, ProgrammingError):  # two workers make the tables of a new database at once
                if last:
                    raise
                time.sleep(1)
        raise AssertionError

    @property
    def engine(self) -> Engine | None:
        """Of the database once it is open, None for a journal."""
        return None if self._database is None else self._database.engine

    @contextmanager
    def lock(self, name: str) -> Iterator[None]:
        """One process of all that work on the study `name` at a time, on whatever machine.

        In a database, what this thread writes meanwhile is one transaction with the lock: a server that is killed
        takes back all of it together, and nobody writes on who lost the lock without knowing.
        """
        storage = self.storage()
        if self._database is None:
            with self.path.with_suffix(".claims").open("ab") as held:
                fcntl.flock(held, fcntl.LOCK_EX)
                yield
            return
        key = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big", signed=True)
        try:
            with self._database.engine.begin() as connection:  # the lock ends with it, or when it is lost
                connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": key})
                self._database.remove_session()
                self._database.scoped_session(bind=connection, join_transaction_mode="create_savepoint")
                try:
                    yield
                finally:
                    self._database.remove_session()
        except BaseException:
            storage.__init__(self._database)  # Optuna's cache must not remember what was taken back
            raise

    def hears_all(self) -> bool:
        """Whether the database has been up long enough for every living worker to have said so."""
        assert self._database is not None
        query = text("SELECT now() - pg_postmaster_start_time() > make_interval(secs => :seconds)")
        with self._database.engine.connect() as connection:
            return bool(connection.scalar(query, {"seconds": self._silence}))


def retry_lost(study: optuna.Study, trial: optuna.trial.FrozenTrial) -> None:
    """Queue a trial whose worker died to be taken up again: the same values, the same place in the study."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        RetryHeartbeatStaleTrialCallback(inherit_intermediate_values=True)(study, trial)


def patiently(call: Callable[[], _Result], seconds: float = PATIENCE_SECONDS) -> _Result:
    """The result of `call`, tried again while the database is away.

    Raises:
        StorageAwayError: it stayed away for `seconds`.
    """
    deadline, pause = time.monotonic() + seconds, 0.2
    while True:
        try:
            return call()
        except AWAY as error:
            if time.monotonic() + pause > deadline:
                raise StorageAwayError(
                    f"the database of the study has been away for {seconds:.0f} s ({type(error).__name__}): start it "
                    "again, then run the same command again"
                ) from error
            if pause == 0.2:
                _log.warning("the database of the study does not answer; waiting for it")
            time.sleep(pause)
            pause = min(pause * 2, 5.0)


def shelf_for(root: Path, name: str, storage: str | None = None) -> StudyStorage:
    """Where the study `name` lives, or will live."""
    return StudyStorage(storage or str(root / "studies" / f"{name}{_SUFFIX}"))


def names(root: Path, storage: str | None = None) -> list[str]:
    """The names of all studies of a tracking folder, or of a database.

    Raises:
        UserError: the database cannot be reached.
    """
    if storage is not None and "://" in storage:
        shelf = StudyStorage(storage)
        with quiet_optuna():
            return sorted(patiently(lambda: optuna.get_all_study_names(shelf.storage()), 0))
    return sorted(path.stem for path in (root / "studies").glob(f"*{_SUFFIX}") if path.stat().st_size)


def load(root: Path, name: str, storage: str | None = None) -> optuna.Study:
    """A study by its name, or by the beginning of it if that is unambiguous.

    Raises:
        UserError: there is none, or there are several, or the database cannot be reached.
    """
    known = names(root, storage)
    found = [name] if name in known else [each for each in known if each.startswith(name)]
    where = StudyStorage(storage).shown if storage else str(root)
    if len(found) != 1:
        problem = "several studies begin with" if found else "no study is called"
        raise UserError(f"{problem} {name!r} in {where}: there is {', '.join(found or known) or 'none yet'}")
    shelf = shelf_for(root, found[0], storage)
    with quiet_optuna():
        try:
            return optuna.load_study(study_name=found[0], storage=shelf.storage())
        except KeyError as error:
            raise UserError(f"the study {found[0]} in {where} was never begun: launch it again") from error
        except (json.JSONDecodeError, ValueError) as error:
            raise UserError(f"{shelf.shown} is damaged ({error}): restore it from a copy") from error


@contextmanager
def quiet_optuna() -> Iterator[None]:
    """Optuna reports by our progress bar and not by its own log lines."""
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(logging.WARNING)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(level)
