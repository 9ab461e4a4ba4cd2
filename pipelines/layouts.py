"""How a generalisation matrix is laid out: what each row is trained on, and what each column is tested on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, field_validator

from faces.errors import UserError
from faces.manifest import Manifest
from pipelines.contenders import unique_seeds

Mode = Literal["one-by-one", "leave-one-data-set-out", "leave-one-method-out"]


class MatrixConfig(BaseModel):
    """Which detectors a generalisation matrix trains."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    mode: Mode = Field("one-by-one", description="a row for each data set, for all but one, or for all methods but one")
    datasets: tuple[str, ...] = Field((), description="to train on; by default all with both labels in train and val")
    seeds: tuple[int, ...] = Field((0,), description="each row is trained once by each")

    @field_validator("seeds")
    @classmethod
    def _are_seeds(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        return unique_seeds(seeds)


@dataclass(frozen=True)
class Row:
    """One training: its name, the data sets it learns from, and the method whose fakes it never sees, if any."""

    name: str
    domains: tuple[str, ...]
    without: str | None = None

    def manifest(self, full: Manifest) -> Manifest:
        """The rows that this training stands on; test rows are as they were."""
        if self.without is None:
            return full
        rows = full.rows
        hidden = (rows["label"] == "fake") & (rows["method"] == self.without) & (rows["split"] != "test")
        return full.where(~hidden.to_numpy(dtype=bool))

    def has_seen(self, column: Column, full: Manifest) -> bool:
        """Whether the column's kind of face stands in this row's training."""
        if column.method is None:
            return column.name in self.domains
        train = self.manifest(full).select(dataset=self.domains, split="train", label="fake")
        return column.method in set(train.rows["method"])


@dataclass(frozen=True)
class Column:
    """One test: a data set, or a method's fakes against the reals of the data sets that hold them."""

    name: str
    method: str | None
    keep: NDArray[np.bool_]  # over the test rows

    @property
    def metric(self) -> str:
        """What stands after `auc/` on a LoggedModel."""
        return self.name if self.method is None else f"method/{self.method}"


def rows_of(config: MatrixConfig, full: Manifest) -> tuple[list[Row], list[str]]:
    """The rows, and a sentence for each data set that cannot be trained on.

    Raises:
        UserError: a data set does not exist or cannot be trained on, or the mode needs more of them.
    """
    known = sorted(set(full.rows["dataset"]))
    for name in config.datasets:
        if name not in known:
            raise UserError(f"matrix.datasets names {name!r}, but the data sets are {', '.join(known)}")
    lacking = {name: _lacks(full.select(dataset=name)) for name in config.datasets or known}
    left_out = [f"{name} is tested on only: {why}" for name, why in lacking.items() if why]
    if config.datasets and left_out:
        raise UserError(f"{left_out[0]}; take it out of matrix.datasets, or give it other split_shares")
    trained = [name for name, why in lacking.items() if not why]
    if not trained:
        raise UserError(f"no data set can be trained on ({'; '.join(left_out)}): change their split_shares")
    if config.mode == "one-by-one":
        return [Row(name, (name,)) for name in trained], left_out
    if config.mode == "leave-one-data-set-out":
        if len(trained) < 2:
            raise UserError(
                f"to leave one data set out takes two or more that can be trained on, and there is {trained[0]} alone: "
                "add another, or take --mode one-by-one"
            )
        return [Row(f"all but {name}", tuple(n for n in trained if n != name)) for name in trained], left_out
    fakes = full.select(dataset=trained, label="fake", split="train")
    methods = sorted(set(fakes.rows["method"]))
    if len(methods) < 2:
        raise UserError(
            f"to leave one method out takes two or more, and the train fakes of {', '.join(trained)} are all "
            f"{methods[0]!r}: say the methods by folders below fake/ or by name_pattern"
        )
    rows = [Row(f"all but {method}", tuple(trained), method) for method in methods]
    for row in rows:
        if why := _lacks(row.manifest(full).select(dataset=trained)):
            raise UserError(f"without the method {row.without} nothing can be trained: {why}; take another --mode")
    return rows, left_out


def columns_of(config: MatrixConfig, rows: list[Row], test: Manifest) -> list[Column]:
    """The columns: what the rows are named after first, so that it meets them on the diagonal."""
    datasets, methods = (test.rows[name].to_numpy(dtype=np.str_) for name in ("dataset", "method"))
    fake = test.targets == 1
    if config.mode != "leave-one-method-out":
        first = list(dict.fromkeys(name for row in rows for name in row.domains))
        own = [row.name for row in rows] if config.mode == "one-by-one" else sorted(first)
        names = [*(name for name in own if name in datasets), *sorted(set(datasets) - set(own))]
        return [Column(str(name), None, datasets == name) for name in names]
    own = [str(row.without) for row in rows]
    found = sorted(set(methods[fake]))
    columns = []
    for method in [*(name for name in own if name in found), *(name for name in found if name not in own)]:
        here = fake & (methods == method)
        columns.append(Column(str(method), str(method), here | (~fake & np.isin(datasets, datasets[here]))))
    return columns


def _lacks(rows: Manifest) -> str:
    """Why data cannot be trained on; empty where they can."""
    for split in ("train", "val"):
        here = rows.select(split=split)
        for label in ("real", "fake"):
            if not len(here.select(label=label)):
                return f"it has no {label} face in {split}"
    return ""
