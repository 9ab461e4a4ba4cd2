"""Everything that can be seen of a generator, written to one folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from faces.errors import UserError
from faces.loading import load_crops
from faces.manifest import Manifest
from gan.checkpoint import load_generator
from gan.device import pick_device
from gan.generator import Generator
from gan.sampling import render, sample_grid
from gan.showing.films import interpolation, tiled, write_gif, write_mp4
from gan.showing.sheets import mixing_table, truncation_sweep
from gan.showing.spectra import MeanSpectrum, high_frequency_gap, mean_spectrum, spectra_figure

GRID_FACES = 48
MIXED_ROWS, MIXED_COLUMNS = 4, 6
SWEPT_FACES = 5
FILMS, FILM_COLUMNS = 6, 3  # faces that walk side by side, each from its own seeds
STOPS = 4
FEWEST_PICTURES, MOST_PICTURES = 16, 2000  # for the spectra; the mean of 2000 is known to some 0.01 of a decade


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
    """Write a grid, an interpolation, style mixing, a truncation sweep and, given photographs, the mean spectra.

    Args:
        generator_folder: a generator's checkpoint.
        out: gets `grid.png`, `interpolation.mp4`, `interpolation.gif`, `mixing.png`, `truncation.png`, `spectra.png`.
        manifest: its train reals are held against as many samples; without one there are no spectra.
        cache: folder of decoded crops, see `faces.loading`.
        psi: truncation in [0, 2] of everything but the sweep.
        seed: first seed; each picture takes the seeds that follow it, those of the grid as `gan sample` does.
        frames_between: frames of the film from one face to the next.
        device: as in `gan.device`.

    Returns:
        What was written, by name, and with a manifest `high_frequency_gap` (see `gan.showing.spectra`).

    Raises:
        UserError: no generator there, psi or seed out of range, or too few train reals.
    """
    if not 0 <= psi <= 2:
        raise UserError(f"psi {psi:g} is not in [0, 2]: 1 is the generator's own spread, 0 the average face")
    if not 0 <= seed < 2**62:
        raise UserError(f"seed {seed} is not in [0, 2^62): give one in that range")
    generator = load_generator(generator_folder).to(pick_device(device))
    reals = None if manifest is None else _reals(manifest, generator.image_size, cache, seed)
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    made: dict[str, Path | float] = {}

    def path(name: str) -> Path:
        made[name.replace(".", "_")] = out / name
        return out / name

    sample_grid(generator, range(seed, seed + GRID_FACES), psi).save(path("grid.png"))
    columns = range(seed + MIXED_ROWS, seed + MIXED_ROWS + MIXED_COLUMNS)
    mixing_table(generator, range(seed, seed + MIXED_ROWS), columns, psi).save(path("mixing.png"))
    truncation_sweep(generator, range(seed, seed + SWEPT_FACES)).save(path("truncation.png"))
    film = _film(generator, seed, psi, frames_between)
    write_mp4(film, path("interpolation.mp4"))
    write_gif(film, path("interpolation.gif"))
    if reals is not None:
        fake = mean_spectrum(render(generator, range(seed, seed + reals.pictures), psi))
        title = f"mean spectra at {generator.image_size} px, 8-bit, psi {psi:g}"
        spectra_figure(reals, fake, title).savefig(path("spectra.png"))
        made["high_frequency_gap"] = high_frequency_gap(reals, fake)
    return made


def _film(generator: Generator, seed: int, psi: float, frames_between: int) -> np.ndarray:
    firsts = range(seed, seed + FILMS * STOPS, STOPS)
    walks = [interpolation(generator, range(first, first + STOPS), psi, frames_between) for first in firsts]
    return tiled(walks, FILM_COLUMNS)


def _reals(manifest: Manifest, image_size: int, cache: Path, seed: int) -> MeanSpectrum:
    faces = manifest.select(split="train", label="real")
    if len(faces) < FEWEST_PICTURES:
        raise UserError(
            f"{len(faces)} real faces in the train split of {manifest.root}, too few for a mean spectrum:"
            f" give a manifest with {FEWEST_PICTURES} or more"
        )
    chosen = np.sort(np.random.default_rng(seed).permutation(len(faces))[:MOST_PICTURES])
    pictures = load_crops(faces, image_size, cache).batch(chosen)
    return mean_spectrum(pictures.permute(0, 2, 3, 1).numpy())
