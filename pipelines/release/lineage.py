"""Which model is meant, and where it comes from: data, generator and code, and whether each can be found again."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from mlflow.exceptions import MlflowException

from classifier.models.detector import CONFIG
from classifier.models.ensemble import FaceModel, load_detector
from core.errors import UserError
from core.manifest import Manifest
from pipelines.evaluation.sealed import sealed_rows
from tracking.models import fetch_model
from tracking.registry import Registry, Version
from tracking.store import Store, TrackingError, explained

IMPORTED = "imported_from"  # on an imported version: what it was where it came from
CLAIMED = "claimed_"  # before the names of tags and figures that came with a bundle: nobody here checked them
TRACED = "traced_generators"  # on an imported version: generators that the registry of before knew
_HASH = re.compile("[0-9a-f]{16}")


@dataclass(frozen=True)
class Model:
    """A model that somebody named: a version of the registry, or else the folder of a detector, ensemble or export."""

    store: Store
    version: Version | None
    path: Path | None = None

    @property
    def name(self) -> str:
        """For titles: by the version and not by its alias, which names another model tomorrow."""
        return f"version {self.version.number}" if self.version else str(self.path)

    @property
    def model_id(self) -> str | None:
        """Of the LoggedModel, which a folder has not."""
        return self.version.model_id if self.version else None

    @property
    def project(self) -> str:
        """The MLflow experiment that its evaluations belong to."""
        return self.version.tags.get("project", "evaluations") if self.version else "evaluations"

    @contextmanager
    def files(self) -> Iterator[Path]:
        """Its folder, fetched from the registry for the time of the block."""
        if self.version is None:
            assert self.path is not None
            yield self.path
            return
        with tempfile.TemporaryDirectory() as scratch:
            yield fetch_model(self.store, self.version.uri, Path(scratch) / "model")

    def load(self) -> FaceModel:
        """The detector or ensemble, on the CPU."""
        with self.files() as folder:
            return load_detector(folder, "cpu")

    def sealed_rows(self, manifest: Path | None = None, datasets: Sequence[str] = ()) -> Manifest:
        """The test rows that it is judged on: of the given datasets, or else of those in its lineage.

        Raises:
            UserError: there is no manifest, it cannot be read or has changed, or there are no such rows.
        """
        if self.version is not None:
            tags = self.version.tags
            known = tags.get("test_datasets", tags.get("test_domains", "")).split(",")  # the second name is older
            return sealed_rows(lineage_manifest(self.version, manifest), datasets or list(filter(None, known)))
        if manifest is None:
            raise UserError(f"{self.path} has no lineage in the registry: give the test rows with --manifest")
        return sealed_rows(Manifest.read(manifest), datasets)


def find_model(store: Store, reference: str | int) -> Model:
    """What MODEL means everywhere: a version number, an alias, a run id, a model id, or a folder.

    Raises:
        UserError: a run or a model that is no version of the registry, or a folder without a model.
        TrackingError: nothing is called so.
    """
    path = Path(str(reference))
    if (path / CONFIG).is_file():
        return Model(store, None, path)
    if path.is_dir() and not str(reference).isdigit():
        forms = "a version (3), an alias (champion), a run id, a model id (m-...), or a detector's folder"
        raise UserError(f"{path} holds no model ({CONFIG} is missing): give {forms}")
    return Model(store, find_version(store, reference))


def lineage_manifest(version: Version, given: Path | None = None) -> Manifest:
    """The manifest with the sealed rows that a version is compared on: the given one, or that of its lineage.

    Raises:
        UserError: the version names none or was imported, it cannot be read, or its rows have changed.
    """
    if given is not None:
        return Manifest.read(given)
    if IMPORTED in version.tags:
        raise UserError(
            f"version {version.number} was imported, and no manifest of this machine is in its lineage: "
            "give the test rows with --manifest"
        )
    path, which = version.tags.get("test_manifest_path"), f"version {version.number}"
    if path is None:
        raise UserError(f"{which} names no manifest in its lineage: give one with --manifest")
    if not Path(path).is_file():
        raise UserError(f"the manifest of {which} is no longer at {path}: give it with --manifest")
    manifest = Manifest.read(path)
    if manifest.digest != version.tags["test_manifest"]:
        raise UserError(
            f"{path} has changed since {which} was registered: register a model trained on it anew, "
            "or give the manifest of then with --manifest"
        )
    return manifest


def untraced(store: Store, version: Version, model: FaceModel) -> list[str]:
    """What of a version's lineage cannot be traced, each in a few words; empty where all of it can.

    The manifest: its hash is on the version, and the one that the weights were trained on is what the lineage says. The
    generator: none, a method of the code, or a checkpoint whose training is a run of this store. The code: a commit,
    or the version with the hash of its sources.
    """
    missing, tags = [], version.tags
    if not tags.get("manifest"):
        missing.append("the manifest is not recorded")
    told, own = tags.get("training_manifest", tags.get("manifest", "")), model.manifest_digest
    if told and own and told != own:
        missing.append(f"the weights were trained on manifest {own}, and the lineage says {told}")
    if "generator" not in tags:
        missing.append("the generator is not recorded (none is an answer too)")
    known_before = set(tags.get(TRACED, "").split(","))
    for generator in filter(None, re.split(r"[,;\s]+", tags.get("generator", ""))):
        if _HASH.fullmatch(generator) and generator not in known_before and not _has_run(store, generator):
            trust = " (what an unsigned bundle says of it is not believed)" if IMPORTED in tags else ""
            missing.append(f"no run here trained the generator {generator}{trust}")
    if not tags.get("git_commit") and not tags.get("code"):
        missing.append("the code is not recorded, neither a commit nor a version")
    return missing


def licence_of(version: Version) -> str:
    """The licence that the version says it may be used under, or ""."""
    return version.tags.get("licence") or version.tags.get("license") or ""


def find_version(store: Store, candidate: str | int) -> Version:
    """The version of the registry called by number, alias or address; by its model id (`m-...`); or by its run.

    Raises:
        UserError: a run or a model that is no version of the registry.
        TrackingError: nothing is called so.
    """
    registry, text = Registry(store), str(candidate).strip()
    kind, models = "model", {text}
    if re.fullmatch("[0-9a-f]{32}", text):
        with explained(f"find the run {text}", store.tracking_uri):
            run = store.client.get_run(text)
        kind, models = "run", {output.model_id for output in run.outputs.model_outputs} if run.outputs else set()
        if not models:
            raise UserError(
                f"the run {text} ({run.info.run_name}) holds no model: give a version, see `counterforge models list`"
            )
    elif not text.startswith("m-"):
        return registry.resolve(candidate)
    found = next((version for version in registry.versions() if version.model_id in models), None)
    if found is None:
        raise UserError(f"the {kind} {text} is no version of {registry.name}: register it with `counterforge train`")
    return found


def _has_run(store: Store, generator: str) -> bool:
    """Whether a run trained the generator with this hash; detectors' runs name it too, but have another key."""
    client = store.client
    wanted = f"tags.generator = '{generator}' AND tags.`counterforge.key` LIKE 'generator/%'"
    try:
        experiments = [experiment.experiment_id for experiment in client.search_experiments()]
        return bool(client.search_runs(experiments, wanted, max_results=1))
    except MlflowException as error:
        raise TrackingError(f"cannot look for the generator {generator} ({store.tracking_uri}): {error}") from error
