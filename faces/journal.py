"""The journal of an ingest: what became of each media file, so that a killed job goes on where it was."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TextIO

from core.errors import UserError
from core.files import sealed, unsealed
from faces.media import MediaFile


@dataclass(frozen=True)
class Rejection:
    """Why a picture, a video or a moment of one gave no crop."""

    reason: str
    time_s: float | None = None


@dataclass(frozen=True)
class Record:
    """What became of one media file.

    `rows` are those columns of the manifest that come from the pixels, `phash` (16 hex digits), and `face`, the number
    of the layout's entry, where a file has several. What its layout says is added when the manifest is written.
    """

    media: str
    size: int
    mtime_ns: int
    rows: list[dict[str, Any]] = field(default_factory=list)
    rejected: list[Rejection] = field(default_factory=list)

    @classmethod
    def of(cls, media: MediaFile) -> Record:
        """An empty record for a file as it stands now."""
        return cls(media.name, media.size, media.mtime_ns)

    def still_holds(self, media: MediaFile, root: Path) -> bool:
        """Whether the file is unchanged and all its crops are there."""
        unchanged = (self.size, self.mtime_ns) == (media.size, media.mtime_ns)
        return unchanged and all((root / row["path"]).is_file() for row in self.rows)


class Journal:
    """The records in `path`; the last one of a media file counts. Use as a context manager."""

    def __init__(self, path: Path, config: Mapping[str, Any]) -> None:
        """Read the journal, or begin one.

        Raises:
            UserError: it was begun with another configuration (the message names the field), or it is damaged.
        """
        self.path = path
        self.records: dict[str, Record] = {}
        self.finished = ""
        begun_with = self._read()
        if begun_with is not None:
            _refuse_other_config(begun_with, config, path)
        self._file: TextIO = path.open("a", encoding="utf-8")
        if begun_with is None:
            self._append({"config": dict(config)})

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, record: Record) -> None:
        """Say that a media file is done; its crops must be on disk by now."""
        self.records[record.media] = record
        self._append(asdict(record))

    def finish(self, inputs: str) -> None:
        """Say that manifest and rejections are written for these inputs."""
        self.finished = inputs
        self._append({"finished": inputs})

    def _append(self, line: dict[str, Any]) -> None:
        self._file.write(json.dumps(sealed(line), separators=(",", ":")) + "\n")
        self._file.flush()

    def _read(self) -> dict[str, Any] | None:
        if not self.path.exists():
            return None
        data = self.path.read_bytes()
        whole = data.rfind(b"\n") + 1
        if whole < len(data):  # a kill in the middle of a write leaves a torn last line
            os.truncate(self.path, whole)
        config: dict[str, Any] | None = None
        for number, line in enumerate(data[:whole].splitlines(), start=1):
            try:
                entry = unsealed(json.loads(line))
                if "config" in entry:
                    config = entry["config"]
                elif "finished" in entry:
                    self.finished = entry["finished"]
                else:
                    entry["rejected"] = [Rejection(**rejection) for rejection in entry["rejected"]]
                    record = Record(**entry)
                    self.records[record.media] = record
                    self.finished = ""
            except (ValueError, TypeError, KeyError) as error:
                raise UserError(
                    f"{self.path}, line {number} is damaged ({error}): delete the line, its file is ingested again"
                ) from error
        return config


def _refuse_other_config(old: Mapping[str, Any], new: Mapping[str, Any], path: Path) -> None:
    for name in dict.fromkeys([*old, *new]):
        if old.get(name) != new.get(name):
            raise UserError(
                f"{name} was {old.get(name)!r} when {path.parent} was begun and is {new.get(name)!r} now: "
                "take the old value or another output folder"
            )
