"""A real PostgreSQL server for tests, from Debian's package `postgresql`; it can be killed and started again."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest


def binaries() -> Path | None:
    """The folder of initdb and postgres, or None."""
    places = [*sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)]
    found = shutil.which("initdb")
    if found is not None:
        places.insert(0, Path(found).parent)
    return next((place for place in places if (place / "postgres").exists() and (place / "initdb").exists()), None)


class Postgres:
    """A server over one data folder. It refuses to run as root, so root hands it to another user."""

    def __init__(self, folder: Path) -> None:
        place = binaries()
        assert place is not None
        self.binaries, self.data = place, folder / "data"
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self.url = f"postgresql://tester@127.0.0.1:{self.port}/postgres"
        self._user = None
        if os.geteuid() == 0:
            names = {entry.pw_name for entry in pwd.getpwall()}
            self._user = "postgres" if "postgres" in names else "nobody"
            os.chown(folder, pwd.getpwnam(self._user).pw_uid, -1)
        self._process: subprocess.Popen[bytes] | None = None
        self._run("initdb", "-D", str(self.data), "-U", "tester", "-A", "trust", "-N", "-E", "UTF8")
        self.start()

    def _run(self, name: str, *words: str) -> None:
        done = subprocess.run(
            [str(self.binaries / name), *words], user=self._user, cwd="/", capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stderr

    def start(self) -> None:
        """Start it and wait until it answers; children of a killed one may hold its memory for a moment."""
        import psycopg

        settings = ["fsync=off", "max_connections=200", f"port={self.port}", "listen_addresses=127.0.0.1"]
        settings += [f"unix_socket_directories={self.data}"]
        words = [word for setting in settings for word in ("-c", setting)]
        deadline = time.monotonic() + 120
        self._process = None
        while time.monotonic() < deadline:
            if self._process is None or self._process.poll() is not None:
                (self.data / "postmaster.pid").unlink(missing_ok=True)
                self._process = subprocess.Popen(
                    [str(self.binaries / "postgres"), "-D", str(self.data), *words],
                    user=self._user,
                    cwd="/",
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    start_new_session=True,
                )
            with contextlib.suppress(psycopg.Error), psycopg.connect(self.url, connect_timeout=2):
                return
            time.sleep(0.2)
        raise AssertionError("postgres does not answer")

    def kill(self) -> None:
        """SIGKILL the server and all of its processes, each of which leads a group of its own."""
        assert self._process is not None
        main, children = self._process.pid, ""
        with contextlib.suppress(OSError):
            children = Path(f"/proc/{main}/task/{main}/children").read_text()
        for process in (main, *map(int, children.split())):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        self._process.wait()


def running() -> Iterator[Postgres]:
    """A server for the time of the block; skips the test where there is none to start."""
    if binaries() is None:
        pytest.skip("no PostgreSQL server on this machine: apt-get install postgresql")
    pytest.importorskip("psycopg", reason="no PostgreSQL client: pip install 'counterforge[cluster]'")
    # Not in pytest's folders: every session of pytest closes them to other users again.
    with tempfile.TemporaryDirectory(prefix="postgres-", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o755)
        server = Postgres(Path(folder))
        try:
            yield server
        finally:
            server.kill()
