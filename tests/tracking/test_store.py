"""Where runs live: portable, checked before work starts, and never somewhere else."""

from __future__ import annotations

import json
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import time
from collections import namedtuple
from contextlib import closing
from pathlib import Path

import mlflow
import pytest

import tracking
from tracking.runs import run
from tracking.store import Store, TrackingError, explained, open_store
from tracking.ui import serve, share_view, ui

PROJECT = Path(tracking.__file__).parents[1]


def run_python(code: str, *arguments: object, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {k: v for k, v in os.environ.items() if k != "MLFLOW_TRACKING_URI"} | {"PYTHONPATH": str(PROJECT)}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, env=env | environment, capture_output=True, text=True, timeout=120)


def test_a_folder_becomes_a_store_and_opens_again(store: Store) -> None:
    assert store.tracking_uri.startswith(f"sqlite:///{store.root}/mlflow.db")
    again = open_store(store.root)
    assert again == store
    assert not again.is_server
    assert not list(store.root.glob(".mlflow.db-*"))
    assert not list(store.root.glob(".probe-*"))
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"


def test_opening_leaves_the_environment_but_points_global_mlflow_at_the_store(store: Store) -> None:
    open_store(store.root)
    assert "MLFLOW_TRACKING_URI" not in os.environ
    assert mlflow.get_tracking_uri() == mlflow.get_registry_uri() == store.tracking_uri


def test_a_relative_root_with_spaces_and_a_leftover_file_store_do_no_harm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my runs" / "0").mkdir(parents=True)
    (tmp_path / "my runs" / "0" / "meta.yaml").write_text("experiment_id: 0\n")
    monkeypatch.chdir(tmp_path)
    store = open_store(Path("my runs"))
    made = store.client.create_run(store.experiment("é / ü"))
    monkeypatch.chdir("/")
    store.client.log_text(made.info.run_id, "hello", "a.txt")
    assert (store.root / "mlflow.db").stat().st_size > 0
    assert [path.read_text() for path in (store.root / "artifacts").rglob("a.txt")] == ["hello"]


def test_no_stored_location_holds_a_path_of_this_machine(store: Store, experiment: str) -> None:
    made = store.client.create_run(store.experiment(experiment))
    store.client.create_logged_model(made.info.experiment_id, "m", made.info.run_id)
    columns = {"experiments": "artifact_location", "runs": "artifact_uri", "logged_models": "artifact_location"}
    with sqlite3.connect(store.root / "mlflow.db") as database:
        for table, column in columns.items():
            locations = [row[0] for row in database.execute(f"SELECT {column} FROM {table}")]
            assert locations
            assert all(location.startswith("mlflow-artifacts:/") for location in locations)


def test_experiments_open_in_the_view_for_models(store: Store, experiment: str) -> None:
    old = store.client.create_experiment(f"{experiment} old")  # as versions before made it
    for name, known in ((experiment, None), (f"{experiment} old", old)):
        made = store.experiment(name)
        assert known in (None, made)
        kind = store.client.get_experiment(made).tags["mlflow.experimentKind"]
        assert kind == "custom_model_development"


def test_the_shared_view_shows_the_objective_and_every_auc(store: Store, experiment: str) -> None:
    experiment_id = store.experiment(experiment)
    assert not share_view(store, experiment_id)
    with run(store, experiment, "r", key="k") as handle:
        handle.metrics({"auc/near": 0.5, "loss": 1.0, "objective": 0.7})
    assert share_view(store, experiment_id)
    state = json.loads(store.client.get_experiment(experiment_id).tags["mlflow.sharedViewState.counterforge"])
    assert state["selectedColumns"] == ["attributes.`Models`", "metrics.`objective`", "metrics.`auc/near`"]


def test_experiments_are_made_once_and_deleted_ones_are_explained(store: Store, experiment: str) -> None:
    first = store.experiment(experiment)
    assert store.experiment(experiment) == first
    store.client.delete_experiment(first)
    with pytest.raises(TrackingError, match=r"was deleted .*mlflow experiments restore -x"):
        store.experiment(experiment)
    with pytest.raises(TrackingError, match="empty name"):
        store.experiment(" ")


MOVED = """
import sys; from pathlib import Path
from tracking.store import open_store
from tracking.models import fetch_model
from tracking.runs import run
root, model_id, out = map(Path, sys.argv[1:])
store = open_store(root)
model = store.client.get_logged_model(str(model_id))
print(store.client.list_artifacts(model.source_run_id)[0].path)
fetch_model(store, "champion", out)
with run(store, model.tags["experiment"], "r", key="k") as r:
    print(r.reopened, r.id == model.source_run_id); r.text("after.txt", "moved")
"""


