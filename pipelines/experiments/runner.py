"""What every experiment does: detectors by arm and seed are trained, scored on sealed rows, estimated and recorded.

Jobs run one after another or in several processes, which die with their launcher. What is finished is read back, so
that a killed experiment goes on by the same call.
"""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from classifier.evaluation import ALL, per_source
from core.errors import UserError
from core.files import atomic, digest, read_record, sealed, sha256, strict_json, with_nan, write_json, write_text
from core.manifest import Manifest
from core.progress import progress_bar
from metrics.repeated import Repeated, Sample, over_seeds
from pipelines.evaluation.sealed import open_test_rows, score_rows
from tracking.models import score_model
from tracking.runs import Run, attach
from tracking.runs import run as tracked_run
from tracking.store import open_store
from tuning.trial import Trained, TrialContext, TrialSpec, train_and_log
from tuning.worker import end_with, environments

Key = tuple[str, int]
"""Arm (or row of a matrix) and seed."""
Mask = NDArray[np.bool_]
Job = Callable[[], Any]


@dataclass(frozen=True)
class TrainJob:
    """One detector that is wanted: what it is, what it is made of, and tags of its run."""

    spec: TrialSpec
    context: TrialContext
    tags: Mapping[str, str]


@dataclass(frozen=True)
class Measured:
    """What was trained and scored, by arm and seed; its MLflow runs are open, to be written to."""

    run: Run  # the experiment's
    runs: Mapping[str, Run]  # below it, one for each arm
    trained: Mapping[Key, Trained]
    tables: Mapping[Key, pd.DataFrame]  # score tables of the same sealed rows
    files: Mapping[Key, Path]  # of the score tables
    folder: Path  # for the experiment's files


@contextmanager
def measured(
    kind: str,
    title: str,
    jobs: Mapping[Key, TrainJob],
    test: Manifest,
    columns: Mapping[str, Mask],
    *,
    params: Mapping[str, Any],
    tags: Mapping[str, str],
    description: str,
    parent: str | None = None,
    workers: int = 1,
) -> Iterator[Measured]:
    """Train every detector, open the test rows, and score every detector on them.

    In MLflow there is one run for the experiment, one below it for each arm, and one below that for each detector.

    Args:
        kind: comparison or matrix: where its files are, and a tag of the detectors.
        test: the sealed rows.
        columns: sets of them whose metrics go onto each LoggedModel as `auc/<name>`: masks over the rows.
        params: what the experiment asks for; with the jobs and the test rows they decide whether it is the same one.

    Raises:
        UserError: a detector cannot be trained, which is named; the others that are finished stay.
    """
    context = next(iter(jobs.values())).context
    texts = [json.dumps(params), test.digest, *columns]
    texts += [f"{name} {job.context.digest} {job.spec.model_dump_json()}" for (name, _), job in jobs.items()]
    key = f"{kind}/{digest(*texts)}"
    tracked, tags = partial(tracked_run, context.store, context.experiment), {**tags, "test_rows": test.digest}
    with (
        tracked(title, key=key, parent=parent, params=params, tags=tags, description=description) as run,
        ExitStack() as stack,
    ):
        arms = dict.fromkeys(name for name, _ in jobs)
        runs = {arm: stack.enter_context(tracked(arm, key=f"{key}/{arm}", parent=run.id)) for arm in arms}
        folder = context.work / key
        # A store that carries no open connection, so that another process can make its own.
        contexts = {each: replace(job.context, store=replace(job.context.store)) for each, job in jobs.items()}
        training = {}
        for (arm, seed), job in jobs.items():
            of_run = partial(train_and_log, name=_name(arm, seed), parent=runs[arm].id, tags={**job.tags, kind: key})
            training[arm, seed] = partial(of_run, job.spec, contexts[arm, seed])
        trained = _do_all(training, workers, "train", context.store.root)
        files = {each: folder / "scores" / f"{one.model_id}.parquet" for each, one in trained.items()}
        open_test_rows(run, test, [one.path for one in trained.values()])
        scoring = {}
        for each, one in trained.items():
            device = jobs[each].spec.detector.device
            scoring[each] = partial(_score, one, contexts[each], test, columns, files[each], device)
        tables = _do_all(scoring, workers, "score", context.store.root)
        yield Measured(run, runs, trained, tables, files, folder)


