"""Forging: a wanted number of fakes of one method, as files with their manifest (methods: `gan.forging.recipes`)."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock
from PIL import Image

from core.errors import UserError
from core.files import append_lines, read_lines, sha256, write_bytes
from core.manifest import Manifest
from core.progress import progress_bar
from gan.checkpoint import generator_digest, read_card
from gan.forging import recipes
from gan.sampling import SMALLEST_SCREENED, Screened, png, sample_screened

METHODS = ("gan", "gan-matched", "gan-composite", "self-blend")
WITHOUT_GENERATOR = ("self-blend",)
_CHUNK = 64


@dataclass(frozen=True, kw_only=True)
class ForgeInputs:
    """What fakes are forged from."""

    manifest: Manifest  # its train reals lend photographs and degradations; rows of other splits are never used
    generator: Path | None  # folder of a checkpoint, for the methods that need one
    pool: Path  # keeps what was forged, by method and inputs: whoever asks for more, or for less, gets the same ones
    psi: float = 0.7
    seed: int = 0
    screen: bool = True


def forge(method: str, count: int, inputs: ForgeInputs) -> Manifest:
    """`count` fakes of a method: fake, of train, each with generator, seed, parent and mask as far as it has them.

    Item by item they follow from the inputs, so that a killed call, repeated, gives the same bytes, and a larger
    count begins with the faces of a smaller one.

    Raises:
        UserError: there is no such method, it lacks a generator, there are no reals to forge from, or the generator's
            samples are unfit.
    """
    if method not in METHODS:
        raise UserError(f"forging method {method!r} is not known: choose one of {', '.join(METHODS)}")
    if method not in WITHOUT_GENERATOR and inputs.generator is None:
        raise UserError(
            f"the method {method} needs a generator: train one with `counterforge gan train`, or take self-blend"
        )
    reals = inputs.manifest.select(split="train", label="real")
    if not len(reals):
        raise UserError(f"the train split of the manifest in {inputs.manifest.root} has no real face to forge from")
    if method == "self-blend":
        folder = inputs.pool / f"self-blend-{reals.digest[:8]}-seed{inputs.seed}"
        return _forged(recipes.SelfBlend(recipes.Photographs(reals, inputs.pool), inputs.seed), count, folder)
    generator = inputs.generator
    assert generator is not None
    if method == "gan":
        # Assigned to the reals' datasets at random, in the reals' proportions, since they complement those.
        raw = _samples(inputs, generator, count).manifest
        datasets = recipes.drawn_datasets(reals, [int(seed) for seed in raw.rows["seed"]])
        return Manifest.build(raw.rows.assign(dataset=datasets), raw.root, where=f"samples in {raw.root}")
    size = read_card(generator).image_size
    recipe: recipes.Recipe
    if method == "gan-matched":
        recipe = recipes.GanMatched(reals, _samples(inputs, generator, max(count, recipes.MEASURED_SAMPLES)), size)
    else:
        if size < SMALLEST_SCREENED:
            raise UserError(
                f"the generator in {generator} makes faces of {size} pixels, in which no landmarks are found: "
                f"gan-composite needs {SMALLEST_SCREENED} or more"
            )
        samples = _samples(inputs, generator, recipes.whole_blocks(count), screen=True)
        recipe = recipes.GanComposite(recipes.Photographs(reals, inputs.pool), samples)
    screened = "" if inputs.screen or method == "gan-composite" else "-all"
    key = f"{generator_digest(generator)}-psi{inputs.psi:g}-seed{inputs.seed}{screened}-{reals.digest[:8]}"
    return _forged(recipe, count, inputs.pool / f"{method}-{key}")


def _samples(inputs: ForgeInputs, generator: Path, count: int, screen: bool | None = None) -> Screened:
    """The first samples of those that all methods with this generator, psi and seed share."""
    screen = inputs.screen if screen is None else screen
    key = f"{generator_digest(generator)}-psi{inputs.psi:g}-seed{inputs.seed}{'' if screen else '-all'}"
    out = inputs.pool / f"gan-{key}"
    return sample_screened(generator, count, inputs.psi, out, first_seed=inputs.seed, screen=screen)


def _forged(recipe: recipes.Recipe, count: int, folder: Path) -> Manifest:
    """Items 0 to `count` of a recipe, of which only those are made that `folder` lacks."""
    plans = [recipe.plan(index) for index in range(count)]
    for name in ("crops", "masks"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".lock"):
        record = folder / "forged.jsonl"  # [stem, SHA-256] of each crop that was made
        made: dict[str, str] = dict(line for line in read_lines(record) if isinstance(line, list) and len(line) == 2)
        missing = [plan for plan in plans if not _is_whole(plan, folder, made)]
        with (
            progress_bar(len(missing), str(plans[0].row["method"]) if plans else "forge", "face") as progress,
            # OpenCV, NumPy's transforms and Pillow's codecs all let other threads run.
            ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool,
        ):
            for start in range(0, len(missing), _CHUNK):
                chunk = missing[start : start + _CHUNK]
                for plan, forgery in zip(chunk, pool.map(recipe.make, chunk), strict=True):
                    # The mask first: a crop on disk has its mask beside it.
                    if forgery.mask is not None:
                        write_bytes(folder / plan.mask_path, png(forgery.mask))
                    write_bytes(folder / plan.crop_path, forgery.data)
                    made[plan.stem] = sha256(forgery.data)
                append_lines(record, [(plan.stem, made[plan.stem]) for plan in chunk])
                progress.update(len(chunk))
        rows = [
            plan.row
            | {"path": plan.crop_path, "label": "fake", "split": "train", "sha256": made[plan.stem]}
            | ({"mask": plan.mask_path} if plan.blended else {})
            for plan in plans
        ]
        manifest = Manifest.build(rows, folder, where=f"the forgeries in {folder}")
        manifest.write(folder / "manifest.parquet")
    return manifest


def _is_whole(plan: recipes.Plan, folder: Path, made: dict[str, str]) -> bool:
    """Whether a plan's crop is on disk as it was made, and its mask is readable."""
    try:
        if plan.stem not in made or sha256(folder / plan.crop_path) != made[plan.stem]:
            return False
        if plan.blended:
            with Image.open(folder / plan.mask_path) as mask:
                mask.verify()
    except (OSError, SyntaxError):  # Pillow raises the latter for a PNG with a broken chunk
        return False
    return True
