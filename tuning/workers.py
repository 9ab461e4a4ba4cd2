"""Workers: one takes trial after trial of a study until it ends; several of them share a machine.

Each worker of a machine is a process of its own, with its share of the cores or a GPU to itself.
"""

from __future__ import annotations

import logging
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, Trial, TrialState
from tqdm import tqdm

from core.errors import UserError
from tracking.store import TrackingError
from tuning.config import StudyConfig
from tuning.queue import ERROR, PLACE, Claims, finished
from tuning.ranking import check_failures, stop_reason
from tuning.space import Value, suggest
from tuning.storage import AWAY, PATIENCE_SECONDS, StorageAwayError, patiently, quiet_optuna

_log = logging.getLogger(__name__)
# How often a worker that finds every place taken looks whether one became free.
IDLE_SECONDS = 1.0
SAID_AFTER_SECONDS = 10.0  # of idling; workers that end together idle for less
SAVING_SECONDS = 60.0  # that an interrupted worker gets to save what it does
# Workers that are killed are started again, but not for ever.
MAX_RESTARTS = 20


@dataclass(frozen=True)
class Outcome:
    """What a trial reached: a value for each objective, constraints (feasible <= 0), and what to remember."""

    values: Sequence[float]
    constraints: Mapping[str, float] = field(default_factory=dict)
    attributes: Mapping[str, Any] = field(default_factory=dict)


Evaluate = Callable[[Trial, dict[str, Value], int], Outcome]
"""Runs one trial: Optuna's trial, the drawn values, its place. It may raise optuna.TrialPruned."""


def work(
    claims: Claims,
    config: StudyConfig,
    evaluate: Evaluate,
    *,
    after: Callable[[Sequence[FrozenTrial]], None] | None = None,
    wait: bool = True,
) -> str:
    """Take trials until the study ends, and return the sentence that says why it did.

    Args:
        after: called with all trials after each one that ended.
        wait: stay while others still run, in case one of them dies and its trial must be taken up.

    Raises:
        UserError: the last trials all failed, or the database stayed away.
        TrackingError, OSError: runs cannot be recorded; the trial is given back.
    """
    study, places = claims.study, claims.terms.places

    def ended(trials: Sequence[FrozenTrial]) -> str | None:
        check_failures(trials, study.study_name)
        return stop_reason(trials, config, places)

    idle_since: float | None = None
    with quiet_optuna(), claims.living():
        while True:
            taken = claims.take(ended)
            if isinstance(taken, str):
                return taken
            if taken is not None:
                idle_since = None
                _run(claims, taken, evaluate)
                if after is not None:
                    patiently(lambda: after(study.get_trials(deepcopy=False)))
            elif wait:
                now = time.monotonic()
                if idle_since is None:
                    idle_since = now
                elif now - idle_since > SAID_AFTER_SECONDS:
                    _log.warning("the last trials are with other workers: waiting, in case that one of them dies")
                    idle_since = math.inf  # said once
                time.sleep(IDLE_SECONDS)
            else:
                return "others run the last trials"


def _run(claims: Claims, trial: Trial, evaluate: Evaluate) -> None:
    place = int(trial.user_attrs[PLACE])
    try:
        with claims.beating(trial):
            # Not patiently: a value that the database has and could not confirm would be drawn a second time.
            values = suggest(trial, claims.terms.space)
            outcome = evaluate(trial, values, place)
            known = (
                patiently(lambda: trial.storage.get_trial_system_attrs(trial._trial_id)) if outcome.constraints else {}
            )
            for name, value in outcome.constraints.items():
                if f"constraints:{name}" not in known:
                    patiently(lambda name=name, value=value: trial.set_constraint(name, value))  # type: ignore[misc]
    except optuna.TrialPruned:
        claims.finish(trial, TrialState.PRUNED)
    except AWAY:
        # The database went away while the trial ran: no fault of the trial's, which is taken up again when it is back.
        claims.give_back(trial, PATIENCE_SECONDS)
    except StorageAwayError:
        raise
    except (TrackingError, OSError, KeyboardInterrupt, SystemExit):
        with suppress(Exception):  # the disk may be full: then the trial is found by the lock that we no longer hold
            claims.give_back(trial)
        raise
    except Exception as error:
        if not isinstance(error, UserError):
            _log.exception("trial %d failed", place)
        sentence = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        claims.finish(trial, TrialState.FAIL, attributes={ERROR: sentence[:1000]})
    else:
        claims.finish(trial, TrialState.COMPLETE, list(outcome.values), outcome.attributes)


# --- several on one machine


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
    commands: Sequence[Sequence[str]],
    study: optuna.Study,
    total: int,
    logs: Path,
    *,
    max_restarts: int = MAX_RESTARTS,
) -> None:
    """Run one process a command until all have ended by themselves; one that is killed is started again.

    Raises:
        UserError: a worker refused to go on, with its sentence, or workers keep being killed.
        KeyboardInterrupt: passed on to the workers, which save what they do.
    """
    logs.mkdir(parents=True, exist_ok=True)
    settings = environments(len(commands))

    def start(i: int) -> subprocess.Popen[bytes]:
        with (logs / f"worker-{i + 1}.log").open("ab") as log:
            return subprocess.Popen(
                [*commands[i], "--parent", str(os.getpid())],
                env=settings[i],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C reaches us alone, and we tell each of them once
            )

    processes = [start(i) for i in range(len(commands))]
    restarts = 0
    try:
        done = len(finished(patiently(lambda: study.get_trials(deepcopy=False))))
        often = 0.5 if sys.stderr.isatty() else 15
        with tqdm(
            total=total, initial=done, desc=study.study_name, unit="trial", file=sys.stderr, mininterval=often
        ) as bar:
            while any(process.poll() is None for process in processes):
                time.sleep(0.5)
                done = len(finished(patiently(lambda: study.get_trials(deepcopy=False))))
                bar.update(done - bar.n)
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
