"""Logged models: every trained detector with its weights and its scores per dataset.

What is kept is our own checkpoint folder (safetensors weights and a JSON configuration), no pickled class and no
exported graph: it can be rebuilt, fine-tuned and explained. An `MLmodel` file beside it makes it a model of MLflow's.
Metrics stand on the logged models as `auc/<dataset>`, so that `MlflowClient.search_logged_models` ranks them.
"""

from __future__ import annotations

import hashlib
import re
import tempfile
from collections.abc import Mapping
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

import mlflow
from mlflow.entities import LoggedModelOutput
from mlflow.exceptions import MlflowException
from mlflow.models import Model

from core.files import sha256
from tracking.mlflow_internals import delete_artifacts
from tracking.registry import Registry
from tracking.runs import MAX_PARAM, MAX_TAG, Run, cleaned, flattened, git_commit, metric_name
from tracking.store import Store, TrackingError, every_page, explained

WEIGHTS, CONFIG, SUMS = "weights.safetensors", "config.json", "SHA256SUMS"
DIGEST_TAG = "counterforge.digest"
_TYPE = "counterforge-detector"
_NO_PART_OF_A_MODEL = {SUMS, "MLmodel", "registered_model_meta"}
_PACKAGES = ("core", "metrics", "faces", "gan", "classifier", "tracking", "tuning", "pipelines", "serving")


@lru_cache(maxsize=1)
def code_version() -> str:
    """Such as `counterforge 0.1.0 3f9c01d2a7b4`: a commit says nothing of uncommitted changes, and a wheel has none.

    The digits are of the names and contents of all Python files of the packages, so that a checkout can be held
    against them.
    """
    house = Path(__file__).parents[1]
    total = hashlib.sha256()
    for file in (file for package in _PACKAGES for file in sorted((house / package).rglob("*.py"))):
        total.update(f"{file.relative_to(house).as_posix()}\0".encode() + file.read_bytes() + b"\0")
    try:
        version = metadata.version("counterforge")
    except metadata.PackageNotFoundError:
        version = "unknown"
    return f"counterforge {version} {total.hexdigest()[:12]}"


def log_detector(
    run: Run,
    *,
    name: str,
    folder: Path,
    metrics: Mapping[str, float] | None = None,
    params: Mapping[str, Any] | None = None,
    tags: Mapping[str, Any] | None = None,
) -> str:
    """Keep the checkpoint in `folder` as a logged model of `run`, and return its model id (`m-...`).

    All plain files of the folder are kept with their checksums, except training state (`*.pt`) and hidden files.
    Calling it again in a run with the same name and the same files returns the id of before.

    Raises:
        TrackingError: `folder` lacks weights or configuration, or the store refuses.
    """
    store, client = run.store, run.store.client
    files = _files(folder)
    sums = "".join(f"{sha256(path)}  {path.name}\n" for path in files)
    digest = sha256(sums.encode())[:32]
    clean = re.sub(r"[/:.%\"']", "-", name) or "detector"  # what MLflow refuses in a model's name
    with explained(f"log the model {name}", store.tracking_uri):
        of_name = f"source_run_id = '{run.id}' AND name = '{clean}'"
        known = every_page(client.search_logged_models, [run.experiment_id], of_name)
        model = next((each for each in known if each.tags.get(DIGEST_TAG) == digest), None)  # whole or interrupted
        if model is not None and str(model.status) == "READY":
            run.metrics(metrics or {}, model_id=model.model_id)
            return str(model.model_id)
        if model is None:
            own = {DIGEST_TAG: digest, "code": code_version()}
            own |= {"git_commit": commit} if (commit := git_commit()) else {}
            own |= cleaned(tags or {}, MAX_TAG)
            of = cleaned(flattened(params or {}), MAX_PARAM)
            model = client.create_logged_model(run.experiment_id, clean, run.id, tags=own, params=of, model_type=_TYPE)
        with tempfile.TemporaryDirectory() as scratch:
            (Path(scratch) / SUMS).write_text(sums)
            size = sum(path.stat().st_size for path in files)
            described = Model(run_id=run.id, model_id=str(model.model_id), model_size_bytes=size)
            described.add_flavor("counterforge", weights=WEIGHTS, config=CONFIG, checksums=SUMS)
            described.save(f"{scratch}/MLmodel")
            for path in (*files, Path(scratch) / SUMS, Path(scratch) / "MLmodel"):
                client.log_model_artifact(model.model_id, str(path))
        run.metrics(metrics or {}, model_id=model.model_id)
        if model.model_id not in {output.model_id for output in client.get_run(run.id).outputs.model_outputs}:
            client.log_outputs(run.id, [LoggedModelOutput(model.model_id, 0)])  # MLflow refuses a second time
        client.finalize_logged_model(model.model_id, "READY")  # last: a model that is READY is whole
    return str(model.model_id)


