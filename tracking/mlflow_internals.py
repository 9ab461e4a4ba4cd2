"""What we use of MLflow beyond its public interface: tables, store classes, artifact repositories, the UI's tags.

`tests/tracking/test_mlflow_internals.py` names what an installed MLflow no longer has. Errors of MLflow and SQLite
pass through.
"""

from __future__ import annotations

import logging
import os
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import mlflow
from mlflow.store.artifact import artifact_repository_registry
from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository
from mlflow.store.artifact.mlflow_artifacts_repo import MlflowArtifactsRepository
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
from mlflow.utils.workspace_utils import DEFAULT_WORKSPACE_NAME
from sqlalchemy import event
from sqlalchemy.engine import Engine

SCHEME = "mlflow-artifacts"
ARTIFACTS = "artifacts"  # the folder beside the database
ALIASES, TAGS, EXPERIMENTS = "registered_model_aliases", "registered_model_tags", "experiments"
# The UI opens an experiment with this tag in its view for models, and not in that for builders of agents.
EXPERIMENT_KIND = {"mlflow.experimentKind": "custom_model_development"}
SHARED_VIEW = "mlflow.sharedViewState."  # + key: the state of a view as JSON, opened by ?viewStateShareKey=key
MODEL_VERSIONS = "mlflow.modelVersions"  # on a logged model: the versions that the UI links it to
_SQLITE = "sqlite:///"
LOCK_SECONDS = 60  # how long a job waits for another job's write to the same database before it gives up


def database_path(tracking_uri: str) -> Path:
    """The database file of a `sqlite:///...` URI."""
    return Path(tracking_uri.removeprefix(_SQLITE).split("?")[0])


def portable_repository(artifact_uri: str, tracking_uri: str | None = None, registry_uri: str | None = None) -> Any:
    """Where `mlflow-artifacts:/...` leads: a folder beside a SQLite database, or else a server, as MLflow does."""
    uri = tracking_uri or mlflow.get_tracking_uri()
    if not uri.startswith(_SQLITE):
        return MlflowArtifactsRepository(artifact_uri, tracking_uri=uri, registry_uri=registry_uri)
    base = (database_path(uri).parent / ARTIFACTS).resolve()
    folder = (base / urlparse(artifact_uri).path.lstrip("/")).resolve()
    if not folder.is_relative_to(base):
        raise ValueError(f"artifact location {artifact_uri} leads out of {base}")
    # A plain path, not a file: URI, so that a space or a percent sign in it needs no quoting.
    return LocalArtifactRepository(str(folder), tracking_uri=uri, registry_uri=registry_uri)


def register_repository() -> None:
    """Let MLflow's client in this process resolve portable locations. Harmless when called again."""
    artifact_repository_registry._artifact_repository_registry.register(SCHEME, portable_repository)


def delete_artifacts(location: str, tracking_uri: str) -> None:
    """Delete the artifacts at a location, which MLflow's client cannot."""
    artifact_repository_registry.get_artifact_repository(location, tracking_uri=tracking_uri).delete_artifacts()


def last_points(run: Any) -> dict[str, tuple[int, float]]:
    """Step and value of the last point of every metric; MLflow's public view of a run has no steps."""
    return {metric.key: (int(metric.step), float(metric.value)) for metric in run.data._metric_objs}


def write_database(path: Path) -> None:
    """Make a database with all tables, whose artifacts are portable.

    MLflow runs its whole chain of migrations here, one disk flush each; without the flushes it takes 1.5 instead of
    6 seconds on a slow disk. The file is flushed once, at the end.
    """

    def without_flushes(connection: Any, _: Any) -> None:
        connection.execute("PRAGMA synchronous=OFF")

    event.listen(Engine, "connect", without_flushes)
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)  # its news are no news to the user
    try:
        SqlAlchemyStore(f"{_SQLITE}{path}", f"{SCHEME}:/").engine.dispose()
        with path.open("rb") as written:
            os.fsync(written.fileno())
    finally:
        event.remove(Engine, "connect", without_flushes)


@contextmanager
def transaction(file: Path) -> Iterator[sqlite3.Connection]:
    """A transaction that may write from the start: kept as the block ends, taken back where the block raises."""
    uri = f"{file.as_uri()}?mode=rw"
    with closing(sqlite3.connect(uri, uri=True, timeout=LOCK_SECONDS, isolation_level=None)) as database, database:
        database.execute("BEGIN IMMEDIATE")
        yield database


def has_tables(database: sqlite3.Connection) -> bool:
    """Whether an open database is one of MLflow's."""
    return bool(database.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (EXPERIMENTS,)).fetchall())


_OF_ALIAS = "WHERE workspace = ? AND name = ? AND alias = ?"


def aliased(database: sqlite3.Connection, name: str, alias: str) -> int | None:
    """The version of a registered model that has the alias."""
    of = (DEFAULT_WORKSPACE_NAME, name, alias)
    row = database.execute(f"SELECT version FROM {ALIASES} {_OF_ALIAS}", of).fetchone()
    return int(row[0]) if row else None


def set_aliases(database: sqlite3.Connection, name: str, moves: Mapping[str, int | None], tag: tuple[str, str]) -> None:
    """Set aliases of a registered model (None removes one) and a tag of it."""
    model = (DEFAULT_WORKSPACE_NAME, name)
    for alias, number in moves.items():
        database.execute(f"DELETE FROM {ALIASES} {_OF_ALIAS}", (*model, alias))
        if number is not None:
            values = (*model, alias, number)
            database.execute(f"INSERT INTO {ALIASES} (workspace, name, alias, version) VALUES (?, ?, ?, ?)", values)
    database.execute(f"INSERT INTO {TAGS} (workspace, name, key, value) VALUES (?, ?, ?, ?)", (*model, *tag))
