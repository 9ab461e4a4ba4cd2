"""The cross-dataset generalisation matrix: trained on the rows, tested on the columns, one AUC a cell, with intervals.

Modes: one dataset at a time; all but one; all but one method of forging. In each cell is the AUC by source on sealed
rows, the mean over the seeds, with an interval over groups and seeds; beside them the mean and the worst of what the
row has never seen. Every detector carries its figures as `auc/<dataset>` (or `auc/method/<method>`).
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from classifier.figures import generalisation_matrix
from core.errors import UserError
from core.groups import split_notes
from core.locks import alone_in
from core.manifest import Manifest
from pipelines.configuration import MatrixConfig, RunConfig
from pipelines.evaluation.sealed import known, sealed_rows
from pipelines.experiments.runner import Measured, Result, TrainJob, cells, estimate, measured
from pipelines.inputs import Steps, prepare_dataset
from tracking.runs import attach, test_openings
from tracking.store import open_store
from tuning.trial import TrialSpec

MEAN_UNSEEN, WORST_UNSEEN = "mean unseen", "worst unseen"


@dataclass(frozen=True, kw_only=True)
class Matrix(Result):
    """What came out; the notes say which datasets could not be trained on, and why.

    Attributes:
        cells: one row a cell: trained_on, tested_on, auc, low, high, per_seed, real, fake, groups, seen (in training).
        summary: one row a training: trained_on, in_dataset (mean of what it has seen), mean_unseen, worst_unseen,
            worst_on; nan where there is none.
    """

    mode: str
    cells: pd.DataFrame
    summary: pd.DataFrame


@alone_in("config.out", "a matrix")
def execute(config: RunConfig, workers: int = 1) -> Matrix:
    """Train every row, score every column; what is done already is read back.

    All fakes are trained on, whatever `keep_train_fakes` says, and no synthetic ones. Of two processes at once on one
    `config.out`, the second waits and returns what the first made.

    Raises:
        UserError: the datasets do not allow the mode, or a test dataset has one class.
    """
    plan = config.matrix
    store = open_store(config.mlruns)
    dataset = prepare_dataset(config, store, Steps(config.out / "steps", total=1))
    full, context = dataset.full, dataset.context
    rows, left_out = rows_of(plan, full)
    test = sealed_rows(full, config.datasets.test)
    columns = columns_of(plan, rows, test)
    jobs = {
        (row.name, seed): TrainJob(
            TrialSpec(detector=config.detector.model_copy(update={"seed": seed})),
            replace(context, manifest=row.manifest(full), train_datasets=row.datasets, validation_datasets=()),
            {"trained_on": ",".join(row.datasets), "without_method": row.without or ""},
        )
        for row in rows
        for seed in plan.seeds
    }
    with measured(
        "matrix",
        f"matrix {plan.mode}",
        jobs,
        test,
        {column.metric: column.keep for column in columns},
        params=plan.model_dump(mode="json") | config.detector.model_dump(mode="json", exclude={"seed"}),
        tags={"manifest": full.digest},
        description=f"Trained on {len(rows)} rows, tested on {len(columns)} columns, {len(plan.seeds)} seeds.",
        workers=workers,
    ) as done:
        first = next(iter(done.tables.values()))
        by_name = {row.name: row for row in rows}
        table = pd.DataFrame(
            {"trained_on": (name := one.pop("arm")), "tested_on": column.name, **one}
            | {"seen": by_name[name].has_seen(column, full)}
            for column in columns
            for one in cells(estimate(done.tables, column.keep), first[column.keep])
        )
        result = Matrix(
            mode=plan.mode,
            seeds=plan.seeds,
            cells=table,
            summary=_summary(table),
            notes=(*left_out, *split_notes(test.rows)),
            openings=test_openings(store, config.project),
            folder=done.folder,
            run=done.run.id,
        )
        _record(result, done)
    return result


def heat_map(matrix: Matrix) -> Figure:
    """The cells as a heat map with two columns more: mean and worst of what a row has not seen; framed: seen."""
    auc, low, high, seen = (
        matrix.cells.pivot_table(index="trained_on", columns="tested_on", values=name, sort=False, dropna=False)
        for name in ("auc", "low", "high", "seen")
    )
    more = {"mean_unseen": MEAN_UNSEEN, "worst_unseen": WORST_UNSEEN}
    values = auc.join(matrix.summary.set_index("trained_on")[[*more]].rename(columns=more))
    values.columns.name, values.index.name = "tested on   (framed: seen in training)", "trained on"
    low, high = (table.reindex(columns=values.columns) for table in (low, high))
    figure = generalisation_matrix(values, low=low, high=high, worst=min(0.5, float(np.nanmin(values.to_numpy()))))
    axes = figure.axes[0]
    for i, j in np.argwhere(seen.to_numpy(dtype=bool)):
        axes.add_patch(Rectangle((j - 0.46, i - 0.46), 0.92, 0.92, fill=False, edgecolor="black", linewidth=1.2))
    axes.axvline(auc.shape[1] - 0.5, color="black", linewidth=1)
    return figure


def _summary(table: pd.DataFrame) -> pd.DataFrame:
    rows = []
    for name, of in table.groupby("trained_on", sort=False):
        unseen = of[~of["seen"]].set_index("tested_on")["auc"]
        worst = {"worst_unseen": unseen.min(), "worst_on": str(unseen.idxmin()) if unseen.notna().any() else ""}
        seen = of.loc[of["seen"], "auc"].mean()
        rows.append({"trained_on": name, "in_dataset": seen, "mean_unseen": unseen.mean(), **worst})
    return pd.DataFrame(rows)


def _record(result: Matrix, done: Measured) -> None:
    """Files in the matrix's folder and in MLflow, and the figures on the rows' runs and on the models."""
    result.keep(done.run, {"matrix": heat_map(result)})
    for row in result.summary.to_dict("records"):
        own = result.cells[result.cells["trained_on"] == row["trained_on"]]
        metrics = {f"auc/{cell['tested_on']}": cell["auc"] for cell in own.to_dict("records")}
        metrics |= {f"auc_{name}": row[name] for name in ("in_dataset", "mean_unseen", "worst_unseen")}
        done.runs[row["trained_on"]].metrics(known(metrics))
        unseen = own.loc[~own["seen"], "per_seed"].tolist()
        for seed, values in zip(result.seeds, zip(*unseen, strict=True), strict=False):
            if aucs := [value for value in values if value == value]:
                detector = done.trained[row["trained_on"], seed]
                figures = {"auc_mean_unseen": float(np.mean(aucs)), "auc_worst_unseen": min(aucs)}
                attach(done.run.store, detector.run_id).metrics(figures, model_id=detector.model_id)


@dataclass(frozen=True)
class Row:
    """One training: its name, the datasets it learns from, and the method whose fakes it never sees, if any."""

    name: str
    datasets: tuple[str, ...]
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
            return column.name in self.datasets
        train = self.manifest(full).select(dataset=self.datasets, split="train", label="fake")
        return column.method in set(train.rows["method"])


@dataclass(frozen=True)
class Column:
    """One test: a dataset, or a method's fakes against the reals of the datasets that hold them."""

    name: str
    method: str | None
    keep: NDArray[np.bool_]  # over the test rows

    @property
    def metric(self) -> str:
        """What stands after `auc/` on a LoggedModel."""
        return self.name if self.method is None else f"method/{self.method}"