def test_a_moved_folder_keeps_runs_models_and_champion(tmp_path: Path, checkpoint: Path) -> None:
    from tracking.models import log_detector
    from tracking.registry import Registry
    from tracking.runs import run

    store = open_store(tmp_path / "here" / "mlruns")
    with run(store, "moving", "r", key="k") as r:
        r.text("note.txt", "before")
        model_id = log_detector(r, name="d", folder=checkpoint, tags={"experiment": "moving"})
    registry = Registry(store)
    registry.promote(registry.register(model_id).number, {"passed": True})
    there = tmp_path / "there" / "other name"
    there.parent.mkdir()
    shutil.move(store.root, there)
    done = run_python(MOVED, there, model_id, tmp_path / "fetched", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["gate", "True", "True"]
    assert (tmp_path / "fetched/weights.safetensors").read_bytes() == (checkpoint / "weights.safetensors").read_bytes()
    assert len(list(there.rglob("after.txt"))) == 1
    assert not store.root.exists()


def test_a_server_over_the_folder_sees_and_serves_what_was_written_without_it(
    store: Store, server: str, experiment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tracking.runs import run

    with run(store, experiment, "direct", key="one") as direct:
        direct.text("direct.txt", "written without a server")
        direct.metrics({"loss": 0.5}, 3)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server + "/")
    remote = open_store(store.root)
    assert remote.is_server
    assert remote.tracking_uri == server
    try:
        path = remote.client.download_artifacts(direct.id, "direct.txt", str(tmp_path))
        assert Path(path).read_text() == "written without a server"
        with run(remote, experiment, "direct", key="one") as again:
            assert (again.id, again.reopened) == (direct.id, True)
            again.text("served.txt", "written through the server")
        with run(remote, f"{experiment} 2", "new", key="two") as new:
            new.text("new.txt", "an experiment that the server made")
    finally:
        store.activate()
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    for run_id, name in ((direct.id, "served.txt"), (new.id, "new.txt")):
        assert "server" in Path(store.client.download_artifacts(run_id, name)).read_text()


@pytest.mark.parametrize("hanging", [False, True])
def test_a_server_that_does_not_answer_is_said_at_once(
    hanging: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        if hanging:
            listener.listen()  # accepts and never says a word
            monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
        uri = f"http://127.0.0.1:{listener.getsockname()[1]}"
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        before = dict(os.environ)
        with pytest.raises(
            TrackingError, match=f"{uri} .from MLFLOW_TRACKING_URI. does not answer.*unset the variable"
        ):
            open_store(tmp_path)
        assert dict(os.environ) == before


@pytest.mark.parametrize("uri", ["postgresql://db/x", "sqlite:///elsewhere.db", "databricks"])
def test_other_tracking_uris_are_refused_and_not_ignored(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(TrackingError, match=r"only the http\(s\) address"):
        open_store(tmp_path)


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(TrackingError, match=r"cannot be written .*choose another folder"):
        open_store(tmp_path / "file" / "mlruns")


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a read-only file system, /proc")
def test_a_read_only_file_system() -> None:
    with pytest.raises(TrackingError, match=r"/proc/mlruns cannot be written"):
        open_store(Path("/proc/mlruns"))


def test_a_path_that_database_uris_do_not_allow(tmp_path: Path) -> None:
    with pytest.raises(TrackingError, match="has % in its path"):
        open_store(tmp_path / "100%")


def test_too_little_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**9, 10**9, 42_000_000))
    with pytest.raises(TrackingError, match="only 42 MB are free"):
        open_store(tmp_path)


@pytest.fixture
def small_disk(tmp_path: Path) -> Path:
    """A disk of 8 MB, where this user may mount one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "none", str(disk)], capture_output=True)
    if mounted.returncode:
        pytest.skip("this user may not mount a disk")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_small_and_a_full_disk(small_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TrackingError, match=r"only 8 MB are free"):
        open_store(small_disk)
    monkeypatch.setattr("tracking.store.MIN_FREE_MEGABYTES", 0)
    store = open_store(small_disk)
    run_id = store.client.create_run(store.experiment("full")).info.run_id
    with pytest.raises(OSError, match="No space left"):
        (small_disk / "filler").write_bytes(bytes(16_000_000))
    with pytest.raises(TrackingError, match=r"cannot be written \(ENOSPC.*free disk space"):
        open_store(small_disk)
    from tracking.runs import attach

    with pytest.raises(TrackingError, match="free some disk space and run the same command again"):
        attach(store, run_id).artifact(Path(mlflow.__file__))


@pytest.mark.parametrize("content", [b"this is no database" * 100, None])
def test_a_damaged_or_foreign_database(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "mlflow.db"
    if content is None:
        sqlite3.connect(path).execute("CREATE TABLE holidays (day TEXT)")
    else:
        path.write_bytes(content)
    with pytest.raises(TrackingError, match=r"cannot be used as the tracking database .*move it away"):
        open_store(tmp_path)


def test_a_database_that_another_process_holds(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tracking.mlflow_internals.LOCK_SECONDS", 0.1)
    with closing(sqlite3.connect(store.root / "mlflow.db", isolation_level=None)) as holder:
        holder.execute("BEGIN IMMEDIATE")
        with pytest.raises(TrackingError, match=r"was locked by another process .*run the same command"):
            open_store(store.root)
    open_store(store.root)


def test_a_database_of_another_version_of_mlflow(store: Store, tmp_path: Path) -> None:
    shutil.copy(store.root / "mlflow.db", tmp_path)
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        database.execute("UPDATE alembic_version SET version_num = 'a8c4a736bde6'")
    with pytest.raises(TrackingError, match=r"cannot read the tracking database .*mlflow db upgrade"):
        open_store(tmp_path)


def test_an_empty_file_in_place_of_the_database_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").touch()
    assert open_store(tmp_path).client.get_experiment("0").artifact_location == "mlflow-artifacts:/0"


RACE = """
import sys; from pathlib import Path
from tracking.store import open_store
from tracking.runs import run
store = open_store(Path(sys.argv[1]))
with run(store, "race", f"r{sys.argv[2]}", key=f"r{sys.argv[2]}") as r:
    for step in range(20):
        r.metrics({"a": step, "b": step}, step)
"""


def test_processes_that_start_together_share_one_database(tmp_path: Path) -> None:
    env = {k: v for k, v in os.environ.items() if k != "MLFLOW_TRACKING_URI"} | {"PYTHONPATH": str(PROJECT)}
    command = [sys.executable, "-c", RACE, str(tmp_path / "mlruns")]
    racers = [subprocess.Popen([*command, str(i)], env=env, stderr=subprocess.PIPE, text=True) for i in range(2)]
    said = [racer.communicate(timeout=120)[1] for racer in racers]
    assert [racer.returncode for racer in racers] == [0, 0], said
    store = open_store(tmp_path / "mlruns")
    found = store.client.search_runs([store.experiment("race")])
    assert sorted(each.info.run_name for each in found) == ["r0", "r1"]
    assert all(each.data.metrics == {"a": 19, "b": 19} and each.info.status == "FINISHED" for each in found)
    assert sorted(path.name for path in (tmp_path / "mlruns").iterdir()) == ["mlflow.db"]


def test_a_location_cannot_lead_out_of_the_folder(store: Store) -> None:
    from tracking.mlflow_internals import portable_repository

    with pytest.raises(ValueError, match="leads out of"):
        portable_repository("mlflow-artifacts:/../../etc", store.tracking_uri)


def test_the_ui_says_when_its_port_is_taken(store: Store) -> None:
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        port = busy.getsockname()[1]
        with (
            pytest.raises(TrackingError, match=f"cannot listen on 127.0.0.1:{port}.*choose another port"),
            serve(store.root, port),
        ):
            pass


def test_the_ui_names_the_server_that_is_in_use(
    server: str, store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    ui(store.root)
    assert server in capsys.readouterr().out
    store.activate()


UI = """
import sys; from pathlib import Path
from tracking.ui import ui
ui(Path(sys.argv[1]), port=0)
print("ended")
"""


def test_ctrl_c_ends_the_ui_and_its_server(tmp_path: Path) -> None:
    import signal

    env = {k: v for k, v in os.environ.items() if k != "MLFLOW_TRACKING_URI"} | {"PYTHONPATH": str(PROJECT)}
    command = [sys.executable, "-c", UI, str(tmp_path / "mlruns")]
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        port = int(line.split("http://127.0.0.1:")[1].split()[0])
        doors = [process.stdout.readline() for _ in range(2)]
        assert f"Default: http://127.0.0.1:{port}/#/experiments/0/runs?" in doors[0]
        assert f"http://127.0.0.1:{port}/#/models?" in doors[1]
        process.send_signal(signal.SIGINT)
        assert process.stdout.read() == "ended\n"
        assert process.wait(timeout=30) == 0
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0


def test_killed_outright_the_ui_leaves_no_server(tmp_path: Path) -> None:
    env = {k: v for k, v in os.environ.items() if k != "MLFLOW_TRACKING_URI"} | {"PYTHONPATH": str(PROJECT)}
    with subprocess.Popen(
        [sys.executable, "-c", UI, str(tmp_path / "mlruns")], env=env, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline().split("http://127.0.0.1:")[1].split()[0])
        process.kill()
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) != 0:
                return
        time.sleep(0.1)
    pytest.fail("the server outlived the process that started it")


def test_library_errors_become_one_sentence() -> None:
    sentence = r"cannot write \(there\): ENOSPC: .*; free some disk space"
    with pytest.raises(TrackingError, match=sentence) as raised, explained("write", "there"):
        raise OSError(28, "No space left on device")
    assert "\n" not in str(raised.value)
