"""Many workers of one study: processes of this machine, each with its share of the cores or a GPU, or tasks of Ray.

Ray Tune is not used: it would bring a second search space, pruner and store of results.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial

from core.errors import UserError
from core.progress import progress_bar
from tuning.queue import finished
from tuning.storage import patiently
from tuning.worker import SAVING_SECONDS, join

# Workers that are killed are started again, but not for ever.
MAX_RESTARTS = 20


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


# --- processes of this machine


def environments(count: int) -> list[dict[str, str]]:
    """The environment of each worker: its share of the cores, and its own GPU where there are any."""
    cores = len(os.sched_getaffinity(0))
    threads = str(max(1, cores // count))
    devices = _devices()
    shared = {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, "OMP_WAIT_POLICY": "PASSIVE"}
    return [
        {**os.environ, **shared, **({"CUDA_VISIBLE_DEVICES": devices[i % len(devices)]} if devices else {})}
        for i in range(count)
    ]


def _devices() -> list[str]:
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [device for device in named.split(",") if device]
    import torch

    return [str(i) for i in range(torch.cuda.device_count())]


def supervise(
    command: Sequence[str],
    workers: int,
    study: optuna.Study,
    total: int,
    logs: Path,
    *,
    max_restarts: int = MAX_RESTARTS,
) -> None:
    """Run the command in several processes until all have ended by themselves; one that is killed is started again.

    Raises:
        UserError: a worker refused to go on, with its sentence, or workers keep being killed.
        KeyboardInterrupt: passed on to the workers, which save what they do.
    """
    logs.mkdir(parents=True, exist_ok=True)
    settings = environments(workers)

    def start(i: int) -> subprocess.Popen[bytes]:
        with (logs / f"worker-{i + 1}.log").open("ab") as log:
            return subprocess.Popen(
                [*command, "--parent", str(os.getpid())],
                env=settings[i],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C reaches us alone, and we tell each of them once
            )

    processes = [start(i) for i in range(workers)]
    restarts = 0
    try:
        with progress(study, total) as update:
            while any(process.poll() is None for process in processes):
                time.sleep(0.5)
                update()
                for i, process in enumerate(processes):
                    code = process.poll()
                    if code is not None and code < 0 and code != -signal.SIGINT:
                        restarts += 1
                        if restarts > max_restarts:
                            raise UserError(
                                f"workers of {study.study_name} were killed {restarts} times (the last one by "
                                f"{signal.Signals(-code).name}): see {logs}; give them more memory, or use fewer"
                            )
                        processes[i] = start(i)
                    elif code not in (None, 0):
                        raise UserError(_last_words(logs / f"worker-{i + 1}.log", int(code or 0)))
    finally:
        _end(processes)


def _last_words(log: Path, code: int) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    sentence = next((line for line in reversed(lines) if line.startswith("error: ")), None)
    return sentence.removeprefix("error: ") if sentence else f"a worker ended with exit code {code}: see {log}"


def _end(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    for sign, seconds in ((signal.SIGINT, SAVING_SECONDS), (signal.SIGTERM, 10), (signal.SIGKILL, 5)):
        left = [process for process in processes if process.poll() is None]
        for process in left:
            with suppress(ProcessLookupError):
                process.send_signal(sign)
        deadline = time.monotonic() + seconds
        for process in left:
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=max(0.1, deadline - time.monotonic()))


# --- tasks of a cluster


def run_on_cluster(
    address: str, storage: str, study: optuna.Study, total: int, workers: int, *, gpus: float | None = None
) -> None:
    """Keep `workers` tasks on a Ray cluster until the study ends; tasks of a node that dies start on another one.

    Args:
        address: of the cluster, or auto.
        storage: postgresql://...; a journal serves one machine only.
        gpus: of each task; all GPUs of the cluster shared out evenly by default.

    Raises:
        UserError: Ray is not installed, the cluster does not answer, the storage is a file, or a worker refused.
    """
    if not storage.startswith("postgresql"):
        raise UserError(
            "a cluster needs a database that all its machines reach: set study.storage to postgresql://user:password@host/name"
        )
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
    if gpus is None:
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
