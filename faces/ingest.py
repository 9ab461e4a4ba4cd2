"""From a folder of pictures and videos to face crops and their manifest.

`SOURCE/real` and `SOURCE/fake` hold the media at any depth; the first folder below `fake` names the method. Whatever
cannot be used goes to `rejected.parquet` with the reason and never stops the job. A killed job goes on where it was.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from core import splits
from core.errors import UserError
from core.files import digest, sha256
from core.manifest import LABELS, Manifest
from core.progress import progress_bar
from faces.extraction import IngestConfig, Journal, Record, extract
from faces.media import MediaFile, find_media

__all__ = ["IngestConfig", "ingest", "summary"]

_FORMAT = 1  # of the journal and the crops' names; another number refuses to go on with an old folder


def ingest(source: Path, out: Path, config: IngestConfig | None = None) -> Manifest:
    """Make `out/manifest.parquet`, `out/rejected.parquet` and `out/crops/{real,fake}/...` of the media in `source`.

    Calling it again goes on where it was killed, takes in media that are new or changed, and returns at once where
    nothing is. Crops are PNG, so that they carry no compression artefacts but the original's; with `already_cropped`
    they are copies of the original bytes (copies, not links, so that an edit of the original cannot change them).

    Rows of an earlier manifest in `out` keep their split.

    Raises:
        UserError: `source` lacks real or fake media, `out` was begun with another configuration, the detector is
            missing, or nothing usable was left of one of the labels.
    """
    source, out = Path(source), Path(out)
    if out.resolve().is_relative_to(source.resolve() / "real") or out.resolve().is_relative_to(
        source.resolve() / "fake"
    ):
        raise UserError(f"the output {out} lies among the media of {source}, which would ingest it: choose another")
    config = config or IngestConfig()
    config = config.model_copy(update={"dataset": config.dataset or source.resolve().name})
    media = _scan(source, config)
    out.mkdir(parents=True, exist_ok=True)
    settings = {"format": _FORMAT, **config.model_dump(mode="json", exclude={"device"})}
    inputs = _fingerprint(media)
    with Journal(out / "ingest.jsonl", settings) as journal:
        todo = [item for item in media if not _is_done(item, journal, out)]
        if not todo and journal.finished == inputs and (out / "manifest.parquet").is_file():
            return Manifest.read(out)
        done = len(media) - len(todo)
        with progress_bar(len(media), f"faces of {config.dataset}", "file", delay=0, initial=done) as bar:
            for record in extract(todo, out, config):
                journal.add(record)
                bar.update()
        manifest = _finish([journal.records[item.name] for item in media], out, config)
        journal.finish(inputs)
    return manifest


def summary(manifest: Manifest) -> pd.DataFrame:
    """Numbers of crops: columns dataset, label, method, train, val, test, total and sources, one row a method."""
    keys = ["dataset", "label", "method"]
    counts = manifest.rows.pivot_table(index=keys, columns="split", values="path", aggfunc="count", fill_value=0)
    counts = counts.reindex(columns=["train", "val", "test"], fill_value=0)
    counts["total"] = counts.sum(axis=1)
    counts["sources"] = manifest.rows.groupby(keys)["source"].nunique()
    counts.columns.name = None
    return counts.reset_index()


def _scan(source: Path, config: IngestConfig) -> list[MediaFile]:
    """Media of both labels, their names relative to `source`."""
    if not source.is_dir():
        raise UserError(f"there is no folder {source}: give one that holds the folders real and fake")
    media: list[MediaFile] = []
    for label in LABELS:
        folder = source / label
        if not folder.is_dir():
            raise UserError(f"{source} has no folder {label}: put the {label} pictures and videos into {folder}")
        found = find_media(folder)
        if not found:
            raise UserError(
                f"{folder} holds no picture (jpg, png, webp, bmp) and no video (mp4, avi, mov, mkv, webm): "
                f"a detector needs both real and fake faces, so put the {label} ones there"
            )
        if config.limit is not None:
            # By a hash of the name: a sample across folders, and the same one on every call.
            found.sort(key=lambda item: sha256(f"{config.seed}/{item.name}".encode()))
            found = sorted(found[: config.limit], key=lambda item: item.name)
        media += [MediaFile(f"{label}/{item.name}", item.path, item.kind, item.size, item.mtime_ns) for item in found]
    if config.already_cropped and all(item.kind == "video" for item in media):
        raise UserError(f"{source} holds only videos, which are not crops: ingest it without already_cropped")
    return media


def _fingerprint(media: Iterable[MediaFile]) -> str:
    text = json.dumps([(item.name, item.size, item.mtime_ns) for item in media])
    return digest(text, length=64)


def _is_done(item: MediaFile, journal: Journal, out: Path) -> bool:
    record = journal.records.get(item.name)
    return record is not None and record.still_holds(item, out)


def _finish(records: list[Record], out: Path, config: IngestConfig) -> Manifest:
    """Write the manifest of all rows that may stay, and the rejections with their reasons."""
    rejected = [
        {"path": record.media, "time_s": rejection.time_s, "reason": rejection.reason}
        for record in records
        for rejection in record.rejected
    ]
    rows = pd.DataFrame([row | {"media": record.media} for record in records for row in record.rows])
    if len(rows):
        rows, duplicates = _without_duplicates(rows, out, config)
        rejected += duplicates
    table = pd.DataFrame(rejected, columns=["path", "time_s", "reason"])
    table = table.astype({"path": "string", "time_s": "Float64", "reason": "string"})
    table.sort_values(["path", "time_s"]).to_parquet(out / "rejected.parquet", index=False)
    for label in LABELS:
        if not len(rows) or not (rows["label"] == label).any():
            own = table.loc[table["path"].str.startswith(f"{label}/"), "reason"]
            raise UserError(
                f"no {label} face is left of {len({r.media for r in records if r.media.startswith(label)})} files, "
                f"most often because: {own.mode().iloc[0]}; {out / 'rejected.parquet'} says why for each of them"
            )
    rows = rows.drop(columns=["phash", "media", "old"]).assign(dataset=config.dataset).sort_values("path")
    manifest = Manifest.build(rows, out, where=str(out))
    manifest.write(out / "manifest.parquet")
    return manifest


def _without_duplicates(
    rows: pd.DataFrame, out: Path, config: IngestConfig
) -> tuple[pd.DataFrame, list[dict[str, Any]]]:
    """Rows with their split, less exact copies and less near-duplicates that would stand in two splits."""
    rejected: list[dict[str, Any]] = []
    old = Manifest.read(out).rows if (out / "manifest.parquet").is_file() else None
    rows["old"] = rows["path"].isin(old["path"]) if old is not None else False
    # Old rows first, then by name: of several copies the one that is in the manifest already stays.
    rows = rows.sort_values(["old", "path"], ascending=[False, True], ignore_index=True)

    def reject(bad: NDArray[np.bool_], reasons: Callable[[int], str]) -> None:
        nonlocal rows
        for i in np.flatnonzero(bad):
            rejected.append({"path": rows["media"][i], "time_s": rows["time_s"][i], "reason": reasons(int(i))})
        rows = rows[~bad].reset_index(drop=True)

    both = rows.groupby("sha256")["label"].transform("nunique").to_numpy() > 1
    reject(both, lambda _: "the same picture stands under real and under fake")
    first = rows.drop_duplicates("sha256").set_index("sha256")["media"]
    reject(rows["sha256"].duplicated().to_numpy(), lambda i: f"the same picture as {first[rows['sha256'][i]]}")
    if rows.empty:
        return rows, rejected

    rows["split"] = splits.assign(
        rows["identity"].astype("string"),
        rows["source"].astype("string"),
        existing=old,
        seed=config.seed,
        shares=config.split_shares,
    )
    reject(
        rows["split"].isna().to_numpy(dtype=bool),
        lambda _: "its identity and source tie together earlier rows of two splits",
    )
    hashes = np.array([int(text, 16) for text in rows["phash"]], dtype=np.uint64)
    duplicates = splits.leaking(rows["split"], hashes, rows["old"].to_numpy(dtype=bool))
    media, split = rows["media"], rows["split"]
    reject(
        rows.index.isin(list(duplicates)),
        lambda i: f"nearly the same picture as {media[duplicates[i]]} in {split[duplicates[i]]}",
    )
    return rows, rejected
