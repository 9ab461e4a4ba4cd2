"""Where runs live: a folder with a SQLite database and artifacts, or a server; and what can go wrong with it.

Everything here passes the tracking URI explicitly. MLflow's own default depends on what lies in the working directory
(a leftover `mlruns/0/meta.yaml` selects a store that no longer works), so it is never relied on.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import sqlite3
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import mlflow
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

from core.errors import UserError
from core.secrets import redact, without_account
from tracking import mlflow_internals as internals

DEFAULT_ROOT = Path("mlruns")
DATABASE = "mlflow.db"
MIN_FREE_MEGABYTES = 100
# How long the first request to a server may take: a job that cannot be recorded should say so at once.
_PROBE_TIMEOUT_SECONDS = "4"


class TrackingError(UserError):
    """A mistake in the tracking environment, or in what was asked of it."""


# What the libraries below say, and what the user can do about it. The first match counts.
_REMEDIES = {
    "disk is full|no space left": "free some disk space and run the same command again",
    "readonly database|permission denied": "make the folder writable for this user",
    "read-only file system": "choose a folder on a disk that can be written",
    "database is locked": "another job holds it: wait for that job, or share one MLflow server (see mlruns/README.md)",
    "malformed": "the database is damaged: restore it from a copy",
    "schema": "bring it up to date with `mlflow db upgrade` after making a copy",
    "max retries exceeded|failed with exception": "start the MLflow server again and run the same command again",
    "does not exist|not found": "check the name or id",
    "": "see the message and run the command again",
}


def first_line(error: BaseException) -> str:
    """The part of a library's message that a person can read: one line, at most 300 characters."""
    if isinstance(error, OSError) and error.errno is not None:
        return f"{errno.errorcode.get(error.errno, error.errno)}: {error.strerror}"
    lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return redact(lines[0].strip())[:300]


@contextmanager
def explained(doing: str, where: str) -> Iterator[None]:
    """Turn what MLflow, SQLAlchemy, SQLite and the file system raise inside into one `TrackingError`.

    `doing` completes "cannot ..."; `where` names the tracking URI or the path.
    """
    try:
        yield
    except TrackingError:
        raise
    except (MlflowException, SQLAlchemyError, sqlite3.Error, OSError) as error:
        remedy = next(remedy for signs, remedy in _REMEDIES.items() if re.search(signs, str(error), re.IGNORECASE))
        raise TrackingError(f"cannot {doing} ({where}): {first_line(error).rstrip('.')}; {remedy}") from error


def every_page(search: Callable[..., Any], *arguments: Any, **options: Any) -> Iterator[Any]:
    """What a search of MLflow's client finds, on all its pages."""
    token = None
    while True:
        page = search(*arguments, page_token=token, **options)
        yield from page
        if not (token := page.token):
            return


@dataclass(frozen=True)
class Store:
    """Where runs, models and the registry are kept.

    Attributes:
        tracking_uri: `http(s)://...` or an absolute `sqlite:///...`, for tracking and for the registry.
        root: the local folder, absolute. A server's store has it too, for studies and logs.
    """

    tracking_uri: str
    root: Path

    @property
    def is_server(self) -> bool:
        """Whether runs go through an MLflow server."""
        return self.tracking_uri.startswith("http")

    @cached_property
    def client(self) -> Any:
        """An `mlflow.MlflowClient` on this store."""
        return mlflow.MlflowClient(tracking_uri=self.tracking_uri, registry_uri=self.tracking_uri)

    def activate(self) -> None:
        """Point MLflow's global functions at this store, which some of its own code falls back to.

        The environment is left as it was: a sub-process decides for itself, by the same rules as `open_store`.
        """
        before = os.environ.get("MLFLOW_TRACKING_URI")
        mlflow.set_tracking_uri(self.tracking_uri)
        mlflow.set_registry_uri(self.tracking_uri)
        os.environ.pop("MLFLOW_TRACKING_URI", None)
        if before is not None:
            os.environ["MLFLOW_TRACKING_URI"] = before

    def experiment(self, name: str) -> str:
        """The id of the experiment called `name`, made if there is none. Raises `TrackingError` for a deleted one."""
        if not name.strip():
            raise TrackingError("the experiment has an empty name: give the project a name")
        with explained(f"open the experiment {name!r}", self.tracking_uri):
            found = self.client.get_experiment_by_name(name)
            if found is None:
                # A server decides by itself; a fresh folder keeps a deleted and a new experiment of one name apart.
                folder = f"{re.sub(r'[^A-Za-z0-9_-]+', '-', name).strip('-')[:60]}-{uuid.uuid4().hex[:6]}"
                location = None if self.is_server else f"{internals.SCHEME}:/{folder}"
                try:
                    return str(self.client.create_experiment(name, location, tags=internals.EXPERIMENT_KIND))
                except MlflowException as error:
                    if error.error_code != "RESOURCE_ALREADY_EXISTS":
                        raise
                    found = self.client.get_experiment_by_name(name)  # another process was faster
        if found.lifecycle_stage == "deleted":
            raise TrackingError(
                f"the experiment {name!r} was deleted ({self.tracking_uri}): restore it with "
                f"`mlflow experiments restore -x {found.experiment_id}`, or choose another project name"
            )
        if not internals.EXPERIMENT_KIND.keys() & found.tags.keys():  # made by an older version
            with explained(f"tag the experiment {name!r}", self.tracking_uri):
                for key, value in internals.EXPERIMENT_KIND.items():
                    self.client.set_experiment_tag(found.experiment_id, key, value)
        return str(found.experiment_id)


