"""What a layout is: how one dataset tells label, method, persons and split by the names and lists of its authors.

A layout looks at names and metadata only, never into the media. It is asked twice: whether a tree is its own
(`recognise`), and what each file is (`rule`).
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from core.errors import UserError
from core.manifest import LABELS

# What operating systems leave behind, without case.
SYSTEM_FILES = frozenset({".ds_store", "thumbs.db", "desktop.ini"})
_SYSTEM_FOLDERS = frozenset({"__macosx", "$recycle.bin", "@eadir"})
_DOCUMENT = re.compile(r"(readme|licen[cs]e|changelog|terms?[ _-]of[ _-]use|citation)[^/]*", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Entry:
    """What the authors say of one file, or of one face in it.

    `source` names the video or photograph, the same one for all frames of a folder; `original` the source that a
    forgery was made from. Rows that share a person, a source or an original are never split (see `core.groups`).
    """

    path: str  # relative to the root, with forward slashes
    label: str  # real | fake
    method: str
    source: str
    persons: frozenset[str] = frozenset()
    original: str | None = None
    split: str | None = None  # the authors' own
    frame: int | None = None  # number of the frame, of a folder of frames
    box: tuple[float, float, float, float] | None = None  # left, top, right, bottom in pixels, where the authors say

    @property
    def identity(self) -> str | None:
        """The persons as a manifest writes them: sorted, joined by ";"."""
        return ";".join(sorted(self.persons)) or None


@dataclass(frozen=True)
class Skip:
    """Why a file is not taken: `known` where nothing is lost (lists, masks), else it is reported."""

    reason: str
    known: bool = False


Rule = Callable[[str], Entry | Sequence[Entry] | Skip]


@dataclass(frozen=True)
class Options:
    """What may be asked of a layout."""

    compression: str | None = None  # of FaceForensics++ and DFD: raw, c23 or c40
    frame_folders: str = "auto"  # of plain folders: auto | always | never


@dataclass(frozen=True)
class Evidence:
    """What of a layout a tree holds, and what it lacks; the layout's own if something is found and nothing lacks."""

    found: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()

    @property
    def complete(self) -> bool:
        """Whether the tree can be read by this layout."""
        return bool(self.found) and not self.missing


class Layout(Protocol):
    """One dataset as its authors packed it."""

    name: str  # as `--layout` takes it
    title: str  # the dataset's own name
    example: str  # a tree, one path a line
    official: str | None  # where the authors' split stands; None where they made none

    def recognise(self, tree: Tree) -> Evidence:
        """What of this layout `tree` holds and what it lacks; nothing found: it is another dataset."""

    def rule(self, tree: Tree, options: Options, /) -> Rule:
        """Read the authors' lists once; the function that says what a file of the tree is, by its path.

        Raises:
            UserError: a list is damaged or contradicts the folders, or `options` leave a choice open.
        """


