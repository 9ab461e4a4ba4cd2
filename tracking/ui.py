"""The MLflow user interface over a folder: a private server for as long as somebody looks."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from types import FrameType

import requests

from tracking.store import DATABASE, DEFAULT_ROOT, FOLDER, Store, TrackingError, open_store

LOG = "ui.log"
_START_SECONDS = 120
_DOORS = 5  # how many experiments are named
_FOR_MODELS = "workflowType=machine_learning"  # a parameter of MLflow's pages


def ui(root: Path = DEFAULT_ROOT, port: int = 5000, host: str = "127.0.0.1") -> None:
    """Serve the MLflow UI over `root`, print where to look and stay until Ctrl-C or a termination signal.

    Where `MLFLOW_TRACKING_URI` names a server, that server's address is printed instead: it has a UI of its own.

    Raises:
        TrackingError: the folder cannot be used, the port is taken, or the server ends by itself.
    """
    store = open_store(root)
    if store.is_server:
        print(f"Runs are kept by {store.tracking_uri}: open that address in a browser.", flush=True)
        return
    with _termination_as_interrupt(), suppress(KeyboardInterrupt), serve(store.root, port, host) as server:
        print(f"MLflow UI over {store.root}: {server.address} (Ctrl-C ends it)", flush=True)
        print("\n".join(_doors(store, server.address)), flush=True)
        server.process.wait()
        raise TrackingError(f"the MLflow UI ended by itself: its last words are in {store.root / LOG}")


def _doors(store: Store, address: str) -> list[str]:
    """Pages to begin with: the UI's own first one is for builders of agents, and empty here."""
    newest = store.client.search_experiments(max_results=_DOORS, order_by=["last_update_time DESC"])
    lines = [f"  {each.name}: {address}/#/experiments/{each.experiment_id}/runs?{_FOR_MODELS}" for each in newest]
    lines.append(f"  registered models: {address}/#/models?{_FOR_MODELS}")
    lines.append("Choose 'Model training' at the top left of the page once, and the browser remembers it.")
    return lines


class Server:
    """A running MLflow server: its `address` and its `process`."""

    def __init__(self, address: str, process: subprocess.Popen[bytes]) -> None:
        self.address = address
        self.process = process


@contextmanager
def serve(root: Path, port: int = 0, host: str = "127.0.0.1") -> Iterator[Server]:
    """An MLflow server over the folder `root` that answers, for the time of the block. Port 0 takes a free one.

    Raises:
        TrackingError: the port is taken, or the server does not start.
    """
    root = Path(root).absolute()
    port = _free_port(host, port)
    reachable = "127.0.0.1" if host in ("0.0.0.0", "::", "") else host
    address = f"http://{f'[{reachable}]' if ':' in reachable else reachable}:{port}"
    environment = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
    # Without job execution and with one worker the server starts twice as fast and is two processes, not a dozen.
    environment |= {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    command = [sys.executable, "-m", "mlflow", "server", "--workers", "1", "--host", host, "--port", str(port)]
    command += ["--backend-store-uri", f"sqlite:///{root / DATABASE}?timeout=60"]
    command += ["--artifacts-destination", str(root / FOLDER)]
    with (root / LOG).open("wb") as log:
        process = subprocess.Popen(
            command,
            env=environment,
            cwd=root,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C reaches us alone, and we end the server's processes together
        )
    try:
        _await_answer(address, process, root / LOG)
        yield Server(address, process)
    finally:
        _end(process)


def _free_port(host: str, port: int) -> int:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with closing(socket.socket(family, socket.SOCK_STREAM)) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except (OSError, OverflowError) as error:
            raise TrackingError(f"cannot listen on {host}:{port} ({error}): choose another port") from error
        return int(probe.getsockname()[1])


def _await_answer(address: str, process: subprocess.Popen[bytes], log: Path) -> None:
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


def _end(process: subprocess.Popen[bytes]) -> None:
    for sign in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, sign)
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=5)
            return


@contextmanager
def _termination_as_interrupt() -> Iterator[None]:
    """A terminated UI must end its server too, so SIGTERM and a closed terminal act like Ctrl-C."""

    def interrupt(_: int, __: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = {sign: signal.signal(sign, interrupt) for sign in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for sign, handler in before.items():
            signal.signal(sign, handler)
