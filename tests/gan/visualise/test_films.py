"""Films: the walk meets its faces and closes, and what is written decodes to as many frames."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from core.errors import UserError
from gan.checkpoint import load_generator
from gan.networks import Generator
from gan.sampling import render
from gan.visualise import interpolation, tile_films, write_gif, write_mp4


@pytest.fixture(scope="module")
def generator(trained: Path) -> Generator:
    """Without noise, which a film takes from its first seed throughout."""
    generator = load_generator(trained)
    for block in generator.blocks:
        for layer in block.layers:
            layer.noise_strength.zero_()
    return generator


def test_walk_meets_every_face_and_comes_back_to_the_first(generator: Generator) -> None:
    film = interpolation(generator, [4, 7, 2], 0.9, frames_between=8).astype(int)
    assert film.shape == (24, 16, 16, 3)
    assert np.abs(film[::8] - render(generator, [4, 7, 2], 0.9)).max() <= 1
    steps = np.abs(np.diff(np.concatenate([film, film[:1]]), axis=0)).mean(axis=(1, 2, 3))
    assert steps[-1] <= steps.max()  # from the last frame to the first it is no jump
    assert steps.max() < np.abs(film[8] - film[0]).mean()


def test_films_are_tiled_in_order_and_enlarged() -> None:
    films = [np.full((3, 16, 16, 3), 40 * number, np.uint8) for number in range(5)]
    films[4][2] = 7
    frames = tile_films(films, columns=2)
    assert frames.shape == (3, 3 * 96, 2 * 96, 3)
    assert frames[2, 48::96, 48::96, 0].tolist() == [[0, 40], [80, 120], [7, 0]]


def test_mp4_and_gif_decode_to_their_frames(tmp_path: Path) -> None:
    ramp = np.arange(25, dtype=np.uint8)[:, None, None, None] * 10
    frames = np.broadcast_to(ramp, (25, 32, 48, 3)).copy()
    with av.open(str(write_mp4(frames, tmp_path / "new" / "film.mp4"))) as container:
        decoded = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
        assert container.streams.video[0].average_rate == 24
    assert decoded.shape == frames.shape
    assert np.abs(decoded.astype(int) - frames).mean() < 3
    with Image.open(write_gif(frames, tmp_path / "new" / "film.gif")) as gif:
        assert (gif.n_frames, gif.size) == (13, (48, 32))
        assert gif.info["duration"] == 80  # hundredths of a second are all that a GIF knows
        gif.seek(3)
        assert np.abs(np.asarray(gif.convert("RGB")).astype(int) - frames[6]).max() <= 5
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["film.gif", "film.mp4"]


@pytest.mark.parametrize(("seeds", "between"), [([1], 8), ([1, 2], 0)])
def test_no_film_of_one_face_or_no_frames(generator: Generator, seeds: list[int], between: int) -> None:
    with pytest.raises(UserError, match="make no film"):
        interpolation(generator, seeds, 1.0, between)
