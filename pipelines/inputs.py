"""What every pipeline starts from: steps that are done once, the faces as a manifest, and a generator of faces."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from core.errors import UserError
from core.files import digest, read_record, sealed, write_json
from core.manifest import Manifest, concatenate
from core.names import file_name
from core.splits import split_of
from faces.extraction import IngestConfig
from faces.ingest import ingest
from faces.layouts import Tree
from faces.orl import embedded
from faces.sheets import contact_sheet
from pipelines.configuration import RunConfig
from pipelines.generator import train_and_log_generator
from tracking.store import Store
from tuning.trial import TrialContext


@dataclass
class Steps:
    """Runs the steps of a pipeline, and skips those whose inputs have not changed.

    A step leaves a small JSON record in `folder`: the digest of its inputs, its result and the seconds that it took. It
    is written after the work, so that a killed step is done again (each step goes on where it was by itself), and so is
    one whose record is damaged.
    """

    folder: Path
    total: int
    seconds: dict[str, float] = field(default_factory=dict)

    def do(
        self,
        name: str,
        inputs: Sequence[str],
        work: Callable[[], dict[str, Any]],
        outputs: Callable[[dict[str, Any]], Iterable[Path | str]] = lambda _: (),
    ) -> dict[str, Any]:
        """The result of `work`, from the record if inputs are the same and its output files still stand.

        Args:
            name: of the step; one record a name.
            inputs: texts that decide the result (digests, configurations).
            work: returns what JSON can hold.
            outputs: files and folders that the result speaks of.
        """
        key = digest(*inputs, length=64)
        record = self.folder / f"{name}.json"
        title = f"[{len(self.seconds) + 1}/{self.total}] {name}"
        known = read_record(record) or {}
        same = known.keys() == {"inputs", "seconds", "result"} and known["inputs"] == key
        if same and all(Path(path).exists() for path in outputs(known["result"])):
            self.seconds[name] = float(known["seconds"])
            print(f"{title}: unchanged, done before in {known['seconds']:.0f} s", file=sys.stderr)
            return dict(known["result"])
        print(f"{title} ...", file=sys.stderr)
        started = time.monotonic()
        result = work()
        self.seconds[name] = time.monotonic() - started
        write_json(record, sealed({"inputs": key, "seconds": self.seconds[name], "result": result}))
        print(f"{title}: {self.seconds[name]:.0f} s", file=sys.stderr)
        return result


@dataclass(frozen=True)
class Dataset:
    """The faces of a run."""

    context: TrialContext  # what detectors are made of: the manifest with few train fakes, and no generator yet
    full: Manifest  # with all fakes
    file: Path  # of the full manifest
    sheet: Path  # a picture of some of the faces


def prepare_dataset(config: RunConfig, store: Store, steps: Steps) -> Dataset:
    """Take in the datasets of the configuration, unless that is done already.

    Raises:
        UserError: a folder is missing, or a section names a dataset that does not exist.
    """
    done = steps.do("faces", [_inputs(config)], lambda: _faces(config), lambda r: [r["manifest"]])
    file, reduced = Path(done["manifest"]), Manifest.read(Path(done["reduced"]))
    out, roles = config.out, config.datasets
    context = TrialContext(reduced, roles.train, roles.validation, None, out, out / "cache", store, config.project)
    return Dataset(context, Manifest.read(file), file, Path(done["sheet"]))


def train_or_load_generator(config: RunConfig, context: TrialContext, steps: Steps, parent: str | None = None) -> Path:
    """Train a generator on the train reals of the train datasets, unless that is done already; its checkpoint."""
    faces = context.manifest.select(dataset=config.datasets.train)
    learnt = faces.select(split="train", label="real").digest
    out, cache, store = config.out / "generator", context.cache, context.store
    made = steps.do(
        "generator",
        [learnt, config.gan.model_dump_json(), tracking_identity(context)],
        lambda: train_and_log_generator(faces, config.gan, out, cache, store, config.project, parent),
        lambda r: [r["generator"]],
    )
    return Path(made["generator"])


def tracking_identity(context: TrialContext) -> str:
    """What tells one tracking database from another at the same address."""
    experiment = context.store.client.get_experiment(context.store.experiment(context.experiment))
    return f"{context.store.tracking_uri} {experiment.experiment_id} {experiment.creation_time}"


def keep_few_fakes(manifest: Manifest, datasets: tuple[str, ...], share: float, seed: int = 0) -> Manifest:
    """The manifest without some train fakes of the given datasets: `share` of their groups stay, chosen by name."""
    rows = manifest.rows
    concerned = rows["dataset"].isin(datasets) & (rows["split"] == "train") & (rows["label"] == "fake")
    stays = [split_of(f"few/{group}", seed, (share, 1 - share, 0.0)) == "train" for group in manifest.groups]
    return manifest.where((~concerned | pd.Series(stays, index=rows.index)).to_numpy(dtype=bool))


def _inputs(config: RunConfig) -> str:
    """What decides the manifest: the settings, and names, sizes and times of the media."""
    if config.embedded:
        return f"embedded {config.keep_train_fakes}"
    for source in config.faces:
        if not source.source.is_dir():
            raise UserError(
                f"no folder at {source.source} (faces.source): give a folder that holds real/ and fake/, or a "
                "dataset of `counterforge faces layouts`"
            )
    media: list[tuple[str, int, int]] = []
    for source in config.faces:
        for name in Tree.of(source.source, exclude=config.out).files:
            with suppress(OSError):  # a dangling link, which ingest rejects
                status = (source.source / name).stat()
                media.append((name, status.st_size, status.st_mtime_ns))
    return config.model_dump_json(include={"faces", "keep_train_fakes", "datasets"}) + json.dumps(media)


def _faces(config: RunConfig) -> dict[str, Any]:
    folder = config.out / "faces"
    if config.embedded:
        manifest = embedded(folder / "embedded")
    else:
        parts = []
        for source in config.faces:
            name = source.dataset or source.source.resolve().name
            settings = IngestConfig.model_validate(source.model_dump(exclude={"source"}))
            parts.append(ingest(source.source, folder / file_name(name), settings))
        manifest = concatenate(parts, folder)
    known = set(manifest.rows["dataset"])
    for part in ("train", "validation", "test"):
        for name in getattr(config.datasets, part):
            if name not in known:
                raise UserError(f"datasets.{part} names {name!r}, but the datasets are {', '.join(sorted(known))}")
    full = manifest.write(folder / "manifest.parquet")
    reduced = manifest
    if config.keep_train_fakes < 1:
        reduced = keep_few_fakes(manifest, config.datasets.train, config.keep_train_fakes)
    few = reduced.write(folder / "reduced.parquet")
    sheet = contact_sheet(Manifest.read(full), folder / "contact_sheet.png")
    return {"manifest": str(full), "reduced": str(few), "sheet": str(sheet)}
