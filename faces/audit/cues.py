"""What a picture's file gives away without anybody looking at the face: the cues that a detector could cheat by.

Every cue belongs to a family, so that an audit can say which one it is. What hangs on the file (its format, bytes,
tables) is read from the file; the rest from the pixels at their own size, because resizing is what hides it.
"""

from __future__ import annotations

import io
import math
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

import cv2
import imagehash
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image, JpegImagePlugin

from core.cache import ContentCache
from core.errors import UserError
from core.manifest import Manifest
from core.progress import in_threads
from faces.media import opened, upright
from metrics.binary import Floats
from metrics.distributions import radial_frequencies

FAMILIES: dict[str, tuple[str, ...]] = {
    "format": ("file_format", "codec", "mode", "progressive", "exif_bytes", "icc_profile", "density"),
    "size": ("bytes", "bits_per_pixel"),
    "dimensions": ("width", "height", "aspect", "box_width", "box_height", "box_aspect"),
    "quantisation": ("quality", "luma_table", "chroma_table", "table_dc", "subsampling", "blockiness"),
    "colour": ("cb_mean", "cr_mean", "cb_std", "cr_std", "saturation", "red_green", "blue_green"),
    "brightness": ("luma_mean", "luma_std", "luma_1", "luma_50", "luma_99", "black", "white"),
    "noise": ("log_noise", "log_noise_flat", "log_noise_tail", "empty_levels"),
    "sharpness": ("log_laplacian", "log_gradient", "log_band_low", "log_band_middle", "log_band_high"),
}
"""The columns of `cues`, by what they say; columns of text are categories."""

CATEGORIES = ("file_format", "codec", "mode", "subsampling")
_FROM_MANIFEST = ("codec", "box_width", "box_height", "box_aspect")
_COLUMNS = [name for names in FAMILIES.values() for name in names if name not in _FROM_MANIFEST]
_TEXT = ("phash", *(name for name in CATEGORIES if name not in _FROM_MANIFEST))
_STORED = ["phash", *_COLUMNS]
_SIDE = 1024  # pixels are measured in a window of at most this side: enough to know, and bounded time
_CHUNK = 1000  # crops a shard of the cache: what a killed process loses


def measure_cues(manifest: Manifest, cache: Path | None = None) -> pd.DataFrame:
    """One row a row of the manifest: the columns of FAMILIES and `phash` (16 hex digits), missing where unknown.

    Args:
        cache: folder that keeps what was measured, by content hash, so that a killed job goes on from it.

    Raises:
        UserError: a crop is missing or cannot be decoded.
    """
    with ExitStack() as stack:
        folder = cache or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        known = ContentCache(folder, [(name, "U16" if name in _TEXT else "<f8") for name in _STORED])
        hashes: list[str] = manifest.rows["sha256"].tolist()
        files, todo = manifest.files, known.lacking(hashes)

        def one(row: int) -> tuple[object, ...]:
            try:
                measured = measure(files[row].read_bytes())
            except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
                sentence = f"row {row} of the manifest: {files[row]} cannot be read ({error}): ingest the faces again"
                raise UserError(sentence) from error
            return tuple(measured[name] or "" if name in _TEXT else measured[name] for name in _STORED)

        for fresh in in_threads(lambda row: (hashes[row], one(row)), todo, "cues", "crop", _CHUNK):
            keys, values = zip(*fresh, strict=True)
            known.add(keys, list(values))
        table = pd.DataFrame(known.rows(hashes))
    for name in _TEXT:
        table[name] = table[name].astype(object).where(table[name] != "", None)
    width, height = (manifest.rows[name].to_numpy(dtype=np.float64) for name in ("width", "height"))
    box = {"box_width": width, "box_height": height, "box_aspect": width / height}
    return table.assign(codec=manifest.rows["codec"].to_numpy(dtype=object), **box)


def measure(data: bytes) -> dict[str, object]:
    """The cues of one encoded picture, by name; and its perceptual hash.

    Raises:
        OSError, SyntaxError, ValueError: it cannot be decoded.
    """
    with opened(data) as image:
        found = _of_the_file(image, len(data))
        picture = upright(image)
        found["phash"] = str(imagehash.phash(picture))
        pixels = np.asarray(picture)
    return found | _of_the_pixels(_window(pixels))