def score_model(
    store: Store, model_id: str, dataset: str, digest: str, metrics: Mapping[str, float], run: Run
) -> dict[str, float]:
    """Record how a model does on a dataset: `{"auc": 0.93}` becomes the metric `auc/<dataset>` of model and run.

    `digest` is the dataset's content hash; scores on other contents of the same name stay apart.
    Returns the metrics under the names they were logged by.
    """
    named = {metric_name(f"{key}/{dataset}"): float(value) for key, value in metrics.items()}
    with explained(f"find the model {model_id}", store.tracking_uri):
        store.client.get_logged_model(model_id)
    run.metrics(named, model_id=model_id, dataset=(dataset, digest))
    return named


def fetch_model(store: Store, model: str, to: Path, *, registry: Registry | None = None) -> Path:
    """Bring a logged model's checkpoint folder to `to` and return it; every file is checked against its checksum.

    `model` is a model id (`m-...`), a `models:/...` address, or what `Registry.resolve` takes (`champion`, `3`).
    A folder that already holds the same model is returned as it is; one that holds another model is replaced.

    Raises:
        TrackingError: there is no such model, a file is damaged, or `to` holds something else.
    """
    model_id = model.removeprefix("models:/")
    if not model_id.startswith("m-"):
        model_id = (registry or Registry(store)).resolve(model).model_id
    with explained(f"fetch the model {model}", store.tracking_uri):
        logged = store.client.get_logged_model(model_id)
        digest = logged.tags.get(DIGEST_TAG)
        if digest is None or str(logged.status) != "READY":
            raise TrackingError(f"{model} ({model_id}) is no finished model of this workbench: choose another one")
        to = Path(to)
        if _is_intact(to, digest):
            return to
        if to.exists() and not (to / CONFIG).exists() and any(to.iterdir()):
            raise TrackingError(f"{to} holds something that is no model: choose an empty or a new folder")
        to.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=to.parent, prefix=f".{to.name}-") as scratch:
            fetched = Path(scratch) / "new"
            fetched.mkdir()

            def download(file: str) -> None:
                uri = f"{str(logged.artifact_location).rstrip('/')}/{file}"
                mlflow.artifacts.download_artifacts(uri, dst_path=str(fetched), tracking_uri=store.tracking_uri)

            download(SUMS)
            for file in _sums(fetched):
                download(file)
            if not _is_intact(fetched, digest):
                raise TrackingError(f"the files of {model} ({model_id}) differ from their checksums: log it again")
            if to.exists():
                to.replace(Path(scratch) / "old")
            fetched.replace(to)
    return to


def forget_model(store: Store, model_id: str) -> bool:
    """Delete a logged model and its files; False, and nothing done, where it is a version of the registry.

    Its run stays, with all its figures. Calling it again is harmless.
    """
    with explained(f"forget the model {model_id}", store.tracking_uri):
        try:
            model = store.client.get_logged_model(model_id)
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return True
            raise
        if any(version.model_id == model_id for version in Registry(store).versions()):
            return False
        delete_artifacts(str(model.artifact_location), store.tracking_uri)
        store.client.delete_logged_model(model_id)
    return True


def _files(folder: Path) -> list[Path]:
    missing = [name for name in (WEIGHTS, CONFIG) if not (folder / name).is_file()]
    if missing:
        raise TrackingError(f"{folder} lacks {' and '.join(missing)}: give the folder of a finished training")
    files = (path for path in folder.iterdir() if path.is_file() and path.suffix != ".pt")
    return sorted(path for path in files if not path.name.startswith(".") and path.name not in _NO_PART_OF_A_MODEL)


def _sums(folder: Path) -> dict[str, str]:
    """The checksum of each file of a model, from the list that was kept with it."""
    lines = (folder / SUMS).read_text().splitlines()
    sums = {name: expected for expected, _, name in (line.partition("  ") for line in lines if line)}
    if any(Path(name).name != name for name in sums):
        raise TrackingError(f"the list of checksums names files outside the model ({[*sums]}): do not use it")
    return sums


def _is_intact(folder: Path, digest: str) -> bool:
    known = (folder / SUMS).is_file() and sha256(folder / SUMS)[:32] == digest
    return known and all((folder / n).is_file() and sha256(folder / n) == its for n, its in _sums(folder).items())
