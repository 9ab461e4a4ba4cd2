"""Workers of a study: each takes trial after trial until the study ends.

`python -m tuning.worker STUDY` is one, as `study launch --workers` starts several: processes of this machine, each with
its share of the cores or a GPU. The storage's address, which may hold a password that everybody could read in the list
of processes, comes by the environment (COUNTERFORGE_STORAGE). Or they are tasks of Ray; Ray Tune is not used: it would
bring a second search space, pruner and store of results.
"""

from __future__ import annotations

import argparse
import logging
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import DEVNULL, STDOUT, Popen, TimeoutExpired
from typing import Any

import optuna
import torch
from optuna.trial import FrozenTrial, Trial, TrialState
from pydantic import ValidationError

from core.errors import UserError
from core.progress import Report, ignore, progress_bar
from core.secrets import redact, redact_logs
from tracking.store import TrackingError
from tuning.config import StudyConfig
from tuning.identity import recall
from tuning.queue import ERROR, TrialQueue, finished, slot_of
from tuning.results import FOLDER, MODEL, NOISE, RUN, check_failures, clean, stop_reason
from tuning.space import Range, Value, pruner, suggest
from tuning.storage import (
    AWAY,
    PATIENCE_SECONDS,
    STORAGE,
    StorageAwayError,
    StudyStorage,
    patiently,
    quiet_optuna,
    reported_steps,
)
from tuning.trial import TrialContext, TrialSpec, train_and_log

_log = logging.getLogger(__name__)
IDLE_SECONDS = 1.0  # after which a worker that finds every slot taken looks whether one became free
SAID_AFTER_SECONDS = 10.0  # of idling; workers that end together idle for less
SAVING_SECONDS = 60.0  # that an interrupted worker gets to save what it does
MAX_RESTARTS = 20  # workers that are killed are started again, but not for ever


@dataclass(frozen=True)
class Outcome:
    """What a trial reached: a value for each objective, constraints (feasible <= 0), and what to remember."""

    values: Sequence[float]
    constraints: Mapping[str, float] = field(default_factory=dict)
    attributes: Mapping[str, Any] = field(default_factory=dict)


Evaluate = Callable[[Trial, dict[str, Value], int], Outcome]
"""Runs one trial: Optuna's trial, the drawn values, its slot. It may raise optuna.TrialPruned."""


After = Callable[[Sequence[FrozenTrial]], None]


def work(queue: TrialQueue, evaluate: Evaluate, *, after: After | None = None, wait: bool = True) -> str:
    """Take trials until the study ends, and return the sentence that says why it did.

    Args:
        after: called with all trials after each one that ended.
        wait: stay while others still run, in case one of them dies and its trial must be resumed.

    Raises:
        UserError: the last trials all failed, or the database stayed away.
        TrackingError, OSError: runs cannot be recorded; the trial is given back.
    """
    study = queue.study

    def ended(trials: Sequence[FrozenTrial]) -> str | None:
        check_failures(trials, study.study_name)
        return stop_reason(trials, queue.config, queue.slots)

    idle_since: float | None = None
    with quiet_optuna(), queue.alive():
        while True:
            taken = queue.take(ended)
            if isinstance(taken, str):
                return taken
            if taken is not None:
                idle_since = None
                _run(queue, taken, evaluate)
                if after is not None:
                    patiently(lambda: after(study.get_trials(deepcopy=False)))
            elif wait:
                idle_since = idle_since or time.monotonic()
                if time.monotonic() - idle_since > SAID_AFTER_SECONDS:
                    _log.warning("the last trials are with other workers: waiting, in case one of them dies")
                    idle_since = math.inf  # said once
                time.sleep(IDLE_SECONDS)
            else:
                return "others run the last trials"


def _run(queue: TrialQueue, trial: Trial, evaluate: Evaluate) -> None:
    slot = slot_of(trial)
    try:
        with queue.storage.heartbeat(trial):
            # Not patiently: a value that the database has and could not confirm would be drawn a second time.
            values = suggest(trial, queue.config.space)
            outcome = evaluate(trial, values, slot)
            queue.storage.set_constraints(trial, outcome.constraints)
    except optuna.TrialPruned:
        queue.finish(trial, TrialState.PRUNED)
    except AWAY:
        # The database went away while the trial ran: no fault of the trial's, which is resumed when it is back.
        queue.give_back(trial, PATIENCE_SECONDS)
    except StorageAwayError:
        raise
    except (TrackingError, OSError, KeyboardInterrupt, SystemExit):
        with suppress(Exception):  # the disk may be full: then the trial is found by the lock that we no longer hold
            queue.give_back(trial)
        raise
    except UserError as error:
        queue.finish(trial, TrialState.FAIL, attributes={ERROR: redact(str(error))[:1000]})
    except Exception as error:
        _log.exception("trial %d failed", slot)
        queue.finish(trial, TrialState.FAIL, attributes={ERROR: redact(f"{type(error).__name__}: {error}")[:1000]})
    else:
        queue.finish(trial, TrialState.COMPLETE, list(outcome.values), outcome.attributes)


