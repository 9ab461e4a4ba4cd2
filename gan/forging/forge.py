"""Forging: a wanted number of fakes of one method, as files with a ledger (methods: `gan.forging.recipes`)."""

from __future__ import annotations

import hashlib
import io
import json
import os
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from core.errors import UserError
from core.manifest import Manifest
from gan.checkpoint import generator_digest, read_card
from gan.forging.encoding import Pixels
from gan.forging.recipes import (
    MEASURED_SAMPLES,
    GanComposite,
    GanMatched,
    Photographs,
    Plan,
    Recipe,
    SelfBlend,
    drawn_dataset,
    whole_blocks,
)
from gan.screening import SMALLEST_SCREENED, Screened, locked, sample_screened

METHODS = ("gan", "gan-matched", "gan-composite", "self-blend")
WITHOUT_GENERATOR = ("self-blend",)
_CHUNK = 64


@dataclass(frozen=True, kw_only=True)
class ForgeInputs:
    """What fakes are forged from.

    `manifest`: its train reals lend photographs and traces; rows of other splits are never looked at. `generator`:
    folder of a checkpoint, for the methods that need one. `pool`: folder that keeps what was forged, by method and
    materials, so that whoever asks for more, or for less, gets the same ones.
    """

    manifest: Manifest
    generator: Path | None
    pool: Path
    psi: float = 0.7
    seed: int = 0
    screen: bool = True

    @property
    def reals(self) -> Manifest:
        """The train reals."""
        return self.manifest.select(split="train", label="real")


def forge(method: str, count: int, materials: ForgeInputs) -> Manifest:
    """`count` fakes of a method: fake, of train, each with generator, seed, parent and mask as far as it has them.

    Item by item they follow from the materials, so that a killed call, repeated, gives the same bytes, and a larger
    count begins with the faces of a smaller one.

    Raises:
        UserError: there is no such method, it lacks a generator, there are no reals to forge from, or the generator's
            samples are unfit.
    """
    if method not in METHODS:
        raise UserError(f"there is no method {method!r} of forging: choose one of {', '.join(METHODS)}")
    if method not in WITHOUT_GENERATOR and materials.generator is None:
        raise UserError(
            f"the method {method} needs a generator: train one with `counterforge gan train`, or take self-blend"
        )
    reals = materials.reals
    if not len(reals):
        raise UserError(f"the train split of the manifest in {materials.manifest.root} has no real face to forge from")
    if method == "self-blend":
        folder = materials.pool / f"self-blend-{_short(reals.digest)}-seed{materials.seed}"
        return _forged(SelfBlend(Photographs(reals, materials.pool), materials.seed), count, folder)
    generator = materials.generator
    assert generator is not None
    if method == "gan":
        return _beside(reals, _samples(materials, generator, count).manifest)
    size = read_card(generator).image_size
    recipe: Recipe
    if method == "gan-matched":
        recipe = GanMatched(reals, _samples(materials, generator, max(count, MEASURED_SAMPLES)), size)
    else:
        if size < SMALLEST_SCREENED:
            raise UserError(
                f"the generator in {generator} makes faces of {size} pixels, in which no landmarks are found: "
                f"gan-composite needs {SMALLEST_SCREENED} or more"
            )
        photographs = Photographs(reals, materials.pool)
        recipe = GanComposite(photographs, _samples(materials, generator, whole_blocks(count), screen=True))
    screened = "" if materials.screen or method == "gan-composite" else "-all"
    key = f"{generator_digest(generator)}-psi{materials.psi:g}-seed{materials.seed}{screened}-{_short(reals.digest)}"
    return _forged(recipe, count, materials.pool / f"{method}-{key}")


def _short(digest: str) -> str:
    return digest[:8]


def _samples(materials: ForgeInputs, generator: Path, count: int, screen: bool | None = None) -> Screened:
    """The first faces of the pool that all methods with this generator, psi and seed draw on."""
    screen = materials.screen if screen is None else screen
    key = f"{generator_digest(generator)}-psi{materials.psi:g}-seed{materials.seed}{'' if screen else '-all'}"
    return sample_screened(
        generator, count, materials.psi, materials.pool / f"gan-{key}", first_seed=materials.seed, screen=screen
    )


