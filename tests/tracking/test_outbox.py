"""A server that goes away: the work goes on, and its metrics arrive later, once and in order."""

from __future__ import annotations

import os
import signal
import time

import pytest

from tracking.runs import Outbox, run
from tracking.store import Store, TrackingError, open_store
from tracking.ui import serve


def losses(store: Store, run_id: str) -> list[tuple[int, float]]:
    return [(m.step, m.value) for m in store.client.get_metric_history(run_id, "loss")]


def test_metrics_wait_for_a_server_that_was_killed(
    store: Store, experiment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tracking.runs.PAUSE_SECONDS", 0.2)
    with serve(store.root) as first:
        port = int(first.address.rsplit(":", 1)[1])
        monkeypatch.setenv("MLFLOW_TRACKING_URI", first.address)
        through = open_store(store.root)
        handle = run(through, experiment, "r", key="k")
        active = handle.__enter__()
        active.metrics({"loss": 0.0}, 0)
        os.killpg(first.process.pid, signal.SIGKILL)
        first.process.wait()
        for step in range(1, 6):  # an epoch is over, and the next, and nobody listens
            active.metrics({"loss": float(step)}, step)
            time.sleep(0.1)
        assert len(active._outbox.waiting) == 5
    with serve(store.root, port):
        time.sleep(0.3)
        active.metrics({"loss": 6.0}, 6)  # the first call that reaches it brings everything
        assert not active._outbox.waiting
        assert losses(through, active.id) == [(step, float(step)) for step in range(7)]
        handle.__exit__(None, None, None)
        assert through.client.get_run(active.id).info.status == "FINISHED"


def test_what_waits_is_sent_when_the_run_ends(store: Store, experiment: str, server: str) -> None:
    os.environ["MLFLOW_TRACKING_URI"] = server
    try:
        through = open_store(store.root)
    finally:
        del os.environ["MLFLOW_TRACKING_URI"]
    with run(through, experiment, "r", key="k") as active:
        active._outbox._silent_until = time.monotonic() + 1000
        active.metrics({"loss": 1.0}, 1)
        assert losses(through, active.id) == []
    assert losses(through, active.id) == [(1, 1.0)]


def test_a_server_that_refuses_is_not_waited_for(
    store: Store, experiment: str, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    through = open_store(store.root)
    with run(through, experiment, "r", key="k") as active:
        outbox, active._outbox = active._outbox, Outbox(through, "0" * 32)  # no such run
        with pytest.raises(TrackingError, match="log metrics"):
            active.metrics({"loss": 1.0}, 1)
        active._outbox = outbox
