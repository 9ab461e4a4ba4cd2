"""One real database for all tests of tracking: making one takes a second or two."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tracking.store import Store, open_store
from tracking.ui import serve


@pytest.fixture(scope="session", autouse=True)
def _no_inherited_server() -> Iterator[None]:
    before = os.environ.pop("MLFLOW_TRACKING_URI", None)
    yield
    if before is not None:
        os.environ["MLFLOW_TRACKING_URI"] = before


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store in a folder, without a server."""
    return open_store(tmp_path_factory.mktemp("tracking") / "mlruns")


@pytest.fixture(scope="session")
def server(store: Store) -> Iterator[str]:
    """The address of one real MLflow server over the same folder."""
    with serve(store.root) as running:
        yield running.address


@pytest.fixture
def experiment(request: pytest.FixtureRequest) -> str:
    """A name of its own for every test, so that tests sharing the database do not meet."""
    return f"{request.node.name} {request.node.nodeid[-12:]}"


@pytest.fixture
def make_checkpoint(tmp_path: Path) -> Callable[[int], Path]:
    """Makes what a finished training leaves, by seed; the weights need not be weights here."""

    def make(seed: int) -> Path:
        folder = tmp_path / f"checkpoint-{seed}"
        folder.mkdir()
        (folder / "weights.safetensors").write_bytes(bytes((seed + i) % 256 for i in range(4096)))
        (folder / "config.json").write_text(json.dumps({"backbone": "tf_efficientnet_lite0", "seed": seed}))
        (folder / "history.json").write_text("[]")
        (folder / "training.pt").write_bytes(b"state that is no part of the model")
        return folder

    return make


@pytest.fixture
def checkpoint(make_checkpoint: Callable[[int], Path]) -> Path:
    return make_checkpoint(0)
