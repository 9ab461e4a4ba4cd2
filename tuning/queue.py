"""Which trial a worker takes next: so that a study has exactly its total of trials, whichever workers die.

A study has slots 0 .. total - 1. Each is held by one trial at a time: it waits, runs, or has had its turn. A worker
takes a slot under the study's lock, so that two never take the same one; the trial of a worker that died frees its
slot and is queued again with its own values, so that it goes on from its last checkpoint. Optuna's own
MaxTrialsCallback lets each of the workers begin one more, and its RUNNING trials of killed workers stay so for ever.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import optuna
from filelock import FileLock, Timeout
from optuna.trial import FrozenTrial, Trial, TrialState

from core.names import file_name
from tuning.config import StudyConfig
from tuning.space import plan, sampler
from tuning.storage import StudyStorage, patiently, retry_lost, storage_number

Ended = Callable[[Sequence[FrozenTrial]], str | None]
"""Looks at all trials of a study; the sentence that says why no further one should start, or None."""
SLOT, WORKER, ERROR, WARM, ENDED = "place", "worker", "error", "warm_start", "ended"  # user attributes
LOST = "its worker was killed each time"


def slots(config: StudyConfig) -> int:
    """How many trials there are to be in all."""
    planned = plan(config.sampler, config.space, config.seed)
    return config.trials if planned is None else min(config.trials, len(planned))


def slot_of(trial: FrozenTrial | Trial) -> int:
    """The slot of a trial; its number where it was added by hand."""
    return int(trial.user_attrs.get(SLOT, trial.number))


class TrialQueue:
    """A worker's end of the queue of a study: takes trials, tells that it is alive, gives them back."""

    def __init__(self, study: optuna.Study, storage: StudyStorage, config: StudyConfig) -> None:
        self.study, self.storage, self.config = study, storage, config
        self.worker = uuid.uuid4().hex[:12]
        self.slots = slots(config)
        self._planned = plan(config.sampler, config.space, config.seed)
        self._next_look = 0.0
        self._workers = storage.path.with_suffix(".workers")
        storage.open()

    @contextmanager
    def alive(self) -> Iterator[None]:
        """For as long as this worker works: others can tell that it lives.

        On one machine by a lock that the kernel drops with the process; on many by the heartbeat of each trial.
        """
        if self.storage.is_database:
            yield
            return
        self._workers.mkdir(exist_ok=True)
        with FileLock(self._workers / self.worker):
            try:
                yield
            finally:
                (self._workers / self.worker).unlink(missing_ok=True)

    def _lives(self, worker: str) -> bool:
        path = self._workers / file_name(worker)  # it stands in the journal, which may come from anywhere
        try:
            if path.exists():
                with FileLock(path, blocking=False):
                    path.unlink(missing_ok=True)
        except Timeout:
            return True
        return False

    # --- taking and giving back

    def take(self, ended: Ended = lambda _: None) -> Trial | str | None:
        """The next trial, already running in the worker's name; None where others hold all that are left.

        Waits for a database that is away. `ended` looks at all trials first; its sentence ends the study here.
        """
        return patiently(lambda: self._take(ended))

    def _take(self, ended: Ended) -> Trial | str | None:
        # What is done under the lock decides how many workers a database can feed: one look, then few short writes.
        # In a database they are one transaction: a trial is taken whole or not at all.
        with self.storage.lock(self.study.study_name):
            trials = self._trials()
            if self._looks_due() and self.recover(trials):
                trials = self._trials()
            if mine := self._mine(trials):  # taken, but the database went away before it could say so
                return self._trial(storage_number(mine[0]), mine[0].user_attrs[SLOT])
            if (sentence := ended(trials)) is not None:
                return sentence
            if waiting := [t for t in trials if t.state == TrialState.WAITING and SLOT in t.user_attrs]:
                taken = min(waiting, key=slot_of)
                slot, trial_id = slot_of(taken), storage_number(taken)
                self.storage.set_attributes(taken, {WORKER: self.worker})
            else:
                free = self._free(trials)
                if free is None:
                    return None if any(t.state == TrialState.RUNNING for t in trials) else "every trial is taken"
                slot = free
                trial_id = self.storage.add_trial(self.study, {SLOT: slot, WORKER: self.worker}, self._values(slot))
            self.storage.start_trial(trial_id)
        return self._trial(trial_id, slot)

    def _looks_due(self) -> bool:
        """Whether to look for the trials of dead workers: each time in a journal, now and then in a database."""
        if self.storage.is_database and time.monotonic() < self._next_look:
            return False
        self._next_look = time.monotonic() + self.storage.beat_seconds
        return True

    def _trial(self, trial_id: int, slot: int) -> Trial:
        self.study.sampler = sampler(self.config.sampler, self.config.space, self.config.seed, slot)
        return Trial(self.study, trial_id)

    def give_back(self, trial: Trial, patience_seconds: float = 10) -> None:
        """A trial that was interrupted waits again, to be resumed where it was; it loses no retry.

        Giving it back twice does nothing: it may be another worker's by then.
        """

        def back() -> None:
            with self.storage.lock(self.study.study_name):
                if any(t.number == trial.number for t in self._mine(self._trials())):
                    self.storage.set_state(trial, TrialState.WAITING)

        patiently(back, patience_seconds)

    def finish(
        self, trial: Trial, state: TrialState, values: Sequence[float] = (), attributes: Mapping[str, Any] | None = None
    ) -> None:
        """Write down how a trial ended. Writing it down twice does nothing."""

        def tell() -> None:
            self.storage.set_attributes(trial, attributes or {})
            self.study.tell(trial.number, values or None, state=state, skip_if_finished=True)

        with suppress(optuna.exceptions.UpdateFinishedTrialError):
            patiently(tell)

    def recover(self, trials: Sequence[FrozenTrial]) -> bool:
        """Queue the trials of dead workers again; whether there were any. Call it under the study's lock."""
        running = [t for t in trials if t.state == TrialState.RUNNING]
        if running and self.storage.is_database:
            self.storage.fail_silent_trials(self.study)
        else:
            for lost in (t for t in running if not self._lives(str(t.user_attrs.get(WORKER)))):
                if self._deaths(trials, lost.user_attrs.get(SLOT)) >= self.config.retries:
                    self.storage.set_attributes(lost, {ERROR: LOST})
                self.storage.set_state(lost, TrialState.FAIL)
        trials = self._trials() if running else trials
        # Also those of a recovery that was itself killed half-way.
        held = {t.user_attrs.get(SLOT) for t in trials if _holds(t)}
        lost_last = {t.user_attrs[SLOT]: t for t in trials if not _holds(t) and SLOT in t.user_attrs}
        free = [slot for slot in lost_last if slot not in held and self._deaths(trials, slot) <= self.config.retries]
        for slot in free:
            retry_lost(self.study, lost_last[slot])
        return bool(free or running)

    @staticmethod
    def _deaths(trials: Sequence[FrozenTrial], slot: object) -> int:
        return sum(t.user_attrs.get(SLOT) == slot for t in trials if t.state == TrialState.FAIL)

    def _free(self, trials: Sequence[FrozenTrial]) -> int | None:
        held = {t.user_attrs.get(SLOT) for t in trials if _holds(t)}
        failed = {t.user_attrs.get(SLOT) for t in trials if t.state == TrialState.FAIL}
        failed -= {t.user_attrs.get(SLOT) for t in trials if t.state != TrialState.FAIL}
        # A slot whose trial failed is made up for by another one, unless the slots are a list.
        count = self.slots + (len(failed) if self._planned is None else 0)
        return next((slot for slot in range(count) if slot not in held | failed), None)

    def _values(self, slot: int) -> dict[str, Any]:
        if self._planned is not None:
            return dict(self._planned[slot])
        return dict(self.config.enqueue[slot]) if slot < len(self.config.enqueue) else {}

    def _mine(self, trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
        return [t for t in trials if t.state == TrialState.RUNNING and t.user_attrs.get(WORKER) == self.worker]

    def _trials(self) -> list[FrozenTrial]:
        return [t for t in self.study.get_trials(deepcopy=False) if WARM not in t.user_attrs]


def _holds(trial: FrozenTrial) -> bool:
    """Whether a trial keeps its slot from others."""
    return trial.state != TrialState.FAIL or ERROR in trial.user_attrs


def concluded(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Trials of this study that ended for good, by slot: finished, or failed by their own fault."""
    ended = [t for t in trials if t.state.is_finished() and _holds(t) and WARM not in t.user_attrs]
    return sorted(ended, key=slot_of)


def finished(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Trials of this study that count towards its total."""
    return [t for t in concluded(trials) if t.state in (TrialState.COMPLETE, TrialState.PRUNED)]
