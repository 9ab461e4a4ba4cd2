"""Samples that are worth having: each shows a face that a detector finds, and none repeats another.

Seeds are walked one after another from the first. Each leaves a line in `seeds.jsonl` beside the crops: taken, or why
not. The walk depends on nothing but generator, psi and first seed, so that a killed job goes on to the same faces, and
asking for more later keeps those that were there.
"""

from __future__ import annotations

import fcntl
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import imagehash
import numpy as np
from PIL import Image
from tqdm import tqdm

from core.errors import UserError
from core.manifest import Manifest
from core.splits import MAX_DISTANCE
from faces.landmarks import crop_detector, faces_in_crops
from gan.checkpoint import generator_digest, read_card
from gan.sampling import (
    Psi,
    check_psi,
    crop_name,
    hash_of_valid,
    ledger_row,
    load_on_device,
    psi_name,
    render,
    write_crop,
)

# The detector finds 98 % of real faces of 16 pixels and all of 24; below, its verdict says more about itself.
SMALLEST_SCREENED = 24
# A generator of which fewer than one sample in so many is accepted, after so many at least, is called unfit.
_PATIENCE, _LEAST_TRIED = 25, 256
_BATCH = 64


@dataclass(frozen=True)
class Screened:
    """The accepted samples in the order of their seeds, where the face is in each, and what was turned down."""

    manifest: Manifest
    landmarks: list[list[list[float]] | None]  # [5][x, y] in pixels of the sample; None where nothing was detected
    rejected: dict[str, int]  # reason -> number of seeds


def sample_screened(
    generator_folder: Path,
    count: int,
    psi: Psi,
    out: Path,
    *,
    first_seed: int = 0,
    dataset: str = "synthetic",
    screen: bool = True,
) -> Screened:
    """Write `count` faces as PNG crops with their ledger, passing over seeds without a findable face and repetitions.

    Generators of less than 24 pixels are not screened: no detector finds faces that small.

    Args:
        generator_folder: a generator's checkpoint.
        count: 1 or more.
        psi: truncation in [0, 2], one number or one a resolution.
        out: gets `crops/*.png`, `seeds.jsonl` and `manifest.parquet` (of these `count` faces).
        first_seed: where the walk begins, 0 or more.
        dataset: value of that column.
        screen: False takes every seed.

    Raises:
        UserError: there is no generator, psi is out of range, `out` was begun with other settings, or hardly any
            sample shows a face.
    """
    if count < 1:
        raise UserError(f"{count} faces were asked for: ask for 1 or more")
    if not 0 <= first_seed < 2**62:
        raise UserError(f"seed {first_seed} is not in [0, 2^62): give one in that range")
    digest = generator_digest(generator_folder)
    size = read_card(Path(generator_folder)).image_size
    check_psi(psi, [2**power for power in range(2, size.bit_length())])
    screen = screen and size >= SMALLEST_SCREENED
    out = Path(out)
    (out / "crops").mkdir(parents=True, exist_ok=True)
    settings = {"generator": digest, "psi": psi_name(psi), "first_seed": first_seed, "screen": screen}
    with locked(out):
        walk = _Walk(out, settings)
        _go_on(walk, generator_folder, count, psi, out, digest)
        taken = [line for line in walk.lines if line["rejected"] is None][:count]
        hashes = _mended(taken, generator_folder, psi, out, digest, size)
        rows = [
            ledger_row(digest, psi, line["seed"], size, sha256, dataset)
            for line, sha256 in zip(taken, hashes, strict=True)
        ]
        manifest = Manifest.build(rows, out, where=f"samples in {out}")
        manifest.write(out / "manifest.parquet")
    last = taken[-1]["seed"]
    reasons = [line["rejected"] for line in walk.lines if line["rejected"] and line["seed"] < last]
    rejected = {reason: reasons.count(reason) for reason in sorted(set(reasons))}
    return Screened(manifest, [line["landmarks"] for line in taken], rejected)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Holds a folder against other processes that would forge into it; they wait and find the work done."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


