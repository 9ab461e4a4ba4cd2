"""The generator's training and its measurement, logged in MLflow.

The same call resumes, or returns what was made; of two processes at once on one folder, the second waits, and returns
what the first made. Apart from the detectors' training, whose networks take seconds to import.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from core.files import digest
from core.locks import alone_in
from core.manifest import Manifest
from gan.checkpoint import generator_digest
from gan.config import GanConfig
from gan.distributed import ProcessGroup
from gan.quality import Quality, score_generator
from gan.training import faces_to_learn, train
from tracking.runs import run
from tracking.store import Store


@alone_in("out", "the training of a generator")
def train_and_log_generator(
    manifest: Manifest,
    config: GanConfig,
    out: Path,
    cache: Path,
    store: Store,
    project: str,
    parent: str | None = None,
    group: ProcessGroup | None = None,
) -> dict[str, str]:
    """Train on the train reals of a manifest, with losses, ADA's strength and the last grid in an MLflow run.

    Of several processes that train together, the main one calls this, and the others `gan.training.train`.

    Returns:
        `generator`, the folder of its checkpoint, and `digest`, the hash of its weights.
    """
    work = digest(f"{out.resolve()} {manifest.digest} {config.model_dump_json()}", length=24)
    with run(
        store,
        project,
        "generator",
        key=f"generator/{work}",
        parent=parent,
        params=config.resolved().model_dump(mode="json"),
        tags={"manifest": manifest.digest},
        description="A generator of faces, trained on the train reals.",
    ) as active:
        learnt, label = faces_to_learn(manifest, config), config.learn_from
        active.dataset(f"train {label}s", learnt.digest, learnt.root, {f"train/{label}": len(learnt)}, "training")
        folder = train(manifest, config, out, cache, active.metrics, group)
        for grid in sorted((out / "samples").glob("*.png"))[-1:]:
            active.artifact(grid)
        weights = generator_digest(folder)
        active.tags({"generator": weights})
    return {"generator": str(folder), "digest": weights}


def score_and_log_generator(
    folder: Path, manifest: Manifest, out: Path, cache: Path, store: Store, project: str, **options: Any
) -> Quality:
    """Measure a generator, with figures and pictures in MLflow. Takes the options of `gan.quality.score_generator`."""
    weights = generator_digest(folder)
    work = digest(f"{weights} {manifest.digest} {sorted(options.items())}", length=24)
    with run(
        store,
        project,
        "generator score",
        key=f"generator-score/{work}",
        params={name: str(value) for name, value in options.items()},
        tags={"manifest": manifest.digest, "generator": weights},
        description="Distances between samples and reals, each beside its floor between two halves of the reals.",
    ) as active:
        quality = score_generator(folder, manifest, out, cache, **options)
        active.metrics(quality.metrics, 0)
        active.tags({"memorises": str(quality.memorises).lower()})
        for file in (out / "quality.json", out / "neighbours.png"):
            if file.is_file():
                active.artifact(file)
    return quality
