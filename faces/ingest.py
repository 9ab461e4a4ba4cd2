"""From a folder of pictures and videos to face crops and their manifest.

The layout of the folder says what each file is (see `faces.layouts`). Whatever cannot be used goes to
`rejected.parquet` with the reason and never stops the job. A killed job goes on where it was.
"""

from __future__ import annotations

import json
import shutil
import stat
import tarfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from core import splits
from core.errors import UserError
from core.files import digest, sha256, write_json
from core.groups import HASH, OFFICIAL, OVERLAPPING, PERSON_DISJOINT, shared_persons
from core.locks import one_at_a_time
from core.manifest import LABELS, Manifest
from core.names import is_safe
from core.progress import progress_bar
from faces.extraction import IngestConfig, extract
from faces.journal import Journal, Record
from faces.layouts import Entry
from faces.media import MediaFile, UnreadableError, media_kind
from faces.survey import Survey, deal, facts, survey

__all__ = ["IngestConfig", "ingest", "summary"]

_FORMAT = 1  # of the journal and the crops' names; another number refuses to go on with an old folder
# Settings that a journal names only where they are not the default, so that those begun before go on.
_LATER = ("layout", "splits", "compression", "frame_folders")
_SPLIT_REASONS = {
    OFFICIAL: "the official split does not name it",
    HASH: "its identity and source tie together earlier rows of two splits",
    PERSON_DISJOINT: "its persons stand in different splits",
}


def ingest(source: Path, out: Path, config: IngestConfig | None = None) -> Manifest:
    """Make `out/manifest.parquet`, `out/rejected.parquet` and `out/crops/...` of the media in `source`.

    Calling it again goes on where it was killed, takes in media that are new or changed, and returns at once where
    nothing is. Crops are PNG, so that they carry no compression artefacts but the original's; with `already_cropped`
    they are copies of the original bytes (copies, not links, so that an edit of the original cannot change them).

    Rows of an earlier manifest in `out` keep their split, as long as splits are made in the same way.
    `out/ingest.json` says which layout was recognised by what, which splits were made, and what was ignored.

    Raises:
        UserError: `source` is of no known layout or lacks real or fake media, `out` was begun with another
            configuration, the detector is missing, or nothing usable was left of one of the labels.
    """
    source, out = Path(source), Path(out)
    for label in LABELS:
        if out.resolve().is_relative_to(source.resolve() / label):
            raise UserError(f"the output {out} lies among the media of {source}, which would ingest it: choose another")
    config = config or IngestConfig()
    if config.dataset is None:
        name = source.resolve().name
        if not is_safe(name):
            raise UserError(f"the folder's name {name!r} cannot name a dataset: give it one (dataset)")
        config = config.model_copy(update={"dataset": name})
    found = survey(source, config, out)
    for label in LABELS:
        if not any(entry.label == label for entry in found.entries):
            raise UserError(
                f"{source} holds no {label} picture or video: a detector needs both real and fake faces "
                f"(layout {found.layout.name}; --dry-run says why files are not usable)"
            )
    with one_at_a_time(out, f"the ingest of {config.dataset}"):
        return _ingest(found, out, config)


def _ingest(found: Survey, out: Path, config: IngestConfig) -> Manifest:
    source = found.source
    media, unusable = _files(found, out, config)
    settings = {"format": _FORMAT, **config.model_dump(mode="json", exclude={"device"})}
    for name in _LATER:
        if settings[name] == IngestConfig.model_fields[name].default:
            del settings[name]
    inputs = _fingerprint(media, found.splits)
    out.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(8) as pool, Journal(out / "ingest.jsonl", settings) as journal:
        todo = [item for item in media if not _is_done(item, journal, out)]
        if not todo and journal.finished == inputs and (out / "manifest.parquet").is_file():
            manifest = Manifest.read(out)
            _describe(found, manifest, out)
            return manifest
        _unpack(todo, source, out)
        todo = list(pool.map(_with_kind, todo))
        if config.already_cropped and len(todo) == len(media) and all(item.kind == "video" for item in todo):
            raise UserError(f"{source} holds only videos, which are not crops: ingest it without already_cropped")
        done = len(media) - len(todo)
        with progress_bar(len(media), f"faces of {config.dataset}", "file", delay=0, initial=done) as bar:
            for record in extract(todo, out, config):
                journal.add(record)
                bar.update()
        manifest = _finish(media, journal.records, unusable, found, out, config)
        journal.finish(inputs)
    shutil.rmtree(out / "unpacked", ignore_errors=True)
    _describe(found, manifest, out)
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


def _describe(found: Survey, manifest: Manifest, out: Path) -> None:
    """Write `ingest.json`: the layout, the splits, and what was ignored."""
    write_json(out / "ingest.json", found.described | {"shared_persons": len(shared_persons(manifest.rows))})


def _files(found: Survey, out: Path, config: IngestConfig) -> tuple[list[MediaFile], list[tuple[str, str]]]:
    """Media files as they stand on disk, and all that is not usable with the reason."""
    by_path: dict[str, list[Entry]] = defaultdict(list)
    for entry in found.entries:
        by_path[entry.path].append(entry)
    unusable = list(found.rejected)
    media: list[MediaFile] = []
    for path, entries in by_path.items():
        archive = _archive(path)
        try:
            status = (found.source / (archive or path)).stat()
        except OSError as error:
            unusable.append((path, f"cannot be opened: {error.strerror}"))
            continue
        if not stat.S_ISREG(status.st_mode):
            unusable.append((path, "it is not a regular file"))
            continue
        place = out / "unpacked" / path if archive else found.source / path
        media.append(MediaFile(path, place, "image", status.st_size, status.st_mtime_ns, tuple(entries)))
    if config.limit is not None:
        media = [item for label in LABELS for item in _sample(media, label, found.layout.name, config)]
    order = {label: rank for rank, label in enumerate(LABELS)}
    return sorted(media, key=lambda item: (order[item.entries[0].label], item.name)), unusable


