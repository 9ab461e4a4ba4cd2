"""Workers on tiny trials, to be killed: a process that loads everything once and forks them as they are needed.

Usage: killable_workers.py ADDRESS STUDY MLRUNS TOTAL WORKERS KILLS SEED

A tiny trial makes twelve steps of some milliseconds; each is written to a checkpoint, to a log of all steps that were
ever made, and to the trial's MLflow run.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import optuna

from tracking.runs import run
from tracking.store import open_store
from tuning.config import StudyConfig
from tuning.queue import TrialQueue
from tuning.space import Range, Value
from tuning.storage import StudyStorage, patiently, quiet_optuna
from tuning.worker import Outcome, work

STEPS = 12
SPACE = {"x": Range(low=0.0, high=1.0)}


def settings(total: int, retries: int = 100) -> StudyConfig:
    return StudyConfig(trials=total, sampler="random", space=SPACE, retries=retries)


def worker(address: str, name: str, mlruns: str, total: int, *, beat_seconds: int = 1, silence_seconds: int = 8) -> str:
    """Work on the study until it ends."""
    store = open_store(Path(mlruns))
    storage = StudyStorage(address, beat_seconds=beat_seconds, silence_seconds=silence_seconds)
    with quiet_optuna():
        opened = storage.open(60)
        study = patiently(
            lambda: optuna.create_study(study_name=name, storage=opened, direction="maximize", load_if_exists=True)
        )
    folder = Path(mlruns) / "tiny" / name
    folder.mkdir(parents=True, exist_ok=True)

    def evaluate(_: optuna.Trial, values: dict[str, Value], slot: int) -> Outcome:
        checkpoint = folder / f"{slot}.json"
        state = json.loads(checkpoint.read_text()) if checkpoint.exists() else {"step": 0, "x": values["x"]}
        assert state["x"] == values["x"], "taken up again with other values"
        with run(store, name, f"trial-{slot:03d}", key=f"{name}/{slot}") as active:
            while state["step"] < STEPS:
                time.sleep(0.01)
                with (folder / "steps.log").open("a") as log:
                    log.write(f"{slot} {state['step']}\n")
                active.metrics({"loss": 1 / (state["step"] + 1)}, state["step"])
                state["step"] += 1
                temporary = checkpoint.with_suffix(f".{os.getpid()}.tmp")
                temporary.write_text(json.dumps(state))
                temporary.replace(checkpoint)
        return Outcome([float(values["x"])], attributes={"run_id": active.id})

    return work(TrialQueue(study, storage, settings(total)), evaluate)


def fork(*arguments: object) -> int:
    """A worker as a process of its own; its id."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        worker(*arguments)  # type: ignore[arg-type]
        code = 0
    except BaseException as error:
        print(f"worker {os.getpid()}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
    finally:
        os._exit(code)


def main() -> None:
    address, name, mlruns, total, workers, kills, seed = sys.argv[1:]
    arguments = (address, name, mlruns, int(total))
    chance = random.Random(int(seed))
    alive = [fork(*arguments) for _ in range(int(workers))]
    done = 0
    steps = Path(mlruns) / "tiny" / name / "steps.log"
    while done < int(kills) and alive:
        # At any moment, every other time of one of the first steps after the last kill: in the middle of a trial.
        size, since = (steps.stat().st_size if steps.exists() else 0), time.monotonic()
        while done % 2 and time.monotonic() - since < 20 and (steps.stat().st_size if steps.exists() else 0) <= size:
            time.sleep(0.005)
        time.sleep(chance.uniform(0.0, 0.1 if done % 2 else 0.5))
        victim = alive.pop(chance.randrange(len(alive)))
        finished, status = os.waitpid(victim, os.WNOHANG)
        if finished:
            assert status == 0, f"a worker ended by itself with {status}"
            continue
        os.kill(victim, signal.SIGKILL)
        os.waitpid(victim, 0)
        done += 1
        alive.append(fork(*arguments))
    for process in alive:
        assert os.waitpid(process, 0)[1] == 0
    print(json.dumps({"kills": done}))


if __name__ == "__main__":
    main()
