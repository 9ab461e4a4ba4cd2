"""From one registry to another: a folder with the model, its ONNX files, card, lineage and checksums, and back."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from classifier.export import FLOAT, INT8, TOLERANCE, export_onnx, onnx_scores, parity, quantise
from classifier.models.ensemble import FaceModel, load_detector
from core.errors import UserError
from core.manifest import Manifest
from faces.loading import Crops, load_crops
from metrics.intervals import paired_difference
from pipelines.release.lineage import TRACED, lineage_manifest, untraced
from pipelines.release.model_card import version_card
from tracking.models import DIGEST_TAG, SUMS, fetch_model, log_detector
from tracking.registry import MODEL_TAG, Registry, Version, who
from tracking.runs import run
from tracking.store import Store

CARD, LINEAGE = "README.md", "lineage.json"
EXPERIMENT = "imported"
_CALIBRATION_FACES, _PARITY_FACES = 256, 256
# What is true of a version in its own registry only.
_LEFT_BEHIND = {DIGEST_TAG, MODEL_TAG, "test_manifest_path", "gate", "gate_report", "gate_report_file"}
_LEFT_PREFIXES = ("promoted_", "rolled_back_", "mlflow.")


def export_version(
    store: Store,
    version: Version,
    out: Path,
    *,
    onnx: bool = True,
    int8: bool = False,
    manifest: Path | None = None,
    cache: Path = Path("cache"),
) -> dict[str, Any]:
    """Write a version into the new folder `out`, each ONNX file only after it was held against PyTorch.

    Val rows of the lineage's manifest are what it is held against (noise, where there is no manifest), train rows
    calibrate int8; test rows stay sealed.

    Raises:
        UserError: `out` is a file or holds something, int8 has no faces to calibrate on, or the float32 file differs
            from PyTorch.
    """
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file: choose a new or an empty folder")
    if out.exists() and any(out.iterdir()):
        raise UserError(f"{out} holds something already: choose a new or an empty folder")
    out.parent.mkdir(parents=True, exist_ok=True)
    sentences: dict[str, str] = {}
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as scratch:
        folder = fetch_model(store, version.uri, Path(scratch) / "model")
        for file in (SUMS, "MLmodel"):
            (folder / file).unlink(missing_ok=True)
        model = load_detector(folder, "cpu")
        if onnx or int8:
            faces = _faces(version, manifest)
            sentences = _export_files(model, folder, faces, cache, int8)
            if not onnx:
                (folder / FLOAT).unlink()
                sentences.pop(FLOAT)
        missing = untraced(store, version, model)
        (folder / CARD).write_text(
            version_card(store, version, [f"`{name}`: {text}" for name, text in sentences.items()]), encoding="utf-8"
        )
        _write_json(folder / LINEAGE, _lineage(store, version, missing))
        names = sorted(path.name for path in folder.iterdir())
        (folder / SUMS).write_text("".join(f"{_sha256(folder / name)}  {name}\n" for name in names))
        if out.exists():
            out.rmdir()
        folder.replace(out)
    return {"version": version.number, "folder": str(out), "files": [*names, SUMS], "parity": sentences}


def import_version(store: Store, folder: Path) -> Version:
    """Take an exported folder into this registry as a version with the alias `challenger`; twice is once.

    Raises:
        UserError: it is no export, or a file is not what its checksum says.
    """
    verify(folder)
    lineage = json.loads((folder / LINEAGE).read_text(encoding="utf-8"))
    sums = (folder / SUMS).read_bytes()
    load_detector(folder, "cpu")  # refuses what cannot be rebuilt before anything is recorded
    origin = f"{lineage['name']} version {lineage['version']} ({lineage['model_id']})"
    tags = {**lineage["tags"], "imported_from": origin, "imported_by": who()}
    if not lineage["untraced"]:
        tags[TRACED] = lineage["tags"].get("generator", "")
    with (
        run(
            store,
            EXPERIMENT,
            f"import of {lineage['name']} {lineage['version']}",
            key=f"import/{hashlib.sha256(sums).hexdigest()[:24]}",
            tags={"imported_from": origin},
            description=f"Exported from {origin}, {lineage['exported_at']}, by {lineage['exported_by']}.",
        ) as active,
        tempfile.TemporaryDirectory() as scratch,
    ):
        for path in folder.iterdir():
            if path.is_file() and path.name not in (SUMS, LINEAGE) and path.suffix != ".onnx":
                shutil.copyfile(path, Path(scratch) / path.name)
        model_id = log_detector(
            active,
            name=f"imported-{lineage['version']}",
            folder=Path(scratch),
            metrics=lineage["metrics"],
            params=lineage["params"],
            tags=tags,
        )
    registry = Registry(store)
    return registry.challenge(registry.register(model_id, tags).number)


def verify(folder: Path) -> None:
    """Check, and raise UserError unless `folder` is an export whose files all are what `SHA256SUMS` says."""
    sums = folder / SUMS
    if not sums.is_file() or not (folder / LINEAGE).is_file():
        raise UserError(
            f"{folder} is no exported model ({SUMS} or {LINEAGE} is missing): use `counterforge models export`"
        )
    lines = [line for line in sums.read_text(encoding="utf-8", errors="replace").splitlines() if line]
    pairs = [line.partition("  ")[::2] for line in lines]
    for expected, name in pairs:
        if not name:
            raise UserError(f"{sums} is damaged (the line {expected[:80]!r}): copy the exported folder again")
        if Path(name).name != name or not (folder / name).is_file():
            raise UserError(f"{folder} lacks {name}, which {SUMS} names: copy the exported folder again")
        if _sha256(folder / name) != expected:
            raise UserError(f"{folder / name} is not the file that was exported (its checksum differs): copy it again")
    unknown = {path.name for path in folder.iterdir()} - {name for _, name in pairs} - {SUMS}
    if unknown:
        raise UserError(f"{folder} holds {', '.join(sorted(unknown))}, which {SUMS} does not name: remove it")


def _export_files(model: FaceModel, folder: Path, faces: Manifest | None, cache: Path, int8: bool) -> dict[str, str]:
    """`model.onnx` and, if asked for, `model.int8.onnx`; a sentence about each."""
    size = model.config.image_size
    val = _some(faces.select(split="val"), _PARITY_FACES) if faces is not None else None
    if val is not None and len(val):
        crops, what = load_crops(val, size, cache), ""
    else:
        pixels = np.random.default_rng(0).integers(0, 256, (32, size, size, 3), dtype=np.uint8)
        val, crops, what = None, Crops(pixels, np.arange(len(pixels))), " of noise"
    rows = np.arange(len(crops), dtype=np.int64)
    exact = parity(model, export_onnx(model, folder / FLOAT), crops, rows)
    if not exact.max_logit <= TOLERANCE:
        raise UserError(
            f"the ONNX file of {model.config.backbone} differs from PyTorch by {exact.max_logit:.2g} in its logits: "
            "use --no-onnx, and report it"
        )
    sentences = {FLOAT: f"float32, {_megabytes(folder / FLOAT)}; {exact}{what}"}
    if int8:
        if faces is None:
            raise UserError("int8 needs train faces to calibrate on, and the lineage has none: give --manifest")
        train = _some(faces.select(split="train"), _CALIBRATION_FACES)
        file = quantise(folder / FLOAT, folder / INT8, load_crops(train, size, cache), np.arange(len(train)))
        text = f"int8, {_megabytes(file)}; {parity(model, file, crops, rows)}{what}"
        if val is not None and 0 < val.targets.sum() < len(val):
            batches = [crops.batch(rows[start : start + 16]) for start in range(0, len(rows), 16)]
            ours, theirs = (onnx_scores(folder / name, batches)[1] for name in (INT8, FLOAT))
            text += f"; AUC on val differs by {paired_difference(val.targets, ours, theirs, val.groups)}"
        sentences[INT8] = text
    return sentences


def _faces(version: Version, given: Path | None) -> Manifest | None:
    """The lineage's manifest, or None where it is not on this machine."""
    if given is None and not Path(version.tags.get("test_manifest_path", "-")).is_file():
        return None
    return lineage_manifest(version, given)


def _some(manifest: Manifest, count: int) -> Manifest:
    """At most so many rows, chosen by their hashes, of every dataset, class and method as they come."""
    chosen = manifest.rows["sha256"].rank(method="first") <= count
    return manifest.where(chosen.to_numpy(dtype=bool))


def _lineage(store: Store, version: Version, missing: list[str]) -> dict[str, Any]:
    logged = store.client.get_logged_model(version.model_id)
    return {
        "name": version.name,
        "version": version.number,
        "model_id": version.model_id,
        "created": version.created.isoformat(),
        "exported_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "exported_by": who(),
        "tags": {
            key: value
            for key, value in version.tags.items()
            if key not in _LEFT_BEHIND and not key.startswith(_LEFT_PREFIXES)
        },
        "params": dict(logged.params),
        "metrics": Registry(store).metrics(version),
        "untraced": missing,
    }


def _write_json(file: Path, content: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _megabytes(file: Path) -> str:
    return f"{file.stat().st_size / 1e6:.1f} MB"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
