"""The status of a study, without loading what runs it: counts, the best trials, the time left."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
from optuna.trial import FrozenTrial, TrialState
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from tuning.config import StudyConfig
from tuning.queue import ENDED, ERROR, concluded, finished, slot_of
from tuning.results import feasible, ranked
from tuning.storage import load, names

REFRESH_SECONDS = 2.0


@dataclass(frozen=True)
class StudyStatus:
    """The status of a study now; `seconds_left` is None where no trial was finished yet or nothing is left."""

    study: str
    total: int
    complete: int
    pruned: int
    failed: int
    running: int
    waiting: int
    lost: int
    objective: str
    best_value: float | None
    seconds_left: float | None
    ended: str | None
    trials: list[dict[str, Any]] = field(default_factory=list)


def study_status(study: optuna.Study) -> StudyStatus:
    """Read the status of a study; all trials are in `trials`, running ones first, then the best."""
    config = StudyConfig.model_validate(study.user_attrs["config"]) if "config" in study.user_attrs else StudyConfig()
    trials = study.get_trials(deepcopy=False)
    ended = concluded(trials)
    by_state = {state: [t for t in trials if t.state == state] for state in TrialState}
    failed = [t for t in ended if t.state == TrialState.FAIL]
    order = ranked(trials, config)
    rest = [t for t in ended if t.state != TrialState.COMPLETE]
    done = len(finished(trials))
    running = by_state[TrialState.RUNNING]
    best = next((t for t in order if feasible(t)), None)
    return StudyStatus(
        study=study.study_name,
        total=config.trials,
        complete=len(by_state[TrialState.COMPLETE]),
        pruned=len(by_state[TrialState.PRUNED]),
        failed=len(failed),
        running=len(running),
        waiting=len(by_state[TrialState.WAITING]),
        lost=len(by_state[TrialState.FAIL]) - len(failed),
        objective=config.objectives[0],
        best_value=best.values[0] if best is not None else None,
        seconds_left=_seconds_left(ended, config.trials - done, max(1, len(running))),
        ended=study.user_attrs.get(ENDED),
        trials=[_row(t, config) for t in (*running, *order, *rest)],
    )


def _seconds_left(ended: list[FrozenTrial], left: int, workers: int) -> float | None:
    durations = [t.duration.total_seconds() for t in ended if t.duration is not None]
    if not durations or left <= 0:
        return None
    return statistics.mean(durations[-20:]) * left / workers


def _row(trial: FrozenTrial, config: StudyConfig) -> dict[str, Any]:
    values = trial.values if trial.state == TrialState.COMPLETE else None
    state = trial.state.name.lower()
    if values and not feasible(trial):
        state = "breaks a constraint"
    taken = trial.duration or (datetime.now() - trial.datetime_start if trial.datetime_start else None)
    return {
        "trial": slot_of(trial),
        "state": state,
        **dict(zip(config.objectives, values or [None] * len(config.objectives), strict=True)),
        "seconds": round(taken.total_seconds(), 1) if taken is not None else None,
        **trial.params,
        "error": trial.user_attrs.get(ERROR),
    }


def overview(root: Path, storage: str | None = None) -> pd.DataFrame:
    """One row a study of a tracking folder or database."""
    columns = ["study", "complete", "pruned", "failed", "running", "of", "objective", "best", "left"]
    rows = []
    for name in names(root, storage):
        now = study_status(load(root, name, storage))
        counts = (now.complete, now.pruned, now.failed, now.running, now.total)
        rows.append((name, *counts, now.objective, now.best_value, duration(now.seconds_left)))
    return pd.DataFrame(rows, columns=columns)


def show(
    read: Callable[[], StudyStatus],
    *,
    live: bool = False,
    trials: int = 15,
    console: Console | None = None,
) -> None:
    """Print the status of a study, once or, `live`, until it ends or Ctrl-C, which stops the display alone."""
    console = console or Console()
    if not console.is_terminal:  # a file or a pipe has no width that a table must keep to
        console.width = max(console.width, 160)
    now = read()
    if not live:
        console.print(_view(now, trials))
        return
    with suppress(KeyboardInterrupt), Live(_view(now, trials), console=console, auto_refresh=False) as screen:
        while now.complete + now.pruned < now.total and now.ended is None:
            time.sleep(REFRESH_SECONDS)
            now = read()
            screen.update(_view(now, trials), refresh=True)


def _view(now: StudyStatus, limit: int) -> Group:
    counts = Text.assemble(
        (now.study, "bold"),
        f"  {now.complete + now.pruned} of {now.total} done",
        (f"  {now.running} running", "cyan"),
        f"  {now.pruned} pruned",
        (f"  {now.failed} failed", "red" if now.failed else ""),
        f"  {now.lost} resumed" if now.lost else "",
        f"  best {now.objective} {now.best_value:.4f}" if now.best_value is not None else "",
        f"  {duration(now.seconds_left)} left" if now.seconds_left else "",
        f"\n{now.ended}" if now.ended else "",
    )
    table = Table(header_style="bold")
    rows = now.trials[:limit]
    columns = [name for name in dict.fromkeys(key for row in rows for key in row) if name != "error"]
    if any(row["error"] for row in rows):
        columns.append("error")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(_cell(row.get(column)) for column in columns))
    return Group(counts, table)


def _cell(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def duration(seconds: float | None) -> str:
    """Hours and minutes, or seconds, for people."""
    if seconds is None:
        return ""
    minutes = int(seconds // 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    return f"{minutes} min" if minutes else f"{seconds:.0f} s"
