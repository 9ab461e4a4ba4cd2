"""Which trial a worker takes next: so that a study has exactly its total of trials, whoever dies on the way.

A study has places 0 .. total - 1. Each is taken by one trial at a time: it waits, runs, or has had its turn. A worker
takes a place under the study's lock, so that two never take the same one; the trial of a worker that died gives its
place back and is queued again with its own values, so that it goes on from its last checkpoint. Optuna's own
MaxTrialsCallback lets each of the workers begin one more, and its RUNNING trials of killed workers stay so for ever.
"""

from __future__ import annotations

import fcntl
import threading
import time
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import IO, Any

import optuna
from optuna.storages import fail_stale_trials
from optuna.trial import FrozenTrial, Trial, TrialState

from tuning.samplers import SamplerName, plan, sampler
from tuning.space import Space, Value
from tuning.storage import BEAT_SECONDS, StudyStorage, patiently, retry_lost

Ended = Callable[[Sequence[FrozenTrial]], str | None]
"""Looks at all trials of a study; the sentence that says why no further one should start, or None."""
PLACE, WORKER, ERROR, WARM, ENDED = "place", "worker", "error", "warm_start", "ended"
LOST = "its worker was killed each time"


@dataclass(frozen=True)
class Terms:
    """What decides the places of a study and what is tried in them."""

    total: int
    sampler: SamplerName
    seed: int
    space: Space
    enqueue: tuple[dict[str, Value], ...] = ()
    retries: int = 5

    def planned(self) -> list[dict[str, Value]] | None:
        """The values of every place, of a sampler that lists them."""
        return plan(self.sampler, self.space, self.seed)

    @property
    def places(self) -> int:
        """How many trials there are to be in all."""
        planned = self.planned()
        return self.total if planned is None else min(self.total, len(planned))


