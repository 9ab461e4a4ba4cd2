"""How far a detector carries: trained on the rows, tested on the columns, one cell each, with intervals.

Modes: one dataset at a time; all but one; all but one method of forging. In each cell is the AUC by source on sealed
rows, the mean over the seeds, with an interval over groups and seeds; beside them the mean and the worst of what the
row has never seen. Every detector carries its figures as `auc/<dataset>` (or `auc/method/<method>`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from classifier.evaluation import per_source
from classifier.figures import generalisation_matrix
from core.errors import UserError
from core.manifest import Manifest
from metrics.repeated import Sample, over_seeds
from pipelines.configuration import MatrixConfig, RunConfig
from pipelines.evaluation.sealed import sealed_rows
from pipelines.experiments.runner import TrainJob, open_once, train_and_score
from pipelines.inputs import prepare_dataset
from pipelines.steps import Steps
from tracking.runs import Run, attach, test_openings
from tracking.runs import run as tracked_run
from tracking.store import Store, open_store
from tuning.trial import Trained, TrialContext, TrialSpec

MEAN_UNSEEN, WORST_UNSEEN = "mean unseen", "worst unseen"


@dataclass(frozen=True)
class Matrix:
    """What came out.

    Attributes:
        cells: one row a cell: trained_on, tested_on, seen (in training), auc, low, high, per_seed, real, fake, groups.
        summary: one row a training: trained_on, in_domain (mean of what it has seen), mean_unseen, worst_unseen,
            worst_on; nan where there is none.
        notes: datasets that could not be trained on, and why.
    """

    mode: str
    seeds: tuple[int, ...]
    cells: pd.DataFrame
    summary: pd.DataFrame
    notes: tuple[str, ...]
    openings: dict[str, int]
    folder: Path
    run_id: str

    def to_json(self) -> dict[str, Any]:
        """In JSON's types; what is no number is null."""
        tables = {
            name: json.loads(getattr(self, name).to_json(orient="records", double_precision=15))
            for name in ("cells", "summary")
        }
        plain = {name: getattr(self, name) for name in ("mode", "seeds", "notes", "openings")}
        return {**plain, **tables, "folder": str(self.folder), "run": self.run_id}


def execute(config: RunConfig, workers: int = 1) -> Matrix:
    """Train every row, score every column; what is done already is read back.

    All fakes are trained on, whatever `keep_train_fakes` says, and no synthetic ones.

    Raises:
        UserError: the datasets do not allow the mode, or a test dataset has one class.
    """
    plan = config.matrix
    store = open_store(config.mlruns)
    full = Manifest.read(prepare_dataset(config, Steps(config.out / "steps", total=1)).full)
    rows, left_out = rows_of(plan, full)
    test = sealed_rows(full, config.datasets.test)
    columns = columns_of(plan, rows, test)
    detectors = {seed: config.detector.model_copy(update={"seed": seed}) for seed in plan.seeds}
    texts = [full.digest, test.digest, plan.model_dump_json(), *(d.model_dump_json() for d in detectors.values())]
    key = f"matrix/{hashlib.sha256(chr(0).join(texts).encode()).hexdigest()[:16]}"
    folder = config.out / key
    with (
        tracked_run(
            store,
            config.project,
            f"matrix {plan.mode}",
            key=key,
            params=plan.model_dump(mode="json") | config.detector.model_dump(mode="json", exclude={"seed"}),
            tags={"manifest": full.digest, "test_rows": test.digest},
            description=f"Trained on {len(rows)} rows, tested on {len(columns)} columns, {len(plan.seeds)} seeds.",
        ) as parent,
        ExitStack() as stack,
    ):
        runs = {
            row.name: stack.enter_context(
                tracked_run(store, config.project, row.name, key=f"{key}/{row.name}", parent=parent.id)
            )
            for row in rows
        }
        orders = {
            (row.name, seed): TrainJob(
                f"{row.name}, seed {seed}",
                TrialSpec(detector=detector),
                _materials(row, full, config, store),
                runs[row.name].id,
                {"trained_on": ",".join(row.datasets), "without_method": row.without or "", "matrix": key},
            )
            for row in rows
            for seed, detector in detectors.items()
        }
        masks = {column.metric: column.keep for column in columns}
        before_test = partial(open_once, parent, store, test)
        trained, scored = train_and_score(orders, test, masks, folder / "scores", before_test, workers)
        cells = _cells(rows, columns, full, scored, plan.seeds)
        result = Matrix(
            plan.mode,
            plan.seeds,
            cells,
            _summary(cells),
            tuple(left_out),
            test_openings(store, config.project),
            folder,
            parent.id,
        )
        _record(result, parent, runs, trained, store)
    return result


