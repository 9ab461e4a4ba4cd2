"""Samples of a trained generator: pictures that follow from seed and truncation psi alone, and screened crops on disk.

Screening tries seeds one after another, for a face that a detector finds and no near-duplicate. Each leaves a line in
`seeds.jsonl` beside the crops: accepted, or why not. The sequence depends on nothing but generator, psi and first seed,
so that a killed job goes on to the same faces, and asking for more later keeps those that were there.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import imagehash
import numpy as np
import torch
from filelock import FileLock
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from core.device import pick_device
from core.errors import UserError
from core.files import sealed, sha256, unsealed, write_bytes, write_text
from core.manifest import Manifest
from core.progress import progress_bar
from core.splits import MAX_DISTANCE
from faces.detection import crop_detector, faces_in_crops
from gan.checkpoint import generator_digest, load_generator, read_card
from gan.networks import Generator, resolutions

Pixels = NDArray[np.uint8]
# Truncation psi: one for all layers, or one per resolution 4, 8, ..., image_size. Coarse layers decide what the face
# is, fine ones its texture, so that the first may be held near the mean and the last left free (StyleGAN, appendix B).
Psi = float | Sequence[float]

# The detector finds 98 % of real faces of 16 pixels and all of 24; below, its answer says more about itself.
SMALLEST_SCREENED = 24
NO_FACE, DUPLICATE = "no face found", "near-duplicate of an earlier one"
# A generator of which fewer than one sample in so many is accepted, after so many at least, is called unfit.
_PATIENCE, _LEAST_TRIED = 25, 256
_BATCH = 64


def latents(generator: Generator, seeds: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Latent [N, z_width] and noise [N, noise_count] of each seed, float32 on the CPU."""
    width, count = generator.z_width, generator.z_width + generator.noise_count
    numbers = torch.stack([torch.randn(count, generator=torch.Generator().manual_seed(int(seed))) for seed in seeds])
    return numbers[:, :width], numbers[:, width:]


@torch.no_grad()
def render(generator: Generator, seeds: Sequence[int], psi: Psi, batch_size: int = 64) -> Pixels:
    """Pictures of seeds, uint8 [N, S, S, 3] RGB, computed in float32 on the generator's device.

    Every batch is filled up to `batch_size`, so that a picture does not depend on how many are asked for with it. A psi
    of 1 is the generator's own spread, 0 the average face.

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
        return torch.as_tensor(generator(z, noise, psi=float(psi)))
    # The layers of a block, one at 4 x 4 and two above, and the w of the last colours.
    of_layer = [psi[0], *(value for value in psi[1:] for _ in range(2)), psi[-1]]
    strength = torch.tensor(of_layer, device=z.device)[None, :, None]
    w = generator.mapping(z)[:, None]
    return generator.synthesise(torch.lerp(generator.w_average.expand_as(w), w, strength), noise)


def check_psi(psi: Psi, resolutions: Sequence[int] = ()) -> None:
    """Refuse, by a UserError, a truncation out of [0, 2], or of another length than the generator's resolutions."""
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
    """Truncation from `0.7` or, one per resolution, `0.5,0.7,1`; a UserError for what holds else than numbers."""
    try:
        values = [float(word) for word in text.split(",")]
    except ValueError as error:
        raise UserError(f"psi {text!r} is not a number: give one in [0, 2], or one a resolution: 0.5,0.7,1") from error
    return values if len(values) > 1 else values[0]


def psi_name(psi: Psi) -> str:
    """Short text for names of files and folders: `0.7`, or `0.5,0.7,1`."""
    return ",".join(f"{value:g}" for value in ([psi] if isinstance(psi, float | int) else psi))


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


@dataclass(frozen=True)
class Screened:
    """The accepted samples in the order of their seeds, where the face is in each, and what was rejected."""

    manifest: Manifest
    landmarks: list[list[list[float]] | None]  # [5][x, y] in pixels of the sample; None where nothing was detected
    rejected: dict[str, int]  # reason -> number of seeds


