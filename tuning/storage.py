"""Where studies live: a journal of their own on one machine, PostgreSQL for many.

A journal is a file `studies/<name>.journal` in the tracking folder that is only ever appended to, so that any number
of processes of one machine may work on one study; nothing has to be started. Two things Optuna leaves open are
closed here: the lock is the kernel's, which a killed process cannot leave behind, and a line that a kill or a full disk
tore is cut off before the next one is written.

This is the only file that uses Optuna's private interfaces: the numbers of trials in a storage, the states of trials
set one by one, the session and the cache of a database, the keys of its system attributes.
"""

from __future__ import annotations

import hashlib
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import optuna
from filelock import FileLock
from optuna.storages import BaseStorage, JournalStorage, RDBStorage, get_storage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, Trial, TrialState
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError, ProgrammingError, SQLAlchemyError

from core.errors import UserError
from core.secrets import redact
from tuning.space import stable

# A worker over a database counts as dead after so long a silence; it says six times as often that it lives.
SILENCE_SECONDS = int(os.environ.get("COUNTERFORGE_SILENCE_SECONDS", "90"))
BEAT_SECONDS = max(1, SILENCE_SECONDS // 6)
# How long work waits for a database that went away.
PATIENCE_SECONDS = 300.0
STORAGE = "COUNTERFORGE_STORAGE"  # the variable that names a database of studies, to commands and to workers
_SUFFIX = ".journal"
_POLL_SECONDS = 0.002  # how often a lock that another process holds is tried
# What a call to the database raises while it is away.
AWAY = (SQLAlchemyError, optuna.exceptions.StorageInternalError)
_Result = TypeVar("_Result")
_log = logging.getLogger(__name__)


class StorageAwayError(UserError):
    """The database of a study did not come back in time; the trial at hand loses no retry."""


@contextmanager
def quiet_optuna() -> Iterator[None]:
    """Optuna reports by our progress bar and not by its own log lines."""
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(logging.WARNING)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(level)


class JournalLock(FileLock):
    """A lock on a file beside the journal; the process that gets it cuts off a line that a kill has torn."""

    journal: Path

    def acquire(self, *arguments: Any, **options: Any) -> Any:
        """Wait for the lock, which the kernel lets go of too when the process ends in whatever way."""
        held = super().acquire(*arguments, **options)
        with suppress(FileNotFoundError), self.journal.open("r+b") as file:
            end = file.seek(0, os.SEEK_END)
            file.seek(max(0, end - 1))
            if file.read() not in (b"", b"\n"):
                start = file.seek(max(0, end - 1_000_000))
                file.truncate(start + file.read().rfind(b"\n") + 1)
        return held


class StudyStorage:
    """What holds one study or many: a journal, or a database.

    Attributes:
        address: what `optuna-dashboard` and `study worker` take: the path of a journal, or a URL.
        database: Optuna's, once it is open; None for a journal.
    """

    def __init__(self, address: str, *, beat_seconds: int = BEAT_SECONDS, silence_seconds: int = SILENCE_SECONDS):
        self.address = address
        self.beat_seconds, self._silence = beat_seconds, silence_seconds
        self._storage: Any = None  # Optuna keeps the type with the heartbeat to itself
        self.database: RDBStorage | None = None

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
        return redact(self.address)

    def open(self, patience_seconds: float = 0) -> Any:
        """Optuna's storage, opened once; a `UserError` where a database stays away, or is none."""
        deadline, tries = time.monotonic() + patience_seconds, 0
        while self._storage is None:
            try:
                self._storage = self._open_database() if self.is_database else self._open_journal()
            except UserError:
                raise
            except (*AWAY, OSError, ValueError, ImportError) as error:
                tries += 1
                # Two workers make the tables of a new database at once: the second finds half of them.
                half_made = isinstance(error, IntegrityError | ProgrammingError) and tries < 3
                if half_made or (isinstance(error, AWAY) and time.monotonic() < deadline):
                    time.sleep(1)
                    continue
                lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
                raise UserError(
                    f"the storage of studies {self.shown} cannot be opened ({redact(lines[0])[:200]}): start its "
                    "server or correct the address (study.storage)"
                ) from error
        return self._storage

    def _open_journal(self) -> BaseStorage:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        lock = JournalLock(self.path.with_suffix(".lock"), poll_interval=_POLL_SECONDS)
        lock.journal = self.path
        with suppress(PermissionError), lock:  # a reader need not repair it
            pass
        return JournalStorage(JournalFileBackend(self.address, lock_obj=lock))  # type: ignore[arg-type]

    def _open_database(self) -> BaseStorage:
        if not self.address.startswith(("postgresql://", "postgresql+psycopg://")):
            raise UserError(
                f"study.storage {self.shown} is no PostgreSQL address: give postgresql://user:password@host/name, or "
                "leave it out to keep the study in the tracking folder"
            )
        if self.address.count("@") > 1:  # the libraries' own errors would quote what follows the first one
            raise UserError(
                f"study.storage {self.shown} holds more than one @: write the @ of a password as %40, and its / as %2F"
            )
        with stable():
            self.database = RDBStorage(
                self.address.replace("postgresql://", "postgresql+psycopg://", 1),
                engine_kwargs={"pool_pre_ping": True, "connect_args": {"connect_timeout": 5}},
                heartbeat_interval=self.beat_seconds,
                grace_period=self._silence,
                # Whether a lost trial is tried again, and how often, tuning.queue decides under its lock.
                heartbeat_stale_trial_callback=None,
            )
        # The cache that a study would put around it: finished trials are read once.
        return get_storage(self.database)

    @contextmanager
    def lock(self, name: str) -> Iterator[None]:
        """One process of all that work on the study `name` at a time, on whatever machine.

        In a database, what this thread writes meanwhile is one transaction with the lock: a server that is killed
        takes back all of it together, and nobody writes on who lost the lock without knowing.
        """
        storage = self.open()
        if self.database is None:
            with FileLock(self.path.with_suffix(".queue"), poll_interval=_POLL_SECONDS):
                yield
            return
        key = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big", signed=True)
        try:
            with self.database.engine.begin() as connection:  # the lock ends with it, or when it is lost
                connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": key})
                self.database.remove_session()
                self.database.scoped_session(bind=connection, join_transaction_mode="create_savepoint")
                try:
                    yield
                finally:
                    self.database.remove_session()
        except BaseException:
            storage.__init__(self.database)  # Optuna's cache must not remember what was taken back
            raise

    # --- trials, one step at a time

    def add_trial(self, study: optuna.Study, attributes: Mapping[str, Any], values: Mapping[str, Any]) -> int:
        """A waiting trial with these user attributes, whose parameters take these values; its number in the storage."""
        state, fixed = TrialState.WAITING, {"fixed_params": dict(values)}
        trial = optuna.create_trial(state=state, user_attrs=dict(attributes), system_attrs=fixed)
        return int(self.open().create_new_trial(study._study_id, trial))

    def start_trial(self, trial_id: int) -> None:
        """From waiting to running; in a database with a first heartbeat, since a silent trial is never found stale."""
        if self.is_database:
            self.open().record_heartbeat(trial_id)
        self.open().set_trial_state_values(trial_id, TrialState.RUNNING)

    def set_attributes(self, trial: Trial | FrozenTrial, attributes: Mapping[str, Any]) -> None:
        """Set user attributes of a trial, those of other processes too."""
        for name, value in attributes.items():
            self.open().set_trial_user_attr(trial._trial_id, name, value)

    def set_state(self, trial: Trial | FrozenTrial, state: TrialState) -> None:
        """Set the state of a trial that has no values."""
        self.open().set_trial_state_values(trial._trial_id, state)

    def set_constraints(self, trial: Trial, constraints: Mapping[str, float]) -> None:
        """Tell a trial's constraints (feasible <= 0); those that are told already are left out."""
        known = patiently(lambda: self.open().get_trial_system_attrs(trial._trial_id)) if constraints else {}
        for name, value in constraints.items():
            if f"constraints:{name}" not in known:
                patiently(partial(trial.set_constraint, name, value))

    @contextmanager
    def heartbeat(self, trial: Trial) -> Iterator[None]:
        """For as long as a trial runs: say so to the database now and then; a journal needs none."""
        if not self.is_database:
            yield
            return
        over = threading.Event()

        def beat() -> None:
            while not over.wait(self.beat_seconds):
                with suppress(Exception):  # the database may be away; it is asked again soon
                    self.open().record_heartbeat(trial._trial_id)

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join(timeout=1)

    def fail_silent_trials(self, study: optuna.Study) -> None:
        """Fail the running trials of a database whose workers fell silent, where it is not too early to tell.

        A server that was away has to be up long enough for every living worker to have said so.
        """
        assert self.database is not None
        query = text("SELECT now() - pg_postmaster_start_time() > make_interval(secs => :seconds)")
        with self.database.engine.connect() as connection, stable():
            if connection.scalar(query, {"seconds": self._silence}):
                optuna.storages.fail_stale_trials(study)


def storage_number(trial: Trial | FrozenTrial) -> int:
    """The number of a trial in its storage, which tells it from those of other studies."""
    return trial._trial_id


def reported_steps(trial: Trial) -> set[int]:
    """The steps that were reported to the pruner, by whichever worker."""
    with stable():
        return set(trial.study._storage.get_trial(trial._trial_id).intermediate_values)


def retry_lost(study: optuna.Study, trial: FrozenTrial) -> None:
    """Queue a trial whose worker died again: the same values, the same slot in the study."""
    with stable():
        optuna.storages.RetryHeartbeatStaleTrialCallback(inherit_intermediate_values=True)(study, trial)


def patiently(call: Callable[[], _Result], seconds: float = PATIENCE_SECONDS) -> _Result:
    """The result of `call`, tried again while the database is away; a `StorageAwayError` after `seconds`."""
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


def storage_of(root: Path, name: str, storage: str | None = None) -> StudyStorage:
    """Where the study `name` lives, or will live."""
    return StudyStorage(storage or str(root / "studies" / f"{name}{_SUFFIX}"))


@quiet_optuna()
def names(root: Path, storage: str | None = None) -> list[str]:
    """The names of all studies of a tracking folder, or of a database; a `UserError` where that is away."""
    if storage and "://" in storage:
        return sorted(patiently(lambda: optuna.get_all_study_names(StudyStorage(storage).open()), 0))
    return sorted(path.stem for path in (root / "studies").glob(f"*{_SUFFIX}") if path.stat().st_size)


@quiet_optuna()
def load(root: Path, name: str, storage: str | None = None) -> optuna.Study:
    """A study by its name, or by the beginning of it; a `UserError` where there is none, or there are several."""
    known = names(root, storage)
    matches = [name] if name in known else [each for each in known if each.startswith(name)]
    where = StudyStorage(storage).shown if storage else str(root)
    if len(matches) != 1:
        problem = "several studies begin with" if matches else "no study is called"
        raise UserError(f"{problem} {name!r} in {where}: there is {', '.join(matches or known) or 'none yet'}")
    its_storage = storage_of(root, matches[0], storage)
    try:
        return optuna.load_study(study_name=matches[0], storage=its_storage.open())
    except KeyError as error:
        raise UserError(f"the study {matches[0]} in {where} was never begun: launch it again") from error
    except ValueError as error:  # JSON's too
        raise UserError(f"{its_storage.shown} is damaged ({error}): restore it from a copy") from error
