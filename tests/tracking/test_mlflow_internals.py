"""What we use of MLflow's private interfaces is there; where it is not, the failure says what is gone."""

from __future__ import annotations

import inspect
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import mlflow
import pytest

from tracking.store import Store


def columns(store: Store, table: str) -> set[str]:
    with closing(sqlite3.connect(store.root / "mlflow.db")) as database:
        return {row[1] for row in database.execute(f"PRAGMA table_info({table})")}


def ui_knows(text: str) -> bool:
    scripts = Path(mlflow.__file__).parent / "server" / "js" / "build" / "static" / "js"
    return any(text in script.read_text(errors="replace") for script in scripts.glob("*.js"))


def _repositories() -> bool:
    from mlflow.store.artifact import artifact_repository_registry as registry
    from mlflow.store.artifact.artifact_repo import ArtifactRepository

    return hasattr(registry._artifact_repository_registry, "register") and hasattr(
        ArtifactRepository, "delete_artifacts"
    )


def _store_class() -> bool:
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    return list(inspect.signature(SqlAlchemyStore).parameters)[:2] == ["db_uri", "default_artifact_root"]


def _workspace() -> bool:
    from mlflow.utils.workspace_utils import DEFAULT_WORKSPACE_NAME

    return isinstance(DEFAULT_WORKSPACE_NAME, str)


USED: dict[str, Callable[[Store], bool]] = {
    "columns of the table registered_model_aliases": lambda store: (
        columns(store, "registered_model_aliases") == {"workspace", "name", "alias", "version"}
    ),
    "columns of the table registered_model_tags": lambda store: (
        columns(store, "registered_model_tags") == {"workspace", "name", "key", "value"}
    ),
    "table experiments": lambda store: "experiment_id" in columns(store, "experiments"),
    "registry of artifact repositories that takes a scheme, and delete_artifacts": lambda _: _repositories(),
    "SqlAlchemyStore(db_uri, default_artifact_root)": lambda _: _store_class(),
    "DEFAULT_WORKSPACE_NAME": lambda _: _workspace(),
    "RunData._metric_objs": lambda _: hasattr(mlflow.entities.RunData(), "_metric_objs"),
    "kind of experiment custom_model_development in the UI": lambda _: ui_knows("custom_model_development"),
    "shared view of an experiment in the UI": lambda _: ui_knows("mlflow.sharedViewState."),
    "selected columns of a view in the UI": lambda _: ui_knows("selectedColumns"),
}


@pytest.mark.parametrize("name", USED)
def test_the_installed_mlflow_has_what_we_use(name: str, store: Store) -> None:
    try:
        has = USED[name](store)
    except (ImportError, AttributeError, sqlite3.Error):
        has = False
    assert has, (
        f"MLflow {mlflow.__version__} no longer has: {name}. Adapt tracking/mlflow_internals.py to it, or lower the "
        "upper bound of mlflow in pyproject.toml."
    )
