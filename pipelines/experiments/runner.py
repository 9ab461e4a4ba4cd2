"""Many detectors: trained, then scored, one after another or in several processes, each with its share of the cores.

What is finished is read back, so that a killed crew goes on by the same call. A process that works for another dies
with it.
"""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from classifier.evaluation import ALL, By, evaluate, score_table
from classifier.models.ensemble import load_detector
from classifier.scoring import score
from core.errors import UserError
from core.manifest import Manifest
from pipelines.evaluation.sealed import Scored, model_metrics
from tracking.models import score_model
from tracking.runs import OPENED_TEST, Run, attach, metric_name
from tracking.store import Store, open_store
from tuning.trial import Trained, TrialContext, TrialSpec, train_and_log
from tuning.worker import end_with
from tuning.workers import environments

Job = TypeVar("Job")
Result = TypeVar("Result")
BOTH: tuple[By, By] = ("frame", "source")


@dataclass(frozen=True)
class TrainJob:
    """One detector that is wanted: its name, what it is and is made of, and the run that it belongs under."""

    name: str
    spec: TrialSpec
    materials: TrialContext
    parent: str
    tags: Mapping[str, str]


@dataclass(frozen=True)
class ScoreJob:
    """A trained detector, and the sealed rows that it is scored on.

    `sheet` is the file for its scores; `columns` are the sets of rows whose metrics go onto its LoggedModel, as
    `auc/<name>`: a mask over the rows by name.
    """

    name: str
    trained: Trained
    rows: Manifest
    columns: Mapping[str, NDArray[np.bool_]]
    sheet: Path
    cache: Path
    device: str
    store: Store


def train_and_score(
    orders: Mapping[tuple[str, int], TrainJob],
    rows: Manifest,
    columns: Mapping[str, NDArray[np.bool_]],
    sheets: Path,
    before_test: Callable[[], None],
    workers: int = 1,
) -> tuple[dict[tuple[str, int], Trained], dict[tuple[str, int], pd.DataFrame]]:
    """Every detector and its score table on the sealed rows, by the names of the orders.

    Args:
        rows, columns: see `ScoreJob`.
        sheets: folder for the score tables.
        before_test: called between the last training and the first look at a sealed row.

    Raises:
        UserError: a detector cannot be trained, which is named; the others that are finished stay.
    """
    trained = dict(zip(orders, train_all(list(orders.values()), workers), strict=True))
    before_test()
    exams = [
        ScoreJob(
            order.name,
            trained[place],
            rows,
            columns,
            sheets / f"{trained[place].model_id}.parquet",
            order.materials.cache,
            order.spec.detector.device,
            order.materials.store,
        )
        for place, order in orders.items()
    ]
    return trained, dict(zip(orders, score_all(exams, workers), strict=True))


def open_once(run: Run, store: Store, rows: Manifest) -> None:
    """Count the opening of the test rows, once however often the work of this run is resumed."""
    counted = store.client.get_run(run.id).data.metrics
    for dataset in sorted(set(rows.rows["dataset"])):
        if metric_name(f"{OPENED_TEST}/{dataset}") not in counted:
            run.opened_test(dataset)


def train_all(orders: Sequence[TrainJob], workers: int = 1) -> list[Trained]:
    """The detectors in the order in which they were asked for.

    Raises:
        UserError: one of them cannot be trained, which is named; the others that are finished stay.
    """
    return _each(_train, [_portable(order) for order in orders], workers, "train", lambda order: order.name)


def score_all(exams: Sequence[ScoreJob], workers: int = 1) -> list[pd.DataFrame]:
    """The score tables of all exams; metrics by source and by frame go onto the models and their runs."""
    return _each(_score, [_portable(exam) for exam in exams], workers, "score", lambda exam: exam.name)


def _train(order: TrainJob) -> Trained:
    return train_and_log(order.spec, order.materials, name=order.name, parent=order.parent, tags=order.tags)


