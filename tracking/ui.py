"""The MLflow user interface over a folder: MLflow's own server, for as long as somebody looks."""

from __future__ import annotations

import getpass
import importlib.util
import ipaddress
import json
import os
import secrets
import signal
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import PIPE, STDOUT, Popen, TimeoutExpired

import requests

from tracking.mlflow_internals import ARTIFACTS, LOCK_SECONDS, SHARED_VIEW
from tracking.store import DATABASE, DEFAULT_ROOT, Store, TrackingError, explained, open_store

LOG, ACCOUNTS = "ui.log", "accounts.db"
ADMIN, ADMIN_PASSWORD = "MLFLOW_AUTH_ADMIN_USERNAME", "MLFLOW_AUTH_ADMIN_PASSWORD"  # MLflow's own variables
_SHORTEST_PASSWORD = 12  # MLflow refuses shorter ones
_START_SECONDS = 120
_EXPERIMENTS = 5  # how many are named
_FOR_MODELS = "workflowType=machine_learning"  # a parameter of MLflow's pages
_VIEW = "counterforge"
_VIEW_METRICS = 20  # columns of the shared view, at most
# Becomes the server; a watcher beside it ends both when our end of the pipe closes, however we end.
_TIED_TO_US = 'exec 3<&0; (cat <&3 >/dev/null; kill 0) & exec "$@" 3<&- </dev/null'


def ui(root: Path = DEFAULT_ROOT, port: int = 5000, host: str = "127.0.0.1") -> None:
    """Serve the MLflow UI over `root`, print where to look and stay until Ctrl-C or a termination signal.

    Where `MLFLOW_TRACKING_URI` names a server, that server's address is printed instead: it has a UI of its own. On any
    address but this machine's own it asks everybody for an account (see `account_for`).

    Raises:
        TrackingError: the folder cannot be used, the port is taken, there is no account, or the server ends by itself.
    """
    store = open_store(root)
    if store.is_server:
        print(f"Runs are kept by {store.tracking_uri}: open that address in a browser.", flush=True)
        return
    account = account_for(host)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)  # as Ctrl-C, which ends the server too
    with suppress(KeyboardInterrupt), serve(store.root, port, host, account) as server:
        asked = f", for the account {account.name}" if account else ""
        print(f"MLflow UI over {store.root}: {server.address}{asked} (Ctrl-C ends it)", flush=True)
        print("\n".join(_pages(store, server.address)), flush=True)
        server.process.wait()
        raise TrackingError(f"the MLflow UI ended by itself: its last words are in {store.root / LOG}")


def _pages(store: Store, address: str) -> list[str]:
    """Pages to begin with, the experiments in a shared view with the columns that matter."""
    with explained("list the experiments", store.tracking_uri):
        newest = store.client.search_experiments(max_results=_EXPERIMENTS, order_by=["last_update_time DESC"])
        views = [f"&viewStateShareKey={_VIEW}" if share_view(store, each.experiment_id) else "" for each in newest]
    runs = [
        f"  {each.name}: {address}/#/experiments/{each.experiment_id}/runs?{_FOR_MODELS}{view}"
        for each, view in zip(newest, views, strict=True)
    ]
    return [*runs, f"  registered models: {address}/#/models?{_FOR_MODELS}"]


def share_view(store: Store, experiment_id: str) -> bool:
    """Make a shared view of an experiment with the columns objective and `auc/...`; False where no run has them."""
    runs = store.client.search_runs([experiment_id], max_results=200)
    names = {name for run in runs for name in run.data.metrics if name == "objective" or name.startswith("auc/")}
    if not names:
        return False
    metrics = sorted(names, key=lambda name: (name != "objective", name))[:_VIEW_METRICS]
    columns = ["attributes.`Models`", *(f"metrics.`{name}`" for name in metrics)]
    store.client.set_experiment_tag(experiment_id, SHARED_VIEW + _VIEW, json.dumps({"selectedColumns": columns}))
    return True


@dataclass(frozen=True)
class Account:
    """MLflow's first account, which may do everything and can make others."""

    name: str
    password: str = field(repr=False)


