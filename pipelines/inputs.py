"""What every pipeline stands on: the faces as a manifest, and a generator that has learnt from their train reals."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.errors import UserError
from core.manifest import Manifest, concatenate
from faces.extraction import IngestConfig
from faces.ingest import ingest
from faces.orl import embedded
from faces.sheets import contact_sheet
from pipelines.configuration import RunConfig
from pipelines.experiments.arms import keep_few_fakes
from pipelines.generator import train_and_log_generator
from pipelines.steps import Steps
from tracking.store import Store


@dataclass(frozen=True)
class Faces:
    """Files of the manifest with all fakes, of the one with those that are trained on, and of the contact sheet."""

    full: Path
    reduced: Path
    sheet: Path


def prepare_dataset(config: RunConfig, steps: Steps) -> Faces:
    """Take in the datasets of the configuration, unless that is done already.

    Raises:
        UserError: a folder is missing, or a dataset names no dataset.
    """
    done = steps.do("faces", [_inputs(config)], lambda: _faces(config), lambda r: [Path(r["manifest"])])
    return Faces(Path(done["manifest"]), Path(done["reduced"]), Path(done["sheet"]))


def train_or_load_generator(
    config: RunConfig, reduced: Manifest, store: Store, steps: Steps, parent: str | None = None
) -> Path:
    """Train a generator on the train reals of the train datasets, unless that is done already; its checkpoint."""
    trained_on = reduced.select(dataset=config.datasets.train)
    made = steps.do(
        "generator",
        [
            trained_on.select(split="train", label="real").digest,
            config.gan.model_dump_json(),
            tracking_place(config, store),
        ],
        lambda: train_and_log_generator(
            trained_on, config.gan, config.out / "generator", config.out / "cache", store, config.project, parent
        ),
        lambda r: [Path(r["generator"])],
    )
    return Path(made["generator"])


def tracking_place(config: RunConfig, store: Store) -> str:
    """What tells one tracking database from another that took its place."""
    experiment = store.client.get_experiment(store.experiment(config.project))
    return f"{store.tracking_uri} {experiment.experiment_id} {experiment.creation_time}"


def _inputs(config: RunConfig) -> str:
    """What decides the manifest: the settings, and names, sizes and times of the media."""
    if config.embedded:
        return f"embedded {config.keep_train_fakes}"
    for source in config.faces:
        if not source.source.is_dir():
            raise UserError(f"no folder at {source.source} (faces.source): give a folder that holds real/ and fake/")
    media = [
        (str(path.relative_to(source.source)), path.stat().st_size, path.stat().st_mtime_ns)
        for source in config.faces
        for path in sorted(source.source.rglob("*"))
        if path.is_file()
    ]
    parts = config.model_dump_json(include={"faces", "keep_train_fakes", "datasets"})
    return parts + json.dumps(media)


def _faces(config: RunConfig) -> dict[str, Any]:
    folder = config.out / "faces"
    if config.embedded:
        manifest = embedded(folder / "embedded")
    else:
        parts = []
        for source in config.faces:
            name = source.dataset or source.source.resolve().name
            parts.append(
                ingest(source.source, folder / name, IngestConfig.model_validate(source.model_dump(exclude={"source"})))
            )
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
