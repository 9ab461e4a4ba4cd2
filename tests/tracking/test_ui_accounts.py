"""Who may open the UI: everybody of this machine, and elsewhere whoever has an account."""

from __future__ import annotations

import subprocess
import sys
import urllib.parse
from pathlib import Path

import psutil
import pytest
import requests

from tracking.store import Store, TrackingError, open_store
from tracking.ui import ADMIN, ADMIN_PASSWORD, Account, account_for, serve

PASSWORD = "correct horse battery"


@pytest.fixture(autouse=True)
def _no_account(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (ADMIN, ADMIN_PASSWORD):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.3.4.5", "localhost", "::1"])
def test_this_machine_alone_needs_no_account(host: str) -> None:
    assert account_for(host) is None


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.7", "", "my-machine"])
def test_any_other_address_needs_one(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TrackingError, match=f"needs an account, and {ADMIN_PASSWORD} is not set: set it"):
        account_for(host)
    monkeypatch.setenv(ADMIN_PASSWORD, "short")
    with pytest.raises(TrackingError, match="is shorter than 12 characters"):
        account_for(host)
    monkeypatch.setenv(ADMIN_PASSWORD, PASSWORD)
    assert account_for(host) == Account("admin", PASSWORD)
    assert PASSWORD not in repr(account_for(host))


def test_who_sets_a_password_is_asked_for_it_here_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ADMIN_PASSWORD, PASSWORD)
    monkeypatch.setenv(ADMIN, "me")
    assert account_for("127.0.0.1") == Account("me", PASSWORD)


def test_a_password_is_typed_where_there_is_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("getpass.getpass", lambda _: PASSWORD)
    assert account_for("0.0.0.0") == Account("admin", PASSWORD)


def test_without_flask_wtf_a_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ADMIN_PASSWORD, PASSWORD)
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(TrackingError, match=r"counterforge\[cluster\]"):
        account_for("0.0.0.0")


def test_the_command_refuses_an_open_ui(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pipelines.cli", "ui", "--host", "0.0.0.0", "--port", "0", "--mlruns", "m"]
    done = subprocess.run(command, cwd=tmp_path, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert done.stderr.startswith("error: on 0.0.0.0 others can open the UI")
    assert done.stderr.count("\n") == 1


def test_a_server_with_accounts_lets_nobody_else_in(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("flask_wtf", reason="no Flask-WTF: pip install 'counterforge[cluster]'")
    account = Account("admin", PASSWORD)
    with serve(store.root, account=account) as server:
        api, page = f"{server.address}/api/2.0/mlflow/experiments/search?max_results=5", f"{server.address}/"
        artifacts = f"{server.address}/api/2.0/mlflow-artifacts/artifacts"
        for url in (api, page, artifacts, f"{server.address}/ajax-api/2.0/mlflow/experiments/search?max_results=5"):
            assert requests.get(url, timeout=30).status_code == 401
            assert requests.get(url, auth=("admin", "wrong horse battery"), timeout=30).status_code == 401
        assert requests.get(api, auth=(account.name, account.password), timeout=30).ok
        assert requests.get(page, auth=(account.name, account.password), timeout=30).ok
        for process in (
            psutil.Process(server.process.pid),
            *psutil.Process(server.process.pid).children(recursive=True),
        ):
            assert PASSWORD not in " ".join(process.cmdline())
        # The same server as a user of the workbench names it, account and all: it is found in no address afterwards.
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "x")  # so that what open_store sets is taken back
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "x")
        monkeypatch.delenv("MLFLOW_TRACKING_USERNAME")
        monkeypatch.delenv("MLFLOW_TRACKING_PASSWORD")
        given = server.address.replace("://", f"://admin:{urllib.parse.quote(PASSWORD)}@")
        monkeypatch.setenv("MLFLOW_TRACKING_URI", given)
        remote = open_store(store.root)
        assert remote.tracking_uri == server.address
        assert "horse" not in repr(remote)
        assert remote.experiment("as admin")
    hidden = (store.root / "accounts.db").stat()
    assert hidden.st_mode & 0o077 == 0
    for file in store.root.rglob("*"):
        if file.is_file():
            assert PASSWORD.encode() not in file.read_bytes(), file
    with (
        pytest.raises(TrackingError, match="has another password in"),
        serve(store.root, account=Account("admin", "another horse battery")),
    ):
        pass
