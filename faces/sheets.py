"""Sheets of pictures for people: what a dataset holds, and how its forgeries were made."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from core.errors import UserError
from core.files import atomic
from core.manifest import Manifest
from faces.media import opened, upright

_GAP, _CAPTION = 4, 26
_INK = {"real": (20, 90, 50), "fake": (150, 30, 30)}
_TITLES = ("photograph", "mask", "forgery", "difference x 4")


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
    random, files = np.random.default_rng(seed), manifest.files
    groups = manifest.rows.groupby(["dataset", "label", "method"]).groups
    strips = []
    for dataset, label, method in sorted(groups, key=lambda group: (group[0], group[1] != "real", group[2])):
        index = groups[dataset, label, method]
        chosen = np.sort(random.permutation(np.asarray(index))[: rows * per_row])
        tiles = [_read(files[row]) for row in chosen]
        caption = f"{label} · {method} · {dataset}: {len(chosen)} of {len(index)}"
        strips.append(_strip(caption, _INK[label], tiles, per_row, 128))
    return _stacked(strips, out)


def forgery_sheet(manifest: Manifest, out: Path, *, per_method: int = 6, seed: int = 0) -> Path | None:
    """Write a PNG with up to `per_method` forgeries of each method that keeps its mask, drawn at random by `seed`.

    The difference is the mean over the channels, four times as strong, on black. A forgery whose photograph is not in
    the manifest is passed over.

    Returns:
        `out`, or None if no row has both a mask and its photograph.

    Raises:
        UserError: a crop or a mask is missing or unreadable.
    """
    rows = {sha256: row for row, sha256 in enumerate(manifest.rows["sha256"])}
    blended = manifest.rows[manifest.rows["mask"].notna() & manifest.rows["parent"].isin(rows)]
    if blended.empty:
        return None
    random = np.random.default_rng(seed)
    strips = []
    for method, index in sorted(blended.groupby("method").groups.items()):
        chosen = np.sort(random.permutation(np.asarray(index))[:per_method])
        tiles = [tile for row in chosen for tile in _compared(manifest, int(row), rows[manifest.rows["parent"][row]])]
        caption = f"{method}: {len(chosen)} of {len(index)} ({', '.join(_TITLES)})"
        strips.append(_strip(caption, _INK["fake"], tiles, 2 * len(_TITLES), 160))
    return _stacked(strips, out)


def _compared(manifest: Manifest, forged: int, parent: int) -> list[Image.Image]:
    photograph, forgery = (_read(manifest.root / manifest.rows["path"][row]) for row in (parent, forged))
    mask, forgery = _read(manifest.root / manifest.rows["mask"][forged]), forgery.resize(photograph.size)
    change = np.abs(np.asarray(forgery, dtype=np.float32) - np.asarray(photograph, dtype=np.float32)).mean(axis=2)
    difference = Image.fromarray((4 * change).clip(0, 255).astype(np.uint8)).convert("RGB")
    return [photograph, mask, forgery, difference]


def _strip(
    caption: str, ink: tuple[int, int, int], pictures: Sequence[Image.Image], per_row: int, side: int
) -> Image.Image:
    """A caption above tiles of `side` pixels, `per_row` next to each other."""
    step, lines = side + _GAP, -(-len(pictures) // per_row)
    strip = Image.new("RGB", (_GAP + per_row * step, _CAPTION + _GAP + lines * step), "white")
    ImageDraw.Draw(strip).text((_GAP, _GAP), caption, fill=ink, font=ImageFont.load_default(size=15))
    for number, picture in enumerate(pictures):
        y, x = divmod(number, per_row)
        tile = ImageOps.pad(picture, (side, side), color="lightgray")
        strip.paste(tile, (_GAP + x * step, _CAPTION + _GAP + y * step))
    return strip


def _stacked(strips: Sequence[Image.Image], out: Path) -> Path:
    sheet = Image.new("RGB", (max(strip.width for strip in strips), sum(strip.height for strip in strips)), "white")
    top = 0
    for strip in strips:
        sheet.paste(strip, (0, top))
        top += strip.height
    with atomic(Path(out)) as temporary:
        sheet.save(temporary, "png")
    return Path(out)


def _read(path: Path) -> Image.Image:
    try:
        with opened(path.read_bytes()) as image:
            return upright(image)
    except (OSError, SyntaxError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}): forge or ingest the faces again") from error
