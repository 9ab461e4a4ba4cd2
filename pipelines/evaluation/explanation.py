"""What a detector looks at: maps over chosen faces as one picture, and their score where the forged region is known."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from classifier.explanation import METHODS, Map, Method, explain, localisation
from classifier.models.ensemble import FaceModel, load_detector
from classifier.scoring import score
from core.errors import UserError
from core.figures import PlainFigure
from core.manifest import Manifest
from faces.loading import load_crops
from pipelines.evaluation.sealed import open_test_rows
from pipelines.release.lineage import find_model
from tracking.runs import run
from tracking.store import Store

PICTURE, TABLE, LOCALISATION = "explanations.png", "explanations.csv", "localisation.csv"
_TILE_INCHES = 1.7


@dataclass(frozen=True)
class Explained:
    """The files that were written, and what they hold."""

    picture: Path
    table: pd.DataFrame  # row, path, dataset, method, label, score, correct
    localisation: pd.DataFrame  # method, figure, value, low, high, box, difference, ...; empty without masks
    note: str


def explain_faces(
    model: FaceModel,
    manifest: Manifest,
    out: Path,
    cache: Path,
    *,
    methods: Sequence[Method] = METHODS,
    count: int = 8,
    rows: Sequence[int] = (),
    split: str = "val",
    max_masked: int = 48,
) -> Explained:
    """Explain `count` faces of a split (the worst mistakes, then the surest hits) or the given rows of the manifest.

    Where rows name a blend mask, at most `max_masked` of them, of any split but test, are explained too, to score the
    maps against their masks.

    Raises:
        UserError: no such row or split, or a mask cannot be read.
    """
    chosen = _chosen(model, manifest, cache, count, rows, split)
    known = _with_masks(manifest, max_masked)
    images = load_crops(chosen, model.config.image_size, cache).batch(np.arange(len(chosen)))
    maps = {method: explain(model, images, method) for method in methods}
    masks = _masks(chosen, model.config.image_size)
    scores = score(model, chosen, cache)
    table = chosen.rows[["path", "dataset", "method", "label", "source"]].assign(
        score=scores, correct=(scores >= model.threshold) == (chosen.targets == 1)
    )
    out.mkdir(parents=True, exist_ok=True)
    picture = out / PICTURE
    _draw(images.permute(0, 2, 3, 1).numpy(), maps, masks, table).savefig(picture, dpi=110)
    table.to_csv(out / TABLE, index=False)
    if not len(known):
        note = "no row names the mask of a forgery: nothing to score the maps against"
        return Explained(picture, table, pd.DataFrame(), note)
    figures = _localisation(model, known, methods, cache)
    figures.to_csv(out / LOCALISATION, index=False)
    splits, used = ", ".join(sorted(set(known.rows["split"]))), int(figures["faces"].iloc[0])
    return Explained(picture, table, figures, f"scored against the masks of {used} forged faces ({splits} rows)")


def explain_model(store: Store, model: str, manifest: Manifest, out: Path, cache: Path, **options: Any) -> Explained:
    """`explain_faces` for a version, an alias or a folder; the pictures of a version go to MLflow too.

    Looking at test rows is counted there as an opening.
    """
    rows = options.get("rows") or ()
    inside = [row for row in rows if 0 <= row < len(manifest)]
    looked_at = manifest.rows.index.isin(inside) if rows else manifest.rows["split"] == options.get("split")
    test = manifest.where(np.asarray(looked_at & (manifest.rows["split"] == "test"), dtype=bool))
    found = find_model(store, model)
    if found.version is None:
        if len(test):
            raise UserError(
                f"{found.path} is no version of the registry, where the opening of test rows is counted: register it, "
                "or choose --split val"
            )
        return explain_faces(found.load(), manifest, out, cache, **options)
    with (
        found.files() as folder,
        run(
            store,
            found.project,
            f"explain {found.name}",
            key=f"explain/{found.model_id}/{manifest.digest}/{options.get('split')}",
            tags={"manifest": manifest.digest, "version": found.version.number},
            description="Where the detector sees fake: Grad-CAM, occlusion and integrated gradients.",
        ) as active,
    ):
        if len(test):
            open_test_rows(active, test, [folder])
        explained = explain_faces(load_detector(folder, "cpu"), manifest, out, cache, **options)
        active.artifact(explained.picture, "figures")
        for row in explained.localisation.to_dict("records"):
            name = f"{row['figure']}/{row['method']}"
            active.metrics({name: row["value"], f"{name}/over_box": row["difference"]}, model_id=found.model_id)
    return explained


def _chosen(model: FaceModel, manifest: Manifest, cache: Path, count: int, rows: Sequence[int], split: str) -> Manifest:
    if rows:
        if beyond := [row for row in rows if not 0 <= row < len(manifest)]:
            raise UserError(f"row {beyond[0]} is not in the manifest, whose rows are 0 to {len(manifest) - 1}")
        return Manifest(manifest.rows.iloc[list(rows)].reset_index(drop=True), manifest.root)
    part = manifest.select(split=split)
    if not len(part):
        have = ", ".join(sorted(set(manifest.rows["split"])))
        raise UserError(f"the manifest in {manifest.root} has no {split} rows: choose a --split of {have}")
    scores = score(model, part, cache)
    # Signed by the truth and the threshold: the lowest are the worst mistakes, the highest the surest hits.
    margin = np.where(part.targets == 1, scores - model.threshold, model.threshold - scores)
    order = np.argsort(margin, kind="stable")
    wrong = order[: min(math.ceil(count / 2), int((margin < 0).sum()))]
    right = order[::-1][: count - len(wrong)]
    picked = list(dict.fromkeys([*wrong, *right]))
    return Manifest(part.rows.iloc[picked].reset_index(drop=True), part.root)


def _with_masks(manifest: Manifest, most: int) -> Manifest:
    """Rows that name a mask, at most so many, chosen by their hashes; test rows stay sealed."""
    if "mask" not in manifest.rows.columns:
        return manifest.where(np.zeros(len(manifest), dtype=bool))
    named = manifest.rows["mask"].fillna("") != ""
    part = manifest.where((named & (manifest.rows["split"] != "test")).to_numpy(dtype=bool))
    first = part.rows["sha256"].rank(method="first") <= most
    return part.where(first.to_numpy(dtype=bool))


def _localisation(model: FaceModel, known: Manifest, methods: Sequence[Method], cache: Path) -> pd.DataFrame:
    masks = _masks(known, model.config.image_size)
    useful = {row: mask for row, mask in enumerate(masks) if mask is not None and 0 < mask.sum() < mask.size}
    if not useful:
        raise UserError(f"the masks in {known.root} are all empty or full: compose the faces anew")
    images = load_crops(known, model.config.image_size, cache).batch(np.array(list(useful)))
    maps: dict[str, list[Map]] = {name: list(explain(model, images, name)) for name in methods}
    rows: list[dict[str, Any]] = localisation(maps, list(useful.values()), known.groups[list(useful)])
    for row in rows:
        value, box, gap = row.pop("value"), row.pop("box"), row.pop("difference")
        row |= {"value": value.value, "low": value.low, "high": value.high, "centred box": box.value}
        row |= {"difference": gap.value, "difference low": gap.low, "difference high": gap.high}
        row |= {"faces": row.pop("n"), "groups": row.pop("groups")}
    return pd.DataFrame(rows)


def _masks(manifest: Manifest, size: int) -> list[NDArray[np.bool_] | None]:
    """[S, S] where each face was forged: where its mask is at least half of its highest; None where it is not known.

    Self-blends are laid on at a quarter of their strength and more, and their masks say so.
    """
    if "mask" not in manifest.rows.columns:
        return [None] * len(manifest)
    return [_mask(manifest.root / name, size) if name else None for name in manifest.rows["mask"].fillna("")]


def _mask(file: Path, size: int) -> NDArray[np.bool_]:
    try:
        with Image.open(file) as image:
            strength = np.asarray(image.convert("L").resize((size, size), Image.Resampling.BILINEAR))
    except OSError as error:
        raise UserError(f"the mask {file} cannot be read ({error}): compose the faces anew") from error
    return strength >= max(1.0, strength.max() / 2)


def _draw(
    images: NDArray[np.uint8], maps: dict[Method, Map], masks: Sequence[NDArray[np.bool_] | None], table: pd.DataFrame
) -> Figure:
    """One row a face: the face, then each method's map over it; the mask's outline where it is known."""
    columns = 1 + len(maps)
    figure = PlainFigure(figsize=(columns * _TILE_INCHES + 1.4, len(images) * _TILE_INCHES + 0.4), layout="constrained")
    panels = figure.subplots(len(images), columns, squeeze=False)
    for panel, name in zip(panels[0], ("face", *maps), strict=True):
        panel.set_title(name, fontsize=9)
    for number, row in enumerate(table.itertuples(index=False)):
        first, *others = panels[number]
        first.imshow(images[number])
        for panel, heat in zip(others, (of[number] for of in maps.values()), strict=True):
            panel.imshow(images[number].mean(axis=2), cmap="gray", vmin=0, vmax=255)
            panel.imshow(heat, cmap="inferno", alpha=0.25 + 0.5 * heat, vmin=0, vmax=1)
        for panel in panels[number]:
            panel.set(xticks=[], yticks=[])
            if masks[number] is not None:
                panel.contour(masks[number], levels=[0.5], colors=["#00d0ff"], linewidths=1.2)
        kind = "" if row.method in (row.label, "pristine") else f"\n{row.method}"
        said, colour = ("right", "#1a1a1a") if row.correct else ("WRONG", "#b01030")
        text = f"{row.label}{kind}\nP(fake) {row.score:.2f}\n{said}"
        first.set_ylabel(text, fontsize=8, rotation=0, ha="right", va="center", color=colour)
    return figure