def open_store(root: Path = DEFAULT_ROOT) -> Store:
    """The store that the environment asks for, checked before any work starts.

    `MLFLOW_TRACKING_URI=http(s)://...` selects a server, whose account is moved to `MLFLOW_TRACKING_USERNAME` and
    `MLFLOW_TRACKING_PASSWORD` where the address names one; otherwise the database is `root/mlflow.db` (made at
    need) and the artifacts lie in `root/artifacts`.

    Raises:
        TrackingError: the server does not answer, the folder cannot be written, less than 100 MB are free, the
            database is damaged or of another version of MLflow, or the variable asks for what is not offered.
    """
    internals.register_repository()
    root = Path(root).absolute()
    wanted = _without_account(os.environ.get("MLFLOW_TRACKING_URI", "").strip())
    if urlsplit(wanted).scheme in ("http", "https"):
        store = Store(wanted.rstrip("/"), root)
        _check_server(store)
    elif wanted and internals.database_path(wanted) != root / DATABASE:
        raise TrackingError(
            f"MLFLOW_TRACKING_URI is {wanted!r}, and only the http(s) address of an MLflow server is understood: start "
            f"one over it with `mlflow server --backend-store-uri`, or unset the variable to use {root}"
        )
    else:
        store = Store(f"sqlite:///{root / DATABASE}?timeout={internals.LOCK_SECONDS}", root)
        _check_folder(root)
        _check_database(root / DATABASE)
        with explained("read the tracking database", str(root / DATABASE)):
            store.client.search_experiments(max_results=1)
    store.activate()
    return store


def _without_account(address: str) -> str:
    """The address of a server; its user and password move to the variables that MLflow's client reads them from.

    So they reach no run, study or log, and processes that are started find them there too.
    """
    if urlsplit(address).scheme not in ("http", "https"):
        return address
    address, user, password = without_account(address)
    if user is not None:
        os.environ["MLFLOW_TRACKING_URI"] = address
        os.environ.setdefault("MLFLOW_TRACKING_USERNAME", user)
        if password is not None:
            os.environ.setdefault("MLFLOW_TRACKING_PASSWORD", password)
    return address


def _check_server(store: Store) -> None:
    with quick_requests():
        try:
            store.client.search_experiments(max_results=1)
        except Exception as error:  # MLflow lets requests' and JSON's own exceptions through
            raise TrackingError(
                f"the MLflow server {store.tracking_uri} (from MLFLOW_TRACKING_URI) does not answer as one "
                f"({first_line(error).rstrip('.')}): start it, correct the address, or unset the variable to use "
                f"{store.root}"
            ) from error


@contextmanager
def quick_requests() -> Iterator[None]:
    """Inside, a server that does not answer fails within seconds and is asked once, unless the user set otherwise."""
    quick = {"MLFLOW_HTTP_REQUEST_TIMEOUT": _PROBE_TIMEOUT_SECONDS, "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
    missing = {name: value for name, value in quick.items() if name not in os.environ}
    os.environ.update(missing)
    try:
        yield
    finally:
        for name in missing:
            os.environ.pop(name, None)


def _check_folder(root: Path) -> None:
    if bad := sorted(set("%?#") & set(str(root))):
        raise TrackingError(f"the folder {root} has {' and '.join(bad)} in its path, which database URIs do not allow")
    try:
        root.mkdir(parents=True, exist_ok=True)
        # A real write: permission bits say nothing about a read-only mount, a quota, or the user being root.
        with tempfile.NamedTemporaryFile(dir=root, prefix=".probe-") as probe:
            probe.write(b"\0" * 65536)
            probe.flush()
            os.fsync(probe.fileno())
    except OSError as error:
        raise TrackingError(
            f"the tracking folder {root} cannot be written ({first_line(error)}): make it writable, free disk space, "
            "or choose another folder"
        ) from error
    if (free := shutil.disk_usage(root).free / 1e6) < MIN_FREE_MEGABYTES:
        raise TrackingError(
            f"only {free:.0f} MB are free on the disk of {root}, and {MIN_FREE_MEGABYTES} are needed to start: free "
            "some, or choose another folder"
        )


def _check_database(path: Path) -> None:
    if not path.exists() or path.stat().st_size == 0:
        # Under another name, and published whole: neither a kill nor a race leaves half of one.
        draft = path.with_name(f".{path.name}-{uuid.uuid4().hex[:8]}")
        try:
            with explained("make the tracking database", str(path)):
                internals.write_database(draft)
                _publish(draft, path)
        finally:
            draft.unlink(missing_ok=True)
    try:
        with internals.transaction(path) as database:  # fails where nothing could be written, without writing
            if not internals.has_tables(database):
                raise sqlite3.DatabaseError("it holds no MLflow tables")
    except sqlite3.Error as error:
        if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_BUSY:
            raise TrackingError(
                f"{path} was locked by another process for {internals.LOCK_SECONDS} seconds: run the same command "
                "again, and if that does not help, end the process that holds it"
            ) from error
        raise TrackingError(
            f"{path} cannot be used as the tracking database ({first_line(error)}): move it away to start a new one, "
            "or restore it from a copy"
        ) from error


def _publish(draft: Path, path: Path) -> None:
    if path.exists() and path.stat().st_size == 0:
        path.unlink()
    try:
        path.hardlink_to(draft)
    except FileExistsError:
        pass  # another process was faster: its database is as good
    except OSError:  # a file system without hard links
        if not path.exists():
            draft.replace(path)
