"""One trained and logged generator."""

from __future__ import annotations

import hashlib
from pathlib import Path

from faces.manifest import Manifest
from gan.checkpoint import generator_digest
from gan.config import GanConfig
from gan.training import train
from tracking.runs import run
from tracking.store import Store


def train_and_log_generator(
    manifest: Manifest,
    config: GanConfig,
    out: Path,
    cache: Path,
    store: Store,
    project: str,
    parent: str | None = None,
) -> dict[str, str]:
    """Train on the train reals of a manifest, with losses, ADA's strength and the last grid in an MLflow run.

    Returns:
        `generator`, the folder of its checkpoint, and `digest`, the hash of its weights.
    """
    work = hashlib.sha256(f"{out.resolve()} {manifest.digest} {config.model_dump_json()}".encode()).hexdigest()[:24]
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
        reals = manifest.select(split="train", label="real")
        active.dataset("train reals", reals.digest, reals.root, {"train/real": len(reals)}, "training")
        folder = train(manifest, config, out, cache, active.metrics)
        for grid in sorted((out / "samples").glob("*.png"))[-1:]:
            active.artifact(grid)
        digest = generator_digest(folder)
        active.tags({"generator": digest})
    return {"generator": str(folder), "digest": digest}
