"""Runs: one piece of work, recorded once, with a status that is always right.

A run is found again by its key, so that a job that was killed and started again continues its run and makes no second
one. What a resumed job logs twice is left out.
"""

from __future__ import annotations

import getpass
import json
import logging
import math
import posixpath
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag
from mlflow.exceptions import MlflowException, RestException

from core.secrets import redact, redacted
from tracking.mlflow_internals import last_points
from tracking.store import Store, TrackingError, every_page, explained, quick_requests

KEY_TAG, ATTEMPTS_TAG = "counterforge.key", "counterforge.attempts"
ERROR_TAG, KILLED_TAG, OPENED_TEST = "error", "killed_because", "test_opened"
_PARAMS_PER_CALL, _METRICS_PER_CALL = 100, 1000  # limits of one request
PAUSE_SECONDS = 5.0  # after a failure the server is left in peace: each try may cost seconds where it hangs
# Limits of MLflow's database columns.
MAX_NAME, MAX_PARAM, MAX_TAG, MAX_DATASET_NAME, MAX_DIGEST = 250, 6000, 5000, 500, 36
# What one command logs on a model, as `<name>/<dataset>`, and the gate of promotion reads.
ROBUST_WORST_AUC, PROBE_AUC = "robust_worst_auc", "probe_auc"

_log = logging.getLogger(__name__)


