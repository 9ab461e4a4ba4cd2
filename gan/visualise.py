"""Pictures of a generator: sample grid, style mixing, truncation sweep, interpolation films and power spectra."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont
from scipy.interpolate import CubicSpline
from torch import Tensor

from core.device import pick_device
from core.errors import UserError
from core.files import atomic
from core.manifest import Manifest
from faces.loading import load_crops
from gan.checkpoint import load_generator
from gan.networks import Generator
from gan.sampling import Pixels, check_first_seed, check_psi, latents, render, sample_grid, tiled, to_pixels
from metrics.binary import Floats
from metrics.distributions import radial_frequencies, ring_means

GRID_FACES = 48
MIXED_ROWS, MIXED_COLUMNS = 4, 6
SWEPT_FACES = 5
FILMS, FILM_COLUMNS = 6, 3  # faces that walk side by side, each from its own seeds
STOPS = 4
FEWEST_PICTURES, MOST_PICTURES = 16, 2000  # for the spectra; the mean of 2000 is known to some 0.01 of a decade
PSIS = (0.0, 0.25, 0.5, 0.7, 0.85, 1.0, 1.2)
STYLES = ("coarse", "middle", "fine")
FRAMES_PER_SECOND = 24
_GIF_EVERY = 2  # browsers slow a GIF of more than some 20 frames a second down
_TILE = 96  # pixels a face at least: smaller ones are enlarged, pixel by pixel
_GAP, _TEXT = 4, 22
_BATCH = 64
BAND = (0.1, 0.9)  # quantiles over the pictures
# Rounding to 8 bits is white noise of power 1 / (12 * 255^2) = 1.3e-6; what lies far below it is no picture.
_FLOOR = 1e-8
_LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601, as Pillow's grey
_REAL, _FAKE = "#0072B2", "#D55E00"  # of Okabe and Ito's palette, which stays apart for colour-blind readers


def show(
    generator_folder: Path,
    out: Path,
    manifest: Manifest | None = None,
    *,
    cache: Path,
    psi: float = 0.7,
    seed: int = 0,
    frames_between: int = 36,
    device: str = "auto",
) -> dict[str, Path | float]:
    """Write a sample grid, an interpolation, style mixing, a truncation sweep and, given photographs, mean spectra.

    Args:
        generator_folder: a generator's checkpoint.
        out: gets `grid.png`, `interpolation.mp4`, `interpolation.gif`, `mixing.png`, `truncation.png`, `spectra.png`.
        manifest: its train reals are compared with as many samples; without one there are no spectra.
        cache: folder of decoded crops, see `faces.loading`.
        psi: truncation in [0, 2] of everything but the sweep.
        seed: first seed; each picture takes the seeds that follow it, those of the grid as `gan sample` does.
        frames_between: frames of the film from one face to the next.
        device: as in `core.device`.

    Returns:
        What was written, by name, and with a manifest `high_frequency_gap` (see `gan.visualise`).

    Raises:
        UserError: no generator there, psi or seed out of range, or too few train reals.
    """
    check_psi(psi)
    check_first_seed(seed)
    generator = load_generator(generator_folder).to(pick_device(device))
    size = generator.image_size
    reals = None if manifest is None else _spectrum_of_reals(manifest, size, cache, seed)
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    sample_grid(generator, range(seed, seed + GRID_FACES), psi).save(out / "grid.png")
    columns = range(seed + MIXED_ROWS, seed + MIXED_ROWS + MIXED_COLUMNS)
    mixing_table(generator, range(seed, seed + MIXED_ROWS), columns, psi).save(out / "mixing.png")
    truncation_sweep(generator, range(seed, seed + SWEPT_FACES)).save(out / "truncation.png")
    firsts = range(seed, seed + FILMS * STOPS, STOPS)
    walks = [interpolation(generator, range(first, first + STOPS), psi, frames_between) for first in firsts]
    film = tile_films(walks, FILM_COLUMNS)
    write_mp4(film, out / "interpolation.mp4")
    write_gif(film, out / "interpolation.gif")
    names = ["grid.png", "mixing.png", "truncation.png", "interpolation.mp4", "interpolation.gif"]
    if reals is None:
        return {name.replace(".", "_"): out / name for name in names}
    fake = mean_spectrum(render(generator, range(seed, seed + reals.pictures), psi))
    spectra_figure(reals, fake, f"mean spectra at {size} px, 8-bit, psi {psi:g}").savefig(out / "spectra.png")
    made = {name.replace(".", "_"): out / name for name in (*names, "spectra.png")}
    return made | {"high_frequency_gap": high_frequency_gap(reals, fake)}


def _spectrum_of_reals(manifest: Manifest, image_size: int, cache: Path, seed: int) -> MeanSpectrum:
    faces = manifest.select(split="train", label="real")
    if len(faces) < FEWEST_PICTURES:
        raise UserError(
            f"{len(faces)} real faces in the train split of {manifest.root}, too few for a mean spectrum:"
            f" give a manifest with {FEWEST_PICTURES} or more"
        )
    chosen = np.sort(np.random.default_rng(seed).permutation(len(faces))[:MOST_PICTURES])
    return mean_spectrum(load_crops(faces, image_size, cache).batch(chosen).permute(0, 2, 3, 1).numpy())


@torch.no_grad()
def truncated_w(generator: Generator, seeds: Sequence[int], psi: float) -> Tensor:
    """[N, w_width]: the truncated w of each seed, of the same latents that `gan.sampling.render` draws."""
    z, _ = latents(generator, seeds)
    w = generator.mapping(z.to(generator.constant.device))
    return torch.lerp(generator.w_average, w, psi)


@torch.no_grad()
def synthesise(generator: Generator, ws: Tensor, noise: Tensor) -> Pixels:
    """Pictures, uint8 [N, S, S, 3], of w of each layer [N, layer_count, w_width] and noise [N or 1, noise_count]."""
    device = generator.constant.device
    noise = noise.to(device).expand(len(ws), -1)
    batches = zip(torch.split(ws, _BATCH), torch.split(noise, _BATCH), strict=True)
    return np.concatenate([to_pixels(generator.synthesise(some.to(device), noises)) for some, noises in batches])


def style_layers(layer_count: int) -> dict[str, range]:
    """The generator's layers in three groups of nearly equal size: coarse, middle and fine styles.

    Karras et al. 2019 (StyleGAN, figure 3) cut at 8 and 32 pixels of 1024; thirds carry that over to small pictures.
    """
    parts = np.array_split(np.arange(layer_count), len(STYLES))
    return {name: range(part[0], part[-1] + 1) for name, part in zip(STYLES, parts, strict=True)}


def mix(generator: Generator, rows: Sequence[int], columns: Sequence[int], psi: float, style: str) -> Pixels:
    """Each row's face with one group of STYLES taken from each column's (StyleGAN, figure 3), the noise from the row's.

    From seeds to uint8 [rows, columns, S, S, 3].
    """
    layers = style_layers(generator.layer_count)[style]
    own, other = truncated_w(generator, rows, psi), truncated_w(generator, columns, psi)
    ws = own[:, None, None].repeat(1, len(columns), generator.layer_count, 1)
    ws[:, :, layers.start : layers.stop] = other[None, :, None]
    noise = latents(generator, rows)[1].repeat_interleave(len(columns), dim=0)
    size = generator.image_size
    return synthesise(generator, ws.flatten(0, 1), noise).reshape(len(rows), len(columns), size, size, 3)


def mixing_table(generator: Generator, rows: Sequence[int], columns: Sequence[int], psi: float) -> Image.Image:
    """Style mixing as one labelled sheet: a table each for coarse, middle and fine styles, one below the other.

    The first column shows the row's own faces, the first row the faces whose styles are taken.
    """
    heads, own = (render(generator, seeds, psi, len(seeds)) for seeds in (columns, rows))
    blank = np.full_like(heads[:1], 255)
    tables = []
    for style in STYLES:
        cells = np.concatenate([own[:, None], mix(generator, rows, columns, psi, style)], axis=1)
        table = np.concatenate([np.concatenate([blank, heads])[None], cells])
        tables.append(_sheet(table, f"{style} styles of the top row, all others of the left column"))
    return Image.fromarray(np.concatenate([np.asarray(table) for table in tables]))


def truncation_sweep(generator: Generator, seeds: Sequence[int], psis: Sequence[float] = PSIS) -> Image.Image:
    """A row per seed and a column per psi: from the mean face to beyond the generator's own spread."""
    columns = [render(generator, seeds, psi, len(seeds)) for psi in psis]
    return _sheet(np.stack(columns, axis=1), "truncation", [f"psi {psi:g}" for psi in psis])


