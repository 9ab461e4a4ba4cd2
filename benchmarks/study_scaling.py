"""Whether more workers mean more trials: 1 and 2 real ones on this machine, 1 to 64 simulated ones over PostgreSQL.

A trial sleeps (the training stands still, so that two cores can stand in for a cluster), a quarter more or less than is
said, as trials do; everything else is what a real worker does: slots taken under the lock, parameters drawn and
stored, heartbeats, results told. All workers begin at once, when all are up and have done a trial of another study. The
share of ideal throughput is the time that the workers slept in trials, divided by the time from the common beginning to
the end of each one's last trial: what is missing was spent on the study itself. (A fixed total leaves some idle at the
very end, with any number of workers; that is not counted.) A study is counted as right only when every slot was done
exactly once. The simulated workers share this machine's cores with the database and each other, where those of a
cluster have their own.

    python benchmarks/study_scaling.py [--postgres URL] [--workers 1 4 16 64] [--sleep 30] [--rounds 2]

Without --postgres a server is started from the machine's own PostgreSQL binaries, where there are any.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import resource
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.trial import TrialState
from record import hand_over, hardware, versions

from tuning.config import StudyConfig
from tuning.queue import TrialQueue, slot_of
from tuning.space import Range, Space, Value
from tuning.storage import StudyStorage, quiet_optuna
from tuning.worker import Outcome, work

GOAL = 0.9
SPACE: Space = {name: Range(low=0.0, high=1.0) for name in ("a", "b", "c", "d")}


def worker(address: str, name: str, total: int, sleep: float, ready: Any, memory: Any) -> None:
    """One worker whose trials sleep; all begin together, each after a trial of a study of its own, to warm up."""
    storage = StudyStorage(address)
    with quiet_optuna():
        study = optuna.load_study(study_name=name, storage=storage.open())
        rehearsal = optuna.create_study(study_name=f"{name}-{os.getpid()}", storage=storage.open())

    slept, last = 0.0, 0.0

    def evaluate(trial: optuna.Trial, values: dict[str, Value], slot: int) -> Outcome:
        nonlocal slept, last
        seconds = sleep * np.random.default_rng([total, slot]).uniform(0.75, 1.25)
        if trial.study is study:
            time.sleep(seconds)
        slept, last = slept + seconds, time.perf_counter()
        return Outcome([sum(map(float, values.values()))], attributes={"run_id": name})

    def run(over: optuna.Study, trials: int) -> None:
        config = StudyConfig(trials=trials, sampler="random", space=SPACE)
        work(TrialQueue(over, storage, config), evaluate, wait=False)

    run(rehearsal, 1)
    ready.wait()
    slept, began = 0.0, time.perf_counter()
    run(study, total)
    memory.put((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, slept, max(last - began, 0.0)))


def measure(address: str, workers: int, rounds: int, sleep: float) -> dict[str, Any]:
    """Throughput of `workers` over `rounds` trials each, and whether anything was lost or done twice."""
    name, total = f"scaling-{workers}-{uuid.uuid4().hex[:6]}", workers * rounds
    if "://" not in address:
        address = str(Path(address) / f"{name}.journal")
    storage = StudyStorage(address)
    with quiet_optuna():
        optuna.create_study(study_name=name, storage=storage.open(), direction="maximize")
    if storage.database is not None:
        storage.database.engine.dispose()  # forked workers must not share a connection
    context = multiprocessing.get_context("fork")
    ready, memory = context.Barrier(workers + 1), context.Queue()
    processes = [
        context.Process(target=worker, args=(address, name, total, sleep, ready, memory)) for _ in range(workers)
    ]
    for process in processes:
        process.start()
    ready.wait()
    began = time.perf_counter()
    told = [memory.get() for _ in processes]
    for process in processes:
        process.join()
    seconds = time.perf_counter() - began
    trials = optuna.load_study(study_name=name, storage=StudyStorage(address).open()).get_trials()
    done = Counter(slot_of(t) for t in trials if t.state == TrialState.COMPLETE)
    return {
        "workers": workers,
        "trials": total,
        "sleep_seconds": sleep,
        "seconds": round(seconds, 2),
        "trials_a_minute": round(60 * total / seconds, 1),
        "share_of_ideal": round(sum(each[1] for each in told) / sum(each[2] for each in told), 3),
        "lost": total - len(done),
        "twice": sum(count - 1 for count in done.values()) + len(trials) - sum(done.values()),
        "worker_megabytes": round(max(each[0] for each in told)),
    }


@contextlib.contextmanager
def postgres(given: str | None) -> Iterator[str | None]:
    """The address of a server: the given one, one of our own, or None."""
    if given is not None:
        yield given
        return
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "tuning"))
    from postgres import Postgres, binaries

    if binaries() is None:
        yield None
        return
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        server = Postgres(Path(folder))
        try:
            yield server.url
        finally:
            server.kill()


def real_worker_megabytes() -> int:
    """Peak memory of a process that has loaded everything that a real trial needs, before its first batch."""
    code = "import resource, tuning.study; print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)"
    return int(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)


def main() -> None:
    """Measure the machine, then the cluster."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--postgres", help="postgresql://... of a server to use")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 4, 16, 64])
    parser.add_argument("--sleep", type=float, default=30.0, help="seconds of a simulated trial")
    parser.add_argument("--rounds", type=int, default=2, help="trials a worker")
    parser.add_argument("--out", type=Path, help="write the record to this JSON file")
    options = parser.parse_args()
    load = round(os.getloadavg()[0], 2)  # torch, which the hardware is asked by, would count as the workers' memory
    with tempfile.TemporaryDirectory() as folder:
        machine = [measure(folder, workers, 2 * options.rounds, options.sleep / 4) for workers in (1, 2)]
    with postgres(options.postgres) as address:
        cluster = (
            [measure(address, workers, options.rounds, options.sleep) for workers in options.workers] if address else []
        )
    shares = [each["share_of_ideal"] for each in (*machine, *cluster)]
    clean = all(each["lost"] == each["twice"] == 0 for each in (*machine, *cluster))
    record = {
        "benchmark": "study_scaling",
        "machine": machine,
        "cluster": cluster or "not measured: no PostgreSQL server on this machine",
        "ratio": min(shares),
        "real_worker_megabytes": real_worker_megabytes(),
        "goal": f"at least {GOAL} of ideal throughput, nothing lost, nothing twice",
        "met": bool(cluster) and min(shares) >= GOAL and clean,
        "hardware": hardware("cpu", 1) | {"load_at_start": load},
        "versions": versions("optuna", "psycopg"),
    }
    hand_over(record, options.out)


if __name__ == "__main__":
    main()