def _score(
    trained: Trained, context: TrialContext, rows: Manifest, columns: Mapping[str, Mask], file: Path, device: str
) -> pd.DataFrame:
    """The score table of a detector on sealed rows; evaluations go onto its run, metrics onto its model.

    `file` keeps the scores, and with the suffix .json the evaluations by source and by frame.
    """
    done, store = file.with_suffix(".json"), context.store
    key = f"{trained.model_id} {rows.digest} {sorted(columns)}"
    known = read_record(done) or {}
    if known.get("key") == key and file.is_file() and known.get("table") == sha256(file):
        return pd.read_parquet(file)
    scored = score_rows(trained.path, rows, context.cache, device)
    with atomic(file) as path:
        scored.table.to_parquet(path, index=False)
    run = attach(store, trained.run_id)
    evaluations = {"by_source": scored.by_source.to_json(), "by_frame": scored.by_frame.to_json()}
    for by, text in evaluations.items():
        run.text(f"evaluation_{by}.json", text)
    of_datasets = scored.metrics()
    for name, keep in columns.items():
        here = scored.where(keep)
        own = {name: of_datasets[name]} if name in of_datasets else here.metrics()
        figures = next(iter(own.values()))
        if len(own) > 1:  # of several datasets, what counts is the AUC of all of them
            figures = {"auc": here.by_source.results[ALL].metrics["auc"]}
        score_model(store, trained.model_id, name, here.rows.digest, figures, run)
    write_json(done, sealed({"key": key, "table": sha256(file), **evaluations}))
    return scored.table


def by_dataset(rows: pd.DataFrame) -> dict[str, Mask]:
    """The rows of each dataset, as masks."""
    names = rows["dataset"].to_numpy(dtype=np.str_)
    return {str(name): names == name for name in np.unique(names)}


def estimate(tables: Mapping[Key, pd.DataFrame], keep: Mask, reference: str | None = None) -> dict[str, Repeated]:
    """AUC by source of every arm over its seeds, and its difference to the reference, on some of the tables' rows."""
    sources = {key: per_source(table[keep]) for key, table in tables.items()}
    first = next(iter(sources.values()))
    targets, groups = (first["label"] == "fake").to_numpy(dtype=np.int64), first["group"].to_numpy(dtype=np.str_)
    scores: dict[str, list[NDArray[np.float64]]] = {}
    for (arm, _), table in sources.items():
        scores.setdefault(arm, []).append(table["score"].to_numpy(dtype=np.float64))
    return over_seeds(Sample(targets, groups, {arm: np.stack(rows) for arm, rows in scores.items()}), reference)


def cells(figures: Mapping[str, Repeated], table: pd.DataFrame) -> list[dict[str, Any]]:
    """A row for each arm on the rows of a table: arm, auc, low, high, per_seed; sources real and fake, groups."""
    sources = per_source(table)
    fakes = int((sources["label"] == "fake").sum())
    counts = {"real": len(sources) - fakes, "fake": fakes, "groups": int(sources["group"].nunique())}
    return [
        {"arm": arm, "auc": of.interval.value, "low": of.interval.low, "high": of.interval.high}
        | {"per_seed": list(of.per_seed), **counts}
        for arm, of in figures.items()
    ]


def wide(
    table: pd.DataFrame, index: str = "arm", columns: str = "dataset", value: str = "auc", form: str = ".3f"
) -> pd.DataFrame:
    """A table of figures as text: a row for each arm, a column for each dataset, in a cell the figure and its interval.

    `table` has columns low and high beside the named ones; `form` is how a number is written, +.3f for differences.
    """
    texts = [
        f"{figure:{form}}" + (f" [{low:{form}}, {high:{form}}]" if low == low else "")
        for figure, low, high in zip(table[value], table["low"], table["high"], strict=True)
    ]
    shown = table.assign(text=texts)
    return shown.pivot_table(index=index, columns=columns, values="text", aggfunc="first", sort=False)