def _score(exam: ScoreJob) -> pd.DataFrame:
    done, key = exam.sheet.with_suffix(".json"), f"{exam.trained.model_id} {exam.rows.digest} {sorted(exam.columns)}"
    if done.is_file() and exam.sheet.is_file() and json.loads(done.read_text()) == key:
        return pd.read_parquet(exam.sheet)
    detector = load_detector(exam.trained.path, exam.device)
    table = score_table(exam.rows.rows, score(detector, exam.rows, exam.cache))
    exam.sheet.parent.mkdir(parents=True, exist_ok=True)
    _replace(exam.sheet, lambda path: table.to_parquet(path, index=False))
    active = attach(exam.store, exam.trained.run_id)
    for name, keep in exam.columns.items():
        here = exam.rows.where(keep)
        scores = table["score"].to_numpy(dtype=np.float64)[keep]
        by_frame, by_source = (evaluate(here.rows, scores, detector.threshold, by=by) for by in BOTH)
        metrics = model_metrics(Scored(table[keep], by_frame, by_source))
        if len(metrics) > 1:  # one column over several datasets: what counts is all of it
            metrics = {name: {"auc": by_source.results[ALL].metrics["auc"]}}
        score_model(exam.store, exam.trained.model_id, name, here.digest, next(iter(metrics.values())), active)
    _replace(done, lambda path: path.write_text(json.dumps(key)))
    return table


def _replace(path: Path, write: Callable[[Path], object]) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    write(temporary)
    temporary.replace(path)


# --- one after another, or several at a time


def _each(
    work: Callable[[Job], Result], jobs: Sequence[Job], workers: int, what: str, name: Callable[[Job], str]
) -> list[Result]:
    results: dict[int, Result] = {}
    interval = 0.5 if sys.stderr.isatty() else 15
    with tqdm(total=len(jobs), desc=what, unit="detector", mininterval=interval) as bar:
        for index, result in _done(work, jobs, workers, name, bar):
            results[index] = result
            bar.update()
    return [results[index] for index in range(len(jobs))]


def _done(
    work: Callable[[Job], Result], jobs: Sequence[Job], workers: int, name: Callable[[Job], str], bar: Any
) -> Iterator[tuple[int, Result]]:
    """Number and result of each job, as they end."""
    if min(workers, len(jobs)) < 2:
        for index, job in enumerate(jobs):
            bar.set_postfix_str(name(job), refresh=False)
            yield index, _named(work, job, name(job))
        return
    context = multiprocessing.get_context("spawn")
    place = context.Value("i", 0)
    settings = environments(workers)
    pool = ProcessPoolExecutor(
        workers, context, initializer=_settle, initargs=(place, settings, os.getpid(), _store(jobs[0]).root)
    )
    try:
        futures = {pool.submit(_named, work, job, name(job)): index for index, job in enumerate(jobs)}
        for future in as_completed(futures):
            bar.set_postfix_str(name(jobs[futures[future]]), refresh=False)
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


def _named(work: Callable[[Job], Result], job: Job, name: str) -> Result:
    try:
        return work(job)
    except UserError as error:
        raise UserError(f"{name}: {error}") from error
    except KeyboardInterrupt:
        launcher = multiprocessing.parent_process()
        if launcher is not None and not launcher.is_alive():
            os._exit(130)  # the pool would send the interruption to nobody, and go on to the next job
        raise


def _settle(place: Any, settings: Sequence[Mapping[str, str]], parent: int, root: Path) -> None:
    """Make a new process a worker: a session of its own, its share of the cores or its GPU, an eye on its parent."""
    os.setsid()
    with place.get_lock():
        number, place.value = place.value, place.value + 1
    own = settings[number % len(settings)]
    os.environ.update(own | {"TQDM_DISABLE": "1"})
    threads = int(own["OMP_NUM_THREADS"])
    torch.set_num_threads(threads)
    threadpool_limits(threads)
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    end_with(parent)
    open_store(root)


def _store(job: Any) -> Store:
    return job.store if isinstance(job, ScoreJob) else job.materials.store


def _portable(job: Any) -> Any:
    """The job with a store that carries no open connection, so that another process can make its own."""
    if isinstance(job, ScoreJob):
        return replace(job, store=replace(job.store))
    return replace(job, materials=replace(job.materials, store=replace(job.materials.store)))