def sample_screened(
    generator_folder: Path, count: int, psi: Psi, out: Path, *, first_seed: int = 0, screen: bool = True
) -> Screened:
    """Write `count` faces as PNG crops with their manifest, without samples that show no face and near-duplicates.

    What an earlier call has written, killed or not, is kept; a crop that is missing or damaged is made again.
    Generators of less than 24 pixels are not screened: no detector finds faces that small.

    Args:
        generator_folder: a generator's checkpoint.
        count: 1 or more.
        psi: truncation in [0, 2], one number or one per resolution.
        out: gets `crops/*.png`, `seeds.jsonl` and `manifest.parquet` (of these `count` faces, all fake, all train).
        first_seed: of the first sample, 0 or more.
        screen: False accepts every seed.

    Raises:
        UserError: there is no generator, psi is out of range, `out` was begun with other settings, or hardly any
            sample shows a face.
    """
    if count < 1:
        raise UserError(f"{count} faces were asked for: ask for 1 or more")
    check_first_seed(first_seed)
    walk = _SeedWalk(Path(generator_folder), psi, Path(out), first_seed, screen=screen)
    with FileLock(walk.out / ".lock"):
        walk.read()
        walk.extend(count)
        accepted = walk.accepted[:count]
        hashes = walk.restored([line["seed"] for line in accepted])
        rows = [walk.row(seed, content) for seed, content in hashes.items()]
        manifest = Manifest.build(rows, walk.out, where=f"samples in {out}")
        manifest.write(walk.out / "manifest.parquet")
    reasons = [line["rejected"] for line in walk.lines if line["rejected"] and line["seed"] < accepted[-1]["seed"]]
    rejected = {reason: reasons.count(reason) for reason in sorted(set(reasons))}
    return Screened(manifest, [line["landmarks"] for line in accepted], rejected)


def check_first_seed(seed: int) -> None:
    """Refuse, by a UserError, a seed from which others cannot be counted on."""
    if not 0 <= seed < 2**62:
        raise UserError(f"seed {seed} is not in [0, 2^62): give one in that range")


