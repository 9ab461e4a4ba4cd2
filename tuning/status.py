"""The status of a study, without loading what runs it: counts, the best trials, the time left."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from statistics import mean
from typing import Any

import optuna
import pandas as pd
from optuna.trial import FrozenTrial, TrialState
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from core.errors import one_line
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
    count = Counter(t.state for t in trials)
    order, ended = ranked(trials, config), concluded(trials)
    running = [t for t in trials if t.state == TrialState.RUNNING]
    rest = [t for t in ended if t.state != TrialState.COMPLETE]
    failed = sum(t.state == TrialState.FAIL for t in ended)
    durations = [t.duration.total_seconds() for t in ended if t.duration is not None][-20:]
    left = config.trials - len(finished(trials))
    return StudyStatus(
        study=study.study_name,
        total=config.trials,
        complete=count[TrialState.COMPLETE],
        pruned=count[TrialState.PRUNED],
        failed=failed,
        running=len(running),
        waiting=count[TrialState.WAITING],
        lost=count[TrialState.FAIL] - failed,
        objective=config.objectives[0],
        best_value=next((t.values[0] for t in order if feasible(t)), None),
        seconds_left=mean(durations) * left / max(1, len(running)) if durations and left > 0 else None,
        ended=study.user_attrs.get(ENDED),
        trials=[_row(t, config) for t in (*running, *order, *rest)],
    )


def _row(trial: FrozenTrial, config: StudyConfig) -> dict[str, Any]:
    complete = trial.state == TrialState.COMPLETE
    taken = trial.duration or (datetime.now() - trial.datetime_start if trial.datetime_start else None)
    return {
        "trial": slot_of(trial),
        "state": "breaks a constraint" if complete and not feasible(trial) else trial.state.name.lower(),
        **dict(zip(config.objectives, trial.values if complete else [None] * len(config.objectives), strict=True)),
        "seconds": round(taken.total_seconds(), 1) if taken is not None else None,
        **trial.params,
        "error": trial.user_attrs.get(ERROR),
    }


def overview(root: Path, storage: str | None = None) -> pd.DataFrame:
    """One row a study of a tracking folder or database."""
    columns = ["study", "complete", "pruned", "failed", "running", "of", "objective", "best", "left"]
    rows = []
    for now in (study_status(load(root, name, storage)) for name in names(root, storage)):
        counts = (now.complete, now.pruned, now.failed, now.running, now.total)
        rows.append((now.study, *counts, now.objective, now.best_value, duration(now.seconds_left)))
    return pd.DataFrame(rows, columns=columns)


def show(
    read: Callable[[], StudyStatus], *, live: bool = False, trials: int = 15, console: Console | None = None
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
    columns += ["error"] if any(row["error"] for row in rows) else []
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        cells = [row.get(column) for column in columns]
        texts = ("" if c is None else f"{c:.4g}" if isinstance(c, float) else one_line(str(c), 300) for c in cells)
        table.add_row(*map(Text, texts))  # what a trial says is no markup
    return Group(counts, table)


def duration(seconds: float | None) -> str:
    """Hours and minutes, or seconds, for people."""
    if seconds is None:
        return ""
    hours, minutes = divmod(int(seconds // 60), 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min" if minutes else f"{seconds:.0f} s"
