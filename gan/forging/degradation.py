"""What sets photographs apart from rendered pictures, besides what they show: measured on reals, given to forgeries.

A detector that is trained on raw samples learns the quickest cue: sharper or softer, cleaner or noisier, PNG or JPEG.
Here samples get the reals' sharpness, noise, size and encoding, so that what is left to learn is the face. A JPEG that
is decoded and encoded again with its own tables comes back nearly unchanged, since its coefficients are multiples of
those tables already: what was not forged stays what it was.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, JpegImagePlugin

from core.errors import UserError
from faces.media import opened, upright
from metrics.distributions import radial_frequencies, ring_means

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float32]

_SUFFIXES = {"JPEG": ".jpg", "PNG": ".png", "WEBP": ".webp", "BMP": ".bmp"}
# Below, a missing frequency would be blown up out of rounding errors; above, a real's grain would be flattened.
_GAIN = (0.25, 4.0)
# A noise kernel that edges and slopes leave at 0 (Immerkær 1996, eq. 1); white noise of deviation 1 comes out at 6.
_LAPLACIANS = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], dtype=np.float32)
_ROUNDS = 4
_MAD = 0.6745  # median of |x| of a standard normal x


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

    def encode(self, pixels: Pixels) -> bytes:
        """The file of a picture [H, W, 3] uint8 RGB."""
        image = Image.fromarray(np.ascontiguousarray(pixels))
        if self.grey or self.mode == "L":
            image = image.convert("L").convert(self.mode)
        options: dict[str, Any] = {}
        if self.format == "JPEG":
            tables = self.tables[:1] if self.mode == "L" else self.tables
            options = {"qtables": {place: list(table) for place, table in enumerate(tables)}}
            if self.mode == "RGB" and self.sampling >= 0:
                options["subsampling"] = self.sampling
        elif self.format == "WEBP":
            # A lossy WebP does not say at which quality it was made; libwebp's own default is the likeliest.
            options = {"lossless": self.lossless, "quality": 75}
        elif self.format == "PNG":
            options = {"compress_level": 3}
        buffer = io.BytesIO()
        image.save(buffer, self.format, **options)
        return buffer.getvalue()


def _format(image: Image.Image) -> str:
    # MPO is what cameras call a JPEG with a preview behind it.
    name = {"MPO": "JPEG"}.get(image.format or "", image.format or "")
    return name if name in _SUFFIXES else "PNG"


def suffix_of(path: Path) -> str:
    """Of a file that is encoded like the one at `path`, whose header alone is read.

    Raises:
        UserError: there is no picture at `path`.
    """
    try:
        with opened(path.read_bytes()) as image:
            return _SUFFIXES[_format(image)]
    except (OSError, SyntaxError, ValueError) as error:
        raise UserError(f"the crop {path} cannot be read ({error}): ingest the faces again") from error


def read_picture(data: bytes) -> tuple[Pixels, Encoding]:
    """Pixels [H, W, 3] uint8 RGB, as `faces.media.upright` shows it, and how the file is encoded.

    Grey pictures are repeated over three channels. Formats without a match here (TIFF, GIF) count as PNG.

    Raises:
        OSError, ValueError, SyntaxError: not a picture that Pillow reads.
    """
    with opened(data) as image:
        kind = _format(image)
        quantization: dict[int, list[int]] = getattr(image, "quantization", {}) if kind == "JPEG" else {}
        tables = tuple(tuple(quantization[place]) for place in sorted(quantization))
        sampling = JpegImagePlugin.get_sampling(image) if kind == "JPEG" else -1
        single = image.mode in ("1", "L", "LA") or image.mode.startswith("I")
        mode = "L" if single and kind in ("JPEG", "PNG", "BMP") else "RGB"
        pixels = np.asarray(upright(image))
    grey = bool((pixels == pixels[..., :1]).all())
    lossless = kind != "JPEG" and not (kind == "WEBP" and b"VP8L" not in data[:64])
    return pixels, Encoding(kind, mode, grey, tables, sampling, lossless)


@dataclass(frozen=True)
class Traces:
    """How one picture was taken and stored: its size, noise a channel (Y, Cr, Cb; levels of 255), and encoding."""

    width: int
    height: int
    noise: tuple[float, float, float]
    encoding: Encoding


@dataclass(frozen=True)
class Statistics:
    """Of a set of pictures: the traces of each, and the mean logarithmic spectrum at one size.

    `spectrum` [3, S // 2 + 1]: natural logarithm of the power of Y, Cr, Cb at 0, 1, ..., S / 2 periods a picture.
    """

    traces: tuple[Traces, ...]
    spectrum: NDArray[np.float64]


def measure(files: Sequence[bytes], size: int) -> Statistics:
    """Statistics of one encoded picture or more, whose spectra are compared at `size`: that of the generator's."""
    traces, pictures = zip(*map(_decoded, files), strict=True)
    return Statistics(traces, np.mean([log_spectrum(_resized(ycc, size, size)) for ycc in pictures], axis=0))


def traces_of(data: bytes) -> Traces:
    """The traces of one encoded picture."""
    return _decoded(data)[0]


def _decoded(data: bytes) -> tuple[Traces, Floats]:
    pixels, encoding = read_picture(data)
    ycc = to_ycc(pixels)
    return Traces(pixels.shape[1], pixels.shape[0], noise_level(ycc), encoding), ycc


def log_spectrum(ycc: Floats) -> NDArray[np.float64]:
    """[3, S // 2 + 1] logarithm of the azimuthal mean power of a square picture [S, S, 3], under a Hann window.

    Durall, Keuper, Keuper (CVPR 2020, eq. 2) use the same mean to find upsampling artefacts.
    """
    size = len(ycc)
    window = np.hanning(size + 2)[1:-1]
    window = window[:, None] * window[None]
    centred = (ycc - ycc.mean(axis=(0, 1))) * (window / np.sqrt((window**2).mean()))[..., None]
    power = np.abs(np.fft.rfft2(centred, axes=(0, 1))) ** 2 / size**2
    rings = np.rint(radial_frequencies(size, size) * size).astype(np.int64)
    rings = np.minimum(rings, size // 2)  # corners count with the last ring
    mean = [ring_means(power[..., channel], rings) for channel in range(3)]
    # A thousandth of a grey level is far below what 8 bits hold, and keeps the logarithm of a flat channel finite.
    return np.log(np.asarray(mean) + 1e-6)


def noise_level(ycc: Floats) -> tuple[float, float, float]:
    """Deviation of the noise of each channel of [H, W, 3], in levels of 255.

    Immerkær's kernel (1996) with a median for the mean, as Donoho and Johnstone (1994) take it: texture and edges are
    the minority of a portrait's pixels.
    """
    residue = cv2.filter2D(ycc, cv2.CV_32F, _LAPLACIANS)[1:-1, 1:-1]
    if not residue.size:
        return 0.0, 0.0, 0.0
    if min(residue.shape[:2]) > 128:  # a quarter of the pixels gives the same median, at a quarter of the time
        residue = residue[::2, ::2]
    y, cr, cb = (float(level) / (6 * _MAD) for level in np.median(np.abs(residue), axis=(0, 1)))
    return y, cr, cb


class Matcher:
    """Gives a generator's pictures, of which `samples` are some dozens [S, S, 3], the traces of reals measured at S."""

    def __init__(self, reals: Statistics, samples: Sequence[Pixels]) -> None:
        size = len(samples[0])
        spectra = []
        for number, picture in enumerate(samples):
            # To the size of a real and back, as reals were measured: resizing takes its share of the fine detail.
            like = reals.traces[number % len(reals.traces)]
            there = _resized(to_ycc(picture), like.width, like.height)
            spectra.append(log_spectrum(_resized(there, size, size)))
        gain = np.exp((reals.spectrum - np.mean(spectra, axis=0)) / 2)
        gain[:, 0] = 1.0  # brightness is the face's own
        self._gain = np.clip(gain, *_GAIN)

    def match(self, picture: Pixels, traces: Traces, random: np.random.Generator) -> bytes:
        """A file of a generated picture [S, S, 3] uint8, with the spectrum of all reals and the traces of one.

        Sharpness first, at the generator's size; then the real's size; then its noise, over what noise there is; then
        its encoding.
        """
        sharpened = _filtered(to_ycc(picture), self._gain)
        ycc = _resized(sharpened, traces.width, traces.height)
        grain = random.normal(size=ycc.shape).astype(np.float32)
        wanted, own = np.array(traces.noise), np.array(noise_level(ycc))
        level = np.sqrt(np.maximum(wanted**2 - own**2, 0))
        best, smallest = b"", np.inf
        # JPEG takes noise away with what it rounds off, so a look at each result says how much more must go in.
        for _ in range(_ROUNDS):
            data = traces.encoding.encode(_rgb(ycc + grain * level.astype(np.float32)))
            if traces.encoding.lossless or not level.any():
                return data
            got = np.array(noise_level(to_ycc(read_picture(data)[0])))
            error = abs(got[0] - wanted[0])
            if error < smallest:
                best, smallest = data, error
            if smallest <= 0.1 * wanted[0]:
                break
            level = level * np.clip(wanted / np.maximum(got, 1e-6), 0.6, 1.7)
        return best


def to_ycc(pixels: Pixels | Floats) -> Floats:
    """[H, W, 3] RGB in [0, 255] as luma and two differences of colour, float32 in levels of 255."""
    # float32 chroma is centred on 0.5 of a range of 1, whatever the range in use: only differences count here.
    return np.asarray(cv2.cvtColor(pixels.astype(np.float32), cv2.COLOR_RGB2YCrCb))


def _rgb(ycc: Floats) -> Pixels:
    return np.rint(np.clip(cv2.cvtColor(ycc, cv2.COLOR_YCrCb2RGB), 0, 255)).astype(np.uint8)


def _resized(picture: Floats, width: int, height: int) -> Floats:
    if picture.shape[:2] == (height, width):
        return picture
    smaller = width < picture.shape[1] or height < picture.shape[0]
    interpolation = cv2.INTER_AREA if smaller else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(picture, (width, height), interpolation=interpolation))


def _filtered(ycc: Floats, gain: NDArray[np.float64]) -> Floats:
    """Every frequency of [S, S, 3] times its gain [3, S // 2 + 1]; edges are mirrored, so that none wraps around."""
    size = len(ycc)
    pad = size // 2
    padded = np.pad(ycc, ((pad, pad), (pad, pad), (0, 0)), mode="symmetric")
    side = 2 * pad + size
    radius = np.minimum(radial_frequencies(side, side) * size, size // 2)
    factor = np.stack([np.interp(radius, np.arange(size // 2 + 1), gain[channel]) for channel in range(3)], axis=-1)
    result = np.fft.irfft2(np.fft.rfft2(padded, axes=(0, 1)) * factor, s=padded.shape[:2], axes=(0, 1))
    return result[pad : pad + size, pad : pad + size].astype(np.float32)