def _beside(reals: Manifest, samples: Manifest) -> Manifest:
    """Samples as members of the reals' datasets, by lot in the reals' proportions: that is what they complement."""
    datasets = [drawn_dataset(reals, int(seed)) for seed in samples.rows["seed"]]
    return Manifest.build(samples.rows.assign(dataset=datasets), samples.root, where=f"samples in {samples.root}")


def _forged(recipe: Recipe, count: int, folder: Path) -> Manifest:
    """Items 0 to `count` of a recipe, of which only those are made that `folder` lacks."""
    plans = [recipe.plan(index) for index in range(count)]
    with locked(folder):
        for name in ("crops", "masks"):
            (folder / name).mkdir(exist_ok=True)
        record = _Record(folder)
        hashes = {plan.stem: record.valid(plan) for plan in plans}
        missing = [plan for plan in plans if hashes[plan.stem] is None]
        with (
            tqdm(
                total=len(missing),
                desc=str(plans[0].row["method"]) if plans else "forge",
                unit="face",
                delay=2,
                mininterval=0.5 if sys.stderr.isatty() else 15,
            ) as progress,
            # OpenCV, NumPy's transforms and Pillow's codecs all let other threads run.
            ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool,
        ):
            for start in range(0, len(missing), _CHUNK):
                chunk = missing[start : start + _CHUNK]
                for plan, forgery in zip(chunk, pool.map(recipe.make, chunk), strict=True):
                    # The mask first: a crop on disk has its mask beside it.
                    if forgery.mask is not None:
                        _write(folder / _mask_path(plan), _png(forgery.mask))
                    _write(folder / _crop_path(plan), forgery.data)
                    hashes[plan.stem] = hashlib.sha256(forgery.data).hexdigest()
                record.add({plan.stem: str(hashes[plan.stem]) for plan in chunk})
                progress.update(len(chunk))
        rows = [
            plan.row
            | {"path": _crop_path(plan), "label": "fake", "split": "train", "sha256": hashes[plan.stem]}
            | ({"mask": _mask_path(plan)} if plan.blended else {})
            for plan in plans
        ]
        manifest = Manifest.build(rows, folder, where=f"the forgeries in {folder}")
        manifest.write(folder / "manifest.parquet")
    return manifest


def _crop_path(plan: Plan) -> str:
    return f"crops/{plan.stem}{plan.suffix}"


def _mask_path(plan: Plan) -> str:
    return f"masks/{plan.stem}.png"


class _Record:
    """`forged.jsonl`: the SHA-256 of each crop that was made, by which a whole one is told from a damaged one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._path = folder / "forged.jsonl"
        self._hashes: dict[str, str] = {}
        for line in self._path.read_bytes().splitlines() if self._path.is_file() else ():
            try:
                stem, sha256 = json.loads(line)
                self._hashes[stem] = sha256
            except (ValueError, TypeError):  # torn by a kill: that chunk is made again
                continue

    def valid(self, plan: Plan) -> str | None:
        """The hash of the plan's crop, if it is on disk as it was made, and its mask is readable."""
        sha256 = self._hashes.get(plan.stem)
        try:
            if sha256 is None or hashlib.sha256((self.folder / _crop_path(plan)).read_bytes()).hexdigest() != sha256:
                return None
            if plan.blended:
                with Image.open(self.folder / _mask_path(plan)) as mask:
                    mask.verify()
        except (OSError, SyntaxError):  # Pillow raises the latter for a PNG with a broken chunk
            return None
        return sha256

    def add(self, hashes: Mapping[str, str]) -> None:
        """Append hashes, in one write that begins on a line of its own."""
        with self._path.open("ab") as file:
            file.write(("\n" + "".join(json.dumps(pair) + "\n" for pair in hashes.items())).encode())


def _png(mask: Pixels) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(mask).save(buffer, "PNG", compress_level=3)
    return buffer.getvalue()


def _write(path: Path, data: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_bytes(data)
    temporary.replace(path)