@lru_cache(maxsize=1)
def git_commit() -> str | None:
    """The commit of the code that runs, or else of the working directory; None where there is no git repository."""
    for folder in (Path(__file__).parent, Path.cwd()):
        with suppress(OSError, subprocess.SubprocessError):
            answer = subprocess.run(
                ["git", "-C", str(folder), "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=True
            )
            return answer.stdout.strip() or None
    return None


@dataclass
class Outbox:
    """The metrics of one run, sent in the order they came. They carry the time at which they were put in."""

    store: Store
    run_id: str
    waiting: list[Metric] = field(default_factory=list)
    _silent_until: float = 0.0

    def put(self, metrics: Sequence[Metric]) -> None:
        """Send them now or, from a server that is away, later: with the next ones, or by `flush`."""
        self.waiting += metrics
        if not self.store.is_server:
            self.flush()
        elif time.monotonic() >= self._silent_until:
            try:
                with quick_requests():
                    self.flush()
            except MlflowException as error:
                if isinstance(error, RestException):  # it answered, and it refused
                    raise
                if not self._silent_until:
                    _log.warning("%s does not answer; metrics are kept until it does", self.store.tracking_uri)
                self._silent_until = time.monotonic() + PAUSE_SECONDS

    def flush(self) -> None:
        """Send everything, with MLflow's own patience (about two minutes); what fails stays here.

        Sending the same twice does no harm: MLflow keeps one of equal points.
        """
        while self.waiting:
            batch = self.waiting[:_METRICS_PER_CALL]
            self.store.client.log_batch(self.run_id, metrics=batch)
            del self.waiting[: len(batch)]
        self._silent_until = 0.0


@dataclass
class Run:
    """A run to log into. Made by `run` (which also ends it) or by `attach` (which does not).

    Every method raises `TrackingError` where the store refuses or cannot be reached.
    """

    store: Store
    id: str
    experiment_id: str
    name: str
    reopened: bool = False
    _logged: dict[str, tuple[int, float]] = field(default_factory=dict, repr=False)
    _killed: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        self._outbox = Outbox(self.store, self.id)

    def metrics(
        self,
        values: Mapping[str, float],
        step: int = 0,
        *,
        model_id: str | None = None,
        dataset: tuple[str, str] | None = None,
    ) -> None:
        """Log all `values` at `step` in one call; on a model and a dataset `(name, digest)` too, if given.

        In a re-opened run, what was logged before it was killed is left out: steps before the last one of a metric,
        and the last one if its value is the same. NaN is kept; MLflow stores infinities as the largest floats.
        """
        of: dict[str, Any] = {"model_id": model_id}
        if dataset is not None:
            of["dataset_name"], of["dataset_digest"] = dataset
        clean: dict[str, float] = {}
        for raw, value in values.items():
            key = metric_name(raw)
            if key in clean:
                raise TrackingError(f"two metrics are called {key!r} once MLflow's alphabet is applied: rename {raw!r}")
            try:
                clean[key] = float(value)
            except (TypeError, ValueError) as error:
                raise TrackingError(f"metric {raw!r} is {value!r}, which is not a number (run {self.name})") from error
        wanted = {k: v for k, v in clean.items() if model_id is not None or not self._is_old(k, v, step)}
        now = int(time.time() * 1000)
        fresh = [Metric(key, value, now, step, **of) for key, value in wanted.items()]
        with explained(f"log metrics of run {self.name}", self.store.tracking_uri):
            self._outbox.put(fresh)

    def _is_old(self, key: str, value: float, step: int) -> bool:
        if key not in self._logged:
            return False
        last_step, last_value = self._logged[key]
        same = value == last_value or (math.isnan(value) and math.isnan(last_value))
        return step < last_step or (step == last_step and same)

    def params(self, values: Mapping[str, Any]) -> None:
        """Log parameters; nested mappings become dotted names, long values are cut.

        MLflow never overwrites a parameter. Logging the same value again does nothing; another value is recorded as
        the tag `changed.<name>` beside the old one.
        """
        wanted = cleaned(flattened(values), MAX_PARAM)
        with explained(f"log parameters of run {self.name}", self.store.tracking_uri):
            known = self.store.client.get_run(self.id).data.params
            new = [Param(name, value) for name, value in wanted.items() if name not in known]
            for start in range(0, len(new), _PARAMS_PER_CALL):
                self.store.client.log_batch(self.id, params=new[start : start + _PARAMS_PER_CALL])
        changed = {name: value for name, value in wanted.items() if name in known and known[name] != value}
        if changed:
            _log.warning("run %s continues with other parameters: %s", self.name, ", ".join(sorted(changed)))
            self.tags({f"changed.{name}": value for name, value in changed.items()})

    def tags(self, values: Mapping[str, Any]) -> None:
        """Set tags, replacing old values; values over 5,000 characters are cut."""
        tags = [RunTag(name, value) for name, value in cleaned(values, MAX_TAG).items()]
        with explained(f"tag run {self.name}", self.store.tracking_uri):
            for start in range(0, len(tags), _PARAMS_PER_CALL):
                self.store.client.log_batch(self.id, tags=tags[start : start + _PARAMS_PER_CALL])

    def figure(self, figure: Any, name: str) -> None:
        """Log a Matplotlib figure as `figures/<name>`; a name without a suffix gets `.png`."""
        file = name if Path(name).suffix else f"{name}.png"
        with explained(f"log the figure {name} of run {self.name}", self.store.tracking_uri):
            self.store.client.log_figure(self.id, figure, f"figures/{file}")

    def text(self, name: str, content: str) -> None:
        """Log `content` as the artifact `name`, such as `report.html`."""
        with explained(f"log {name} of run {self.name}", self.store.tracking_uri):
            self.store.client.log_text(self.id, redact(content), name)

    def artifact(self, path: Path | str, folder: str | None = None) -> None:
        """Log a file or a whole folder, below `folder` in the run's artifacts if given."""
        if not Path(path).exists():
            raise TrackingError(f"{path} does not exist and cannot be logged to run {self.name}")
        with explained(f"log {path} to run {self.name}", self.store.tracking_uri):
            self.store.client.log_artifact(self.id, str(path), folder)

    def dataset(self, name: str, digest: str, source: Path | str, counts: Mapping[str, int], context: str) -> None:
        """Record which data went in: no picture is copied, only where they are, how many, and their content hash.

        `context` says for what ("train", "val", "test"); `counts` shows in the UI as the dataset's profile.
        """
        if len(digest) > MAX_DIGEST:
            raise TrackingError(f"the digest of {name!r} has {len(digest)} characters, at most {MAX_DIGEST} are kept")
        entity = Dataset(
            name=shortened(name, MAX_DATASET_NAME),
            digest=digest,
            source_type="local",  # MLflow's own reader of this source takes a path or a file: URI
            source=json.dumps({"uri": str(source)}),
            profile=json.dumps({key: int(count) for key, count in counts.items()}),
        )
        tags = [InputTag("mlflow.data.context", context)]
        with explained(f"record the dataset {name} of run {self.name}", self.store.tracking_uri):
            for last in (False, False, True):
                try:
                    self.store.client.log_inputs(self.id, datasets=[DatasetInput(entity, tags)])
                    return
                except MlflowException as error:
                    # Two runs bring a new dataset at once: both look, both find nothing, one insert is refused.
                    if last or not any(sign in str(error) for sign in ("UNIQUE constraint", "duplicate key")):
                        raise

    def opened_test(self, opening: str, datasets: Sequence[str], note: str) -> None:
        """Record on this run that sealed test rows of `datasets` were opened, and what; `test_openings` counts.

        `opening` is a digest of the models and the rows; openings of one digest are one, in whatever runs they stand.
        """
        self.tags({f"{OPENED_TEST}/{opening}/{dataset}": note for dataset in datasets})

    def killed(self, reason: str) -> None:
        """Mark the run as stopped on purpose (a pruned trial): it will end as KILLED, whatever leaves the block."""
        self._killed = reason

    def _end(self, error: BaseException | None) -> None:
        status, tags = "FINISHED", {}
        if isinstance(error, KeyboardInterrupt | GeneratorExit) and self._killed is None:
            self._killed = "interrupted"
        if self._killed is not None:
            status, tags = "KILLED", {KILLED_TAG: self._killed}
        elif error is not None and not (isinstance(error, SystemExit) and error.code in (None, 0)):
            status, tags = "FAILED", {ERROR_TAG: f"{type(error).__name__}: {error}"}
        with explained(f"log the last metrics of run {self.name}", self.store.tracking_uri):
            self._outbox.flush()
        self.tags(tags)
        with explained(f"end run {self.name}", self.store.tracking_uri):
            self.store.client.set_terminated(self.id, status)


@contextmanager
def run(
    store: Store,
    experiment: str,
    name: str,
    *,
    key: str,
    parent: str | None = None,
    tags: Mapping[str, Any] | None = None,
    params: Mapping[str, Any] | None = None,
    description: str = "",
) -> Iterator[Run]:
    """A run for the work that `key` identifies within `experiment`: re-opened if it exists, or else made.

    It ends as FINISHED; as KILLED after Ctrl-C or `Run.killed`; as FAILED, with the tag `error`, after any other
    exception, which passes through. A process that is killed outright leaves RUNNING behind until it runs again.

    Args:
        parent: the id of the parent run, which may belong to another process.
    """
    own = {KEY_TAG: key, "mlflow.source.name": Path(sys.argv[0]).name or "python", "mlflow.source.type": "LOCAL"}
    more = {"source.git.commit": git_commit(), "parentRunId": parent, "note.content": description, "user": user()}
    own |= {f"mlflow.{name}": value for name, value in more.items() if value}
    found = find_run(store, experiment, key)
    handle = _reopened(store, found, name) if found else _made(store, experiment, name, own)
    handle.tags((own if found else {}) | dict(tags or {}))
    try:
        if params:
            handle.params(params)
        yield handle
    except BaseException as error:
        try:
            handle._end(error)
        except TrackingError as second:  # what went wrong first matters more
            _log.warning("%s", second)
        raise
    handle._end(None)


def attach(store: Store, run_id: str) -> Run:
    """The run with this id, to log into from elsewhere; its status stays as it is."""
    info = _info(store, run_id)
    return Run(store, run_id, info.experiment_id, info.run_name)


def run_seconds(store: Store, run_id: str) -> float:
    """Seconds from the start of a run to its end, or to now where it has not ended."""
    info = _info(store, run_id)
    return float((info.end_time or time.time() * 1000) - info.start_time) / 1000


def _info(store: Store, run_id: str) -> Any:
    with explained(f"find the run {run_id}", store.tracking_uri):
        return store.client.get_run(run_id).info


def fail_left_running(store: Store, experiment: str, parent: str, why: str, prefix: str = "") -> list[str]:
    """Mark the children of `parent` as FAILED that a killed process left RUNNING, with `why` as the tag `error`.

    Call it when nobody works on them any more. `prefix` restricts it to runs whose name begins so. Returns their ids.
    """
    children = f"tags.`mlflow.parentRunId` = '{parent}' and attributes.status = 'RUNNING'"
    with explained(f"close what was left running below {parent}", store.tracking_uri):
        found = store.client.search_runs([store.experiment(experiment)], children, max_results=1000)
        left = [str(each.info.run_id) for each in found if each.info.run_name.startswith(prefix)]
        for run_id in left:
            store.client.set_tag(run_id, ERROR_TAG, why)
            store.client.set_terminated(run_id, "FAILED")
    return left


def find_run(store: Store, experiment: str, key: str) -> str | None:
    """The id of the run for `key` in `experiment`, or None. Deleted runs do not count."""
    if not key or len(key) > MAX_NAME or set(key) & set("'\"`\\\n"):
        raise TrackingError(f"the run key {key[:80]!r} must be 1 to {MAX_NAME} characters without quotes")
    where, of_key, first = [store.experiment(experiment)], f"tags.`{KEY_TAG}` = '{key}'", ["attributes.start_time ASC"]
    with explained(f"look for the run {key}", store.tracking_uri):
        found = store.client.search_runs(where, of_key, max_results=1, order_by=first)
    return str(found[0].info.run_id) if found else None


def test_openings(store: Store, experiment: str) -> dict[str, int]:
    """How many distinct openings (`Run.opened_test`) each dataset's sealed test rows had in the runs of `experiment`.

    Runs of older versions hold counts of their own as the metric `test_opened/<dataset>`; they are added.
    """
    openings: set[str] = set()
    counts, prefix = Counter[str](), f"{OPENED_TEST}/"
    with explained("count the openings of test rows", store.tracking_uri):
        for each in every_page(store.client.search_runs, [store.experiment(experiment)], max_results=1000):
            for name, value in each.data.metrics.items():
                if name.startswith(prefix):
                    counts[name.removeprefix(prefix)] += int(value)
            openings |= {name for name in each.data.tags if name.startswith(prefix)}
    return dict(sorted((counts + Counter(name.split("/", 2)[2] for name in openings)).items()))


def user() -> str | None:
    """The name of the user; a container's may have none."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return None


def _made(store: Store, experiment: str, name: str, own: dict[str, str]) -> Run:
    experiment_id = store.experiment(experiment)
    with explained(f"start the run {name}", store.tracking_uri):
        # The key goes in with the run itself: a kill between two calls could not leave a run that nobody finds again.
        made = store.client.create_run(experiment_id, run_name=name, tags=redacted(own) | {ATTEMPTS_TAG: "1"})
    return Run(store, str(made.info.run_id), experiment_id, name)


def _reopened(store: Store, run_id: str, name: str) -> Run:
    with explained(f"re-open the run {name}", store.tracking_uri):
        before = store.client.get_run(run_id)
        store.client.update_run(run_id, status="RUNNING", name=name)
        for stale in {ERROR_TAG, KILLED_TAG} & set(before.data.tags):
            store.client.delete_tag(run_id, stale)
        store.client.set_tag(run_id, ATTEMPTS_TAG, int(before.data.tags.get(ATTEMPTS_TAG, 1)) + 1)
    return Run(store, run_id, str(before.info.experiment_id), name, reopened=True, _logged=last_points(before))


def metric_name(name: str) -> str:
    """`name` with `_` for all but letters, digits, `_ - . /` and space; a `TrackingError` for none or over 250."""
    clean = posixpath.normpath(re.sub(r"[^/\w.\- ]", "_", name).strip("/ ") or ".")
    if clean.startswith(".") or len(clean) > MAX_NAME:
        raise TrackingError(f"{name[:80]!r} cannot name a metric or parameter: use letters, digits, _, -, . and /")
    return clean


def cleaned(values: Mapping[str, Any], limit: int) -> dict[str, str]:
    """Tags or parameters as MLflow accepts them: names in its alphabet, values cut to `limit` characters."""
    return {metric_name(name): shortened(value, limit) for name, value in values.items()}


def shortened(value: object, limit: int) -> str:
    """`str(value)` without passwords, cut to `limit` characters with a note of the original length."""
    text = redact(str(value))
    note = f"... ({len(text)} characters)"
    return text if len(text) <= limit else text[: limit - len(note)] + note


def flattened(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one: `{"train": {"epochs": 3}}` becomes `{"train.epochs": 3}`."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        inner = isinstance(value, Mapping) and value
        flat |= flattened(value, f"{prefix}{name}.") if inner else {f"{prefix}{name}": value}
    return flat
