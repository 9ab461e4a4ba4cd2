"""What the latents of a generator do, on labelled sheets: style mixing and truncation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from gan.generator import Generator
from gan.sampling import latents

Pixels = NDArray[np.uint8]

PSIS = (0.0, 0.25, 0.5, 0.7, 0.85, 1.0, 1.2)
STYLES = ("coarse", "middle", "fine")
_TILE = 96  # pixels a face at least: smaller ones are repeated, pixel by pixel
_GAP, _TEXT = 4, 22
_BATCH = 64


@torch.no_grad()
def latents_w(generator: Generator, seeds: Sequence[int], psi: float) -> Tensor:
    """[N, w_width]: the truncated w of each seed, of the same latents that `gan.sampling.render` draws."""
    z, _ = latents(generator, seeds)
    w = generator.mapping(z.to(generator.constant.device))
    return torch.lerp(generator.w_average, w, psi)


@torch.no_grad()
def pictures_of(generator: Generator, ws: Tensor, noise: Tensor) -> Pixels:
    """Pictures of intermediate latents.

    Args:
        generator: on any device.
        ws: [N, layer_count, w_width].
        noise: [N or 1, noise_count].

    Returns:
        uint8 [N, S, S, 3] RGB.
    """
    device = generator.constant.device
    noise = noise.to(device).expand(len(ws), -1)
    made = []
    for start in range(0, len(ws), _BATCH):
        place = slice(start, start + _BATCH)
        picture = generator.synthesise(ws[place].to(device), noise[place])
        picture = (picture * 127.5 + 127.5).round().clamp(0, 255).to(torch.uint8)
        made.append(picture.permute(0, 2, 3, 1).cpu().numpy())
    return np.concatenate(made)


def style_layers(layer_count: int) -> dict[str, range]:
    """The generator's layers in three runs of nearly equal length: coarse, middle and fine styles.

    Karras et al. 2019 (StyleGAN, figure 3) cut at 8 and 32 pixels of 1024; thirds carry that over to small pictures.
    """
    parts = np.array_split(np.arange(layer_count), len(STYLES))
    return {name: range(part[0], part[-1] + 1) for name, part in zip(STYLES, parts, strict=True)}


def mixed(generator: Generator, rows: Sequence[int], columns: Sequence[int], psi: float, style: str) -> Pixels:
    """Each row's face with one group of styles taken from each column's (StyleGAN, figure 3).

    Args:
        generator: on any device.
        rows, columns: seeds; the noise is the row's.
        psi: truncation.
        style: of STYLES.

    Returns:
        uint8 [rows, columns, S, S, 3].
    """
    layers = style_layers(generator.layer_count)[style]
    own, other = latents_w(generator, rows, psi), latents_w(generator, columns, psi)
    ws = own[:, None, None].repeat(1, len(columns), generator.layer_count, 1)
    ws[:, :, layers.start : layers.stop] = other[None, :, None]
    noise = latents(generator, rows)[1].repeat_interleave(len(columns), dim=0)
    size = generator.image_size
    return pictures_of(generator, ws.flatten(0, 1), noise).reshape(len(rows), len(columns), size, size, 3)


def mixing_table(generator: Generator, rows: Sequence[int], columns: Sequence[int], psi: float) -> Image.Image:
    """Style mixing as one labelled sheet: a table each for coarse, middle and fine styles, one below the other.

    The first column shows the row's own faces, the first row the faces whose styles are taken.
    """
    heads = _plain(generator, columns, psi)
    own = _plain(generator, rows, psi)
    blank = np.full_like(heads[:1], 255)
    tables = []
    for style in STYLES:
        body = mixed(generator, rows, columns, psi, style)
        cells = np.concatenate([own[:, None], body], axis=1)
        table = np.concatenate([np.concatenate([blank, heads])[None], cells])
        tables.append((f"{style} styles of the top row, all others of the left column", table))
    return _stacked([_labelled(table, caption) for caption, table in tables])


def truncation_sweep(generator: Generator, seeds: Sequence[int], psis: Sequence[float] = PSIS) -> Image.Image:
    """A row a seed and a column a psi: from the mean face to beyond the generator's own spread."""
    columns = [_plain(generator, seeds, psi) for psi in psis]
    return _labelled(np.stack(columns, axis=1), "truncation", [f"psi {psi:g}" for psi in psis])


def _plain(generator: Generator, seeds: Sequence[int], psi: float) -> Pixels:
    w = latents_w(generator, seeds, psi)
    return pictures_of(generator, w[:, None].expand(-1, generator.layer_count, -1), latents(generator, seeds)[1])


def enlarged(pictures: Pixels, size: int) -> Pixels:
    factor = max(1, -(-_TILE // size))
    return pictures.repeat(factor, axis=-3).repeat(factor, axis=-2)


def _labelled(table: Pixels, caption: str, heads: Sequence[str] = ()) -> Image.Image:
    """[rows, columns, S, S, 3] as a sheet with a caption and, where given, a word above each column."""
    rows, columns = table.shape[:2]
    table = enlarged(table, table.shape[2])
    side = table.shape[2]
    top = _TEXT * (2 if heads else 1)
    sheet = Image.new("RGB", (_GAP + columns * (side + _GAP), top + rows * (side + _GAP)), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=14)
    draw.text((_GAP, 2), caption, fill="black", font=font)
    for column, head in enumerate(heads):
        draw.text((_GAP + column * (side + _GAP), _TEXT), head, fill="black", font=font)
    for row, column in _places(rows, columns):
        place = (_GAP + column * (side + _GAP), top + row * (side + _GAP))
        sheet.paste(Image.fromarray(table[row, column]), place)
    return sheet


def _places(rows: int, columns: int) -> Iterator[tuple[int, int]]:
    return ((row, column) for row in range(rows) for column in range(columns))


def _stacked(sheets: Sequence[Image.Image]) -> Image.Image:
    joined = Image.new("RGB", (max(sheet.width for sheet in sheets), sum(sheet.height for sheet in sheets)), "white")
    top = 0
    for sheet in sheets:
        joined.paste(sheet, (0, top))
        top += sheet.height
    return joined