class _Walk:
    """`seeds.jsonl`: what the walk was begun with, then a line a seed. A torn last line is walked again."""

    def __init__(self, out: Path, settings: dict[str, Any]) -> None:
        self.path = out / "seeds.jsonl"
        self.settings = settings
        self.lines: list[dict[str, Any]] = []
        if not self.path.exists():
            return
        data = self.path.read_bytes()
        whole = data[: data.rfind(b"\n") + 1].splitlines()
        try:
            entries = [json.loads(line) for line in whole]
            begun_with = entries[0] if entries else settings
            self.lines = entries[1:]
            complete = all({"seed", "phash", "landmarks", "rejected"} == set(line) for line in self.lines)
        except (ValueError, TypeError) as error:
            raise UserError(f"{self.path} is damaged ({error}): delete it, and its samples are made again") from error
        if not complete:
            raise UserError(f"{self.path} is damaged: delete it, and its samples are made again")
        for name, value in settings.items():
            if begun_with.get(name) != value:
                raise UserError(
                    f"{name} was {begun_with.get(name)!r} when {out} was begun and is {value!r} now: "
                    "take the old value or another output folder"
                )

    def add(self, lines: list[dict[str, Any]]) -> None:
        """Append lines, in a file that is written as a whole: a kill leaves the walk as it was before them."""
        self.lines += lines
        temporary = self.path.with_suffix(".tmp")
        text = "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in [self.settings, *self.lines])
        temporary.write_text(text)
        temporary.replace(self.path)

    @property
    def taken(self) -> int:
        """How many seeds gave a face."""
        return sum(line["rejected"] is None for line in self.lines)

    @property
    def hashes(self) -> np.ndarray[Any, np.dtype[np.uint64]]:
        """Perceptual hashes of what was taken."""
        return np.array([int(line["phash"], 16) for line in self.lines if line["rejected"] is None], dtype=np.uint64)


def _go_on(walk: _Walk, folder: Path, count: int, psi: Psi, out: Path, digest: str) -> None:
    """Walk seeds, a batch at a time, until `count` are taken."""
    if walk.taken >= count:
        return
    screen, first = walk.settings["screen"], walk.settings["first_seed"]
    generator = load_on_device(folder)
    finder = crop_detector() if screen else None
    with tqdm(
        total=count,
        initial=walk.taken,
        desc="sample",
        unit="face",
        delay=2,
        mininterval=0.5 if sys.stderr.isatty() else 15,
    ) as progress:
        while (before := walk.taken) < count:
            if len(walk.lines) >= max(_LEAST_TRIED, _PATIENCE * before):
                raise _unfit(walk, count)
            # Whole batches, whatever is wanted: the walk does not depend on how far one call went.
            seeds = range(first + len(walk.lines), first + len(walk.lines) + _BATCH)
            pictures = render(generator, seeds, psi, _BATCH)
            faces = faces_in_crops(list(pictures), finder) if finder is not None else [None] * _BATCH
            hashes = walk.hashes
            lines = []
            for seed, picture, face in zip(seeds, pictures, faces, strict=True):
                value = np.uint64(int(str(imagehash.phash(Image.fromarray(picture))), 16))
                reason = None
                if screen and face is None:
                    reason = "no face found"
                elif screen and len(hashes) and int(np.bitwise_count(hashes ^ value).min()) <= MAX_DISTANCE:
                    reason = "nearly the same as an earlier one"
                if reason is None:
                    hashes = np.append(hashes, value)
                    write_crop(picture, out / crop_name(digest, psi, seed))
                points = None if face is None or face.landmarks is None else face.landmarks.round(3).tolist()
                lines.append({"seed": seed, "phash": f"{int(value):016x}", "landmarks": points, "rejected": reason})
            walk.add(lines)
            progress.update(min(walk.taken, count) - before)


def _mended(taken: list[dict[str, Any]], folder: Path, psi: Psi, out: Path, digest: str, size: int) -> list[str]:
    """SHA-256 of the crops of accepted seeds; what has gone or is damaged is rendered again."""
    hashes = [hash_of_valid(out / crop_name(digest, psi, line["seed"]), size) for line in taken]
    lacking = [place for place, sha256 in enumerate(hashes) if sha256 is None]
    if lacking:
        seeds = [taken[place]["seed"] for place in lacking]
        for place, seed, picture in zip(
            lacking, seeds, render(load_on_device(folder), seeds, psi, _BATCH), strict=True
        ):
            hashes[place] = write_crop(picture, out / crop_name(digest, psi, seed))
    return [str(sha256) for sha256 in hashes]


def _unfit(walk: _Walk, count: int) -> UserError:
    reasons = [line["rejected"] for line in walk.lines if line["rejected"]]
    faceless = reasons.count("no face found")
    why = f"{faceless} show no face that MTCNN finds" if faceless else ""
    if len(reasons) > faceless:
        why += f"{' and ' if why else ''}{len(reasons) - faceless} repeat an earlier one"
    return UserError(
        f"of {len(walk.lines)} samples {why}, which leaves {walk.taken} of the {count} that are wanted: "
        "train the generator longer, take another psi, or take every seed (--every-seed; to balance, screen: false)"
    )
