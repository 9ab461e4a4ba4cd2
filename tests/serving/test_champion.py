"""The follower of an alias: it swaps when the registry does, and goes on with what it has when the registry is away."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient

from classifier.models.detector import Detector
from serving import champion as module
from serving.champion import Follower
from tracking.registry import Registry
from tracking.store import Store, TrackingError

Register = Callable[..., int]


@pytest.fixture(scope="module")
def versions(register: Register, make_detector: Callable[..., Detector]) -> tuple[int, int]:
    return register(make_detector(), "first"), register(make_detector(seed=3), "second")


def crown(store: Store, version: int) -> None:
    registry = Registry(store)
    now = registry.champion()
    registry.promote(version, {"passed": True}, why="a test", against=now.number if now else None)


def test_it_follows_the_alias(store: Store, versions: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    follower = Follower("champion", store.root, device="cpu")
    follower.look()
    assert follower.current is None
    assert follower.problem
    crown(store, versions[0])
    follower.look()
    first = follower.current
    assert first is not None
    assert (first.version, follower.problem, follower.swaps) == (versions[0], "", 0)
    follower.look()
    assert follower.current is first  # not loaded again
    crown(store, versions[1])
    follower.look()
    assert follower.current is not None
    assert (follower.current.version, follower.swaps) == (versions[1], 1)
    face = np.zeros((1, first.image_size, first.image_size, 3), np.uint8)
    first.logits(face)  # who began with it ends with it

    def away(*_: object) -> None:
        raise TrackingError("the registry is away")

    monkeypatch.setattr(module, "find_model", away)
    second = follower.current
    follower.look()
    assert follower.current is second
    assert follower.problem == "the registry is away"


def test_a_verdict_of_the_model_before_is_not_explained_by_the_next(
    store: Store, versions: tuple[int, int], serve: Callable[..., TestClient], media: Path
) -> None:
    crown(store, versions[0])
    client = serve(model="champion", mlruns=store.root, poll_seconds=600)
    service = client.app.state.service  # type: ignore[attr-defined]
    files = {"file": ("one.png", (media / "one.png").read_bytes())}
    told = client.post("/v1/verdicts", files=files).json()
    assert told["model"]["version"] == versions[0]
    assert client.get(f"/v1/verdicts/{told['id']}/heatmap.png").status_code == 200
    assert "counterforge-detector" in client.get("/v1/model").json()["card"]
    crown(store, versions[1])
    service.champion.look()
    assert client.post("/v1/verdicts", files=files).json()["model"]["version"] == versions[1]
    answer = client.get(f"/v1/verdicts/{told['id']}/heatmap.png")
    assert answer.status_code == 409
    assert f"version {versions[0]} judged it" in answer.json()["detail"]
