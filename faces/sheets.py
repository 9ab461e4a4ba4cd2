"""A contact sheet: a labelled montage of crops, so that a person sees what a dataset holds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from core.errors import UserError
from core.manifest import Manifest

_TILE, _GAP, _CAPTION = 128, 4, 26
_INK = {"real": (20, 90, 50), "fake": (150, 30, 30)}


def contact_sheet(manifest: Manifest, out: Path, *, per_row: int = 8, rows: int = 2, seed: int = 0) -> Path:
    """Write a PNG with up to `rows` x `per_row` crops of each dataset, label and method, drawn at random by `seed`.

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


_FORGERY_TILE, _FORGERY_GAP, _FORGERY_CAPTION = 160, 4, 24
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
    width = _PER_LINE * (len(_TITLES) * (_FORGERY_TILE + _FORGERY_GAP) + 3 * _FORGERY_GAP)
    strips = []
    for method, index in sorted(blended.groupby("method").groups.items()):
        chosen = np.sort(random.permutation(np.asarray(index))[:per_method])
        lines = -(-len(chosen) // _PER_LINE)
        strip = Image.new("RGB", (width, _FORGERY_CAPTION + lines * (_FORGERY_TILE + _FORGERY_GAP)), "white")
        caption = f"{method}: {len(chosen)} of {len(index)} ({', '.join(_TITLES)})"
        ImageDraw.Draw(strip).text((_FORGERY_GAP, 3), caption, fill=(150, 30, 30), font=ImageFont.load_default(size=15))
        for number, row in enumerate(chosen):
            line, column = divmod(number, _PER_LINE)
            left = _FORGERY_GAP + column * (width // _PER_LINE)
            for step, tile in enumerate(_tiles(manifest, int(row), place[manifest.rows["parent"][row]])):
                strip.paste(
                    tile,
                    (
                        left + step * (_FORGERY_TILE + _FORGERY_GAP),
                        _FORGERY_CAPTION + line * (_FORGERY_TILE + _FORGERY_GAP),
                    ),
                )
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
    return [
        ImageOps.pad(tile, (_FORGERY_TILE, _FORGERY_TILE), color="lightgray")
        for tile in (photograph, mask, forgery, difference)
    ]


def _read(path: Path) -> Image.Image:
    try:
        with Image.open(path) as image:
            return ImageOps.exif_transpose(image).convert("RGB")
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error}): forge or ingest the faces again") from error