class _SeedWalk:
    """Seeds in their order. `seeds.jsonl` holds the settings, then a line per seed; a torn last line is dropped."""

    def __init__(self, generator_folder: Path, psi: Psi, out: Path, first_seed: int, *, screen: bool) -> None:
        self.folder, self.psi, self.out, self.path = generator_folder, psi, out, out / "seeds.jsonl"
        self.digest, self.size = generator_digest(generator_folder), read_card(generator_folder).image_size
        check_psi(psi, resolutions(self.size))
        self.first, self.screen = first_seed, screen and self.size >= SMALLEST_SCREENED
        self.lines: list[dict[str, Any]] = []
        (out / "crops").mkdir(parents=True, exist_ok=True)

    @property
    def settings(self) -> dict[str, Any]:
        """What the accepted seeds follow from."""
        psi = psi_name(self.psi)
        return {"generator": self.digest, "psi": psi, "first_seed": self.first, "screen": self.screen}

    @property
    def accepted(self) -> list[dict[str, Any]]:
        """Of seeds that gave a face."""
        return [line for line in self.lines if line["rejected"] is None]

    @cached_property
    def generator(self) -> Generator:
        """Loaded when the first seed is rendered."""
        return load_generator(self.folder).to(pick_device())

    def read(self) -> None:
        """Take up what an earlier call has left."""
        if not self.path.exists():
            return
        data = self.path.read_bytes()
        try:
            entries = [unsealed(json.loads(line)) for line in data[: data.rfind(b"\n") + 1].splitlines()]
            begun_with, self.lines = entries[0] if entries else self.settings, entries[1:]
            if any({"seed", "phash", "landmarks", "rejected"} != set(line) for line in self.lines):
                raise ValueError("a line has other keys")
        except (ValueError, TypeError) as error:
            raise UserError(f"{self.path} is damaged ({error}): delete it, and its samples are made again") from error
        for name, value in self.settings.items():
            if begun_with.get(name) != value:
                raise UserError(
                    f"{name} was {begun_with.get(name)!r} when {self.out} was begun and is {value!r} now: "
                    "take the old value or another output folder"
                )

    def extend(self, count: int) -> None:
        """Try seeds, a batch at a time, until `count` are accepted."""
        finder = crop_detector() if self.screen and len(self.accepted) < count else None
        with progress_bar(count, "sample", "face", initial=len(self.accepted)) as progress:
            while (before := len(self.accepted)) < count:
                if len(self.lines) >= max(_LEAST_TRIED, _PATIENCE * before):
                    raise self._unfit(count)
                # Whole batches, whatever is wanted: the sequence does not depend on how far one call went.
                seeds = range(self.first + len(self.lines), self.first + len(self.lines) + _BATCH)
                pictures = render(self.generator, seeds, self.psi, _BATCH)
                faces = faces_in_crops(list(pictures), finder) if finder is not None else [None] * _BATCH
                hashes = np.array([int(line["phash"], 16) for line in self.accepted], dtype=np.uint64)
                lines = []
                for seed, picture, face in zip(seeds, pictures, faces, strict=True):
                    value = np.uint64(int(str(imagehash.phash(Image.fromarray(picture))), 16))
                    reason = None
                    if self.screen and face is None:
                        reason = NO_FACE
                    elif self.screen and len(hashes) and int(np.bitwise_count(hashes ^ value).min()) <= MAX_DISTANCE:
                        reason = DUPLICATE
                    if reason is None:
                        hashes = np.append(hashes, value)
                        write_crop(picture, self.out / self._crop_name(seed))
                    points = None if face is None or face.landmarks is None else face.landmarks.round(3).tolist()
                    lines.append({"seed": seed, "phash": f"{int(value):016x}", "landmarks": points, "rejected": reason})
                self.lines += lines
                # Written as a whole: a kill leaves the file as it was before these lines.
                entries = (json.dumps(sealed(entry), separators=(",", ":")) for entry in (self.settings, *self.lines))
                write_text(self.path, "".join(f"{entry}\n" for entry in entries))
                progress.update(min(len(self.accepted), count) - before)

    def restored(self, seeds: list[int]) -> dict[int, str]:
        """SHA-256 of the crops of accepted seeds; what is missing or damaged is rendered again."""
        hashes = {seed: self._hash_of_valid(self.out / self._crop_name(seed)) for seed in seeds}
        lacking = [seed for seed, content in hashes.items() if content is None]
        if lacking:
            for seed, picture in zip(lacking, render(self.generator, lacking, self.psi, _BATCH), strict=True):
                hashes[seed] = write_crop(picture, self.out / self._crop_name(seed))
        return {seed: str(content) for seed, content in hashes.items()}

    def row(self, seed: int, content: str) -> dict[str, object]:
        """The manifest's row of a raw sample: fake, of train, with the generator and the seed that made it."""
        what = {"label": "fake", "dataset": "synthetic", "method": "gan", "split": "train", "codec": "png"}
        where = {"path": self._crop_name(seed), "source": f"gan-{self.digest}-{seed}", "sha256": content}
        return what | where | {"width": self.size, "height": self.size, "generator": self.digest, "seed": seed}

    def _crop_name(self, seed: int) -> str:
        """Where a sample lies, relative to its manifest: the name says all that it was made of."""
        return f"crops/{self.digest}-{psi_name(self.psi)}-{seed}.png"

    def _hash_of_valid(self, path: Path) -> str | None:
        """SHA-256 of a crop that is whole and of the right size, or None."""
        try:
            data = path.read_bytes()
            with Image.open(io.BytesIO(data)) as picture:
                picture.load()
                return sha256(data) if picture.size == (self.size, self.size) else None
        except (OSError, SyntaxError):  # Pillow raises the latter for a PNG with a broken chunk
            return None

    def _unfit(self, count: int) -> UserError:
        counts = {reason: sum(line["rejected"] == reason for line in self.lines) for reason in (NO_FACE, DUPLICATE)}
        said = {NO_FACE: "show no face that MTCNN finds", DUPLICATE: "are near-duplicates"}
        why = " and ".join(f"{number} {said[reason]}" for reason, number in counts.items() if number)
        return UserError(
            f"of {len(self.lines)} samples {why}, which leaves {len(self.accepted)} of the {count} that are wanted: "
            "train the generator longer, take another psi, or take every seed (--every-seed; to balance, screen: false)"
        )


def write_crop(picture: Pixels, path: Path) -> str:
    """Write a PNG in one atomic step; returns its SHA-256."""
    data = png(picture)
    write_bytes(path, data)
    return sha256(data)


def png(picture: Pixels) -> bytes:
    """A PNG of [H, W, 3] or [H, W] uint8, the same bytes for the same pixels."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG", compress_level=3)
    return buffer.getvalue()
