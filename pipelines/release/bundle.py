"""From one registry to another: a folder with the model, its ONNX files, card, lineage and checksums, and back.

Whoever wrote the folder can write anything into it. Of its tags an import keeps those that describe the lineage; all
others, and every figure, are kept as `claimed_...`, which no rule of the gate reads. A signature that fits a key which
the importer trusts adds the licence, and the generators that its registry had traced.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from classifier.export import FLOAT, INT8, TOLERANCE, export_onnx, onnx_scores, parity, quantise
from classifier.models.ensemble import FaceModel, load_detector
from core.config import validate
from core.errors import UserError, one_line
from core.files import sha256, write_json
from core.manifest import Manifest
from faces.loading import Crops, load_crops
from metrics.intervals import paired_difference
from pipelines.release.lineage import CLAIMED, IMPORTED, TRACED, lineage_manifest, untraced
from pipelines.release.model_card import version_card
from tracking.models import DIGEST_TAG, SUMS, fetch_model, log_detector
from tracking.registry import MODEL_TAG, Registry, Version, who
from tracking.runs import MAX_TAG, metric_name, run
from tracking.store import Store

CARD, LINEAGE, SIGNATURE = "README.md", "lineage.json", "SHA256SUMS.sig"
EXPERIMENT = "imported"
_CALIBRATION_FACES, _PARITY_FACES = 256, 256
# What is true of a version in its own registry only.
_LEFT_BEHIND = {DIGEST_TAG, MODEL_TAG, "test_manifest_path", "gate", "gate_report", "gate_report_file"}
_LEFT_PREFIXES = ("promoted_", "rolled_back_", "mlflow.")
# What an import keeps under its own name: it describes the lineage, and opens and decides nothing.
_LINEAGE_TAGS = {"manifest", "training_manifest", "generator", "synthetic_faces", "git_commit", "code"}
_SIGNED_TAGS = {"licence", "license"}
_PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_PLAIN_VALUE = re.compile(r"[\w .,;:+/()@-]*")
_SUM_LINE = re.compile(r"([0-9a-f]{64})  (.+)")
_MOST_FILES, _MOST_SUMS, _MOST_LINEAGE = 64, 16_384, 1_048_576  # entries of the folder, bytes, bytes

_Name = Annotated[str, Field(min_length=1, max_length=240)]
_Key = Annotated[_Name, AfterValidator(metric_name)]  # before it is compared, lest `a/../b` becomes `b` afterwards
_Text = Annotated[str, Field(max_length=6000)]


class Lineage(BaseModel):
    """What `lineage.json` may hold; figures that were not finite are null."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    name: _Name
    version: int = Field(ge=1, lt=10**9)
    model_id: _Name
    created: _Name
    exported_at: _Name
    exported_by: _Name
    tags: dict[_Key, _Text] = Field(max_length=500)
    params: dict[_Key, _Text] = Field(max_length=1000)
    metrics: dict[_Key, float | None] = Field(max_length=5000)
    untraced: list[_Text] = Field(max_length=100)


@dataclass(frozen=True)
class Exported:
    """A version as a folder: the names of its files, and a sentence about each ONNX file beside PyTorch."""

    version: int
    folder: Path
    files: list[str]
    parity: dict[str, str]


def export_version(
    store: Store,
    version: Version,
    out: Path,
    *,
    onnx: bool = True,
    int8: bool = False,
    manifest: Path | None = None,
    cache: Path = Path("cache"),
    sign: Path | None = None,
) -> Exported:
    """Write a version into the new folder `out`, each ONNX file only after it was held against PyTorch.

    Val rows of the lineage's manifest are what it is held against (noise, where there is no manifest), train rows
    calibrate int8; test rows stay sealed.

    Args:
        sign: PEM file of an Ed25519 private key; its signature of `SHA256SUMS` goes into `SHA256SUMS.sig`, in hex.

    Raises:
        UserError: `out` is a file or holds something, int8 has no faces to calibrate on, the float32 file differs
            from PyTorch, or `sign` is no such key.
    """
    key = _key(sign, private=True) if sign else None
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        what = "holds something already" if out.is_dir() else "is a file"
        raise UserError(f"{out} {what}: choose a new or an empty folder")
    out.parent.mkdir(parents=True, exist_ok=True)
    sentences: dict[str, str] = {}
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as scratch:
        folder = fetch_model(store, version.uri, Path(scratch) / "model")
        for file in (SUMS, "MLmodel"):
            (folder / file).unlink(missing_ok=True)
        model = load_detector(folder, "cpu")
        if onnx or int8:
            here = manifest or Path(version.tags.get("test_manifest_path", "-")).is_file()
            faces = lineage_manifest(version, manifest) if here else None
            sentences = _export_files(model, folder, faces, cache, int8)
            if not onnx:
                (folder / FLOAT).unlink()
                sentences.pop(FLOAT)
        missing = untraced(store, version, model)
        extra = [f"`{name}`: {text}" for name, text in sentences.items()]
        (folder / CARD).write_text(version_card(store, version, extra), encoding="utf-8")
        write_json(folder / LINEAGE, _lineage(store, version, missing))
        names = sorted(path.name for path in folder.iterdir())
        sums = "".join(f"{sha256(folder / name)}  {name}\n" for name in names)
        (folder / SUMS).write_text(sums)
        names.append(SUMS)
        if isinstance(key, Ed25519PrivateKey):
            (folder / SIGNATURE).write_text(key.sign(sums.encode()).hex() + "\n")
            names.append(SIGNATURE)
        if out.exists():
            out.rmdir()
        folder.replace(out)
    return Exported(version.number, out, names, sentences)


