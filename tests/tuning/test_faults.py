"""What may happen to a study at night: killed workers, a torn journal, a full disk. Nothing lost, nothing twice."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

import tuning
from tests.tuning.killable_workers import STEPS, settings, worker
from tracking.store import Store
from tuning import worker as worker_module
from tuning.queue import TrialQueue, concluded, slot_of
from tuning.storage import StudyStorage

ROOT = Path(tuning.__file__).parents[1]


def killable_workers(*words: object, **environment: str) -> dict[str, Any]:
    """Run the killable workers to their end."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests" / "tuning" / "killable_workers.py"), *map(str, words)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "MLFLOW_TRACKING_URI": ""} | environment,
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return dict(json.loads(done.stdout.splitlines()[-1]))


def check_nothing_lost_nothing_twice(study: optuna.Study, store: Store, total: int, kills: int) -> None:
    """Every slot done once, no zombie, one run a trial, each step in it once, at most a step repeated a kill."""
    trials = study.get_trials()
    assert [slot_of(t) for t in concluded(trials)] == list(range(total))
    assert Counter(t.state for t in trials)[TrialState.COMPLETE] == total
    assert {t.state for t in trials} <= {TrialState.COMPLETE, TrialState.FAIL}
    runs = store.client.search_runs([store.experiment(study.study_name)], max_results=1000)
    assert sorted(r.info.run_name for r in runs) == [f"trial-{place:03d}" for place in range(total)]
    assert {r.info.status for r in runs} == {"FINISHED"}
    for each in runs:
        steps = [metric.step for metric in store.client.get_metric_history(each.info.run_id, "loss")]
        assert steps == list(range(STEPS))
    made = (store.root / "tiny" / study.study_name / "steps.log").read_text().split("\n")[:-1]
    assert total * STEPS <= len(made) <= total * STEPS + kills


def test_workers_killed_twenty_times_at_random_moments(tmp_path: Path, store: Store) -> None:
    address = str(tmp_path / "night.journal")
    outcome = killable_workers(address, "night", store.root, 24, 2, 20, 5)
    assert outcome["kills"] == 20
    study = optuna.load_study(study_name="night", storage=StudyStorage(address).open())
    check_nothing_lost_nothing_twice(study, store, 24, 20)
    assert any(t.state == TrialState.FAIL for t in study.get_trials())  # some were in the middle of a trial


def test_two_studies_of_one_total_never_begin_one_more(tmp_path: Path, store: Store) -> None:
    """Optuna's own MaxTrialsCallback ran 9 of 8 trials with two workers."""
    address = str(tmp_path / "exact.journal")
    killable_workers(address, "exact", store.root, 7, 3, 0, 0)
    study = optuna.load_study(study_name="exact", storage=StudyStorage(address).open())
    assert len(study.get_trials()) == 7


@pytest.mark.parametrize("torn", [b'{"op_code":4,"work', b'{"op_code":5}', b"\0\0\0"])
def test_a_torn_line_at_the_end_of_the_journal_is_cut_off(tmp_path: Path, store: Store, torn: bytes) -> None:
    name = f"torn-{len(torn)}"
    address = tmp_path / f"{name}.journal"
    worker(str(address), name, str(store.root), 2)
    whole = address.read_bytes()
    address.write_bytes(whole + torn)
    worker(str(address), name, str(store.root), 3)
    content = address.read_bytes()
    assert content.startswith(whole)
    assert torn not in content[len(whole) :].split(b"\n")[0]
    assert len(optuna.load_study(study_name=name, storage=StudyStorage(str(address)).open()).get_trials()) == 3


FULL = """
import resource, sys
from pathlib import Path
from killable_workers import worker
address, name, mlruns = sys.argv[1:]
limit = Path(address).stat().st_size + 700
from tracking.store import open_store
open_store(Path(mlruns))
import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
import tracking.runs
import tuning.storage
append = tuning.storage.JournalFileBackend.append_logs
def limited(self, logs):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        append(self, logs)
    except OSError:
        print("torn" if not Path(address).read_bytes().endswith(b"\\n") else "whole")
        raise
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
tuning.storage.JournalFileBackend.append_logs = limited
try:
    worker(address, name, mlruns, 6)
except OSError as error:
    print(error.errno)
    sys.exit(3)
"""