def rows_of(config: MatrixConfig, full: Manifest) -> tuple[list[Row], list[str]]:
    """The rows, and a sentence for each dataset that cannot be trained on.

    Raises:
        UserError: a dataset does not exist or cannot be trained on, or the mode needs more of them.
    """
    known = sorted(set(full.rows["dataset"]))
    for name in config.datasets:
        if name not in known:
            raise UserError(f"matrix.datasets names {name!r}, but the datasets are {', '.join(known)}")
    lacking = {name: _lacks(full.select(dataset=name)) for name in config.datasets or known}
    left_out = [f"{name} is tested on only: {why}" for name, why in lacking.items() if why]
    if config.datasets and left_out:
        raise UserError(f"{left_out[0]}; take it out of matrix.datasets, or give it other split_shares")
    trained = [name for name, why in lacking.items() if not why]
    if not trained:
        raise UserError(f"no dataset can be trained on ({'; '.join(left_out)}): change their split_shares")
    if config.mode == "one-by-one":
        return [Row(name, (name,)) for name in trained], left_out
    if config.mode == "leave-one-dataset-out":
        if len(trained) < 2:
            raise UserError(
                f"to leave one dataset out takes two or more that can be trained on, and there is {trained[0]} alone: "
                "add another, or take --mode one-by-one"
            )
        return [Row(f"all but {out}", tuple(name for name in trained if name != out)) for out in trained], left_out
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
        first = list(dict.fromkeys(name for row in rows for name in row.datasets))
        own = [row.name for row in rows] if config.mode == "one-by-one" else sorted(first)
        names = [*(name for name in own if name in datasets), *sorted(set(datasets) - set(own))]
        return [Column(str(name), None, datasets == name) for name in names]
    left_out = [str(row.without) for row in rows]
    columns = []
    for method in sorted(map(str, set(methods[fake])), key=lambda name: (name not in left_out, name)):
        here = fake & (methods == method)
        columns.append(Column(method, method, here | (~fake & np.isin(datasets, datasets[here]))))
    return columns


def _lacks(rows: Manifest) -> str:
    """Why data cannot be trained on; empty where they can."""
    lacking = (
        f"it has no {label} face in {split}"
        for split, label in itertools.product(("train", "val"), ("real", "fake"))
        if not len(rows.select(split=split, label=label))
    )
    return next(lacking, "")
