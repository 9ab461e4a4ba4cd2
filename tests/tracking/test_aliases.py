"""Who moves the champion: all aliases at once, against the champion that was compared with, and remembered for good."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tracking.models import log_detector
from tracking.registry import ConcurrentPromotionError, Registry, event
from tracking.runs import run
from tracking.store import Store, TrackingError, open_store


@pytest.fixture
def registry(store: Store, experiment: str, make_checkpoint: Callable[[int], Path]) -> Registry:
    """Three versions, of which the first is the champion."""
    made = Registry(store, experiment.replace(" ", "-").replace("/", "-").replace(":", "-")[:60])
    with run(store, experiment, "r", key="k") as handle:
        for seed in range(3):
            made.register(log_detector(handle, name=f"d{seed}", folder=make_checkpoint(seed)))
    made.promote(1, {}, why="the first")
    return made


def aliases(registry: Registry) -> dict[str, int]:
    return {alias: version.number for version in registry.versions() for alias in version.aliases}


def test_history_keeps_every_change(registry: Registry) -> None:
    registry.promote(2, {}, why="better")
    registry.rollback("it was slow")
    told = [(event.what, event.version, event.before, event.why) for event in registry.history()]
    assert told == [("rollback", 1, 2, "it was slow"), ("promote", 2, 1, "better"), ("promote", 1, None, "the first")]
    assert all("@" in event.who and event.when >= "2026" for event in registry.history())
    assert Registry(registry.store, "nobody").history() == []


def test_a_decision_against_a_champion_of_before_is_refused(registry: Registry) -> None:
    registry.promote(2, {}, against=1)
    before = registry.history()
    with pytest.raises(
        ConcurrentPromotionError, match=r"version 3 .* when version 1 was the champion, but version 2 is it now"
    ):
        registry.promote(3, {}, against=1)
    assert aliases(registry) == {"champion": 2, "previous": 1}
    assert registry.history() == before
    registry.promote(2, {}, against=1)  # what is done already is no collision
    assert registry.history() == before
    assert registry.promote(3, {}, against=2).number == 3


PROMOTE = """
import sys, time
from pathlib import Path
from tracking.registry import ConcurrentPromotionError, Registry
from tracking.store import open_store

root, name, version, ready, start = sys.argv[1:]
registry = Registry(open_store(Path(root)), name)
champion = registry.champion()
Path(ready).touch()
while not Path(start).exists():
    time.sleep(0.001)
try:
    registry.promote(version, {}, against=champion.number)
    print("won")
except ConcurrentPromotionError as error:
    print(error)
"""


def test_two_processes_at_once_leave_one_winner(registry: Registry, tmp_path: Path) -> None:
    start = tmp_path / "start"
    ready = [tmp_path / f"ready-{number}" for number in (2, 3)]
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", PROMOTE, str(registry.store.root), registry.name, number, str(flag), str(start)],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        )
        for number, flag in zip(("2", "3"), ready, strict=True)
    ]
    while not all(flag.exists() for flag in ready):
        assert all(racer.poll() in (None, 0) for racer in racers)
        time.sleep(0.05)
    start.touch()
    said = [racer.communicate(timeout=120)[0].strip() for racer in racers]
    assert said.count("won") == 1
    winner = 2 + said.index("won")
    assert f"but version {winner} is it now" in said[1 - said.index("won")]
    assert aliases(registry) == {"champion": winner, "previous": 1}
    assert [event.version for event in registry.history()] == [winner, 1]


def test_killed_in_the_middle_nothing_has_moved(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    """The record is written last in the transaction: a failure there takes the aliases back."""
    with monkeypatch.context() as patch:
        patch.setattr("tracking.registry.shortened", lambda *_: object())  # SQLite refuses to store it
        with pytest.raises(Exception, match=r"binding|type"):
            registry.promote(2, {})
    assert aliases(registry) == {"champion": 1}
    registry.promote(2, {})
    assert aliases(registry) == {"champion": 2, "previous": 1}


def test_through_a_server(registry: Registry, server: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The champion is compared before and after; what the server did in between is found, and said."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    remote = Registry(open_store(tmp_path), registry.name)
    remote.promote(2, {}, why="by the server")
    assert aliases(registry) == {"champion": 2, "previous": 1}
    assert registry.history()[0].why == "by the server"
    with pytest.raises(ConcurrentPromotionError, match="version 2 is it now"):
        remote.promote(3, {}, against=1)
    client = type(remote.store.client)
    real = client.set_registered_model_alias

    def somebody_else_follows(self: object, name: str, alias: str, version: str) -> None:
        real(self, name, alias, version)
        if alias == "champion":
            real(self, name, alias, "1")

    with monkeypatch.context() as patch:
        patch.setattr(client, "set_registered_model_alias", somebody_else_follows)
        with pytest.raises(ConcurrentPromotionError, match=r"same moment as version 1, and version 1 is the champion"):
            remote.promote(3, {})

    def killed_before_the_champion(self: object, name: str, alias: str, version: str) -> None:
        if alias == "champion":
            raise KeyboardInterrupt
        real(self, name, alias, version)

    registry.promote(2, {})
    with monkeypatch.context() as patch:
        patch.setattr(client, "set_registered_model_alias", killed_before_the_champion)
        with pytest.raises(KeyboardInterrupt):
            remote.promote(3, {})
    assert aliases(registry)["champion"] == 2
    remote.promote(3, {})
    assert aliases(registry) == {"champion": 3, "previous": 2}


def test_a_store_without_the_tables_is_named(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").touch()
    empty = Registry(Store(f"sqlite:///{tmp_path / 'mlflow.db'}", tmp_path), "x")
    with pytest.raises(TrackingError, match=r"cannot move the aliases of x .*no such table"):
        empty._move({"champion": 1}, event("promote", 1, None, "why"))
