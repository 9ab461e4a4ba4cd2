"""A walk through the latent space as a film, MP4 or GIF."""

from __future__ import annotations

import os
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch
from PIL import Image
from scipy.interpolate import CubicSpline

from faces.errors import UserError
from gan.generator import Generator
from gan.sampling import latents
from gan.showing.sheets import Pixels, enlarged, latents_w, pictures_of

FRAMES_PER_SECOND = 24
_GIF_EVERY = 2  # browsers slow a GIF of more than some 20 frames a second down


def interpolation(generator: Generator, seeds: Sequence[int], psi: float, frames_between: int) -> Pixels:
    """A closed walk through the faces of seeds: a periodic cubic spline through their truncated w.

    Args:
        generator: on any device.
        seeds: two or more; the noise is the first one's throughout.
        psi: truncation.
        frames_between: frames from one face to the next; frame `i * frames_between` is the face of `seeds[i]`.

    Returns:
        uint8 [len(seeds) * frames_between, S, S, 3], the last frame one step before the first.

    Raises:
        UserError: fewer than two seeds, or no frames.
    """
    if len(seeds) < 2 or frames_between < 1:
        raise UserError(
            f"{len(seeds)} faces and {frames_between} frames between them make no film: take 2 and 1 or more"
        )
    stops = latents_w(generator, seeds, psi).double().cpu().numpy()
    spline = CubicSpline(np.arange(len(seeds) + 1), np.concatenate([stops, stops[:1]]), bc_type="periodic")
    w = torch.from_numpy(spline(np.arange(len(seeds) * frames_between) / frames_between)).float()
    _, noise = latents(generator, seeds[:1])
    return pictures_of(generator, w[:, None].expand(-1, generator.layer_count, -1), noise)


def tiled(films: Sequence[Pixels], columns: int) -> Pixels:
    """Films of equal length side by side, `columns` in a row: [F, H, W, 3], enlarged so that faces can be seen."""
    films = [*films, *[np.zeros_like(films[0])] * (-len(films) % columns)]
    stack = np.stack(films)
    count, frames, size, _, _ = stack.shape
    grid = stack.reshape(count // columns, columns, frames, size, size, 3).transpose(2, 0, 3, 1, 4, 5)
    return enlarged(grid.reshape(frames, count // columns * size, columns * size, 3), size)


def write_mp4(frames: Pixels, path: Path, frames_per_second: int = FRAMES_PER_SECOND) -> Path:
    """Write [F, H, W, 3] uint8 frames, H and W even, as H.264 that every browser plays."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with av.open(str(temporary), "w", format="mp4") as container:
            stream = container.add_stream("libx264", rate=Fraction(frames_per_second), options={"crf": "18"})
            stream.height, stream.width = frames.shape[1:3]
            stream.pix_fmt = "yuv420p"  # the one that browsers decode
            for frame in frames:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            container.mux(stream.encode())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def write_gif(frames: Pixels, path: Path, frames_per_second: int = FRAMES_PER_SECOND) -> Path:
    """Write every second frame of [F, H, W, 3] as an endless GIF of 256 colours, at the film's own speed."""
    chosen = frames[::_GIF_EVERY]
    # One palette for all frames: one a frame flickers.
    palette = Image.fromarray(np.concatenate(list(chosen[:: max(1, len(chosen) // 8)]))).quantize(256)
    pictures = [Image.fromarray(frame).quantize(palette=palette, dither=Image.Dither.NONE) for frame in chosen]
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        pictures[0].save(
            temporary,
            "GIF",
            save_all=True,
            append_images=pictures[1:],
            duration=round(1000 * _GIF_EVERY / frames_per_second),
            loop=0,
        )
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return path