def import_version(store: Store, folder: Path, *, trust: Path | None = None) -> Version:
    """Take an exported folder into this registry as a version with the alias `challenger`; twice is once.

    Args:
        trust: PEM file of the Ed25519 public key that must have signed it; licence and traced generators are then
            believed. Figures stay claims.

    Raises:
        UserError: it is no export, a file is not what its checksum says, the weights are not those of `config.json`,
            or the signature is missing or of another key.
    """
    sums = verify(folder)
    signed_by = _signed_by(folder, sums, trust) if trust else ""
    lineage = _read_lineage(folder / LINEAGE)
    load_detector(folder, "cpu")  # refuses what cannot be rebuilt before anything is recorded
    origin = one_line(f"{lineage.name} version {lineage.version} ({lineage.model_id})")
    told = {key: one_line(value, MAX_TAG) for key, value in lineage.tags.items()}
    believed = _LINEAGE_TAGS | (_SIGNED_TAGS if signed_by else set())
    kept = {key: value for key, value in told.items() if key in believed and _PLAIN_VALUE.fullmatch(value)}
    # The code that is recorded is never that of this workbench, which did not train it.
    tags = {"code": "", "git_commit": ""} | _claimed({k: v for k, v in told.items() if k not in kept}) | kept
    tags |= {IMPORTED: origin, "imported_by": who()}
    if signed_by:
        tags |= {"signed_by": signed_by, TRACED: "" if lineage.untraced else told.get("generator", "")}
    figures = {key: value for key, value in lineage.metrics.items() if value is not None and math.isfinite(value)}
    with (
        run(
            store,
            EXPERIMENT,
            one_line(f"import of {lineage.name} {lineage.version}"),
            key=f"import/{hashlib.sha256(sums).hexdigest()[:24]}",
            tags={IMPORTED: origin},
            description=one_line(f"Exported from {origin}, {lineage.exported_at}, by {lineage.exported_by}."),
        ) as active,
        tempfile.TemporaryDirectory() as scratch,
    ):
        for path in folder.iterdir():
            if path.name not in (SUMS, SIGNATURE, LINEAGE, CARD) and path.suffix != ".onnx":
                shutil.copyfile(path, Path(scratch) / path.name)
        model_id = log_detector(
            active,
            name=f"imported-{lineage.version}",
            folder=Path(scratch),
            metrics=_claimed(figures),
            params={key: one_line(value, MAX_TAG) for key, value in lineage.params.items()},
            tags=tags,
        )
    registry = Registry(store)
    return registry.challenge(registry.register(model_id, tags).number)


def verify(folder: Path) -> bytes:
    """The content of `SHA256SUMS`, if `folder` is an export: plain files alone, which all are what it says.

    Raises:
        UserError: it is none; it holds a link, a folder, a hidden or an oddly named file, or one that is not listed.
    """
    sums = folder / SUMS
    if not sums.is_file() or not (folder / LINEAGE).is_file():
        raise UserError(
            f"{folder} is no exported model ({SUMS} or {LINEAGE} is missing): use `counterforge models export`"
        )
    with os.scandir(folder) as entries:
        present = list(islice(entries, _MOST_FILES + 1))
    if len(present) > _MOST_FILES:
        raise UserError(f"{folder} holds more than {_MOST_FILES} files, and no export does: copy the exported folder")
    for entry in present:
        if not entry.is_file(follow_symlinks=False) or not _PLAIN_NAME.fullmatch(entry.name):
            raise UserError(
                f"{folder} holds {entry.name}, which is no plain file with a plain name, and an export holds nothing "
                "else: remove it"
            )
    if sums.stat().st_size > _MOST_SUMS:
        raise UserError(f"{sums} is damaged (more than {_MOST_SUMS} bytes): copy the exported folder again")
    content = sums.read_bytes()
    listed: dict[str, str] = {}
    for line in filter(None, content.decode("utf-8", errors="replace").splitlines()):
        match = _SUM_LINE.fullmatch(line)
        if not match or match[2] in listed:
            raise UserError(f"{sums} is damaged (the line {line[:80]!r}): copy the exported folder again")
        listed[match[2]] = match[1]
    names = {entry.name for entry in present} - {SUMS, SIGNATURE}
    for name, expected in listed.items():
        if name not in names:
            raise UserError(f"{folder} lacks {name}, which {SUMS} names: copy the exported folder again")
        if sha256(folder / name) != expected:
            raise UserError(f"{folder / name} is not the file that was exported (its checksum differs): copy it again")
    if unknown := names - set(listed):
        raise UserError(f"{folder} holds {', '.join(sorted(unknown))}, which {SUMS} does not name: remove it")
    return content


