"""A copy of a manifest in which every crop went through the same resize and the same encoding.

What the files gave away (format, size, dimensions, tables, metadata) is gone afterwards. What happened to the pixels
before (another compression, noise, blur) is weaker but may show through: audit the copy.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field

from core.errors import UserError
from core.files import sha256, write_bytes, write_json
from core.manifest import Manifest
from core.names import file_name
from core.progress import in_threads
from faces.media import opened, upright

SETTINGS = "normalise.json"
_CHUNK = 256


class NormaliseConfig(BaseModel):
    """What all crops become: square JPEGs of one size and one quality, 4:2:0, without metadata."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    size: int | None = Field(None, ge=16, le=4096, description="side in pixels; by default that of the smaller crops")
    quality: int | None = Field(None, ge=1, le=95, description="of the JPEG; by default the worse crops', 50 to 90")


def resolved(config: NormaliseConfig, table: pd.DataFrame, targets: np.ndarray) -> NormaliseConfig:
    """The configuration without gaps, from the cues of a manifest's crops (`faces.audit.cues.cues`).

    Enlarging or a finer coding would keep what tells the classes apart: so the size is the one that 95 % of the crops
    of either class have, and the quality the one that 95 % of the JPEGs have.
    """
    side = np.minimum(table["width"].to_numpy(dtype=np.float64), table["height"].to_numpy(dtype=np.float64))
    size = min(int(np.quantile(side[targets == kind], 0.05, method="lower")) for kind in np.unique(targets))
    known = table["quality"].to_numpy(dtype=np.float64, na_value=np.nan)
    known = known[~np.isnan(known)]
    quality = int(np.clip(np.quantile(known, 0.05, method="lower"), 50, 90)) if len(known) else 90
    return NormaliseConfig(size=config.size or max(size, 16), quality=config.quality or quality)


def normalise(manifest: Manifest, out: Path, config: NormaliseConfig) -> Manifest:
    """Write `out/crops/...jpg` and `out/manifest.parquet`; what a killed job wrote is not written again.

    A crop that is not square is squeezed to a square, as it is for the detector. Width, height and codec of the rows
    become those of the new crops; labels, groups and splits stay.

    Args:
        config: without gaps (see `resolved`).

    Raises:
        UserError: `out` was begun with other settings or of another manifest, or a crop cannot be read.
    """
    if config.size is None or config.quality is None:
        raise ValueError("size and quality must be known: use resolved()")
    out = Path(out)
    _begin(out, {**config.model_dump(), "manifest": manifest.digest})
    rows, files = manifest.rows, manifest.files
    names = _names(rows)

    def one(row: int) -> str:
        target = out / names[row]
        try:
            if target.is_file():
                return sha256(target)
            data = encoded(files[row].read_bytes(), config.size or 0, config.quality or 0)
            write_bytes(target, data)
        except UserError:
            raise
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            sentence = f"row {row} of the manifest: {files[row]} cannot be normalised ({error}): ingest the faces again"
            raise UserError(sentence) from error
        return sha256(data)

    hashes = [digest for chunk in in_threads(one, range(len(rows)), "normalise", "crop", _CHUNK) for digest in chunk]
    renamed = dict(zip(rows["sha256"], hashes, strict=True))
    parents = [";".join(renamed.get(each, each) for each in text.split(";")) if text else "" for text in rows["parent"]]
    result = rows.assign(path=names, sha256=hashes, parent=parents, width=config.size, height=config.size, codec="jpeg")
    copy = Manifest.build(result, out, where=f"the normalised manifest in {out}")
    copy.write(out / "manifest.parquet")
    return copy


def encoded(data: bytes, size: int, quality: int) -> bytes:
    """A picture as a square JPEG: upright, RGB, resized once with anti-aliasing, 4:2:0, nothing but the pixels.

    JPEGs are decoded in full: libjpeg's own reduction would leave a cue that pictures of other formats lack.
    """
    with opened(data) as image:
        picture = upright(image)
    if picture.size != (size, size):
        picture = picture.resize((size, size), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    # A new picture, so that Pillow has no profile or comment to hand on.
    Image.fromarray(np.asarray(picture)).save(buffer, "jpeg", quality=quality, subsampling="4:2:0")
    return buffer.getvalue()


def _names(rows: pd.DataFrame) -> list[str]:
    """A path for each row that tells its dataset, label and old name; the hash keeps equal names apart."""
    names, seen = [], set()
    for dataset, label, path, digest in zip(rows["dataset"], rows["label"], rows["path"], rows["sha256"], strict=True):
        name = f"crops/{file_name(dataset)}/{label}/{file_name(Path(path).stem)}-{digest[:12]}"
        while name in seen:
            name += "-again"
        seen.add(name)
        names.append(f"{name}.jpg")
    return names


def _begin(out: Path, settings: Mapping[str, object]) -> None:
    file = out / SETTINGS
    if file.is_file():
        old = json.loads(file.read_text())
        for name, value in settings.items():
            if old.get(name) != value:
                was = f"{name} {old.get(name)!r} and not {value!r}"
                raise UserError(f"{out} was begun with {was}: choose another folder")
        return
    if (out / "manifest.parquet").exists():
        raise UserError(f"{out} holds another manifest: choose another folder for the normalised copy")
    write_json(file, dict(settings))