def numeric(table: pd.DataFrame, family: str | None = None) -> pd.DataFrame:
    """Float columns of one family (or of all) that differ somewhere: categories as one column a value, unknown as nan.

    Rare categories (under 1 % of rows) are one together, so that a column is never about a handful of files.
    """
    names = FAMILIES[family] if family else [name for names in FAMILIES.values() for name in names]
    columns: dict[str, NDArray[np.float64]] = {}
    for name in names:
        if name not in CATEGORIES:
            columns[name] = table[name].to_numpy(dtype=np.float64, na_value=np.nan)
            continue
        values = table[name].fillna("none").astype(str)
        shares = values.value_counts(normalize=True)
        values = values.where(~values.isin(shares.index[shares < 0.01]), "rare")
        distinct = sorted(set(values))
        for value in distinct[1:] if len(distinct) == 2 else distinct:  # of two the one says all of the other
            columns[f"{name}={value}"] = (values == value).to_numpy(dtype=np.float64)
    frame = pd.DataFrame(columns, index=table.index)
    constant = frame.isna().all() | ((frame.min() == frame.max()) & frame.notna().all())
    return frame.loc[:, ~constant]


def _of_the_file(image: Image.Image, size: int) -> dict[str, object]:
    info, (width, height) = image.info, image.size
    tables: dict[int, Sequence[int]] = getattr(image, "quantization", None) or {}
    luma, chroma = (np.array(tables.get(number, ()), dtype=np.float64) for number in (0, 1))
    density = info.get("jfif_density") or info.get("dpi") or (0, 0)
    return {
        "file_format": str(image.format).lower(),
        "mode": image.mode,
        "progressive": float(bool(info.get("progressive") or info.get("progression") or info.get("interlace"))),
        "exif_bytes": float(len(info.get("exif", b""))),
        "icc_profile": float(bool(info.get("icc_profile"))),
        "density": float(density[0]),
        "bytes": float(size),
        "bits_per_pixel": 8 * size / (width * height),
        "width": float(width),
        "height": float(height),
        "aspect": width / height,
        "quality": jpeg_quality(luma) if len(luma) else math.nan,
        "luma_table": float(luma.mean()) if len(luma) else math.nan,
        "chroma_table": float(chroma.mean()) if len(chroma) else math.nan,
        "table_dc": float(luma[0]) if len(luma) else math.nan,
        "subsampling": _subsampling(image),
    }


def jpeg_quality(luma: NDArray[np.float64]) -> float:
    """The quality 1..100 at which libjpeg writes a luma table [64] of this mean.

    Other encoders' tables get the quality of the libjpeg table that is as coarse.
    """
    return float(np.interp(-luma.mean(), _libjpeg(), np.arange(1, 101)))


@lru_cache(maxsize=1)
def _libjpeg() -> Floats:
    """[100] minus the mean of libjpeg's luma table at quality 1, 2, ... 100: it rises."""
    means = []
    for quality in range(1, 101):
        buffer = io.BytesIO()
        Image.new("L", (8, 8)).save(buffer, "jpeg", quality=quality)
        with Image.open(buffer) as image:
            means.append(-float(np.mean(image.quantization[0])))  # type: ignore[attr-defined]
    return np.array(means)


def _subsampling(image: Image.Image) -> str | None:
    if not isinstance(image, JpegImagePlugin.JpegImageFile):
        return None
    names = {0: "4:4:4", 1: "4:2:2", 2: "4:2:0"}
    return names.get(JpegImagePlugin.get_sampling(image), f"{len(image.layer)} layers")


