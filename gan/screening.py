"""Sampling with a filter: crops on disk that each show a face that a detector finds, without near-duplicates.

Seeds are tried one after another. Each leaves a line in `seeds.jsonl` beside the crops: accepted, or why not. The
sequence depends on nothing but generator, psi and first seed, so that a killed job goes on to the same faces, and
asking for more later keeps those that were there.
"""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import imagehash
import numpy as np
from filelock import FileLock
from PIL import Image

from core.device import pick_device
from core.errors import UserError
from core.files import sealed, sha256, unsealed, write_bytes, write_text
from core.manifest import Manifest
from core.progress import progress_bar
from core.splits import MAX_DISTANCE
from faces.detection import crop_detector, faces_in_crops
from gan.checkpoint import generator_digest, load_generator, read_card
from gan.sampling import Pixels, Psi, check_psi, psi_name, render

# The detector finds 98 % of real faces of 16 pixels and all of 24; below, its answer says more about itself.
SMALLEST_SCREENED = 24
NO_FACE, DUPLICATE = "no face found", "near-duplicate of an earlier one"
# A generator of which fewer than one sample in so many is accepted, after so many at least, is called unfit.
_PATIENCE, _LEAST_TRIED = 25, 256
_BATCH = 64


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
    digest = generator_digest(generator_folder)
    size = read_card(Path(generator_folder)).image_size
    check_psi(psi, [2**power for power in range(2, size.bit_length())])
    screen = screen and size >= SMALLEST_SCREENED
    out = Path(out)
    (out / "crops").mkdir(parents=True, exist_ok=True)
    settings = {"generator": digest, "psi": psi_name(psi), "first_seed": first_seed, "screen": screen}
    with FileLock(out / ".lock"):
        log = _SeedLog(out, settings)
        _extend(log, generator_folder, count, psi, out)
        accepted = [line for line in log.lines if line["rejected"] is None][:count]
        seeds = [line["seed"] for line in accepted]
        hashes = _restored(seeds, generator_folder, psi, out, digest, size)
        rows = [_row(digest, psi, seed, size, content) for seed, content in zip(seeds, hashes, strict=True)]
        manifest = Manifest.build(rows, out, where=f"samples in {out}")
        manifest.write(out / "manifest.parquet")
    reasons = [line["rejected"] for line in log.lines if line["rejected"] and line["seed"] < seeds[-1]]
    rejected = {reason: reasons.count(reason) for reason in sorted(set(reasons))}
    return Screened(manifest, [line["landmarks"] for line in accepted], rejected)


def check_first_seed(seed: int) -> None:
    """Refuse a seed from which others cannot be counted on.

    Raises:
        UserError: it is out of range.
    """
    if not 0 <= seed < 2**62:
        raise UserError(f"seed {seed} is not in [0, 2^62): give one in that range")


class _SeedLog:
    """`seeds.jsonl`: the settings, then a line per seed. A torn last line is dropped."""

    def __init__(self, out: Path, settings: dict[str, Any]) -> None:
        self.path, self.settings = out / "seeds.jsonl", settings
        self.lines: list[dict[str, Any]] = []
        if not self.path.exists():
            return
        data = self.path.read_bytes()
        try:
            entries = [unsealed(json.loads(line)) for line in data[: data.rfind(b"\n") + 1].splitlines()]
            begun_with, self.lines = entries[0] if entries else settings, entries[1:]
            if any({"seed", "phash", "landmarks", "rejected"} != set(line) for line in self.lines):
                raise ValueError("a line has other keys")
        except (ValueError, TypeError) as error:
            raise UserError(f"{self.path} is damaged ({error}): delete it, and its samples are made again") from error
        for name, value in settings.items():
            if begun_with.get(name) != value:
                raise UserError(
                    f"{name} was {begun_with.get(name)!r} when {out} was begun and is {value!r} now: "
                    "take the old value or another output folder"
                )

    def add(self, lines: list[dict[str, Any]]) -> None:
        """Append lines, in a file that is written as a whole: a kill leaves it as it was before them."""
        self.lines += lines
        entries = [sealed(entry) for entry in (self.settings, *self.lines)]
        write_text(self.path, "".join(json.dumps(entry, separators=(",", ":")) + "\n" for entry in entries))

    @property
    def accepted(self) -> int:
        """How many seeds gave a face."""
        return sum(line["rejected"] is None for line in self.lines)

    @property
    def hashes(self) -> np.ndarray[Any, np.dtype[np.uint64]]:
        """Perceptual hashes of what was accepted."""
        return np.array([int(line["phash"], 16) for line in self.lines if line["rejected"] is None], dtype=np.uint64)


