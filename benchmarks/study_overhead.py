"""What the workbench costs beside a bare Optuna loop with MLflow logging done by hand: 200 very short trials.

Both sides draw four parameters by the same sampler, sleep, log four parameters, three steps of two metrics and two
tags into one MLflow run a trial below one parent, and store the result: ours through `tuning.worker.work` and
`tracking.runs` (journal; queue, liveness, resumable runs), the other by `study.optimize` on Optuna's SQLite and
`mlflow.start_run`. Both write the same kind of SQLite tracking database. The sides alternate in blocks, so that a
busy machine disturbs both.

    python benchmarks/study_overhead.py [--trials 200] [--blocks 4]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mlflow
import optuna
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
from record import hand_over, hardware, versions

from tracking.runs import run
from tracking.store import Store, open_store
from tuning.config import StudyConfig
from tuning.queue import TrialQueue
from tuning.space import Range, Space, Value, distributions
from tuning.storage import StudyStorage, quiet_optuna
from tuning.worker import Outcome, work

GOAL = 1.15
SPACE: Space = {name: Range(low=0.0, high=1.0) for name in ("a", "b", "c", "d")}
SLEEP_SECONDS = 0.01


@contextmanager
def counted(owner: type, names: list[str], counts: Counter[str], label: str) -> Iterator[None]:
    """Count the calls of these methods while the block runs."""
    before = {name: owner.__dict__[name] for name in names if name in owner.__dict__}

    def wrap(method: Any) -> Any:
        def call(*arguments: Any, **named: Any) -> Any:
            counts[label] += 1
            return method(*arguments, **named)

        return call

    for name, method in before.items():
        setattr(owner, name, wrap(method))
    try:
        yield
    finally:
        for name, method in before.items():
            setattr(owner, name, method)


MLFLOW_CALLS = [
    name for name in vars(SqlAlchemyStore) if not name.startswith("_") and callable(vars(SqlAlchemyStore)[name])
]
WRITES = ["create_new_trial", "set_trial_param", "set_trial_state_values", "set_trial_intermediate_value",
          "set_trial_user_attr", "set_trial_system_attr"]  # fmt: skip


def ours(store: Store, folder: Path, name: str, total: int, sampler: str) -> None:
    """Trials by the workbench, up to a total of `total`."""
    storage = StudyStorage(str(folder / f"{name}.journal"))
    with quiet_optuna():
        study = optuna.create_study(study_name=name, storage=storage.open(), direction="maximize", load_if_exists=True)
    with run(store, "ours", name, key=name) as parent:

        def evaluate(_: optuna.Trial, values: dict[str, Value], slot: int) -> Outcome:
            with run(
                store, "ours", f"trial-{slot:03d}", key=f"{name}/{slot}", parent=parent.id,
                tags={"study": name, "trial": slot}, params=values,
            ) as active:  # fmt: skip
                time.sleep(SLEEP_SECONDS)
                for step in range(3):
                    active.metrics({"loss": 1 / (step + 1), "auc": 0.5}, step)
            return Outcome([sum(map(float, values.values()))], attributes={"run_id": active.id})

        config = StudyConfig(trials=total, sampler=sampler, pruner="none", space=SPACE)  # type: ignore[arg-type]
        work(TrialQueue(study, storage, config), evaluate)


def by_hand(store: Store, folder: Path, name: str, count: int, sampler: str) -> None:
    """The same, as a careful person writes it in one file."""
    made = {"random": optuna.samplers.RandomSampler, "tpe": optuna.samplers.TPESampler}[sampler](seed=0)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        study_name=name, storage=f"sqlite:///{folder / (name + '.db')}", direction="maximize", load_if_exists=True,
        sampler=made,
    )  # fmt: skip
    store.activate()
    mlflow.set_experiment("by hand")
    with mlflow.start_run(run_name=name):

        def objective(trial: optuna.Trial) -> float:
            values = {key: trial.suggest_float(key, 0.0, 1.0) for key in distributions(SPACE)}
            with mlflow.start_run(run_name=f"trial-{trial.number:03d}", nested=True) as active:
                mlflow.set_tags({"study": name, "trial": trial.number})
                mlflow.log_params(values)
                time.sleep(SLEEP_SECONDS)
                for step in range(3):
                    mlflow.log_metrics({"loss": 1 / (step + 1), "auc": 0.5}, step)
                trial.set_user_attr("run_id", active.info.run_id)
            return sum(values.values())

        study.optimize(objective, n_trials=count)


def main() -> None:
    """Alternate the two sides in blocks, and compare their sums."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--blocks", type=int, default=4)
    parser.add_argument("--sampler", choices=["random", "tpe"], default="random")
    parser.add_argument("--out", type=Path, help="write the record to this JSON file")
    options = parser.parse_args()
    machine = hardware("cpu", 1)
    block = options.trials // options.blocks
    seconds = {"ours": 0.0, "by hand": 0.0}
    calls: dict[str, Counter[str]] = {"ours": Counter(), "by hand": Counter()}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        store = open_store(folder / "mlruns")
        ours(store, folder, "warm", 2, options.sampler)
        by_hand(store, folder, "warm", 2, options.sampler)
        for number in range(options.blocks):
            for side in ("ours", "by hand") if number % 2 == 0 else ("by hand", "ours"):
                storage = optuna.storages.JournalStorage if side == "ours" else optuna.storages._CachedStorage
                with (
                    counted(SqlAlchemyStore, MLFLOW_CALLS, calls[side], "mlflow"),
                    counted(storage, WRITES, calls[side], "storage"),
                ):
                    began = time.perf_counter()
                    if side == "ours":
                        ours(store, folder, "study", (number + 1) * block, options.sampler)
                    else:
                        by_hand(store, folder, "study", block, options.sampler)
                    seconds[side] += time.perf_counter() - began
    trials = block * options.blocks
    ratio = seconds["ours"] / seconds["by hand"]
    record = {
        "benchmark": "study_overhead",
        "trials": trials,
        "sampler": options.sampler,
        "seconds": {side: round(value, 2) for side, value in seconds.items()},
        "milliseconds_a_trial": {side: round(1000 * value / trials, 1) for side, value in seconds.items()},
        "calls_a_trial": {s: {kind: round(n / trials, 1) for kind, n in of.items()} for s, of in calls.items()},
        "ratio": round(ratio, 3),
        "goal": f"at most {GOAL} times the loop by hand",
        "met": ratio <= GOAL,
        "hardware": machine,
        "versions": versions("optuna", "mlflow"),
    }
    hand_over(record, options.out)


if __name__ == "__main__":
    main()
