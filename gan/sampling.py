"""Pictures of a trained generator, each of which depends on its seed and the truncation psi alone."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from core.errors import UserError
from gan.networks import Generator

Pixels = NDArray[np.uint8]


def latents(generator: Generator, seeds: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Latent and noise of each seed, which depend on that seed alone.

    Returns:
        z [N, z_width] and noise [N, noise_count], float32 on the CPU.
    """
    width, count = generator.z_width, generator.z_width + generator.noise_count
    numbers = torch.stack([torch.randn(count, generator=torch.Generator().manual_seed(int(seed))) for seed in seeds])
    return numbers[:, :width], numbers[:, width:]


# Truncation psi: one for all layers, or one per resolution 4, 8, ..., image_size. Coarse layers decide what the face
# is, fine ones its texture, so that the first may be held near the mean and the last left free (StyleGAN, appendix B).
Psi = float | Sequence[float]


@torch.no_grad()
def render(generator: Generator, seeds: Sequence[int], psi: Psi, batch_size: int = 64) -> Pixels:
    """Pictures of seeds, in float32.

    Every batch is filled up to `batch_size`, so that a picture does not depend on how many are asked for with it.

    Args:
        generator: on any device.
        seeds: any number of them.
        psi: truncation; 1 is the generator's own spread, 0 the average face. One number, or one per resolution.
        batch_size: pictures at a time.

    Returns:
        uint8 [N, S, S, 3], RGB.

    Raises:
        UserError: psi is out of range, or does not hold one number per resolution.
    """
    check_psi(psi, generator.resolutions)
    device = generator.constant.device
    pictures = []
    for start in range(0, len(seeds), batch_size):
        chunk = list(seeds[start : start + batch_size])
        z, noise = latents(generator, chunk + chunk[-1:] * (batch_size - len(chunk)))
        pictures.append(to_pixels(_truncated(generator, z.to(device), noise.to(device), psi)[: len(chunk)]))
    size = generator.image_size
    return np.concatenate(pictures) if pictures else np.zeros((0, size, size, 3), np.uint8)


def to_pixels(pictures: Tensor) -> Pixels:
    """[N, 3, S, S] in about [-1, 1], on any device -> uint8 [N, S, S, 3]."""
    levels = (pictures * 127.5 + 127.5).round().clamp(0, 255).to(torch.uint8)
    return levels.permute(0, 2, 3, 1).cpu().numpy()


def _truncated(generator: Generator, z: Tensor, noise: Tensor, psi: Psi) -> Tensor:
    if isinstance(psi, float | int):
        picture: Tensor = generator(z, noise, psi=float(psi))
        return picture
    # The layers of a block, one at 4 x 4 and two above, and the w of the last colours.
    of_layer = [psi[0], *(value for value in psi[1:] for _ in range(2)), psi[-1]]
    strength = torch.tensor(of_layer, device=z.device)[None, :, None]
    w = generator.mapping(z)[:, None]
    return generator.synthesise(torch.lerp(generator.w_average.expand_as(w), w, strength), noise)


def check_psi(psi: Psi, resolutions: Sequence[int] = ()) -> None:
    """Refuse a truncation that is out of range, or whose length is not that of the generator's resolutions.

    Raises:
        UserError: it is.
    """
    values = [psi] if isinstance(psi, float | int) else list(psi)
    for value in values:
        if not 0 <= value <= 2:
            raise UserError(f"psi {value:g} is not in [0, 2]: 1 is the generator's own spread, 0 the average face")
    if not isinstance(psi, float | int) and len(values) != len(resolutions):
        raise UserError(
            f"psi has {len(values)} values, but the generator has the resolutions "
            f"{', '.join(map(str, resolutions))}: give one value, or one per resolution"
        )


def psi_of(text: str) -> Psi:
    """Truncation from `0.7` or, one per resolution, `0.5,0.7,1`.

    Raises:
        UserError: it holds something else than numbers.
    """
    try:
        values = [float(word) for word in text.split(",")]
    except ValueError as error:
        raise UserError(f"psi {text!r} is not a number: give one in [0, 2], or one a resolution: 0.5,0.7,1") from error
    return values if len(values) > 1 else values[0]


def psi_name(psi: Psi) -> str:
    """Short text for names of files and folders: `0.7`, or `0.5,0.7,1`."""
    return f"{psi:g}" if isinstance(psi, float | int) else ",".join(f"{value:g}" for value in psi)


def sample_grid(generator: Generator, seeds: Sequence[int], psi: Psi, columns: int | None = None) -> Image.Image:
    """The pictures of seeds side by side, row by row, in `columns` columns (a wide square by default)."""
    columns = columns or math.ceil(math.sqrt(len(seeds) * 4 / 3))
    return Image.fromarray(tiled(render(generator, seeds, psi), columns))


def tiled(pictures: Pixels, columns: int, fill: int = 0) -> Pixels:
    """[N, H, W, 3] side by side, row by row -> [ceil(N / columns) * H, columns * W, 3], what is left over filled."""
    count, height, width, _ = pictures.shape
    rows = math.ceil(count / columns)
    cells = np.full((rows * columns, height, width, 3), fill, np.uint8)
    cells[:count] = pictures
    joined = cells.reshape(rows, columns, height, width, 3).swapaxes(1, 2)
    return joined.reshape(rows * height, columns * width, 3)
