"""Artifact locations that survive a move of the folder.

MLflow stores an absolute path for every experiment, run and model when it writes to SQLite without a server, so that a
moved folder loses its artifacts. A server stores `mlflow-artifacts:/1/...` instead and looks below its
`--artifacts-destination`. We store the same locations without a server: this module teaches MLflow's client that under
a SQLite tracking URI `mlflow-artifacts:/1/...` means the folder `artifacts/1/...` beside the database. One process
may write directly and the next one through a server: both see the same files, and nothing has to be started.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import mlflow
from mlflow.store.artifact import artifact_repository_registry as registry
from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository
from mlflow.store.artifact.mlflow_artifacts_repo import MlflowArtifactsRepository

SCHEME = "mlflow-artifacts"
FOLDER = "artifacts"
_SQLITE = "sqlite:///"


def database_path(tracking_uri: str) -> Path:
    """The database file of a `sqlite:///...` URI."""
    return Path(tracking_uri.removeprefix(_SQLITE).split("?")[0])


def portable_repository(artifact_uri: str, tracking_uri: str | None = None, registry_uri: str | None = None) -> Any:
    """Where `mlflow-artifacts:/...` leads: a folder beside a SQLite database, or else a server, as MLflow does."""
    uri = tracking_uri or mlflow.get_tracking_uri()
    if not uri.startswith(_SQLITE):
        return MlflowArtifactsRepository(artifact_uri, tracking_uri=uri, registry_uri=registry_uri)
    base = (database_path(uri).parent / FOLDER).resolve()
    folder = (base / urlparse(artifact_uri).path.lstrip("/")).resolve()
    if not folder.is_relative_to(base):
        raise ValueError(f"artifact location {artifact_uri} leads out of {base}")
    # A plain path, not a file: URI, so that a space or a percent sign in it needs no quoting.
    return LocalArtifactRepository(str(folder), tracking_uri=uri, registry_uri=registry_uri)


def register() -> None:
    """Let MLflow's client in this process resolve portable locations. Harmless when called again."""
    registry._artifact_repository_registry.register(SCHEME, portable_repository)
