"""The same study on many machines by Ray: plain tasks, each a worker of the study over PostgreSQL.

Ray Tune is not used: it would bring a second search space, pruner and store of results.
"""

from __future__ import annotations

import sys
import time
from typing import Any

import optuna
from tqdm import tqdm

from core.errors import UserError
from tuning.queue import finished
from tuning.storage import patiently


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
    done = len(finished(patiently(lambda: study.get_trials(deepcopy=False))))
    try:
        often = 0.5 if sys.stderr.isatty() else 15
        with tqdm(
            total=total, initial=done, desc=study.study_name, unit="trial", file=sys.stderr, mininterval=often
        ) as bar:
            while pending:
                ready, pending = ray.wait(pending, timeout=1)
                bar.update(len(finished(patiently(lambda: study.get_trials(deepcopy=False)))) - bar.n)
                for sentence in ray.get(ready):
                    if sentence is not None:
                        raise UserError(sentence)
    except KeyboardInterrupt:
        for reference in pending:
            ray.cancel(reference)
        time.sleep(1)
        raise


def _work(storage: str, name: str) -> str | None:
    """One worker, on whatever node; returns the sentence of a mistake that the user must mend."""
    from tuning.study import join

    try:
        join(storage, name)
    except UserError as error:
        return str(error)
    return None