# --- detectors as trials


def evaluator(study: optuna.Study, config: StudyConfig, base: TrialSpec, context: TrialContext, run: str) -> Evaluate:
    """What runs one trial below the run of the study: train, validate, log, and report to the pruner."""
    epochs = config.space.get("epochs")
    most = int(epochs.high) if isinstance(epochs, Range) else base.detector.epochs
    # Wilcoxon's test is over folds; the others look at epochs.
    study.pruner = pruner(config.pruner, config.folds if config.pruner == "wilcoxon" else most * config.folds)

    def evaluate(trial: Trial, values: dict[str, Value], slot: int) -> Outcome:
        try:
            spec = base.with_parameters(values)
        except ValidationError as error:
            reason = error.errors()[0]["msg"].removeprefix("Value error, ")
            raise UserError(f"these values do not go together: {reason}") from error
        report = _reporter(trial, config)
        trained = train_and_log(
            spec,
            context,
            name=f"trial-{slot:03d}",
            parent=run,
            tags={"study": study.study_name, "trial": str(slot)},
            folds=config.folds,
            on_epoch=report if config.pruner in ("hyperband", "median") else ignore,
            on_fold=report if config.pruner == "wilcoxon" else ignore,
        )
        measures = trained.measures
        for name in config.objectives:
            if math.isnan(measures[name]):
                raise UserError(
                    f"{name} is not defined on the val rows of {', '.join(context.judging_datasets)}: a class has "
                    "under two groups there; take mean_auc, or add faces"
                )
        known = {RUN: trained.run_id, MODEL: trained.model_id, FOLDER: trained.folder, NOISE: trained.error}
        figures = {name: round(value, 6) for name, value in measures.items()}
        return Outcome(
            [measures[name] for name in config.objectives],
            {name: measures[name] - bound for name, bound in config.constraints.items()},
            {**known, "seconds": round(trained.seconds, 2), "measures": figures},
        )

    return evaluate


def _reporter(trial: Trial, config: StudyConfig) -> Report:
    """Reports to the pruner; what was reported before the trial's worker was killed is not reported again."""
    told = reported_steps(trial)

    def report(metrics: Mapping[str, float], step: int) -> None:
        value = metrics.get("mean_auc", metrics.get("val_auc"))
        if value is None or math.isnan(value) or step in told:
            return
        told.add(step)
        patiently(lambda: trial.report(value, step))
        if patiently(trial.should_prune):
            unit = "fold" if config.pruner == "wilcoxon" else "epoch"
            raise optuna.TrialPruned(f"pruned by {config.pruner} after {unit} {step + (unit == 'fold')}")

    return report


def join(address: str, name: str) -> str:
    """Work on a study launched elsewhere until it ends, and say why; a `UserError` where it or its data is missing."""
    storage = StudyStorage(address)
    with quiet_optuna():
        try:
            opened = storage.open(PATIENCE_SECONDS)
            study = patiently(lambda: optuna.load_study(study_name=name, storage=opened))
        except KeyError as error:
            raise UserError(f"no study is called {name!r} in {storage.shown}: launch it first") from error
        config, base, context, run_id = patiently(lambda: recall(study))

        def after(trials: Sequence[FrozenTrial]) -> None:
            with storage.lock(f"{name}/clean"):
                clean(trials, config, context.store, context.work)

        evaluate = evaluator(study, config, base, context, run_id)
        return work(TrialQueue(study, storage, config), evaluate, after=after)


# --- as a process


def end_with(parent: int | None) -> None:
    """End this process as by Ctrl-C when its launcher is gone, however that died, and by force if that takes long."""
    if parent is None:
        return

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(SAVING_SECONDS)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


# --- many workers


@contextmanager
def progress(study: optuna.Study, total: int) -> Iterator[Callable[..., None]]:
    """A bar of the finished trials; what it yields brings it up to date, from the trials if they are read already."""

    def done() -> int:
        return len(finished(patiently(lambda: study.get_trials(deepcopy=False))))

    with progress_bar(total, study.study_name, "trial", initial=done()) as bar:

        def update(trials: Sequence[FrozenTrial] | None = None, best: str = "") -> None:
            bar.update((done() if trials is None else len(finished(trials))) - bar.n)
            if best:
                bar.set_postfix(best=best)

        yield update


