"""How a picture file is encoded, and another picture encoded in just that way.

A detector that could tell forgeries by their file format or their JPEG tables would learn nothing about faces. A JPEG
that is decoded and encoded again with its own tables comes back nearly unchanged, since its coefficients are multiples
of those tables already: what was not forged stays what it was.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, JpegImagePlugin

from core.errors import UserError

Pixels = NDArray[np.uint8]

_SUFFIXES = {"JPEG": ".jpg", "PNG": ".png", "WEBP": ".webp", "BMP": ".bmp"}


@dataclass(frozen=True)
class Encoding:
    """File format, and all that decides how it changes the pixels.

    `tables` are a JPEG's quantisation tables, 64 numbers each, in the natural order; `sampling` its chroma sampling
    (0: 4:4:4, 1: 4:2:2, 2: 4:2:0, -1: another one or none); `mode` L or RGB; `grey` whether the channels are equal.
    """

    format: str
    mode: str = "RGB"
    grey: bool = False
    tables: tuple[tuple[int, ...], ...] = ()
    sampling: int = -1
    lossless: bool = True

    @property
    def suffix(self) -> str:
        """Of a file in this format, such as `.jpg`."""
        return _SUFFIXES[self.format]

    def encode(self, pixels: Pixels) -> bytes:
        """The file of a picture [H, W, 3] uint8 RGB."""
        image = Image.fromarray(np.ascontiguousarray(pixels))
        if self.grey or self.mode == "L":
            image = image.convert("L").convert(self.mode)
        buffer = io.BytesIO()
        if self.format == "JPEG":
            options = {"subsampling": self.sampling} if self.mode == "RGB" and self.sampling >= 0 else {}
            tables = {place: list(table) for place, table in enumerate(self.tables)}
            if self.mode == "L":
                tables = {0: tables[0]}
            image.save(buffer, "JPEG", qtables=tables, **options)
        elif self.format == "WEBP":
            # A lossy WebP does not say at which quality it was made; libwebp's own default is the likeliest.
            image.save(buffer, "WEBP", lossless=self.lossless, quality=75)
        elif self.format == "PNG":
            image.save(buffer, "PNG", compress_level=3)
        else:
            image.save(buffer, self.format)
        return buffer.getvalue()


def suffix_of(path: Path) -> str:
    """Of a file that is encoded like the one at `path`, whose header alone is read.

    Raises:
        UserError: there is no picture at `path`.
    """
    try:
        with Image.open(path) as image:
            return _SUFFIXES[_format(image)]
    except OSError as error:
        raise UserError(f"the crop {path} cannot be read ({error}): ingest the faces again") from error


def _format(image: Image.Image) -> str:
    # MPO is what cameras call a JPEG with a preview behind it.
    name = {"MPO": "JPEG"}.get(image.format or "", image.format or "")
    return name if name in _SUFFIXES else "PNG"


def read_picture(data: bytes) -> tuple[Pixels, Encoding]:
    """Pixels [H, W, 3] uint8 RGB, upright, transparency dropped, and how the file is encoded.

    Grey pictures are repeated over three channels. Formats without a match here (TIFF, GIF) count as PNG.

    Raises:
        OSError, ValueError, SyntaxError: not a picture that Pillow reads, or one of more than 8 bits a channel.
    """
    with Image.open(io.BytesIO(data)) as image:
        if image.mode.startswith(("I", "F")):
            raise ValueError(f"pictures of mode {image.mode} have more than 8 bits a channel, convert them to 8")
        kind = _format(image)
        tables: tuple[tuple[int, ...], ...] = ()
        sampling = -1
        if kind == "JPEG":
            quantization: dict[int, list[int]] = getattr(image, "quantization", {})
            tables = tuple(tuple(quantization[place]) for place in sorted(quantization))
            sampling = JpegImagePlugin.get_sampling(image)
        single = image.mode in ("1", "L", "LA")
        mode = "L" if single and kind in ("JPEG", "PNG", "BMP") else "RGB"
        pixels = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    grey = bool((pixels[..., 0] == pixels[..., 1]).all() and (pixels[..., 1] == pixels[..., 2]).all())
    lossless = kind != "JPEG" and not (kind == "WEBP" and b"VP8L" not in data[:64])
    return pixels, Encoding(kind, mode, grey, tables, sampling, lossless)