@dataclass(frozen=True, kw_only=True)
class Result:
    """What an experiment leaves: to be printed, read back, and kept in its folder and on its run."""

    seeds: tuple[int, ...]
    notes: tuple[str, ...] = ()  # what a reader must know, in sentences
    openings: dict[str, int] = field(default_factory=dict)  # of each dataset's test rows, over the whole project
    folder: Path
    run: str

    def to_json(self) -> dict[str, Any]:
        """All fields by name, tables as lists of rows; to be written by `core.files.strict_json`."""
        values = {of.name: getattr(self, of.name) for of in fields(self)}
        return {n: v.to_dict("records") if isinstance(v, pd.DataFrame) else v for n, v in values.items()}

    @classmethod
    def from_json(cls, file: Path) -> Self:
        """The result that `keep` wrote."""
        content = with_nan(json.loads(file.read_text()))
        readers: dict[str, Callable[[Any], Any]] = {"pd.DataFrame": pd.DataFrame, "Path": Path}
        for of in fields(cls):
            if of.type in readers or isinstance(content[of.name], list):
                content[of.name] = readers.get(str(of.type), tuple)(content[of.name])
        return cls(**content)

    def keep(self, run: Run, figures: Mapping[str, Figure], text: str = "") -> None:
        """Write figures, tables and all figures as JSON into the folder, and log them on the run."""
        files = [self.folder / f"{name}.png" for name in figures]
        self.folder.mkdir(parents=True, exist_ok=True)
        for path, figure in zip(files, figures.values(), strict=True):
            figure.savefig(path, dpi=110)
        for of in fields(self):
            if isinstance(value := getattr(self, of.name), pd.DataFrame):
                files.append(self.folder / f"{of.name}.csv")
                value.to_csv(files[-1], index=False)
        if text:
            files.append(self.folder / "conclusions.txt")
            write_text(files[-1], text)
        write_text(self.file, strict_json(self.to_json(), indent=1))
        files.append(self.file)
        for path in files:
            run.artifact(path)

    @property
    def file(self) -> Path:
        """Where `keep` writes the JSON."""
        return self.folder / f"{self.folder.parent.name}.json"


def _name(arm: str, seed: int) -> str:
    return f"{arm}, seed {seed}"


def _do_all(jobs: Mapping[Key, Job], workers: int, what: str, root: Path) -> dict[Key, Any]:
    """The results of all jobs, in their order; `root` is the folder of the tracking store."""
    results = {}
    with progress_bar(len(jobs), what, "detector", delay=0) as bar:
        for key, result in _done(jobs, workers, root, bar):
            results[key] = result
            bar.update()
    return {key: results[key] for key in jobs}


def _done(jobs: Mapping[Key, Job], workers: int, root: Path, bar: tqdm) -> Iterator[tuple[Key, Any]]:
    """The result of each job, as they end."""
    if min(workers, len(jobs)) < 2:
        for key, job in jobs.items():
            bar.set_postfix_str(_name(*key), refresh=False)
            yield key, _do(_name(*key), job)
        return
    context = multiprocessing.get_context("spawn")
    shared = (context.Value("i", 0), environments(workers), os.getpid(), root)
    pool = ProcessPoolExecutor(workers, context, initializer=_settle, initargs=shared)
    try:
        futures = {pool.submit(_do, _name(*key), job): key for key, job in jobs.items()}
        for future in as_completed(futures):
            bar.set_postfix_str(_name(*futures[future]), refresh=False)
            yield futures[future], future.result()
    except BrokenProcessPool as error:
        raise UserError(
            f"one of {workers} workers was killed, perhaps for want of memory: what is finished is kept, run the same "
            "command again with fewer --workers"
        ) from error
    except BaseException:  # a mistake, or Ctrl-C, which reaches this process alone: each worker is told once, and saves
        pool.shutdown(wait=False, cancel_futures=True)
        for process in multiprocessing.active_children():
            with suppress(ProcessLookupError):
                os.kill(int(process.pid or 0), signal.SIGINT)
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _do(name: str, job: Job) -> Any:
    try:
        return job()
    except UserError as error:
        raise UserError(f"{name}: {error}") from error
    except KeyboardInterrupt:
        launcher = multiprocessing.parent_process()
        if launcher is not None and not launcher.is_alive():
            os._exit(130)  # the pool would send the interruption to nobody, and go on to the next job
        raise


def _settle(number: Any, settings: Sequence[Mapping[str, str]], parent: int, root: Path) -> None:
    """Make a new process a worker: a session of its own, its share of the cores or its GPU, an eye on its parent."""
    os.setsid()
    with number.get_lock():
        own = settings[number.value % len(settings)]
        number.value += 1
    os.environ.update(own | {"TQDM_DISABLE": "1"})
    threads = int(own["OMP_NUM_THREADS"])
    torch.set_num_threads(threads)
    threadpool_limits(threads)
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    end_with(parent)
    open_store(root)
