"""What compose.yaml starts, without containers: the databases, the MLflow server, the workers' accounts, a worker."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import requests
import yaml
from mlflow.exceptions import MlflowException

from core.manifest import Manifest
from tests.tuning import postgres
from tests.tuning.conftest import base, manifest
from tracking.runs import run
from tracking.store import open_store
from tuning.config import StudyConfig
from tuning.space import Range
from tuning.storage import load
from tuning.study import launch
from tuning.trial import TrialContext, TrialSpec
from tuning.worker import join

__all__ = ["base", "manifest"]
ROOT = Path(__file__).parents[1]
OWNER, WORKER, ADMIN, KEY = "owner0owner0owner", "worker0worker0worker", "admin0admin0admin", "key0key0key0key0key"
SECRETS = (OWNER, WORKER, ADMIN, KEY)


# --- the files


def compose() -> dict[str, dict[str, object]]:
    services = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
    assert isinstance(services, dict)
    return services


def test_compose_refuses_to_start_without_passwords_and_publishes_on_this_machine() -> None:
    text = (ROOT / "compose.yaml").read_text()
    for name in (
        "POSTGRES_PASSWORD",
        "OWNER_PASSWORD",
        "WORKER_PASSWORD",
        "MLFLOW_ADMIN_PASSWORD",
        "MLFLOW_SECRET_KEY",
    ):
        assert re.findall(rf"\$\{{{name}[^}}]*\}}", text)
        assert set(re.findall(rf"\$\{{{name}([^}}]*)\}}", text)) == {
            ":?set it in .env"
        }  # `:?` refuses an empty one too
        assert re.search(rf"^{name}=$", (ROOT / "deploy" / "example.env").read_text(), re.MULTILINE)
    ports = [port for service in compose().values() for port in service.get("ports", [])]  # type: ignore[attr-defined]
    assert ports == ["${MLFLOW_HOST:-127.0.0.1}:${MLFLOW_PORT:-5000}:5000"]


def test_a_worker_holds_no_password_but_its_own() -> None:
    environment = compose()["worker"]["environment"]
    assert isinstance(environment, dict)
    assert environment["MLFLOW_TRACKING_USERNAME"] == "worker"
    assert set(re.findall(r"\$\{(\w*(?:PASSWORD|KEY))", str(environment))) == {"WORKER_PASSWORD"}
    job = (ROOT / "deploy" / "kubernetes" / "workers.yaml").read_text()
    assert "MLFLOW_TRACKING_USERNAME, value: worker" in job


def test_no_address_stands_in_a_command() -> None:
    for service in compose().values():
        assert not re.search(
            "STORAGE|PASSWORD|://", str(service.get("command", "")) + str(service.get("entrypoint", ""))
        )
    for name in ("kubernetes/workers.yaml", "slurm/worker.sbatch", "mlflow.sh"):
        commands = re.findall(r"(?:^exec |command: )(?:.|\\\n)*", (ROOT / "deploy" / name).read_text(), re.MULTILINE)
        assert commands
        assert not re.search(r"STORAGE|PASSWORD|postgresql", "".join(re.sub("#.*", "", each) for each in commands))


def test_images_have_a_full_version_or_a_digest() -> None:
    text = (ROOT / "compose.yaml").read_text() + (ROOT / "Dockerfile").read_text()
    images = re.findall(r"(?:python|postgres)(?:@sha256:[0-9a-f]{64}|:[\w.-]+)", text)
    assert len(images) >= 3
    assert all(re.search(r"@sha256:|:\d+\.\d+(\.\d+)?-", image) for image in images), images
    assert len({image for image in images if image.startswith("python")}) == 1


# --- and what they start


@dataclass
class Deployed:
    database: postgres.Postgres
    mlflow: str
    root: Path

    def storage(self, role: str, password: str) -> str:
        return f"postgresql://{role}:{password}@127.0.0.1:{self.database.port}/studies"


@pytest.fixture(scope="module")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployed]:
    pytest.importorskip("flask_wtf", reason="no Flask-WTF: pip install 'counterforge[cluster]'")
    folder = tmp_path_factory.mktemp("deployed")
    for server in postgres.running():
        psql = ["psql", "-v", "ON_ERROR_STOP=1", "-q", server.url, "-f", str(ROOT / "deploy" / "databases.sql")]
        secrets = {"OWNER_PASSWORD": OWNER, "WORKER_PASSWORD": WORKER}
        done = subprocess.run(psql, env=os.environ | secrets, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        variables = {
            "OWNER_PASSWORD": OWNER,
            "MLFLOW_AUTH_ADMIN_PASSWORD": ADMIN,
            "MLFLOW_FLASK_SERVER_SECRET_KEY": KEY,
        }
        variables |= {"POSTGRES_HOST": "127.0.0.1", "POSTGRES_PORT": str(server.port), "HOST": "127.0.0.1"}
        variables |= {"PORT": str(port), "ARTIFACTS": str(folder / "artifacts"), "TMPDIR": str(folder)}
        variables |= {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
        variables["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        with (folder / "mlflow.log").open("wb") as log:
            process = subprocess.Popen(
                ["bash", str(ROOT / "deploy" / "mlflow.sh")],
                env=os.environ | variables,
                cwd=folder,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            address = f"http://127.0.0.1:{port}"
            deadline = time.monotonic() + 240
            while True:
                assert process.poll() is None, (folder / "mlflow.log").read_text()[-2000:]
                assert time.monotonic() < deadline
                with suppress(requests.RequestException):
                    if requests.get(f"{address}/health", timeout=2).ok:
                        break
                time.sleep(0.2)
            yield Deployed(server, address, folder)
            for each in psutil.process_iter(["cmdline"]):
                line = " ".join(each.info["cmdline"] or [])
                assert not any(secret in line for secret in SECRETS), line
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(timeout=60)


@pytest.fixture
def login(deployed: Deployed, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    def as_user(name: str, password: str) -> None:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", deployed.mlflow)
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", name)
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", password)

    return as_user


@pytest.mark.slow
def test_a_worker_of_compose_works_with_its_own_accounts_and_may_do_nothing_else(
    deployed: Deployed,
    login: Callable[[str, str], None],
    manifest: Manifest,
    base: TrialSpec,
    tmp_path: Path,
) -> None:
    import psycopg

    login("admin", ADMIN)
    variables = {"WORKER_PASSWORD": WORKER, "PROJECT": "faces", "PYTHONPATH": str(ROOT)}
    for _ in range(2):  # again after a restart
        command = [sys.executable, str(ROOT / "deploy" / "accounts.py")]
        made = subprocess.run(command, cwd=tmp_path, env=os.environ | variables, capture_output=True, text=True)
        assert made.returncode == 0, made.stderr[-2000:]
    admin = open_store(tmp_path / "mlruns")
    other = admin.experiment("other")
    context = TrialContext(manifest, ("a",), ("b",), None, tmp_path / "work", tmp_path / "cache", admin, "faces")
    owner = deployed.storage("counterforge", OWNER)
    config = StudyConfig(
        name="s", trials=1, keep=1, sampler="random", space={"learning_rate": Range(low=1e-4, high=1e-3)}, storage=owner
    )
    launched = launch(config, base, context)
    config = config.model_copy(update={"trials": 3})
    study = load(admin.root, launched.name, owner)
    study.set_user_attr("config", {**study.user_attrs["config"], "trials": 3})
    login("worker", WORKER)
    storage = deployed.storage("worker", WORKER)
    assert "3 trials" in join(storage, launched.name)
    assert len(load(admin.root, launched.name, storage).get_trials()) == 3
    # Nothing else: not in PostgreSQL ...
    with psycopg.connect(storage) as connection:
        for statement in ("DROP TABLE trials CASCADE", "DELETE FROM studies", "CREATE TABLE x (y int)"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(statement)
            connection.rollback()
    for name in ("mlflow", "accounts", "postgres"):
        with pytest.raises(psycopg.OperationalError, match="permission denied"):
            psycopg.connect(storage.replace("/studies", f"/{name}"))
    # ... and not in MLflow.
    mine = open_store(tmp_path / "mlruns")
    with pytest.raises(MlflowException, match=r"[Pp]ermission denied"):
        mine.client.create_run(other)
    with pytest.raises(MlflowException, match=r"[Pp]ermission denied"):
        mine.client.delete_experiment(other)
    api = f"{deployed.mlflow}/api/2.0/mlflow/users"
    account = ("worker", WORKER)
    for path, body in (("create", {"username": "x", "password": "x" * 12}), ("delete", {"username": "admin"})):
        method = "DELETE" if path == "delete" else "POST"
        assert requests.request(method, f"{api}/{path}", json=body, auth=account, timeout=30).status_code == 403
    own = {"username": "worker", "is_admin": True}
    assert requests.patch(f"{api}/update-admin", json=own, auth=account, timeout=30).status_code == 403
    # No password stands in what is kept.
    login("admin", ADMIN)
    with run(admin, "faces", "last", key="last", tags={"storage": owner}) as active:
        assert OWNER not in str(admin.client.get_run(active.id).data.tags)
    kept = [str(each.data) for each in admin.client.search_runs([admin.experiment("faces")])]
    kept += [str(study.user_attrs), *(str(trial) for trial in study.get_trials())]
    kept += [file.read_bytes().decode("latin-1") for file in tmp_path.rglob("*") if file.is_file()]
    for secret in SECRETS:
        assert [each for each in kept if secret in each] == []
