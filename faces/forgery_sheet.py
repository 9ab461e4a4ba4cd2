"""A contact sheet of blended forgeries: photograph, mask, forgery and what changed, side by side."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from faces.errors import UserError
from faces.manifest import Manifest

_TILE, _GAP, _CAPTION = 160, 4, 24
_TITLES = ("photograph", "mask", "forgery", "difference x 4")
_PER_LINE = 2  # forgeries next to each other


def forgery_sheet(manifest: Manifest, out: Path, *, per_method: int = 6, seed: int = 0) -> Path | None:
    """Write a PNG with up to `per_method` forgeries of each method that keeps its mask, drawn at random by `seed`.

    The difference is the mean over the channels, four times as strong, on black. A forgery whose photograph is not in
    the manifest is passed over.

    Returns:
        `out`, or None if no row has both a mask and its photograph.

    Raises:
        UserError: a crop or a mask is missing or unreadable.
    """
    place = {sha256: row for row, sha256 in enumerate(manifest.rows["sha256"])}
    blended = manifest.rows[manifest.rows["mask"].notna() & manifest.rows["parent"].isin(place)]
    if blended.empty:
        return None
    random = np.random.default_rng(seed)
    width = _PER_LINE * (len(_TITLES) * (_TILE + _GAP) + 3 * _GAP)
    strips = []
    for method, index in sorted(blended.groupby("method").groups.items()):
        chosen = np.sort(random.permutation(np.asarray(index))[:per_method])
        lines = -(-len(chosen) // _PER_LINE)
        strip = Image.new("RGB", (width, _CAPTION + lines * (_TILE + _GAP)), "white")
        caption = f"{method}: {len(chosen)} of {len(index)} ({', '.join(_TITLES)})"
        ImageDraw.Draw(strip).text((_GAP, 3), caption, fill=(150, 30, 30), font=ImageFont.load_default(size=15))
        for number, row in enumerate(chosen):
            line, column = divmod(number, _PER_LINE)
            left = _GAP + column * (width // _PER_LINE)
            for step, tile in enumerate(_tiles(manifest, int(row), place[manifest.rows["parent"][row]])):
                strip.paste(tile, (left + step * (_TILE + _GAP), _CAPTION + line * (_TILE + _GAP)))
        strips.append(strip)
    sheet = Image.new("RGB", (width, sum(strip.height for strip in strips)), "white")
    top = 0
    for strip in strips:
        sheet.paste(strip, (0, top))
        top += strip.height
    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(out, "png")
    return out


def _tiles(manifest: Manifest, forged: int, parent: int) -> list[Image.Image]:
    photograph, forgery = (_read(manifest.root / manifest.rows["path"][row]) for row in (parent, forged))
    mask = _read(manifest.root / manifest.rows["mask"][forged])
    if forgery.size != photograph.size:
        forgery = forgery.resize(photograph.size)
    change = np.abs(np.asarray(forgery, dtype=np.float32) - np.asarray(photograph, dtype=np.float32)).mean(axis=2)
    difference = Image.fromarray((4 * change).clip(0, 255).astype(np.uint8)).convert("RGB")
    return [ImageOps.pad(tile, (_TILE, _TILE), color="lightgray") for tile in (photograph, mask, forgery, difference)]


def _read(path: Path) -> Image.Image:
    try:
        with Image.open(path) as image:
            return ImageOps.exif_transpose(image).convert("RGB")
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error}): forge or ingest the faces again") from error
