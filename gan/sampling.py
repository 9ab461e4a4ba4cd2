"""Synthetic faces from a trained generator: pictures, and a manifest in which each row names its generator and seed."""

from __future__ import annotations

import hashlib
import io
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from core.errors import UserError
from core.manifest import Manifest
from gan.checkpoint import generator_digest, load_generator
from gan.networks.generator import Generator


def latents(generator: Generator, seeds: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Latent and noise of each seed, which depend on that seed alone.

    Returns:
        z [N, z_width] and noise [N, noise_count], float32 on the CPU.
    """
    width = generator.z_width
    numbers = torch.stack(
        [
            torch.randn(width + generator.noise_count, generator=torch.Generator().manual_seed(int(seed)))
            for seed in seeds
        ]
    )
    return numbers[:, :width], numbers[:, width:]


# Truncation: one for all layers, or one a resolution 4, 8, ..., image_size. Coarse layers decide what the face is, fine
# ones its texture, so that the first may be held near the mean and the last left free (StyleGAN, appendix B).
Psi = float | Sequence[float]


@torch.no_grad()
def render(generator: Generator, seeds: Sequence[int], psi: Psi, batch_size: int = 64) -> NDArray[np.uint8]:
    """Pictures of seeds, in float32.

    Every batch is filled up to `batch_size`, so that a picture does not depend on how many are asked for with it.

    Args:
        generator: on any device.
        seeds: any number of them.
        psi: truncation; 1 is the generator's own spread, 0 the average face. One number, or one a resolution.
        batch_size: pictures at a time.

    Returns:
        uint8 [N, S, S, 3], RGB.

    Raises:
        UserError: psi is out of range, or does not hold one number a resolution.
    """
    check_psi(psi, generator.resolutions)
    device = generator.constant.device
    pictures = []
    for start in range(0, len(seeds), batch_size):
        chunk = list(seeds[start : start + batch_size])
        z, noise = latents(generator, chunk + chunk[-1:] * (batch_size - len(chunk)))
        picture = _truncated(generator, z.to(device), noise.to(device), psi)[: len(chunk)]
        picture = (picture * 127.5 + 127.5).round().clamp(0, 255).to(torch.uint8)
        pictures.append(picture.permute(0, 2, 3, 1).cpu().numpy())
    size = generator.image_size
    return np.concatenate(pictures) if pictures else np.zeros((0, size, size, 3), np.uint8)


def _truncated(generator: Generator, z: Tensor, noise: Tensor, psi: Psi) -> Tensor:
    if isinstance(psi, float | int):
        picture: Tensor = generator(z, noise, psi=float(psi))
        return picture
    # The layers of a block, one at 4 x 4 and two above, and the w of the last colours.
    of_layer = [psi[0], *(value for value in psi[1:] for _ in range(2)), psi[-1]]
    strength = torch.tensor(of_layer, device=z.device)[None, :, None]
    w = generator.mapping(z)[:, None]
    return generator.synthesise(torch.lerp(generator.w_average.expand_as(w), w, strength), noise)


def check_psi(psi: Psi, resolutions: Sequence[int]) -> None:
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
            f"{', '.join(map(str, resolutions))}: give one value, or one a resolution"
        )


def psi_of(text: str) -> Psi:
    """Truncation from `0.7` or, one a resolution, `0.5,0.7,1`.

    Raises:
        UserError: it holds something else than numbers.
    """
    try:
        values = [float(word) for word in text.split(",")]
    except ValueError as error:
        raise UserError(f"psi {text!r} is no number: give one in [0, 2], or one a resolution: 0.5,0.7,1") from error
    return values if len(values) > 1 else values[0]


def psi_name(psi: Psi) -> str:
    """Short text for names of files and folders: `0.7`, or `0.5,0.7,1`."""
    return f"{psi:g}" if isinstance(psi, float | int) else ",".join(f"{value:g}" for value in psi)


def sample_grid(generator: Generator, seeds: Sequence[int], psi: Psi, columns: int | None = None) -> Image.Image:
    """The pictures of seeds side by side, row by row, in `columns` columns (a wide square by default)."""
    pictures = render(generator, seeds, psi)
    columns = columns or math.ceil(math.sqrt(len(seeds) * 4 / 3))
    rows, size = math.ceil(len(seeds) / columns), generator.image_size
    sheet = np.zeros((rows * columns, size, size, 3), np.uint8)
    sheet[: len(pictures)] = pictures
    joined = sheet.reshape(rows, columns, size, size, 3).transpose(0, 2, 1, 3, 4)
    return Image.fromarray(joined.reshape(rows * size, columns * size, 3))


def sample(
    generator_folder: Path,
    seeds: Sequence[int],
    psi: Psi,
    out: Path,
    dataset: str = "synthetic",
    batch_size: int = 64,
) -> Manifest:
    """Write the faces of seeds as PNG crops, and a manifest of them.

    What an earlier call has written, killed or not, is kept and not made again.

    Args:
        generator_folder: a generator's checkpoint.
        seeds: different ones, 0 or more, below 2^63.
        psi: truncation in [0, 2], one number or one a resolution.
        out: gets `crops/*.png` and `manifest.parquet`.
        dataset: value of that column.
        batch_size: pictures at a time; has no influence on the pictures beyond float32's rounding.

    Returns:
        The manifest that was written: one row a seed in their order, all fake, all train.

    Raises:
        UserError: there is no generator, or seeds or psi are out of range.
    """
    out, seeds = Path(out), [int(seed) for seed in seeds]
    _check_seeds(seeds)
    digest = generator_digest(generator_folder)
    generator = load_on_device(generator_folder)
    check_psi(psi, generator.resolutions)
    names = [crop_name(digest, psi, seed) for seed in seeds]
    (out / "crops").mkdir(parents=True, exist_ok=True)
    hashes = {name: hash_of_valid(out / name, generator.image_size) for name in names}
    missing = [(name, seed) for name, seed in zip(names, seeds, strict=True) if hashes[name] is None]
    with tqdm(
        total=len(missing), desc="sample", unit="face", delay=2, mininterval=0.5 if sys.stderr.isatty() else 15
    ) as progress:
        for start in range(0, len(missing), batch_size):
            chunk = missing[start : start + batch_size]
            for (name, _), picture in zip(
                chunk, render(generator, [seed for _, seed in chunk], psi, batch_size), strict=True
            ):
                hashes[name] = write_crop(picture, out / name)
            progress.update(len(chunk))
    rows = [
        ledger_row(digest, psi, seed, generator.image_size, str(hashes[name]), dataset)
        for name, seed in zip(names, seeds, strict=True)
    ]
    manifest = Manifest.build(rows, out, where=f"samples in {out}")
    manifest.write(out / "manifest.parquet")
    return manifest


def load_on_device(folder: Path) -> Generator:
    """The generator of a checkpoint on the GPU if there is one.

    Raises:
        UserError: there is no generator in the folder.
    """
    generator = load_generator(folder)
    return generator.to(torch.device("cuda" if torch.cuda.is_available() else "cpu"))


def crop_name(digest: str, psi: Psi, seed: int) -> str:
    """Where a sample lies, relative to its manifest: the name says all that it was made of."""
    return f"crops/{digest}-{psi_name(psi)}-{seed}.png"


def ledger_row(digest: str, psi: Psi, seed: int, size: int, sha256: str, dataset: str) -> dict[str, object]:
    """The manifest's row of a raw sample: fake, of train, with the generator and the seed that made it."""
    return {
        "path": crop_name(digest, psi, seed),
        "label": "fake",
        "dataset": dataset,
        "method": "gan",
        "source": f"gan-{digest}-{seed}",
        "split": "train",
        "width": size,
        "height": size,
        "codec": "png",
        "sha256": sha256,
        "generator": digest,
        "seed": seed,
    }


def _check_seeds(seeds: Sequence[int]) -> None:
    if not seeds:
        raise UserError("no seeds to sample from: ask for 1 or more faces")
    if len(set(seeds)) != len(seeds):
        raise UserError("a seed is given twice, and would give the same face twice: give different seeds")
    for seed in seeds:
        if not 0 <= seed < 2**63:
            raise UserError(f"seed {seed} is not in [0, 2^63): give seeds in that range")


def hash_of_valid(path: Path, size: int) -> str | None:
    """SHA-256 of a crop that is whole and of the right size, or None."""
    try:
        data = path.read_bytes()
        with Image.open(io.BytesIO(data)) as picture:
            picture.load()
            return hashlib.sha256(data).hexdigest() if picture.size == (size, size) else None
    except (OSError, SyntaxError):  # Pillow raises the latter for a PNG with a broken chunk
        return None


def write_crop(picture: NDArray[np.uint8], path: Path) -> str:
    """Write a PNG in one atomic step; returns its SHA-256."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG", compress_level=3)
    data = buffer.getvalue()
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_bytes(data)
    temporary.replace(path)
    return hashlib.sha256(data).hexdigest()