def _sample(media: list[MediaFile], label: str, layout: str, config: IngestConfig) -> list[MediaFile]:
    """At most `limit` files of a label, by a hash of the name: across folders, and the same ones on every call."""

    def rank(item: MediaFile) -> str:
        name = item.name.partition("/")[2] if layout == "folders" else item.name
        return sha256(f"{config.seed}/{name}".encode())

    return sorted((item for item in media if item.entries[0].label == label), key=rank)[: config.limit]


def _archive(path: str) -> str | None:
    """The archive that a file lies in, if it does."""
    for ending in (".tar.gz/", ".tgz/", ".tar/"):
        before, found, _ = path.partition(ending)
        if found:
            return before + ending[:-1]
    return None


def _unpack(media: Iterable[MediaFile], source: Path, out: Path) -> None:
    """Unpack the archives that hold `media` to `out/unpacked/ARCHIVE/`, unless they are."""
    for archive in sorted({name for item in media if not item.path.exists() and (name := _archive(item.name))}):
        target = out / "unpacked" / archive
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        with tarfile.open(source / archive) as opened:
            opened.extractall(target, filter="data")


def _with_kind(item: MediaFile) -> MediaFile:
    try:
        return replace(item, kind=media_kind(item.path))
    except UnreadableError:
        return item  # reading it as a picture says why


def _fingerprint(media: Iterable[MediaFile], mode: str) -> str:
    facts = [(item.name, item.size, item.mtime_ns) for item in media]
    authors = [(e.method, e.source, e.identity, e.original, e.split, e.frame) for m in media for e in m.entries]
    plain = mode == HASH and all(e.frame is None and e.original is None for m in media for e in m.entries)
    text = json.dumps(facts) if plain else json.dumps([facts, authors, mode])
    return digest(text, length=64)


def _is_done(item: MediaFile, journal: Journal, out: Path) -> bool:
    record = journal.records.get(item.name)
    return record is not None and record.still_holds(item, out)


def _finish(
    media: list[MediaFile],
    records: Mapping[str, Record],
    unusable: list[tuple[str, str]],
    found: Survey,
    out: Path,
    config: IngestConfig,
) -> Manifest:
    """Write the manifest of all rows that may stay, and the rejections with their reasons."""
    rejected: list[dict[str, Any]] = [{"path": path, "time_s": None, "reason": reason} for path, reason in unusable]
    made: list[dict[str, Any]] = []
    for item in media:
        record = records[item.name]
        rejected += [{"path": item.name, "time_s": each.time_s, "reason": each.reason} for each in record.rejected]
        for row in record.rows:
            entry = item.entries[row.get("face", 0)]
            frame = {} if entry.frame is None else {"frame": entry.frame}
            made.append(
                {key: value for key, value in row.items() if key != "face"}
                | facts(entry)
                | frame
                | {"media": item.name}
            )
    rows = pd.DataFrame(made)
    if len(rows):
        rows, duplicates = _without_duplicates(rows, found.splits, out, config)
        rejected += duplicates
    table = pd.DataFrame(rejected, columns=["path", "time_s", "reason"])
    table = table.astype({"path": "string", "time_s": "Float64", "reason": "string"})
    table.sort_values(["path", "time_s"]).to_parquet(out / "rejected.parquet", index=False)
    for label in LABELS:
        if not len(rows) or not (rows["label"] == label).any():
            names = {item.name for item in media if any(entry.label == label for entry in item.entries)}
            own = table.loc[table["path"].isin(names), "reason"].mode()
            raise UserError(
                f"no {label} face is left of {len(names)} files, most often because: "
                f"{own.iloc[0] if len(own) else 'none matched'}; {out / 'rejected.parquet'} says why for each of them"
            )
    split_by = None if found.splits == HASH else found.splits
    if found.splits == OFFICIAL and shared_persons(rows):
        split_by = OVERLAPPING
    rows = rows.drop(columns=["phash", "media", "old", "given"])
    rows = rows.assign(dataset=config.dataset, split_by=split_by).sort_values("path")
    manifest = Manifest.build(rows, out, where=str(out))
    manifest.write(out / "manifest.parquet")
    return manifest


def _without_duplicates(
    rows: pd.DataFrame, mode: str, out: Path, config: IngestConfig
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

    rows["split"] = deal(rows, mode, old, config.seed, config.split_shares)
    reject(rows["split"].isna().to_numpy(dtype=bool), lambda _: _SPLIT_REASONS[mode])
    if mode == OFFICIAL:
        return rows, rejected  # near-duplicates stay as the authors dealt them; the audit reports them
    hashes = np.array([int(text, 16) for text in rows["phash"]], dtype=np.uint64)
    duplicates = splits.leaking(rows["split"], hashes, rows["old"].to_numpy(dtype=bool))
    media, split = rows["media"], rows["split"]
    reject(
        rows.index.isin(list(duplicates)),
        lambda i: f"nearly the same picture as {media[duplicates[i]]} in {split[duplicates[i]]}",
    )
    return rows, rejected