def _window(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The middle of a large picture, on the 8 x 8 grid of its blocks."""
    top, left = (max(0, (side - _SIDE) // 2) // 8 * 8 for side in pixels.shape[:2])
    return pixels[top : top + _SIDE, left : left + _SIDE]


def _of_the_pixels(pixels: NDArray[np.uint8]) -> dict[str, object]:
    """Global statistics of RGB uint8 [H, W, 3]; at least 8 x 8 pixels, or what needs more is nan."""
    ycc = cv2.cvtColor(pixels, cv2.COLOR_RGB2YCrCb)
    luma = ycc[..., 0].astype(np.float32)
    (y_mean, cr_mean, cb_mean), (y_std, cr_std, cb_std) = (each[:, 0].tolist() for each in cv2.meanStdDev(ycc))
    histogram = np.bincount(ycc[..., 0].ravel(), minlength=256)
    cumulated = np.cumsum(histogram) / histogram.sum()
    low, middle, high = np.searchsorted(cumulated, (0.01, 0.5, 0.99)).tolist()
    red, green, blue, _ = cv2.mean(pixels)
    saturation = cv2.cvtColor(pixels, cv2.COLOR_RGB2HSV)[..., 1]
    colour = (cb_mean, cr_mean, cb_std, cr_std, cv2.mean(saturation)[0], red - green, blue - green)
    brightness = (y_mean, y_std, low, middle, high, cumulated[2], 1 - cumulated[252])
    found = _named("colour", *colour) | _named("brightness", *brightness)
    if min(luma.shape) < 16:
        return found | dict.fromkeys((*FAMILIES["noise"], *FAMILIES["sharpness"], "blockiness"), math.nan)
    return found | _noise(luma, histogram) | _sharpness(luma) | {"blockiness": _blockiness(luma)}


def _named(family: str, *values: float) -> dict[str, object]:
    return dict(zip(FAMILIES[family], map(float, values), strict=True))


def _noise(luma: NDArray[np.float32], histogram: NDArray[np.int64]) -> dict[str, object]:
    """Spread of what a mask without response to edges and ramps leaves over (Immerkaer 1996, CVIU 64)."""
    mask = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], dtype=np.float32) / 6  # unit variance for white noise
    rest = cv2.filter2D(luma, -1, mask)[1:-1, 1:-1]
    size = np.abs(rest)
    sigma = float(np.sqrt(np.pi / 2) * size.mean())
    # Where the picture is smooth there is little else than noise: the quietest tenth of 8 x 8 blocks.
    blocks = cv2.resize(size, None, fx=1 / 8, fy=1 / 8, interpolation=cv2.INTER_AREA)
    flat = float(np.quantile(blocks, 0.1))
    # Grey levels that are empty between full ones tell of a stretched contrast or of few colours.
    used = np.flatnonzero(histogram)
    inside = histogram[used[0] : used[-1] + 1]
    tail = math.log((float(np.sqrt((size**2).mean())) + 0.05) / (sigma + 0.05))
    return _named("noise", math.log(sigma + 0.05), math.log(flat + 0.05), tail, (inside == 0).mean())


def _sharpness(luma: NDArray[np.float32]) -> dict[str, object]:
    """Strength of edges, and the shares of the spectrum's energy in three bands of frequency."""
    laplacian = cv2.Laplacian(luma, cv2.CV_32F, ksize=1)
    gradient = cv2.magnitude(cv2.Sobel(luma, cv2.CV_32F, 1, 0), cv2.Sobel(luma, cv2.CV_32F, 0, 1))
    height, width = luma.shape
    window = cv2.createHanningWindow((width, height), cv2.CV_32F)
    energy = np.abs(np.fft.rfft2((luma - luma.mean()) * window)) ** 2
    radius = radial_frequencies(height, width)
    total = float(energy.sum()) + 1e-6
    edges = (0.0625, 0.125, 0.25, 1.0)
    bands = (float(energy[(radius >= a) & (radius < b)].sum()) / total for a, b in pairwise(edges))
    strengths = float(laplacian.var()) + 0.1, float(gradient.mean()) + 0.1
    return _named("sharpness", *map(math.log, strengths), *(math.log(share + 1e-9) for share in bands))


def _blockiness(luma: NDArray[np.float32]) -> float:
    """How much steeper the steps across the borders of 8 x 8 blocks are than others, as the log of their ratio."""
    ratios = []
    for steps in (np.abs(np.diff(luma, axis=1)).mean(axis=0), np.abs(np.diff(luma, axis=0)).mean(axis=1)):
        border = np.arange(len(steps)) % 8 == 7
        ratios.append((float(steps[border].mean()) + 0.1) / (float(steps[~border].mean()) + 0.1))
    return math.log(ratios[0] * ratios[1]) / 2
