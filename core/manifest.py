"""The manifest: one row a face crop. It is what joins every step of the workbench to the next.

A manifest is a parquet file (a CSV with the same columns is accepted) whose `path` column is relative to the file.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from core.errors import UserError
from core.files import atomic, digest
from core.groups import OFFICIAL, OVERLAPPING, PERSON_DISJOINT, groups_of, is_official, persons_of
from core.names import leads_away

COLUMNS: dict[str, str] = {
    "path": "string",  # relative to the manifest
    "label": "string",  # real | fake
    "dataset": "string",
    "method": "string",  # pristine, face-swap, gan, ...
    "identity": "string",  # nullable: the person, or several joined by ";"
    "source": "string",  # the video or photograph that the crop came from
    "frame": "Int64",  # nullable, videos only
    "time_s": "Float64",  # nullable, seconds from the start of the video
    "split": "string",  # train | val | test
    "width": "Int64",  # of the original face box, pixels
    "height": "Int64",
    "codec": "string",  # of the original
    "sha256": "string",  # of the crop file
    "generator": "string",  # synthetic rows only: hash of the checkpoint, or the recipe's name where none took part
    "seed": "Int64",  # synthetic rows only
    "parent": "string",  # sha256 of the rows it was composed from, joined by ";"
    "mask": "string",  # nullable: grey PNG of where a forgery was blended in, relative to the manifest
    "original": "string",  # nullable: the source that a fake was made from
    "split_by": "string",  # nullable: official | official-overlapping | person-disjoint; empty: hash of the group
}
LABELS = ("real", "fake")
SPLITS = ("train", "val", "test")
_REQUIRED = ("path", "label", "dataset", "method", "source", "split", "width", "height", "codec", "sha256")
_OPTIONAL = tuple(name for name in COLUMNS if name not in _REQUIRED)
_WHERE_NEEDED = ("original", "split_by")  # columns that are written where a row has a value
# The place of a crop on disk says nothing about the data, so that a moved manifest keeps its digest.
_DIGESTED = tuple(name for name in COLUMNS if name not in ("path", "time_s", "codec", "mask", *_WHERE_NEEDED))


@dataclass(frozen=True)
class Manifest:
    """Validated rows and the folder that their paths are relative to."""

    rows: pd.DataFrame
    root: Path

    @classmethod
    def build(
        cls, rows: pd.DataFrame | Iterable[dict[str, object]], root: Path, *, where: str = "manifest"
    ) -> Manifest:
        """Make a manifest of rows held in memory; missing optional columns become empty.

        Raises:
            UserError: a row breaks the contract; the message names row, column and remedy.
        """
        frame = rows if isinstance(rows, pd.DataFrame) else pd.DataFrame(list(rows))
        return cls(_validated(frame, where), Path(root))

    @classmethod
    def read(cls, path: Path | str) -> Manifest:
        """Read `manifest.parquet` (or a CSV with the same columns, or the folder that holds one) and validate it.

        Raises:
            UserError: there is no such file, or a row breaks the contract.
        """
        path = Path(path)
        if path.is_dir():
            path = path / "manifest.parquet"
        if not path.is_file():
            raise UserError(f"no manifest at {path}: make one with `counterforge faces ingest SRC --out DIR`")
        try:
            frame = pd.read_csv(path, dtype="string") if path.suffix == ".csv" else pd.read_parquet(path)
        except Exception as error:  # pyarrow and pandas raise a dozen kinds for a damaged file
            raise UserError(f"{path} cannot be read as a manifest ({error}): ingest the faces again") from error
        return cls(_validated(frame, str(path)), path.parent)

    def write(self, path: Path | str) -> Path:
        """Write to `path` (parquet, or CSV by its suffix) in one atomic step; paths are made relative to it."""
        path = Path(path)
        rows = self.relative_to(path.parent).rows
        rows = rows.drop(columns=[name for name in _WHERE_NEEDED if rows[name].isna().all()])
        with atomic(path) as temporary:
            if path.suffix == ".csv":
                rows.to_csv(temporary, index=False)
            else:
                rows.to_parquet(temporary, index=False)
        return path

    def relative_to(self, root: Path) -> Manifest:
        """The same rows with `path` and `mask` relative to another folder."""
        here, there = self.root.resolve(), Path(root).resolve()
        if here == there:
            return Manifest(self.rows, Path(root))
        prefix = PurePosixPath(os.path.relpath(here, there))
        moved = {
            name: self.rows[name].map(lambda path: os.path.normpath(prefix / path), na_action="ignore").astype("string")
            for name in ("path", "mask")
        }
        return Manifest(self.rows.assign(**moved), Path(root))

    def select(self, **columns: str | Sequence[str]) -> Manifest:
        """Rows whose columns have the given value, or one of several: `select(split="train", dataset=["a", "b"])`."""
        keep = np.ones(len(self.rows), dtype=bool)
        for name, wanted in columns.items():
            values = [wanted] if isinstance(wanted, str) else list(wanted)
            keep &= self.rows[name].isin(values).to_numpy(dtype=bool)
        return self.where(keep)

    def where(self, keep: NDArray[np.bool_]) -> Manifest:
        """Rows at which the boolean mask is true, in their order."""
        return Manifest(self.rows[keep].reset_index(drop=True), self.root)

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def digest(self) -> str:
        """16 hex digits over the content of the rows, whatever their order and place on disk."""
        text = self.rows[list(_DIGESTED)].sort_values(["sha256", "dataset", "split"]).to_csv(index=False)
        return digest(text)

    @property
    def files(self) -> list[Path]:
        """Paths of the crops, joined to the root."""
        return [self.root / path for path in self.rows["path"]]

    @property
    def targets(self) -> NDArray[np.int64]:
        """[N] labels: fake = 1, real = 0."""
        return (self.rows["label"] == "fake").to_numpy(dtype=np.int64)

    @property
    def groups(self) -> NDArray[np.str_]:
        """[N] the unit of splits and of the bootstrap, see `core.groups.groups_of`."""
        return groups_of(self.rows).to_numpy(dtype=np.str_)

    @property
    def synthetic(self) -> NDArray[np.bool_]:
        """[N] whether the row was forged by the workbench (it names its generator or recipe)."""
        return self.rows["generator"].notna().to_numpy(dtype=bool)


def concatenate(manifests: Sequence[Manifest], root: Path) -> Manifest:
    """One manifest of several, with paths relative to `root`; it is validated as a whole."""
    rows = pd.concat([manifest.relative_to(root).rows for manifest in manifests], ignore_index=True)
    return Manifest.build(rows, root, where=f"the joined manifest in {root}")


def _validated(frame: pd.DataFrame, where: str) -> pd.DataFrame:
    missing = [name for name in _REQUIRED if name not in frame.columns]
    if missing:
        raise UserError(f"{where} has no column {', '.join(missing)}: a manifest has the columns {', '.join(COLUMNS)}")
    unknown = [name for name in frame.columns if name not in COLUMNS]
    if unknown:
        raise UserError(f"{where} has unknown columns {', '.join(map(str, unknown))}: remove them or rename them")
    frame = frame.reindex(columns=list(COLUMNS)).reset_index(drop=True)
    for name, kind in COLUMNS.items():
        try:
            frame[name] = frame[name].astype(kind)
        except (TypeError, ValueError) as error:
            raise UserError(f"{where}, column {name}: {error}: every value must be {kind} or empty") from error
    frame["parent"] = frame["parent"].fillna("")

    def refuse(bad: pd.Series, column: str, remedy: str) -> None:
        if bad.any():
            row = int(np.flatnonzero(bad.to_numpy(dtype=bool))[0])
            raise UserError(f"{where}, row {row}, column {column}: {frame[column].iloc[row]!r}: {remedy}")

    for name in _REQUIRED:
        refuse(frame[name].isna() | (frame[name].astype("string") == ""), name, "must not be empty")
    refuse(~frame["label"].isin(LABELS), "label", "must be real or fake")
    refuse(~frame["split"].isin(SPLITS), "split", "must be train, val or test")
    kinds = (OFFICIAL, OVERLAPPING, PERSON_DISJOINT)
    refuse(frame["split_by"].notna() & ~frame["split_by"].isin(kinds), "split_by", f"must be empty, {', '.join(kinds)}")
    refuse(~frame["sha256"].str.fullmatch("[0-9a-f]{64}").fillna(False), "sha256", "must be 64 hex digits of the crop")
    for name in ("path", "mask"):
        refuse(frame[name].str.startswith("/").fillna(False), name, "must be relative to the manifest")
    refuse(frame["path"].duplicated(), "path", "stands in two rows; remove one")
    refuse((frame["width"] < 1) | (frame["height"] < 1), "width", "must be pixels of the face box, 1 or more")
    for name in ("dataset", "method"):  # they reach paths; `core.names.file_name` makes whatever else is odd safe
        away = {value for value in frame[name].dropna().unique() if leads_away(value)}
        refuse(frame[name].isin(away), name, "must not lead out of a folder (.., a slash in front): rename it")
    synthetic = frame["generator"].notna()
    refuse(synthetic & (frame["label"] != "fake"), "label", "a synthetic face is always fake")
    refuse(synthetic & (frame["split"] != "train"), "split", "a synthetic face belongs in train only")
    _refuse_leaks(frame, where)
    return frame


def _refuse_leaks(frame: pd.DataFrame, where: str) -> None:
    """No person and no source in two splits; the parents of a row stand in its own split.

    An official split may share persons (its users are warned), and sources with other datasets.
    """
    official = is_official(frame)
    persons = persons_of(frame["identity"].mask(official))
    sources = frame["source"].mask(official, frame["dataset"] + ": " + frame["source"])
    sources = pd.concat([sources, frame["original"].mask(official).dropna()])
    for name, values in (("identity", persons), ("source", sources)):
        spread = pd.DataFrame({name: values, "split": frame["split"].loc[values.index].to_numpy()}).dropna()
        spread = spread.drop_duplicates()
        twice = spread[spread[name].duplicated(keep=False)]
        if len(twice):
            value = twice[name].iloc[0]
            splits = " and ".join(sorted(twice.loc[twice[name] == value, "split"]))
            raise UserError(
                f"{where}, column {name}: {value!r} stands in {splits}, which leaks: give all its rows one split"
            )
    composed = frame.loc[frame["parent"] != "", ["parent", "split"]]
    if composed.empty:
        return
    parents = composed.assign(parent=composed["parent"].str.split(";")).explode("parent")
    split_of = frame.drop_duplicates("sha256").set_index("sha256")["split"]
    found = parents["parent"].map(split_of)
    bad = parents[found.notna() & (found != parents["split"])]
    if len(bad):
        raise UserError(
            f"{where}, row {bad.index[0]}, column parent: it was composed from a row of another split: compose it anew"
        )
