"""A service over a small model, and media with faces of the ORL photographs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from serving.api import create_app
from serving.config import ServingConfig
from tests.pipelines.conftest import cache, faces, make_detector, register, store  # noqa: F401
from tests.pipelines.prediction.conftest import media, model_folder  # noqa: F401


@pytest.fixture(scope="module")
def serve(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., TestClient]]:  # noqa: F811
    """Starts a service with these settings; all end with the module."""
    running: list[TestClient] = []

    def start(**settings: object) -> TestClient:
        own = {"model": str(model_folder), "data": tmp_path_factory.mktemp("serving"), "workers": 1, "device": "cpu"}
        client = TestClient(create_app(ServingConfig.model_validate(own | settings)))
        client.__enter__()
        running.append(client)
        return client

    yield start
    for client in running:
        client.__exit__()