def environments(count: int) -> list[dict[str, str]]:
    """The environment of each worker: its share of the cores, and its own GPU where there are any."""
    threads = str(max(1, len(os.sched_getaffinity(0)) // count))
    shared = {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, "OMP_WAIT_POLICY": "PASSIVE"}
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is None:
        devices = [str(i) for i in range(torch.cuda.device_count())]
    else:
        devices = [device for device in named.split(",") if device]
    own = [{"CUDA_VISIBLE_DEVICES": devices[i % len(devices)]} if devices else {} for i in range(count)]
    return [{**os.environ, **shared, **each} for each in own]


def supervise(storage: str, workers: int, study: optuna.Study, total: int, logs: Path) -> None:
    """Work on a study in several processes until all have ended by themselves; one that is killed is started again.

    Raises:
        UserError: a worker refused to go on, with its sentence, or workers keep being killed.
        KeyboardInterrupt: passed on to the workers, which save what they do.
    """
    logs.mkdir(parents=True, exist_ok=True)
    settings = [each | {STORAGE: storage} for each in environments(workers)]
    command = [sys.executable, "-m", "tuning.worker", study.study_name, "--parent", str(os.getpid())]

    def start(i: int) -> Popen[bytes]:
        # In a session of its own: Ctrl-C reaches us alone, and we tell each of them once.
        with (logs / f"worker-{i + 1}.log").open("ab") as log:
            return Popen(command, env=settings[i], stdin=DEVNULL, stdout=log, stderr=STDOUT, start_new_session=True)

    processes = [start(i) for i in range(workers)]
    restarts = 0
    try:
        with progress(study, total) as update:
            while any(process.poll() is None for process in processes):
                time.sleep(0.5)
                update()
                for i, process in enumerate(processes):
                    code = process.poll() or 0
                    if code < 0 and code != -signal.SIGINT:
                        restarts += 1
                        if restarts > MAX_RESTARTS:
                            raise UserError(
                                f"workers of {study.study_name} were killed {restarts} times (the last one by "
                                f"{signal.Signals(-code).name}): see {logs}; give them more memory, or use fewer"
                            )
                        processes[i] = start(i)
                    elif code:
                        raise UserError(_last_words(logs / f"worker-{i + 1}.log", code))
    finally:
        _end(processes)


def _last_words(log: Path, code: int) -> str:
    said = [line for line in log.read_text(errors="replace").splitlines() if line.startswith("error: ")]
    return said[-1].removeprefix("error: ") if said else f"a worker ended with exit code {code}: see {log}"


def _end(processes: Sequence[Popen[bytes]]) -> None:
    for sign, seconds in ((signal.SIGINT, SAVING_SECONDS), (signal.SIGTERM, 10), (signal.SIGKILL, 5)):
        left = [process for process in processes if process.poll() is None]
        for process in left:
            with suppress(ProcessLookupError):
                process.send_signal(sign)
        deadline = time.monotonic() + seconds
        for process in left:
            with suppress(TimeoutExpired):
                process.wait(timeout=max(0.1, deadline - time.monotonic()))


# --- tasks of a cluster


def run_on_cluster(address: str, storage: str, study: optuna.Study, total: int, workers: int) -> None:
    """Keep `workers` tasks on a Ray cluster until the study ends; tasks of a node that dies start on another one.

    They share out all GPUs of the cluster evenly.

    Args:
        address: of the cluster, or auto.
        storage: postgresql://...; a journal serves one machine only.

    Raises:
        UserError: Ray is not installed, the cluster does not answer, the storage is a file, or a worker refused.
    """
    if not storage.startswith("postgresql"):
        remedy = "set study.storage to postgresql://user:password@host/name"
        raise UserError(f"a cluster needs a database that all its machines reach: {remedy}")
    try:
        import ray
    except ImportError as error:
        raise UserError("--cluster needs Ray: install it with `pip install 'counterforge[cluster]'`") from error
    if not ray.is_initialized():
        try:
            ray.init(address=address, log_to_driver=False, logging_level="ERROR")
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise UserError(
                f"no Ray cluster answers at {address} ({str(error).splitlines()[0][:120]}): start one with "
                "`ray start --head`, or correct the address"
            ) from error
    gpus = ray.cluster_resources().get("GPU", 0) / workers
    task: Any = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=-1, scheduling_strategy="SPREAD")(_work)
    pending = [task.remote(storage, study.study_name) for _ in range(workers)]
    try:
        with progress(study, total) as update:
            while pending:
                ready, pending = ray.wait(pending, timeout=1)
                update()
                for sentence in ray.get(ready):
                    if sentence is not None:
                        raise UserError(sentence)
    except KeyboardInterrupt:
        for reference in pending:
            ray.cancel(reference)
        time.sleep(1)
        raise


def _work(storage: str, name: str) -> str | None:
    """One worker, on whatever node; returns the error that the user must correct."""
    try:
        join(storage, name)
    except UserError as error:
        return str(error)
    return None


def main() -> int:
    """Work until the study ends; 2 with one sentence where the user must do something, 130 after Ctrl-C."""
    parser = argparse.ArgumentParser(description="One worker of a study.")
    parser.add_argument("study", help="full name of the study")
    parser.add_argument("--parent", type=int, help="end when this process is no longer the parent")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    redact_logs()
    end_with(options.parent)
    try:
        print(join(os.environ[STORAGE], options.study), flush=True)
    except KeyboardInterrupt:
        return 130
    except (UserError, TrackingError, OSError) as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
