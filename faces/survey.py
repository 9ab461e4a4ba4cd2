"""What the names and lists of a folder of media say, before anything is decoded: layout, labels, persons and splits."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import pandas as pd

from core import splits
from core.errors import UserError
from core.groups import HASH, OFFICIAL, OVERLAPPING, PERSON_DISJOINT, tied_by_persons
from core.splits import DEFAULT_SHARES, Shares
from faces.extraction import IngestConfig
from faces.layouts import Entry, Layout, Options, Tree, media, recognised


@dataclass(frozen=True)
class Survey:
    """What the names and lists of a folder say, before anything is decoded."""

    source: Path
    layout: Layout
    because: tuple[str, ...]  # what the layout was told by
    splits: str  # official | hash | person-disjoint
    entries: tuple[Entry, ...]
    rejected: tuple[tuple[str, str], ...]  # (path, reason)
    ignored: Counter[str]  # kind of junk -> files

    def __str__(self) -> str:
        ignored = "".join(f"; {count} ignored ({kind})" for kind, count in sorted(self.ignored.items()))
        return (
            f"layout {self.layout.name} ({', '.join(self.because)}), {self.splits} splits: "
            f"{len({entry.path for entry in self.entries})} files, {len(self.rejected)} not usable{ignored}"
        )

    @property
    def described(self) -> dict[str, Any]:
        """For JSON: layout, because, splits and ignored."""
        about = {"layout": self.layout.name, "because": self.because, "splits": self.splits}
        return about | {"ignored": dict(self.ignored)}

    def counts(self, seed: int = 0, shares: Shares = DEFAULT_SHARES) -> pd.DataFrame:
        """Files by label and method: columns label, method, train, val, test, none, total and sources."""
        rows = facts_table(self.entries)
        rows["split"] = deal(rows, self.splits, None, seed, shares).fillna("none")
        rows = rows.drop_duplicates(["path", "label", "method", "split"])
        keys = ["label", "method"]
        table = rows.pivot_table(index=keys, columns="split", values="path", aggfunc="count", fill_value=0)
        table = table.reindex(columns=["train", "val", "test", "none"], fill_value=0)
        table["total"] = table.sum(axis=1)
        table["sources"] = rows.groupby(keys)["source"].nunique()
        table.columns.name = None
        return table.reset_index()


def survey(source: Path, config: IngestConfig | None = None, out: Path | None = None) -> Survey:
    """Recognise the layout of a folder and say what each file is, without decoding any.

    Args:
        source: the folder.
        config: layout, splits, compression, frame_folders, name_pattern and max_frames_per_video are used.
        out: a folder inside `source` that is passed over.

    Raises:
        UserError: the layout is not recognised or incomplete, or the splits that are asked for are not possible.
    """
    config = config or IngestConfig()
    tree = Tree.of(Path(source), exclude=out)
    layout, evidence = recognised(tree, config.layout)
    listing = media(layout, tree, Options(config.compression, config.frame_folders))
    entries, rejected = list(listing.entries), list(listing.rejected)
    if config.name_pattern is not None:
        if layout.name != "folders":
            raise UserError(f"name_pattern is for plain folders, and {source} is {layout.name}: leave it out")
        named = [_named_by_pattern(entry, config.name_pattern) for entry in entries]
        rejected += [
            (entry.path, "the file name does not match name_pattern")
            for entry, match in zip(entries, named, strict=True)
            if match is None
        ]
        entries = [match for match in named if match is not None]
    ignored = Counter(listing.ignored)
    if config.max_frames_per_video is not None:
        kept = _spread(entries, config.max_frames_per_video)
        ignored["frames beyond max_frames_per_video"] = len(entries) - len(kept)
        entries = kept
    mode = _mode(config.splits, layout, entries, Path(source))
    return Survey(Path(source), layout, evidence.found, mode, tuple(entries), tuple(rejected), +ignored)


def _spread(entries: Sequence[Entry], most: int) -> list[Entry]:
    """The entries with at most so many frames of each folder of frames, evenly spread from the first on."""
    frames: dict[str, list[Entry]] = defaultdict(list)
    for entry in entries:
        if entry.frame is not None:
            frames[entry.source].append(entry)
    kept = set()
    for folder in frames.values():
        folder.sort(key=lambda entry: (entry.frame, entry.path))
        count = min(most, len(folder))
        kept |= {folder[number * len(folder) // count].path for number in range(count)}
    return [entry for entry in entries if entry.frame is None or entry.path in kept]


def _named_by_pattern(entry: Entry, pattern: str) -> Entry | None:
    """The entry with method, identity and source as the pattern finds them in the name; None where it does not match.

    It is searched in the file's name without suffix, then in its path without suffix. Of a frame, which is a number,
    the folder's name and path stand for the file's.
    """
    path = PurePosixPath(entry.path if entry.frame is None else entry.source)
    whole = str(path.with_suffix("")) if entry.frame is None else str(path)
    name = path.stem if entry.frame is None else path.name
    match = re.search(pattern, name) or re.search(pattern, whole)
    if match is None:
        return None
    groups = {key: value for key, value in match.groupdict().items() if value}
    persons = frozenset(groups[key] for key in ("identity", "identity2") if key in groups)
    return replace(
        entry,
        method=groups.get("method", entry.method) if entry.label == "fake" else "pristine",
        persons=persons or entry.persons,
        source=groups.get("source", entry.source),
    )


def _mode(wanted: str, layout: Layout, entries: Sequence[Entry], source: Path) -> str:
    """official | hash | person-disjoint, which `auto` chooses by what is there.

    Raises:
        UserError: the splits that are asked for are not possible.
    """
    has_official = any(entry.split for entry in entries)
    if wanted == OFFICIAL and not has_official:
        needs = f"put {layout.official} into {source}, or take" if layout.official else "its authors made none: take"
        raise UserError(f"the official split of {layout.name} is not in {source}: {needs} --splits hash")
    if wanted == "auto":
        # Parts of a dataset that are all train have nothing to test on.
        wanted = OFFICIAL if any(entry.split == "test" for entry in entries) else HASH
    if wanted == HASH:
        rows = facts_table(entries)
        tied = tied_by_persons(rows["identity"], rows["source"], rows["original"])
        if tied:
            offer = "take "
            if has_official:
                offer += "the authors' own with --splits official, or "
            elif layout.official:
                offer = f"put the authors' own into it ({layout.official}), or take "
            raise UserError(
                f"{source} cannot be split by a hash, as {tied}: {offer}--splits person-disjoint, which leaves out "
                "fakes of persons that stand in different splits"
            )
    return wanted


def facts(entry: Entry) -> dict[str, Any]:
    """What the layout says of a file, as columns of the manifest; `given` is the authors' split."""
    return {
        "label": entry.label, "method": entry.method, "identity": entry.identity, "source": entry.source,
        "original": entry.original, "given": entry.split,
    }  # fmt: skip


def facts_table(entries: Sequence[Entry]) -> pd.DataFrame:
    columns = ["path", "label", "method", "identity", "source", "original", "given"]
    table = pd.DataFrame([{"path": entry.path} | facts(entry) for entry in entries], columns=columns)
    return table.astype("string")


def deal(rows: pd.DataFrame, mode: str, existing: pd.DataFrame | None, seed: int, shares: Shares) -> pd.Series:
    """[N] the split of each row by the mode; <NA> where it must be left out."""
    rows = rows.assign(split=rows["given"])
    for name in ("identity", "source", "original", "split"):
        rows[name] = rows[name].astype("string")
    if existing is not None:
        of_mode = existing["split_by"].fillna(HASH).replace(OVERLAPPING, OFFICIAL) == mode
        existing = existing[of_mode].reset_index(drop=True) if of_mode.any() else None
    if mode == OFFICIAL:
        return splits.official(rows, existing=existing, seed=seed, shares=shares)
    if mode == PERSON_DISJOINT:
        return splits.person_disjoint(rows, existing=existing, seed=seed, shares=shares)
    return splits.assign(
        rows["identity"], rows["source"], original=rows["original"], existing=existing, seed=seed, shares=shares
    )