class Claims:
    """A worker's hold on its study: takes places, keeps its trial alive, gives it back."""

    def __init__(self, study: optuna.Study, shelf: StudyStorage, terms: Terms, *, worker: str | None = None) -> None:
        self.study, self.shelf, self.terms = study, shelf, terms
        self.storage = shelf.storage()
        self.worker = worker or uuid.uuid4().hex[:12]
        self._planned = terms.planned()
        self._study_id = patiently(lambda: self.storage.get_study_id_from_name(study.study_name))
        self._next_look = 0.0
        self._alive: IO[bytes] | None = None

    # --- who lives

    @contextmanager
    def living(self) -> Iterator[None]:
        """For as long as this worker works: others can tell that it lives.

        On one machine by a lock that the kernel drops with the process; on many by the heartbeat of `beating`.
        """
        if self.shelf.is_database:
            yield
            return
        folder = self.shelf.path.with_suffix(".workers")
        folder.mkdir(exist_ok=True)
        path = folder / self.worker
        with path.open("ab") as self._alive:
            fcntl.flock(self._alive, fcntl.LOCK_EX)
            try:
                yield
            finally:
                path.unlink(missing_ok=True)

    @contextmanager
    def beating(self, trial: Trial) -> Iterator[None]:
        """For as long as a trial runs: say so to the database now and then."""
        storage = self.storage
        if not self.shelf.is_database:
            yield
            return
        over = threading.Event()
        interval = storage.get_heartbeat_interval() or BEAT_SECONDS

        def beat() -> None:
            while not over.wait(interval):
                with suppress(Exception):  # the database may be away; it is asked again soon
                    storage.record_heartbeat(trial._trial_id)

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join(timeout=1)

    def _lives(self, worker: str) -> bool:
        path = self.shelf.path.with_suffix(".workers") / worker
        try:
            with path.open("r+b") as other:
                fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except FileNotFoundError:
            return False
        except BlockingIOError:
            return True
        path.unlink(missing_ok=True)
        return False

    # --- taking and giving back

    def take(self, ended: Ended = lambda _: None) -> Trial | str | None:
        """The next trial, already running in the worker's name; None where others hold all that are left.

        Waits for a database that is away.

        Args:
            ended: looks at all trials first; a sentence of its ends the study here, and is returned.
        """
        return patiently(lambda: self._take(ended))

    def _take(self, ended: Ended) -> Trial | str | None:
        # What is done under the lock decides how many workers a database can feed: one look, then few short writes.
        # In a database they are one transaction: a trial is taken whole or not at all.
        with self.shelf.lock(self.study.study_name):
            trials = self._trials()
            if self._looks_due() and self.recover(trials):
                trials = self._trials()
            mine = [t for t in trials if t.state == TrialState.RUNNING and t.user_attrs.get(WORKER) == self.worker]
            if mine:  # taken, but the database went away before it could say so
                return self._trial(mine[0]._trial_id, mine[0].user_attrs[PLACE])
            if (sentence := ended(trials)) is not None:
                return sentence
            waiting = [t for t in trials if t.state == TrialState.WAITING and PLACE in t.user_attrs]
            if waiting:
                taken = min(waiting, key=lambda t: t.user_attrs[PLACE])
                trial_id, place = taken._trial_id, int(taken.user_attrs[PLACE])
                self.storage.set_trial_user_attr(trial_id, WORKER, self.worker)
            else:
                free = self._free(trials)
                if free is None:
                    return None if any(t.state == TrialState.RUNNING for t in trials) else "every trial is taken"
                place = free
                trial_id = self.storage.create_new_trial(
                    self._study_id,
                    optuna.create_trial(
                        state=TrialState.WAITING,
                        user_attrs={PLACE: place, WORKER: self.worker},
                        system_attrs={"fixed_params": self._values(place)},
                    ),
                )
            if self.shelf.is_database:
                self.storage.record_heartbeat(trial_id)  # before it runs: a silent trial is never found to be stale
            self.storage.set_trial_state_values(trial_id, TrialState.RUNNING)
        return self._trial(trial_id, place)

    def _looks_due(self) -> bool:
        """Whether to look for the trials of dead workers: each time in a journal, now and then in a database."""
        now = time.monotonic()
        if self.shelf.is_database:
            if now < self._next_look:
                return False
            self._next_look = now + (self.storage.get_heartbeat_interval() or BEAT_SECONDS)
        return True

    def _trial(self, trial_id: int, place: int) -> Trial:
        self.study.sampler = sampler(self.terms.sampler, self.terms.space, self.terms.seed, place)
        return Trial(self.study, trial_id)

    def give_back(self, trial: Trial, patience_seconds: float = 10) -> None:
        """A trial that was interrupted waits again, to be taken up where it was; nothing is held against it.

        Giving it back twice does nothing: it may be another worker's by then.
        """

        def back() -> None:
            with self.shelf.lock(self.study.study_name):
                known = self.storage.get_trial(trial._trial_id)
                if known.state == TrialState.RUNNING and known.user_attrs.get(WORKER) == self.worker:
                    self.storage.set_trial_state_values(trial._trial_id, TrialState.WAITING)

        patiently(back, patience_seconds)

    def finish(
        self,
        trial: Trial,
        state: TrialState,
        values: Sequence[float] | None = None,
        attributes: Mapping[str, Any] | None = None,
    ) -> None:
        """Write down how a trial ended. Writing it down twice does nothing."""

        def tell() -> None:
            for name, value in (attributes or {}).items():
                self.storage.set_trial_user_attr(trial._trial_id, name, value)
            self.study.tell(trial.number, values, state=state, skip_if_finished=True)

        with suppress(optuna.exceptions.UpdateFinishedTrialError):
            patiently(tell)

    def recover(self, trials: Sequence[FrozenTrial] | None = None) -> bool:
        """Queue the trials of dead workers again; whether there were any. Call it under the study's lock."""
        trials = self._trials() if trials is None else trials
        running = [t for t in trials if t.state == TrialState.RUNNING]
        if self.shelf.is_database:
            if running and self.shelf.hears_all():
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                    fail_stale_trials(self.study)
                trials = self._trials()
        else:
            for lost in (t for t in running if not self._lives(str(t.user_attrs.get(WORKER)))):
                if self._deaths(trials, lost.user_attrs.get(PLACE)) >= self.terms.retries:
                    self.storage.set_trial_user_attr(lost._trial_id, ERROR, LOST)
                self.storage.set_trial_state_values(lost._trial_id, TrialState.FAIL)
            if running:
                trials = self._trials()
        # Also those of a recovery that was itself killed half-way.
        held = {t.user_attrs.get(PLACE) for t in trials if _holds(t)}
        lost_last = {t.user_attrs[PLACE]: t for t in trials if not _holds(t) and PLACE in t.user_attrs}
        again = [
            trial
            for place, trial in lost_last.items()
            if place not in held and self._deaths(trials, place) <= self.terms.retries
        ]
        for trial in again:
            retry_lost(self.study, trial)
        return bool(again) or bool(running)

    @staticmethod
    def _deaths(trials: Sequence[FrozenTrial], place: object) -> int:
        return sum(t.user_attrs.get(PLACE) == place for t in trials if t.state == TrialState.FAIL)

    def _free(self, trials: Sequence[FrozenTrial]) -> int | None:
        held = {t.user_attrs.get(PLACE) for t in trials if _holds(t)}
        failed = {t.user_attrs.get(PLACE) for t in trials if t.state == TrialState.FAIL}
        failed -= {t.user_attrs.get(PLACE) for t in trials if t.state != TrialState.FAIL}
        # A place whose trial failed is made up for by another one, unless the places are a list.
        places = self.terms.places + (len(failed) if self._planned is None else 0)
        return next((place for place in range(places) if place not in held | failed), None)

    def _values(self, place: int) -> dict[str, Any]:
        if self._planned is not None:
            return dict(self._planned[place])
        return dict(self.terms.enqueue[place]) if place < len(self.terms.enqueue) else {}

    def _trials(self) -> list[FrozenTrial]:
        return [t for t in self.study.get_trials(deepcopy=False) if WARM not in t.user_attrs]


def _holds(trial: FrozenTrial) -> bool:
    """Whether a trial keeps its place from others."""
    return trial.state != TrialState.FAIL or ERROR in trial.user_attrs


def had_turn(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Trials of this study that ended for good, by place: finished, or failed by their own fault."""
    ended = [t for t in trials if t.state.is_finished() and _holds(t) and WARM not in t.user_attrs]
    return sorted(ended, key=lambda t: int(t.user_attrs.get(PLACE, t.number)))


def finished(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Trials of this study that count towards its total."""
    return [t for t in had_turn(trials) if t.state in (TrialState.COMPLETE, TrialState.PRUNED)]
