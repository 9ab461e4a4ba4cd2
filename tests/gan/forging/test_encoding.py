"""Encoding a picture like another one: same format, same tables, and next to no change the second time."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from gan.forging.degradation import read_picture

RANDOM = np.random.default_rng(0)
SMOOTH = np.asarray(Image.fromarray(RANDOM.integers(0, 256, (12, 10, 3)).astype(np.uint8)).resize((80, 96)))


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)  # type: ignore[arg-type]
    return buffer.getvalue()


@pytest.mark.parametrize("quality", [40, 75, 95])
@pytest.mark.parametrize("subsampling", [0, 1, 2])
def test_a_jpeg_comes_back_with_its_tables_and_nearly_its_pixels(quality: int, subsampling: int) -> None:
    first = encoded(Image.fromarray(SMOOTH), "JPEG", quality=quality, subsampling=subsampling)
    pixels, encoding = read_picture(first)
    again, same = read_picture(encoding.encode(pixels))
    assert same == encoding
    assert len(encoding.tables) == 2
    change = np.abs(again.astype(int) - pixels).mean()
    assert change < (1 if subsampling == 0 else 2)
    # The first encoding changed it by more, and another quality would have.
    assert np.abs(SMOOTH.astype(int) - pixels).mean() > change
    other = read_picture(encoded(Image.fromarray(pixels), "JPEG", quality=quality // 2))[0]
    assert np.abs(other.astype(int) - pixels).mean() > change


@pytest.mark.parametrize(
    ("mode", "kind", "lossless"),
    [("RGB", "PNG", True), ("L", "PNG", True), ("RGBA", "PNG", True), ("P", "PNG", True), ("RGB", "BMP", True),
     ("RGB", "WEBP", False), ("L", "JPEG", False), ("RGB", "TIFF", True)],
)  # fmt: skip
def test_every_kind_of_picture_has_an_encoding(mode: str, kind: str, lossless: bool) -> None:
    pixels, encoding = read_picture(encoded(Image.fromarray(SMOOTH).convert(mode), kind))
    assert pixels.shape == (96, 80, 3)
    assert encoding.lossless == lossless
    assert encoding.grey == (mode == "L")
    again, same = read_picture(encoding.encode(pixels))
    assert (same.format, same.mode, same.grey) == (encoding.format, encoding.mode, encoding.grey)
    if lossless:
        assert np.array_equal(again, pixels)


def test_a_grey_set_gets_grey_forgeries() -> None:
    grey = Image.fromarray(SMOOTH).convert("L")
    for image in (grey, grey.convert("RGB")):
        encoding = read_picture(encoded(image, "PNG"))[1]
        assert encoding.mode == image.mode
        forged = read_picture(encoding.encode(SMOOTH))[0]
        assert (forged == forged[..., :1]).all()


def test_16_bit_grey_counts_as_8_bit_grey_and_hidden_colours_do_not_show() -> None:
    grey = np.asarray(Image.fromarray(SMOOTH).convert("L"))
    pixels, encoding = read_picture(encoded(Image.fromarray(grey.astype(np.uint16) * 257), "PNG"))
    assert (encoding.mode, encoding.grey) == ("L", True)
    assert np.array_equal(pixels[..., 0], grey)
    hidden = Image.fromarray(SMOOTH).convert("RGBA")
    hidden.putalpha(0)
    assert (read_picture(encoded(hidden, "PNG"))[0] == 128).all()
