"""A contact sheet: a labelled montage of crops, so that a person sees what a data set holds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from faces.errors import UserError
from faces.manifest import Manifest

_TILE, _GAP, _CAPTION = 128, 4, 26
_INK = {"real": (20, 90, 50), "fake": (150, 30, 30)}


def contact_sheet(manifest: Manifest, out: Path, *, per_row: int = 8, rows: int = 2, seed: int = 0) -> Path:
    """Write a PNG with up to `rows` x `per_row` crops of each data set, label and method, drawn at random by `seed`.

    Real faces stand above fake ones. Crops keep their shape; they are scaled to fit tiles of 128 pixels.

    Returns:
        `out`.

    Raises:
        UserError: the manifest is empty, or a crop is missing or unreadable.
    """
    if not len(manifest):
        raise UserError(f"the manifest in {manifest.root} has no rows: there is nothing to show")
    generator = np.random.default_rng(seed)
    groups = list(manifest.rows.groupby(["dataset", "label", "method"], sort=True).groups.items())
    groups.sort(key=lambda group: (group[0][0], group[0][1] != "real", group[0][2]))
    font = ImageFont.load_default(size=15)
    strips: list[Image.Image] = []
    for (dataset, label, method), index in groups:
        chosen = np.sort(generator.permutation(np.asarray(index))[: rows * per_row])
        strip = Image.new("RGB", (_place(per_row), _CAPTION + _place(-(-len(chosen) // per_row))), "white")
        caption = f"{label} · {method} · {dataset}: {len(chosen)} of {len(index)}"
        ImageDraw.Draw(strip).text((_GAP, _GAP), caption, fill=_INK[label], font=font)
        for place, row in enumerate(chosen):
            y, x = divmod(place, per_row)
            strip.paste(_tile(manifest.root / manifest.rows["path"][row]), (_place(x), _CAPTION + _place(y)))
        strips.append(strip)
    sheet = Image.new("RGB", (_place(per_row), sum(strip.height for strip in strips)), "white")
    top = 0
    for strip in strips:
        sheet.paste(strip, (0, top))
        top += strip.height
    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(out, "png")
    return out


def _place(count: int) -> int:
    return _GAP + count * (_TILE + _GAP)


def _tile(path: Path) -> Image.Image:
    try:
        with Image.open(path) as image:
            picture = ImageOps.exif_transpose(image).convert("RGB")
    except OSError as error:
        raise UserError(f"the crop {path} cannot be read ({error}): ingest the faces again") from error
    return ImageOps.pad(picture, (_TILE, _TILE), color="lightgray")