def _enlarged(pictures: Pixels, size: int) -> Pixels:
    factor = -(-_TILE // size)
    return pictures.repeat(factor, axis=-3).repeat(factor, axis=-2)


def _sheet(table: Pixels, caption: str, heads: Sequence[str] = ()) -> Image.Image:
    """[rows, columns, S, S, 3] as a sheet with a caption and, where given, a word above each column."""
    rows, columns = table.shape[:2]
    table = _enlarged(table, table.shape[2])
    side = table.shape[2]
    top = _TEXT * (2 if heads else 1)
    sheet = Image.new("RGB", (_GAP + columns * (side + _GAP), top + rows * (side + _GAP)), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=14)
    draw.text((_GAP, 2), caption, fill="black", font=font)
    for column, head in enumerate(heads):
        draw.text((_GAP + column * (side + _GAP), _TEXT), head, fill="black", font=font)
    for row, column in np.ndindex(rows, columns):
        corner = (_GAP + column * (side + _GAP), top + row * (side + _GAP))
        sheet.paste(Image.fromarray(table[row, column]), corner)
    return sheet


def interpolation(generator: Generator, seeds: Sequence[int], psi: float, frames_between: int) -> Pixels:
    """A closed latent walk through the faces of seeds: a periodic cubic spline through their truncated w.

    Of uint8 [len(seeds) * frames_between, S, S, 3] frame `i * frames_between` is the face of `seeds[i]`, and the last
    one is a step before the first. The noise is the first seed's throughout.

    Raises:
        UserError: fewer than two seeds, or no frames.
    """
    if len(seeds) < 2 or frames_between < 1:
        raise UserError(
            f"{len(seeds)} faces and {frames_between} frames between them make no film: take 2 and 1 or more"
        )
    stops = truncated_w(generator, seeds, psi).double().cpu().numpy()
    spline = CubicSpline(np.arange(len(seeds) + 1), np.concatenate([stops, stops[:1]]), bc_type="periodic")
    w = torch.from_numpy(spline(np.arange(len(seeds) * frames_between) / frames_between)).float()
    _, noise = latents(generator, seeds[:1])
    return synthesise(generator, w[:, None].expand(-1, generator.layer_count, -1), noise)


def tile_films(films: Sequence[Pixels], columns: int) -> Pixels:
    """Films of equal length side by side, `columns` in a row: [F, H, W, 3], enlarged so that faces can be seen."""
    frames = [tiled(np.stack(side_by_side), columns) for side_by_side in zip(*films, strict=True)]
    return _enlarged(np.stack(frames), films[0].shape[1])


def write_mp4(frames: Pixels, path: Path) -> Path:
    """Write [F, H, W, 3] uint8 frames, H and W even, as H.264 that every browser plays."""
    with atomic(path) as temporary, av.open(str(temporary), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=FRAMES_PER_SECOND, options={"crf": "18"})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"  # the one that browsers decode
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return path


def write_gif(frames: Pixels, path: Path) -> Path:
    """Write every second frame of [F, H, W, 3] as an endless GIF of 256 colours, at the film's own speed."""
    chosen = frames[::_GIF_EVERY]
    # One palette for all frames: one a frame flickers.
    palette = Image.fromarray(np.concatenate(list(chosen[:: max(1, len(chosen) // 8)]))).quantize(256)
    pictures = [Image.fromarray(frame).quantize(palette=palette, dither=Image.Dither.NONE) for frame in chosen]
    milliseconds = round(1000 * _GIF_EVERY / FRAMES_PER_SECOND)
    with atomic(path) as temporary:
        pictures[0].save(temporary, "GIF", save_all=True, append_images=pictures[1:], duration=milliseconds, loop=0)
    return path


@dataclass(frozen=True)
class MeanSpectrum:
    """Mean over pictures of the azimuthally averaged log power, and how far single pictures lie around it."""

    frequencies: Floats  # [F], cycles per pixel, above 0 and up to 0.5
    mean: Floats  # [F], log10 of the power
    low: Floats  # [F], the quantiles of BAND over the pictures
    high: Floats
    pictures: int


def azimuthal_log_power(pictures: Pixels) -> Floats:
    """Log power by frequency, averaged over all directions, of each picture in grey.

    With the discrete Fourier transform F(u, v) of a picture I(x, y) of S x S pixels in [0, 1] (Durall et al. 2020,
    equations 1 and 2, with the sum over pixels of the spectrum in place of their integral over the angle):

        F(u, v) = sum_xy exp(-2 pi i (ux + vy) / S) I(x, y)
        A(k)    = mean of log10(|F(u, v)|^2 / S^2) over all (u, v) with round(sqrt(u^2 + v^2)) = k,   k = 1 .. S / 2

    The logarithm is taken before the average, so that one bright line does not outweigh its ring. Divided by S^2, white
    noise of variance s^2 has the expected power s^2 at every frequency and size. The corners beyond k = S / 2,
    which only slanted waves reach, are left out, and so is the mean brightness, k = 0.

    From uint8 [N, S, S, 3] RGB, N from 1 and S even, to float64 [N, S / 2]: column k - 1 is k / S cycles per pixel.
    """
    size = pictures.shape[1]
    rings = np.rint(radial_frequencies(size, size, half=False) * size).astype(np.int64)
    powers = (np.abs(np.fft.fft2((picture @ _LUMA) / 255.0)) ** 2 / size**2 for picture in pictures)
    return np.stack([ring_means(np.log10(power + _FLOOR), rings)[1 : size // 2 + 1] for power in powers])


def mean_spectrum(pictures: Pixels) -> MeanSpectrum:
    """The mean of `azimuthal_log_power` over pictures, with the band that holds four pictures of five."""
    spectra = azimuthal_log_power(pictures)
    low, high = np.quantile(spectra, BAND, axis=0)
    size = pictures.shape[1]
    return MeanSpectrum(np.arange(1, size // 2 + 1) / size, spectra.mean(axis=0), low, high, len(pictures))


def high_frequency_gap(real: MeanSpectrum, fake: MeanSpectrum) -> float:
    """Mean difference fake - real in log10 power over the upper third of frequencies.

    0 is a faithful generator; 0.3 is twice the power there (grain), -0.3 half of it (blur).
    """
    upper = real.frequencies > 0.5 * 2 / 3
    return float((fake.mean - real.mean)[upper].mean())


def spectra_figure(real: MeanSpectrum, fake: MeanSpectrum, title: str) -> Figure:
    """Both mean spectra with their bands, and below them their difference, frequency by frequency."""
    figure = Figure(figsize=(7.0, 6.4), dpi=100, layout="constrained")
    axes, below = figure.subplots(2, 1, sharex=True, height_ratios=[2.4, 1])
    for side, name, colour, dash in ((real, "real", _REAL, "-"), (fake, "fake", _FAKE, "--")):
        axes.fill_between(side.frequencies, side.low, side.high, color=colour, alpha=0.18, linewidth=0)
        label = f"{name} (n = {side.pictures})"
        axes.plot(side.frequencies, side.mean, dash, color=colour, linewidth=2, label=label)
    axes.set(ylabel="log10 power, mean over angles", title=title)
    axes.legend(title="mean, and the band of 80 % of pictures", frameon=False)
    below.axhline(0.0, color="#666666", linewidth=0.8)
    below.plot(real.frequencies, fake.mean - real.mean, color="black", linewidth=2)
    below.axvspan(0.5 * 2 / 3, 0.5, color="#000000", alpha=0.06, linewidth=0)
    below.set(xlabel="frequency, cycles per pixel", ylabel="fake - real", xlim=(0, 0.5))
    below.set_title(f"upper third: {high_frequency_gap(real, fake):+.3f} on average", fontsize=10)
    for each in (axes, below):
        each.grid(visible=True, color="#dddddd", linewidth=0.6)
        each.spines[["top", "right"]].set_visible(False)
    return figure