def _read_lineage(file: Path) -> Lineage:
    """Raises UserError unless `file` is a lineage of bounded size."""
    if file.stat().st_size > _MOST_LINEAGE:
        raise UserError(f"{file} is larger than {_MOST_LINEAGE} bytes, and no lineage is: export the model again")
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file} is damaged ({error}): copy the exported folder again") from error
    if not isinstance(content, dict):
        raise UserError(f"{file} is damaged (no mapping): copy the exported folder again")
    return validate(Lineage, content, str(file))


def _claimed(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values under names that say that nobody here checked them; what was a claim before stays one."""
    own_last = sorted(values, key=lambda name: not name.startswith(CLAIMED))
    return {f"{CLAIMED}{name.removeprefix(CLAIMED)}": values[name] for name in own_last}


def _key(file: Path, *, private: bool) -> Ed25519PrivateKey | Ed25519PublicKey:
    """The Ed25519 key in a PEM file; UserError where it holds none, or the other half."""
    wanted = "private" if private else "public"
    try:
        pem = file.read_bytes()
        key = serialization.load_pem_private_key(pem, None) if private else serialization.load_pem_public_key(pem)
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        reason = "it cannot be read" if isinstance(error, OSError) else "it is not PEM, or has a password"
        raise UserError(f"{file} holds no Ed25519 {wanted} key ({reason}): make one with `openssl genpkey`") from error
    if not isinstance(key, Ed25519PrivateKey | Ed25519PublicKey):
        raise UserError(f"{file} holds a {wanted} key of another kind than Ed25519: give one of that")
    return key


def _signed_by(folder: Path, sums: bytes, trust: Path) -> str:
    """16 hex digits that name the trusted key, which must have signed the checksums."""
    key = _key(trust, private=False)
    assert isinstance(key, Ed25519PublicKey)
    file = folder / SIGNATURE
    if not file.is_file():
        raise UserError(f"{folder} is not signed ({SIGNATURE} is missing): export it with --sign, or leave out --trust")
    try:
        with file.open("rb") as opened:
            key.verify(bytes.fromhex(opened.read(256).decode("ascii")), sums)
    except (ValueError, InvalidSignature) as error:
        raise UserError(f"{folder} was changed, or signed by another key than {trust}: do not import it") from error
    return hashlib.sha256(key.public_bytes_raw()).hexdigest()[:16]


def _export_files(model: FaceModel, folder: Path, faces: Manifest | None, cache: Path, int8: bool) -> dict[str, str]:
    """`model.onnx` and, if asked for, `model.int8.onnx`; a sentence about each."""
    size, what = model.config.image_size, ""
    val = _some(faces.select(split="val"), _PARITY_FACES) if faces is not None else None
    if val is not None and len(val):
        crops = load_crops(val, size, cache)
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


def _some(manifest: Manifest, count: int) -> Manifest:
    """At most so many rows, chosen by their hashes, of every dataset, class and method as they come."""
    chosen = manifest.rows["sha256"].rank(method="first") <= count
    return manifest.where(chosen.to_numpy(dtype=bool))


def _lineage(store: Store, version: Version, missing: list[str]) -> dict[str, Any]:
    left = {key for key in version.tags if key in _LEFT_BEHIND or key.startswith(_LEFT_PREFIXES)}
    figures = Registry(store).metrics(version)
    return {
        "name": version.name,
        "version": version.number,
        "model_id": version.model_id,
        "created": version.created.isoformat(),
        "exported_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "exported_by": who(),
        "tags": {key: value for key, value in version.tags.items() if key not in left},
        "params": dict(store.client.get_logged_model(version.model_id).params),
        "metrics": {name: value if math.isfinite(value) else None for name, value in figures.items()},
        "untraced": missing,
    }


def _megabytes(file: Path) -> str:
    return f"{file.stat().st_size / 1e6:.1f} MB"