def heat_map(matrix: Matrix) -> Figure:
    """The cells as a heat map with two columns more: mean and worst of what a row has not seen; framed: seen."""
    wide = {
        name: matrix.cells.pivot_table(index="trained_on", columns="tested_on", values=name, sort=False, dropna=False)
        for name in ("auc", "low", "high", "seen")
    }
    more = matrix.summary.set_index("trained_on")[["mean_unseen", "worst_unseen"]]
    more.columns = pd.Index([MEAN_UNSEEN, WORST_UNSEEN])
    values = wide["auc"].join(more)
    values.columns.name, values.index.name = "tested on   (framed: seen in training)", "trained on"
    low, high = (wide[name].reindex(columns=values.columns) for name in ("low", "high"))
    figure = generalisation_matrix(values, low=low, high=high, worst=min(0.5, float(np.nanmin(values.to_numpy()))))
    axes = figure.axes[0]
    for i, j in np.argwhere(wide["seen"].to_numpy(dtype=bool)):
        axes.add_patch(Rectangle((j - 0.46, i - 0.46), 0.92, 0.92, fill=False, edgecolor="black", linewidth=1.2))
    axes.axvline(wide["auc"].shape[1] - 0.5, color="black", linewidth=1)
    return figure


def _materials(row: Row, full: Manifest, config: RunConfig, store: Store) -> TrialContext:
    return TrialContext(
        row.manifest(full), row.datasets, (), None, config.out, config.out / "cache", store, config.project
    )


def _cells(
    rows: Sequence[Row],
    columns: Sequence[Column],
    full: Manifest,
    scored: Mapping[tuple[str, int], pd.DataFrame],
    seeds: Sequence[int],
) -> pd.DataFrame:
    found = []
    for column in columns:
        tables = {place: per_source(table[column.keep]) for place, table in scored.items()}
        first = next(iter(tables.values()))
        targets = (first["label"] == "fake").to_numpy(dtype=np.int64)
        sample = Sample(
            targets,
            first["group"].to_numpy(dtype=np.str_),
            {
                row.name: np.stack([tables[row.name, seed]["score"].to_numpy(dtype=np.float64) for seed in seeds])
                for row in rows
            },
        )
        for name, repeated in over_seeds(sample).items():
            interval = repeated.interval
            cell: dict[str, Any] = {"trained_on": name, "tested_on": column.name, "auc": interval.value}
            cell |= {"low": interval.low, "high": interval.high, "per_seed": list(repeated.per_seed)}
            cell |= {"real": int((targets == 0).sum()), "fake": int(targets.sum()), "groups": first["group"].nunique()}
            found.append(cell)
    seen = {(row.name, column.name): row.has_seen(column, full) for row in rows for column in columns}
    cells = pd.DataFrame(found)
    return cells.assign(seen=[seen[cell["trained_on"], cell["tested_on"]] for cell in found])


def _summary(cells: pd.DataFrame) -> pd.DataFrame:
    found = []
    for name, of in cells.groupby("trained_on", sort=False):
        unseen = of[~of["seen"]]
        worst = unseen.loc[unseen["auc"].idxmin()] if unseen["auc"].notna().any() else None
        found.append(
            {
                "trained_on": name,
                "in_domain": of.loc[of["seen"], "auc"].mean(),
                "mean_unseen": unseen["auc"].mean(),
                "worst_unseen": float(worst["auc"]) if worst is not None else float("nan"),
                "worst_on": str(worst["tested_on"]) if worst is not None else "",
            }
        )
    return pd.DataFrame(found)


def _record(
    result: Matrix, parent: Run, runs: Mapping[str, Run], trained: Mapping[tuple[str, int], Trained], store: Store
) -> None:
    """Files in the matrix's folder and in MLflow, and the figures on the rows' runs and on the models."""
    folder = result.folder
    folder.mkdir(parents=True, exist_ok=True)
    heat_map(result).savefig(folder / "matrix.png", dpi=110)
    result.cells.to_csv(folder / "cells.csv", index=False)
    result.summary.to_csv(folder / "summary.csv", index=False)
    (folder / "matrix.json").write_text(json.dumps(result.to_json(), indent=1))
    for name in ("matrix.png", "cells.csv", "summary.csv", "matrix.json"):
        parent.artifact(folder / name)
    for row in result.summary.to_dict("records"):
        own = result.cells[result.cells["trained_on"] == row["trained_on"]]
        metrics = {f"auc/{cell['tested_on']}": cell["auc"] for cell in own.to_dict("records")}
        metrics |= {f"auc_{name}": row[name] for name in ("in_domain", "mean_unseen", "worst_unseen")}
        runs[row["trained_on"]].metrics({name: value for name, value in metrics.items() if value == value})
        unseen = own[~own["seen"]]
        for number, seed in enumerate(result.seeds):
            aucs = [values[number] for values in unseen["per_seed"] if values[number] == values[number]]
            if aucs:
                detector = trained[row["trained_on"], seed]
                figures = {"auc_mean_unseen": float(np.mean(aucs)), "auc_worst_unseen": min(aucs)}
                attach(store, detector.run_id).metrics(figures, model_id=detector.model_id)


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
        first = list(dict.fromkeys(name for row in rows for name in row.datasets))
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