def _extend(log: _SeedLog, folder: Path, count: int, psi: Psi, out: Path) -> None:
    """Try seeds, a batch at a time, until `count` are accepted."""
    if log.accepted >= count:
        return
    screen, first, digest = log.settings["screen"], log.settings["first_seed"], log.settings["generator"]
    generator = load_generator(folder).to(pick_device())
    finder = crop_detector() if screen else None
    with progress_bar(count, "sample", "face", initial=log.accepted) as progress:
        while (before := log.accepted) < count:
            if len(log.lines) >= max(_LEAST_TRIED, _PATIENCE * before):
                raise _unfit(log, count)
            # Whole batches, whatever is wanted: the sequence does not depend on how far one call went.
            seeds = range(first + len(log.lines), first + len(log.lines) + _BATCH)
            pictures = render(generator, seeds, psi, _BATCH)
            faces = faces_in_crops(list(pictures), finder) if finder is not None else [None] * _BATCH
            hashes = log.hashes
            lines = []
            for seed, picture, face in zip(seeds, pictures, faces, strict=True):
                value = np.uint64(int(str(imagehash.phash(Image.fromarray(picture))), 16))
                reason = None
                if screen and face is None:
                    reason = NO_FACE
                elif screen and len(hashes) and int(np.bitwise_count(hashes ^ value).min()) <= MAX_DISTANCE:
                    reason = DUPLICATE
                if reason is None:
                    hashes = np.append(hashes, value)
                    write_crop(picture, out / _crop_name(digest, psi, seed))
                points = None if face is None or face.landmarks is None else face.landmarks.round(3).tolist()
                lines.append({"seed": seed, "phash": f"{int(value):016x}", "landmarks": points, "rejected": reason})
            log.add(lines)
            progress.update(min(log.accepted, count) - before)


def _restored(seeds: list[int], folder: Path, psi: Psi, out: Path, digest: str, size: int) -> list[str]:
    """SHA-256 of the crops of accepted seeds; what is missing or damaged is rendered again."""
    hashes = {seed: _hash_of_valid(out / _crop_name(digest, psi, seed), size) for seed in seeds}
    lacking = [seed for seed, content in hashes.items() if content is None]
    if lacking:
        pictures = render(load_generator(folder).to(pick_device()), lacking, psi, _BATCH)
        for seed, picture in zip(lacking, pictures, strict=True):
            hashes[seed] = write_crop(picture, out / _crop_name(digest, psi, seed))
    return [str(content) for content in hashes.values()]


def _unfit(log: _SeedLog, count: int) -> UserError:
    reasons = [line["rejected"] for line in log.lines if line["rejected"]]
    faceless = reasons.count(NO_FACE)
    why = [f"{faceless} show no face that MTCNN finds"] if faceless else []
    if len(reasons) > faceless:
        why.append(f"{len(reasons) - faceless} are near-duplicates")
    return UserError(
        f"of {len(log.lines)} samples {' and '.join(why)}, which leaves {log.accepted} of the {count} that are wanted: "
        "train the generator longer, take another psi, or take every seed (--every-seed; to balance, screen: false)"
    )


def _crop_name(digest: str, psi: Psi, seed: int) -> str:
    """Where a sample lies, relative to its manifest: the name says all that it was made of."""
    return f"crops/{digest}-{psi_name(psi)}-{seed}.png"


def _row(digest: str, psi: Psi, seed: int, size: int, content: str) -> dict[str, object]:
    """The manifest's row of a raw sample: fake, of train, with the generator and the seed that made it."""
    return {
        "path": _crop_name(digest, psi, seed),
        "label": "fake",
        "dataset": "synthetic",
        "method": "gan",
        "source": f"gan-{digest}-{seed}",
        "split": "train",
        "width": size,
        "height": size,
        "codec": "png",
        "sha256": content,
        "generator": digest,
        "seed": seed,
    }


def _hash_of_valid(path: Path, size: int) -> str | None:
    """SHA-256 of a crop that is whole and of the right size, or None."""
    try:
        data = path.read_bytes()
        with Image.open(io.BytesIO(data)) as picture:
            picture.load()
            return sha256(data) if picture.size == (size, size) else None
    except (OSError, SyntaxError):  # Pillow raises the latter for a PNG with a broken chunk
        return None


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