@dataclass(frozen=True)
class Tree:
    """The names below a folder, as one walk found them."""

    root: Path
    files: tuple[str, ...]  # relative to the root, with forward slashes, sorted
    folders: tuple[str, ...]  # those that hold files or folders, without the root itself
    ignored: Counter[str] = field(default_factory=Counter)  # kind of junk -> files
    rejected: tuple[tuple[str, str], ...] = ()  # (path, reason) of files with impossible names

    @classmethod
    def of(cls, root: Path, exclude: Path | None = None) -> Tree:
        """Walk a folder; symbolic links to folders are followed, each real folder once.

        Args:
            root: the folder.
            exclude: a folder inside it that is passed over, such as that of the output.

        Raises:
            UserError: `root` is no folder.
        """
        if not root.is_dir():
            raise UserError(f"there is no folder {root}: give the one that holds the pictures and videos")
        files: list[str] = []
        folders: list[str] = []
        ignored: Counter[str] = Counter()
        rejected: list[tuple[str, str]] = []
        seen = {os.path.realpath(exclude)} if exclude is not None else set()
        for here, below, names in os.walk(root, followlinks=True):
            real = os.path.realpath(here)
            if real in seen:
                below.clear()
                continue
            seen.add(real)
            prefix = "" if here == os.fspath(root) else f"{PurePosixPath(os.path.relpath(here, root))}/"
            junk = [name for name in below if name.startswith(".") or name.lower() in _SYSTEM_FOLDERS]
            for name in junk:
                ignored["hidden and system files"] += sum(len(each) for *_, each in os.walk(Path(here, name)))
            below[:] = sorted(set(below) - set(junk))
            folders += [prefix + name for name in below]
            for name in names:
                path = prefix + name
                if name.startswith(".") or name.lower() in SYSTEM_FILES:
                    ignored["hidden and system files"] += 1
                elif any("\ud800" <= sign <= "\udfff" for sign in path):
                    readable = os.fsencode(path).decode("utf-8", "backslashreplace")
                    rejected.append((readable, "the file's name is not UTF-8: rename it"))
                elif _DOCUMENT.fullmatch(name):
                    ignored["documents"] += 1
                else:
                    files.append(path)
        return cls(root, tuple(sorted(files)), tuple(sorted(folders)), ignored, tuple(rejected))

    def folders_like(self, pattern: str) -> list[re.Match[str]]:
        """Matches of the folders whose path ends in the pattern, whatever its case."""
        compiled = re.compile(rf"(?:^|.*/){pattern}", re.IGNORECASE)
        return [match for folder in self.folders if (match := compiled.fullmatch(folder))]

    def named(self, *names: str) -> list[str]:
        """Files that have one of these names, whatever their case and folder."""
        wanted = {name.lower() for name in names}
        return [file for file in self.files if file.rpartition("/")[2].lower() in wanted]

    def read_text(self, file: str) -> str:
        """The text of a list, UTF-8 with or without a mark, or else Latin-1.

        Raises:
            UserError: it cannot be opened.
        """
        try:
            data = (self.root / file).read_bytes()
        except OSError as error:
            raise UserError(f"{self.root / file} cannot be opened: {error.strerror}") from error
        try:
            return data.decode("utf-8-sig")
        except UnicodeDecodeError:
            return data.decode("latin-1")

    def read_json(self, file: str) -> Any:
        """The content of a JSON file.

        Raises:
            UserError: it is damaged.
        """
        try:
            return json.loads(self.read_text(file))
        except (ValueError, RecursionError) as error:
            raise UserError(f"{self.root / file} is no JSON ({error}): download it again") from error

    def read_csv(self, file: str, columns: Sequence[str]) -> list[dict[str, str]]:
        """Rows of a CSV file; names of columns in lower case, an unnamed one is "".

        Raises:
            UserError: one of `columns` is missing.
        """
        text = self.read_text(file)
        header = text.partition("\n")[0]
        separator = max(",;\t", key=header.count)
        reader = csv.DictReader(io.StringIO(text), delimiter=separator)
        reader.fieldnames = [name.strip().lower() for name in reader.fieldnames or []]
        for name in columns:
            if name not in reader.fieldnames:
                given = ", ".join(reader.fieldnames)
                raise UserError(f"{self.root / file} has no column {name}, only {given}: download it again")
        return [{key: (value or "").strip() for key, value in row.items() if key is not None} for row in reader]


@dataclass(frozen=True)
class Listing:
    """Every file of a tree accounted for."""

    entries: tuple[Entry, ...]
    rejected: tuple[tuple[str, str], ...]  # (path, reason)
    ignored: Counter[str]  # kind -> files


def media(layout: Layout, tree: Tree, options: Options | None = None) -> Listing:
    """What every file of the tree is by the layout: an entry, a rejection with its reason, or known and ignored.

    Where both a video and a folder of its frames lie there, the video is taken.

    Raises:
        UserError: see `Layout.rule`.
    """
    rule = layout.rule(tree, options or Options())
    entries: list[Entry] = []
    rejected = list(tree.rejected)
    ignored = Counter(tree.ignored)
    for file in tree.files:
        result = rule(file)
        if isinstance(result, Skip):
            if result.known:
                ignored[result.reason] += 1
            else:
                rejected.append((file, result.reason))
        else:
            entries += [result] if isinstance(result, Entry) else result
    whole = {entry.source for entry in entries if entry.frame is None}
    doubled = {entry.path for entry in entries if entry.frame is not None and entry.source in whole}
    rejected += [(path, "a frame of a video that is taken itself") for path in sorted(doubled)]
    entries = [entry for entry in entries if entry.path not in doubled]
    return Listing(tuple(entries), tuple(rejected), ignored)


def label_of(word: str) -> str | None:
    """`real` or `fake` of a word in any case; None where it is neither."""
    return word.lower() if word.lower() in LABELS else None


def frame_number(name: str) -> int | None:
    """The number at the end of a file's name without its suffix: 17 of `frame_0017.png`; None where there is none."""
    match = re.search(r"(\d{1,9})$", PurePosixPath(name).stem)
    return int(match[1]) if match else None


def video_or_frame(path: str) -> tuple[str, int | None] | None:
    """Name of a video, and the number of the frame where `path` is a frame in a folder of that name.

    `000.mp4` is ("000", None) and `000/0017.png` is ("000", 17); what is neither is None.
    """
    folder, _, name = path.rpartition("/")
    if not folder:
        return PurePosixPath(name).stem, None
    number = frame_number(name)
    return (folder, number) if number is not None and "/" not in folder else None


def paths_below(files: Sequence[str], pattern: str) -> Iterator[re.Match[str]]:
    """Matches of the files whose path ends in the pattern, whatever its case."""
    compiled = re.compile(rf"(?:^|.*/){pattern}", re.IGNORECASE)
    return (match for file in files if (match := compiled.fullmatch(file)))
