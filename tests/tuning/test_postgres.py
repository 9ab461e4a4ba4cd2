"""The same study on many machines: over a real PostgreSQL server, whose workers, and which itself, may be killed."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import optuna
import psutil
import pytest
from optuna.trial import TrialState

from tests.tuning import postgres
from tests.tuning.killable_workers import settings
from tests.tuning.test_faults import check_nothing_lost_nothing_twice, killable_workers
from tests.tuning.test_study import config
from tracking.store import Store
from tuning.queue import TrialQueue
from tuning.status import overview
from tuning.storage import AWAY, StudyStorage, load
from tuning.study import launch
from tuning.trial import TrialContext, TrialSpec
from tuning.worker import join


@pytest.fixture(scope="module")
def server() -> Iterator[postgres.Postgres]:
    yield from postgres.running()


def test_workers_of_many_machines_killed_at_random_moments(server: postgres.Postgres, store: Store) -> None:
    killable_workers(server.url, "far", store.root, 12, 2, 6, 3)
    study = optuna.load_study(study_name="far", storage=StudyStorage(server.url).open())
    check_nothing_lost_nothing_twice(study, store, 12, 6)


def test_the_database_is_killed_in_the_middle(server: postgres.Postgres, store: Store) -> None:
    steps = store.root / "tiny" / "outage" / "steps.log"
    outages: list[float] = []

    def trouble() -> None:
        for _ in range(2):
            size = steps.stat().st_size if steps.exists() else 0
            while not steps.exists() or steps.stat().st_size <= size:
                time.sleep(0.01)
            server.kill()
            time.sleep(1.5)
            server.start()
            outages.append(time.monotonic())

    thread = threading.Thread(target=trouble, daemon=True)
    thread.start()
    try:
        killable_workers(server.url, "outage", store.root, 20, 2, 0, 0)
    finally:
        thread.join(timeout=150)
    assert len(outages) == 2
    study = optuna.load_study(study_name="outage", storage=StudyStorage(server.url).open())
    check_nothing_lost_nothing_twice(study, store, 20, 4)


def test_who_lost_the_lock_with_the_database_writes_nothing(server: postgres.Postgres) -> None:
    storage = StudyStorage(server.url)
    study = optuna.create_study(study_name="fenced", storage=storage.open())

    def write_on_after_an_outage() -> None:
        with storage.lock("fenced"):
            study.set_user_attr("before", 1)
            study.enqueue_trial({"x": 0.5})
            server.kill()
            server.start()
            study.set_user_attr("after", 1)

    with pytest.raises(AWAY):
        write_on_after_an_outage()
    assert study.user_attrs == {}
    assert study.get_trials() == []


def test_an_outage_is_not_held_against_those_who_could_not_say_that_they_live(server: postgres.Postgres) -> None:
    storage = StudyStorage(server.url, beat_seconds=2, silence_seconds=3)
    study = optuna.create_study(study_name="deaf", storage=storage.open(), direction="maximize")
    first = TrialQueue(study, storage, settings(1))
    trial = first.take()
    assert isinstance(trial, optuna.Trial)
    with storage.heartbeat(trial):
        server.kill()
        time.sleep(4)
        server.start()
        assert TrialQueue(study, storage, settings(1)).take() is None
    first.finish(trial, TrialState.COMPLETE, [0.5])
    assert [t.state for t in study.get_trials()] == [TrialState.COMPLETE]


def test_a_study_in_a_database_is_launched_joined_and_listed(
    server: postgres.Postgres, base: TrialSpec, context: TrialContext, store: Store
) -> None:
    result = launch(config(trials=2, storage=server.url), base, context)
    assert len(result.history) == 2
    more = launch(config(trials=4, storage=server.url), base, context, workers=2)
    assert (more.name, more.history["trial"].tolist()) == (result.name, [0, 1, 2, 3])
    listed = overview(store.root, server.url).set_index("study")
    assert listed["complete"][result.name] == 4
    # One more worker finds nothing to do and says so.
    assert join(server.url, result.name) == "all 4 trials are done"


def test_the_password_of_the_database_is_nowhere_to_be_read(
    server: postgres.Postgres, base: TrialSpec, context: TrialContext, store: Store, capfd: pytest.CaptureFixture[str]
) -> None:
    secret = "s3cret-w0rd-of-the-database"
    address = server.url.replace("tester@", f"tester:{secret}@")
    seen: list[str] = []
    over = threading.Event()

    def watch() -> None:
        while not over.is_set():
            for process in psutil.process_iter(["cmdline"]):
                seen.append(" ".join(process.info["cmdline"] or []))
            time.sleep(0.2)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        result = launch(config(name="secret", trials=2, storage=address), base, context, workers=2)
    finally:
        over.set()
        thread.join(timeout=60)
    assert any(f"tuning.worker {result.name}" in line for line in seen)  # the workers were seen
    study = load(store.root, result.name, address)
    runs = store.client.search_runs([store.experiment(context.experiment)])
    kept = [*seen, str(study.user_attrs), *map(str, study.get_trials()), *(str(run.data) for run in runs)]
    files = [path for folder in (context.work, store.root) for path in folder.rglob("*") if path.is_file()]
    assert any(path.name == "worker-1.log" for path in files)
    kept += [path.read_bytes().decode("latin-1") for path in files]
    assert [each[:200] for each in [*kept, *capfd.readouterr()] if secret in each] == []


def test_a_silent_worker_is_found_by_its_heartbeat(server: postgres.Postgres) -> None:
    storage = StudyStorage(server.url, beat_seconds=1, silence_seconds=2)
    study = optuna.create_study(study_name="silent", storage=storage.open(), direction="maximize")
    lost = TrialQueue(study, storage, settings(1)).take()
    assert isinstance(lost, optuna.Trial)
    x = lost.suggest_float("x", 0, 1)
    other = TrialQueue(study, storage, settings(1, retries=1))
    deadline = time.monotonic() + 60
    while (again := other.take()) is None:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert isinstance(again, optuna.Trial)
    assert again.suggest_float("x", 0, 1) == x
    assert {t.state for t in study.get_trials()} == {TrialState.FAIL, TrialState.RUNNING}
