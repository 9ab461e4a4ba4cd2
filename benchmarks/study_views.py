"""How long one waits for `study status` and for `counterforge ui`: 10,000 trials and 2,000 runs.

The study's journal and the tracking database are filled first, by the same calls that a study makes. Then each view is
timed as a person meets it: a fresh process from the command to its last line, and for the UI from the command to the
answers that its pages ask for (the list of experiments, the first page of runs, a search by metric, the models).

    python benchmarks/study_views.py [--trials 10000] [--runs 2000]
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import optuna
import requests
from mlflow.entities import Metric, Param, RunTag
from optuna.trial import TrialState
from record import hand_over, hardware, versions

from tracking.store import open_store
from tuning.config import DEFAULT_SPACE, StudyConfig
from tuning.queue import SLOT, WORKER
from tuning.space import distributions
from tuning.storage import StudyStorage, quiet_optuna, storage_of

GOAL_STATUS, GOAL_UI = 10.0, 10.0


def fill_study(root: Path, name: str, count: int) -> float:
    """A journal of `count` finished trials; returns the megabytes that it takes."""
    random = optuna.samplers.RandomSampler(seed=0)
    storage: StudyStorage = storage_of(root, name)
    with quiet_optuna():
        study = optuna.create_study(study_name=name, storage=storage.open(), direction="maximize", sampler=random)
        config = StudyConfig(name="views", trials=count)
        study.set_user_attr("config", json.loads(config.model_dump_json()))
        space, start = distributions(DEFAULT_SPACE), datetime.datetime(2026, 1, 1)
        for number in range(count):
            drawn = {
                key: random.sample_independent(study, None, key, of)  # type: ignore[arg-type]
                for key, of in space.items()
            }
            trial = optuna.create_trial(
                state=TrialState.COMPLETE if number % 5 else TrialState.PRUNED,
                params=drawn,
                distributions=space,
                value=0.5 + 0.4 * drawn["augmentation"] * (number % 17) / 17,
                user_attrs={SLOT: number, WORKER: "w", "run_id": f"{number:032x}", "noise": 0.01},
            )
            trial.datetime_start = start + datetime.timedelta(minutes=number)
            trial.datetime_complete = trial.datetime_start + datetime.timedelta(seconds=40)
            study.add_trial(trial)
    return storage.path.stat().st_size / 1e6


def fill_runs(root: Path, count: int) -> None:
    """`count` runs below one parent, each with parameters, metrics and tags as a trial has them."""
    client = open_store(root).client
    experiment = open_store(root).experiment("views")
    parent = client.create_run(experiment, run_name="views")
    for number in range(count):
        made = client.create_run(
            experiment, run_name=f"trial-{number:03d}", tags={"mlflow.parentRunId": parent.info.run_id}
        )
        client.log_batch(
            made.info.run_id,
            metrics=[Metric("objective", 0.5 + number / 1e4, number, 0), Metric("val_auc/a", 0.7, number, 0)],
            params=[Param(key, str(number)) for key in DEFAULT_SPACE],
            tags=[RunTag("study", "views"), RunTag("trial", str(number))],
        )
        client.set_terminated(made.info.run_id, "FINISHED")


def command(*words: str) -> list[str]:
    """`counterforge` in a process of its own."""
    return [sys.executable, "-c", "from pipelines.cli import main; main()", *words]


def timed(folder: Path, *words: str) -> float:
    """Seconds from the command to its end, the second of two: the first one warms the disk."""
    seconds = 0.0
    for _ in range(2):
        began = time.perf_counter()
        subprocess.run(command(*words), cwd=folder, check=True, capture_output=True)
        seconds = time.perf_counter() - began
    return round(seconds, 2)


def timed_ui(folder: Path) -> dict[str, float]:
    """Seconds until the UI answers, and then of each request that its pages make."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    api = f"{address}/ajax-api/2.0/mlflow"
    began = time.perf_counter()
    process = subprocess.Popen(
        command("ui", "--port", str(port)), cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    found: dict[str, float] = {}
    try:
        while True:
            try:
                if requests.get(address, timeout=5).ok:
                    break
            except requests.RequestException:
                if process.poll() is not None or time.perf_counter() - began > 300:
                    raise
                time.sleep(0.05)
        found["start"] = round(time.perf_counter() - began, 2)

        def ask(name: str, path: str, body: dict[str, Any]) -> Any:
            start = time.perf_counter()
            answer = requests.post(f"{api}/{path}", json=body, timeout=120)
            answer.raise_for_status()
            found[name] = round(time.perf_counter() - start, 2)
            return answer.json()

        experiments = ask("experiments", "experiments/search", {"max_results": 100})["experiments"]
        number = next(each["experiment_id"] for each in experiments if each["name"] == "views")
        ask("first page of runs", "runs/search", {"experiment_ids": [number], "max_results": 100})
        ask(
            "best runs",
            "runs/search",
            {"experiment_ids": [number], "max_results": 100, "order_by": ["metrics.objective DESC"]},
        )
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=30)
    return found


def main() -> None:
    """Fill, then look."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--runs", type=int, default=2_000)
    parser.add_argument("--out", type=Path, help="write the record to this JSON file")
    options = parser.parse_args()
    machine = hardware("cpu", 1)
    os.environ.setdefault("PYTHONPATH", str(Path(__file__).parents[1]))
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        megabytes = fill_study(folder / "mlruns", "views-00000000", options.trials)
        fill_runs(folder / "mlruns", options.runs)
        status = {
            "one study": timed(folder, "study", "status", "views"),
            "all studies": timed(folder, "study", "status"),
            "as json": timed(folder, "study", "status", "views", "--json"),
        }
        ui = timed_ui(folder)
    slowest = max(*status.values(), ui["start"], sum(ui.values()) - ui["start"])
    record = {
        "benchmark": "study_views",
        "trials": options.trials,
        "runs": options.runs,
        "journal_megabytes": round(megabytes, 1),
        "status_seconds": status,
        "ui_seconds": ui,
        "ratio": round(slowest / GOAL_UI, 3),
        "goal": f"study status within {GOAL_STATUS:g} s, ui up within {GOAL_UI:g} s and its pages within as long again",
        "met": slowest <= GOAL_UI,
        "hardware": machine,
        "versions": versions("optuna", "mlflow"),
    }
    hand_over(record, options.out)


if __name__ == "__main__":
    main()