def account_for(host: str) -> Account | None:
    """The account that a UI on this address asks for, from the environment or typed; None on the machine's own.

    It is `MLFLOW_AUTH_ADMIN_PASSWORD` and, unless it is admin, `MLFLOW_AUTH_ADMIN_USERNAME`. Where the password is set,
    the UI asks for it on the machine's own address too.

    Raises:
        TrackingError: there is no password and nobody to ask, it is too short, or Flask-WTF is not installed.
    """
    name, password = os.environ.get(ADMIN) or "admin", os.environ.get(ADMIN_PASSWORD, "")
    if not password and _is_local(host):
        return None
    if not password and sys.stdin.isatty():
        password = getpass.getpass(f"password for the account {name} ({_SHORTEST_PASSWORD} characters or more): ")
    if len(password) < _SHORTEST_PASSWORD:
        problem = f"is shorter than {_SHORTEST_PASSWORD} characters" if password else "is not set"
        raise TrackingError(
            f"on {host} others can open the UI, so that it needs an account, and {ADMIN_PASSWORD} {problem}: set it to "
            f"{_SHORTEST_PASSWORD} characters or more, or leave --host out and open the UI on this machine"
        )
    if importlib.util.find_spec("flask_wtf") is None:
        raise TrackingError("accounts of the UI need Flask-WTF: install it with `pip install 'counterforge[cluster]'`")
    return Account(name, password)


def _is_local(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name, which may mean any address
        return False


@dataclass(frozen=True)
class Server:
    """A running MLflow server."""

    address: str
    process: Popen[bytes]


@contextmanager
def serve(root: Path, port: int = 0, host: str = "127.0.0.1", account: Account | None = None) -> Iterator[Server]:
    """An MLflow server over the folder `root` that answers, for the time of the block. Port 0 takes a free one.

    It ends with this process, even where that is killed outright. A `TrackingError` where it does not start, or knows
    the account by another password.

    Args:
        account: asked of everybody who opens it. Accounts are kept in `root/accounts.db`, as hashes.
    """
    root = Path(root).absolute()
    port = _free_port(host, port)
    reachable = "127.0.0.1" if host in ("0.0.0.0", "::", "") else host
    address = f"http://{f'[{reachable}]' if ':' in reachable else reachable}:{port}"
    env = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
    # Without job execution and with one worker the server starts twice as fast and is two processes, not a dozen.
    env |= {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    command = [sys.executable, "-m", "mlflow", "server", "--workers", "1", "--host", host, "--port", str(port)]
    command += ["--backend-store-uri", f"sqlite:///{root / DATABASE}?timeout={LOCK_SECONDS}"]
    command += ["--artifacts-destination", str(root / ARTIFACTS)]
    if account is not None:
        command += ["--app-name", "basic-auth"]
        env |= _account_settings(root, account)
    # In a session of its own: Ctrl-C reaches us alone, and we end the server's processes together.
    command = ["sh", "-c", _TIED_TO_US, "sh", *command]
    with (
        (root / LOG).open("wb") as log,
        Popen(command, env=env, cwd=root, stdin=PIPE, stdout=log, stderr=STDOUT, start_new_session=True) as process,
    ):
        try:
            _await_answer(address, process, root / LOG)
            if account is not None:
                _check_account(address, account, root / ACCOUNTS)
            yield Server(address, process)
        finally:
            for number in (signal.SIGTERM, signal.SIGKILL):
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, number)
                with suppress(TimeoutExpired):
                    process.wait(timeout=5)
                    break


def _account_settings(root: Path, account: Account) -> dict[str, str]:
    """Variables of a server with accounts; the password reaches it by them alone, and stands in no file."""
    (root / ACCOUNTS).touch(mode=0o600)  # a file that is there keeps its mode
    settings = root / "accounts.ini"
    settings.write_text(f"[mlflow]\ndefault_permission = READ\ndatabase_uri = sqlite:///{root / ACCOUNTS}\n")
    return {
        "MLFLOW_AUTH_CONFIG_PATH": str(settings),
        ADMIN: account.name,
        ADMIN_PASSWORD: account.password,
        "MLFLOW_FLASK_SERVER_SECRET_KEY": os.environ.get("MLFLOW_FLASK_SERVER_SECRET_KEY") or secrets.token_hex(32),
    }


def _check_account(address: str, account: Account, file: Path) -> None:
    """MLflow takes the password for a new account only: say so where the account has another one."""
    url = f"{address}/api/2.0/mlflow/experiments/search"
    if requests.get(url, {"max_results": 1}, auth=(account.name, account.password), timeout=30).status_code == 401:
        raise TrackingError(
            f"the account {account.name} has another password in {file}: give that one, or delete the file to begin "
            "with no account but this one"
        )


def _free_port(host: str, port: int) -> int:
    try:
        with socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            return int(probe.getsockname()[1])
    except (OSError, OverflowError) as error:
        raise TrackingError(f"cannot listen on {host}:{port} ({error}): choose another port") from error


def _await_answer(address: str, process: Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            last = log.read_text(errors="replace").strip().splitlines()[-1:]
            raise TrackingError(f"the MLflow server did not start ({''.join(last)[:300]}): see {log}")
        with suppress(requests.RequestException):
            if requests.get(f"{address}/health", timeout=2).ok:
                return
        time.sleep(0.1)
    raise TrackingError(f"the MLflow server did not answer within {_START_SECONDS} s at {address}: see {log}")