def test_a_full_disk_stops_the_worker_and_loses_nothing(tmp_path: Path, store: Store) -> None:
    """The kernel refuses to let the journal grow, in the middle of a line; then there is room again."""
    address = str(tmp_path / "full.journal")
    worker(address, "full", str(store.root), 2)
    before = len(Path(address).read_bytes().splitlines())
    done = subprocess.run(
        [sys.executable, "-c", FULL, address, "full", str(store.root)],
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT}/tests/tuning", "MLFLOW_TRACKING_URI": ""},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 3, done.stderr[-2000:]
    assert len(Path(address).read_bytes().splitlines()) > before
    assert "torn" in done.stdout  # part of a line came to the disk
    worker(address, "full", str(store.root), 6)
    study = optuna.load_study(study_name="full", storage=StudyStorage(address).open())
    check_nothing_lost_nothing_twice(study, store, 6, 1)


def test_a_trial_that_kills_every_worker_is_given_up(tmp_path: Path) -> None:
    storage = StudyStorage(str(tmp_path / "poison.journal"))
    study = optuna.create_study(study_name="poison", storage=storage.open(), direction="maximize")
    limited = settings(1, retries=2)
    for _ in range(3):
        trial = TrialQueue(study, storage, limited).take()  # a worker that is never heard of again
        assert isinstance(trial, optuna.Trial)
        trial.suggest_float("x", 0, 1)
    last = TrialQueue(study, storage, limited)
    made_up = last.take()  # the slot is given up, and made up for by another one
    assert isinstance(made_up, optuna.Trial)
    assert slot_of(made_up) == 1
    failed = [t for t in study.get_trials() if t.state == TrialState.FAIL]
    assert len(failed) == 3
    assert len({t.params["x"] for t in failed}) == 1  # the same trial each time
    assert failed[-1].user_attrs["error"] == "its worker was killed each time"


def test_an_interrupted_trial_waits_without_losing_a_try(tmp_path: Path) -> None:
    storage = StudyStorage(str(tmp_path / "stop.journal"))
    study = optuna.create_study(study_name="stop", storage=storage.open(), direction="maximize")
    first = TrialQueue(study, storage, settings(1))
    with first.alive():
        trial = first.take()
        assert isinstance(trial, optuna.Trial)
        x = trial.suggest_float("x", 0, 1)
        assert TrialQueue(study, storage, settings(1)).take() is None  # it lives: nobody takes its slot
        first.give_back(trial)
    second = TrialQueue(study, storage, settings(1))
    with second.alive():
        again = second.take()
        assert isinstance(again, optuna.Trial)
        assert (again.number, again.suggest_float("x", 0, 1)) == (trial.number, x)
        first.give_back(trial)  # once more, as after a database that could not confirm it
        assert TrialQueue(study, storage, settings(1)).take() is None  # it is the second one's now


def test_who_waits_for_the_trials_of_others_says_so_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(worker_module, "SAID_AFTER_SECONDS", 0.1)
    monkeypatch.setattr(worker_module, "IDLE_SECONDS", 0.05)
    storage = StudyStorage(str(tmp_path / "wait.journal"))
    study = optuna.create_study(study_name="wait", storage=storage.open(), direction="maximize")
    one, other = (TrialQueue(study, storage, settings(1)) for _ in range(2))
    ends: list[str] = []

    def said() -> list[str]:
        return [message for message in caplog.messages if "with other workers" in message]

    with one.alive():
        trial = one.take()
        assert isinstance(trial, optuna.Trial)
        outcome = worker_module.Outcome([1.0])
        waiting = threading.Thread(target=lambda: ends.append(worker_module.work(other, lambda *_: outcome)))
        waiting.start()
        deadline = time.monotonic() + 60
        while not said() and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(0.5)  # it could say so again
        study.tell(trial, 0.5)
        waiting.join(60)
    assert len(said()) == 1
    assert ends
    assert study.best_value == 0.5
