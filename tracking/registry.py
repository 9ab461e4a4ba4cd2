"""The model registry: which detector is in service, which one was before, and why.

`champion` is served, `previous` is what `rollback` returns to, `challenger` waits for the gate. Aliases move all at
once, only if the champion is still the one that the change was decided against, and every change is kept as a tag of
the registered model.
"""

from __future__ import annotations

import json
import socket
import uuid
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

import pandas as pd
from filelock import FileLock
from mlflow.exceptions import MlflowException

from tracking.mlflow_internals import MODEL_VERSIONS, aliased, database_path, set_aliases, transaction
from tracking.runs import MAX_TAG, cleaned, shortened, user
from tracking.store import Store, TrackingError, every_page, explained

DETECTOR = "counterforge-detector"
MODEL_TAG, REPORT_TAG, HISTORY = "counterforge.model_id", "gate_report", "history."
CHAMPION, PREVIOUS, CHALLENGER = "champion", "previous", "challenger"
_MAX_WHY = 4000


class ConcurrentPromotionError(TrackingError):
    """Another champion stands there than the one that the change was decided against."""


@dataclass(frozen=True)
class Event:
    """One change of the champion, as it is kept for good."""

    when: str  # UTC, ISO 8601
    who: str  # user@host
    what: str  # promote | rollback
    version: int  # the champion since then
    before: int | None  # the champion until then
    why: str


def event(what: str, version: int, before: int | None, why: str) -> Event:
    """An event of now, by whoever runs this process."""
    return Event(_now("microseconds"), who(), what, version, before, why[:_MAX_WHY])


def _now(precision: str) -> str:
    return datetime.now(UTC).isoformat(timespec=precision)


def who() -> str:
    """user@host of this process."""
    return f"{user() or 'unknown'}@{socket.gethostname()}"


@dataclass(frozen=True)
class Version:
    """A registered version: `number` counts from 1, `model_id` names the logged model that holds the weights."""

    name: str
    number: int
    model_id: str
    run_id: str | None
    aliases: tuple[str, ...]
    created: datetime
    tags: dict[str, str]

    @property
    def uri(self) -> str:
        """MLflow's address of this version."""
        return f"models:/{self.name}/{self.number}"


@dataclass(frozen=True)
class Registry:
    """The versions of one registered model. Every method raises `TrackingError` where the store refuses."""

    store: Store
    name: str = DETECTOR

    def register(self, model_id: str, tags: Mapping[str, Any] | None = None) -> Version:
        """Make the logged model `model_id` a version, or return the version that it already is, with `tags` set.

        The version inherits the logged model's own tags (manifest, generator, study, trial, git commit, ...).
        """
        client = self.store.client
        with self._explained(f"register the model {model_id}"), self._alone():
            model = client.get_logged_model(model_id)
            if str(model.status) != "READY":
                raise TrackingError(f"the model {model_id} is {model.status}, not READY: train it to the end first")
            lineage = {key: value for key, value in model.tags.items() if not key.startswith("mlflow.")}
            lineage |= cleaned(tags or {}, MAX_TAG) | {MODEL_TAG: model_id}
            known = next((version for version in self.versions() if version.model_id == model_id), None)
            if known is not None:
                self.tag(known.number, lineage)
                return self.resolve(known.number)
            try:
                client.create_registered_model(self.name, description="Detectors of fake faces")
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
            self.store.activate()  # MLflow resolves models:/ sources through its global tracking URI
            made = client.create_model_version(
                self.name, f"models:/{model_id}", run_id=model.source_run_id, tags=lineage, model_id=model_id
            )
            if not self.store.is_server:  # a server does this itself; the UI links model and version by it
                links = json.loads(model.tags.get(MODEL_VERSIONS, "[]"))
                links.append({"name": self.name, "version": int(made.version)})
                client.set_logged_model_tags(model_id, {MODEL_VERSIONS: json.dumps(links)})
        return self.resolve(made.version)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Of the processes of this machine that register at once, one at a time: a model becomes one version."""
        self.store.root.mkdir(parents=True, exist_ok=True)
        with FileLock(self.store.root / ".registry.lock"):
            yield

    def promote(
        self,
        version: int | str,
        report: Mapping[str, Any],
        tags: Mapping[str, Any] | None = None,
        *,
        why: str = "",
        against: int | None = -1,
        description: str = "",
    ) -> Version:
        """Make `version` the champion and the old champion `previous`; promoting the champion again changes no alias.

        The gate's `report` goes onto the version as `record` does it, with who, when and `why`.

        Args:
            against: the number of the champion that the decision was made against, None for none; by default the
                champion of now.

        Raises:
            ConcurrentPromotionError: another version became champion since, and no alias was moved.
        """
        chosen = self.resolve(version)
        champion = self.champion()
        old = (champion.number if champion else None) if against == -1 else against
        why = why or "the gate was passed"
        self.record(chosen.number, report, tags or {}, description=description)
        if old != chosen.number:
            wanted: dict[str, int | None] = {PREVIOUS: old} if old is not None else {}
            if CHALLENGER in chosen.aliases:
                wanted[CHALLENGER] = None
            self._move(wanted | {CHAMPION: chosen.number}, event("promote", chosen.number, old, why))
        with self._explained(f"record the promotion of version {chosen.number}"):
            self.tag(chosen.number, {"promoted_at": _now("seconds"), "promoted_by": who(), "promoted_because": why})
        return self.resolve(chosen.number)

    def record(
        self, version: int | str, report: Mapping[str, Any], tags: Mapping[str, Any], *, description: str = ""
    ) -> Version:
        """Keep a gate's report on a version, and its `description` (markdown) for those who open it in the UI.

        The report goes whole into the run's artifacts as `gate/version-<n>.json` and onto the version as the tag
        `gate_report` (its first level only, where it exceeds 5,000 characters).
        """
        chosen = self.resolve(version)
        compact = json.dumps(report, default=str)
        if len(compact) > MAX_TAG:
            first_level = {key: value for key, value in report.items() if not isinstance(value, Mapping | list | tuple)}
            compact = json.dumps(first_level, default=str)
        record = {REPORT_TAG: compact, **tags}
        with self._explained(f"record the gate's report on version {chosen.number}"):
            if chosen.run_id:
                file = f"gate/version-{chosen.number}.json"
                self.store.client.log_text(chosen.run_id, json.dumps(report, indent=2, default=str), file)
                record["gate_report_file"] = f"runs:/{chosen.run_id}/{file}"
            self.tag(chosen.number, record)
            if description:
                self.store.client.update_model_version(self.name, str(chosen.number), shortened(description, MAX_TAG))
        return self.resolve(chosen.number)

    def challenge(self, version: int | str) -> Version:
        """Give `version` the alias `challenger`: the next one that the gate looks at."""
        number = self.resolve(version).number
        with self._explained(f"name a challenger of {self.name}"):
            self.store.client.set_registered_model_alias(self.name, CHALLENGER, str(number))
        return self.resolve(number)

    def rollback(self, why: str = "") -> Version:
        """Swap `champion` and `previous`, and return the champion of now; a `TrackingError` where there is no other."""
        champion, previous = self._aliased(CHAMPION), self._aliased(PREVIOUS)
        if previous is None or champion is None or previous.number == champion.number:
            raise TrackingError(f"{self.name} has no previous champion to roll back to: {self._inventory()}")
        swapped = {PREVIOUS: champion.number, CHAMPION: previous.number}
        self._move(swapped, event("rollback", previous.number, champion.number, why or "rolled back"))
        with self._explained(f"record the rollback of {self.name}"):
            self.tag(champion.number, {"rolled_back_at": _now("seconds"), "rolled_back_by": who()})
        return self.resolve(previous.number)

    def history(self) -> list[Event]:
        """Every change of the champion, the newest first; empty where nothing was registered."""
        with self._explained(f"read the history of {self.name}"):
            try:
                tags = self.store.client.get_registered_model(self.name).tags
            except MlflowException as error:
                if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                    return []
                raise
        events = []
        for key, value in tags.items():
            if key.startswith(HISTORY):
                with suppress(ValueError, TypeError):  # a tag that somebody wrote by hand
                    events.append(Event(**json.loads(value)))
        return sorted(events, key=lambda each: each.when, reverse=True)

    def champion(self) -> Version | None:
        """The version in service, or None before the first promotion."""
        return self._aliased(CHAMPION)

    def resolve(self, version: int | str) -> Version:
        """The version of a number (`3`, `v3`), alias or `models:/` address; else a `TrackingError` lists all."""
        text = str(version).strip().removeprefix("models:/").removeprefix(self.name).lstrip("/@")
        number = text.removeprefix("v")
        found = next((v for v in self.versions() if str(v.number) == number or text in v.aliases), None)
        if found is None:
            raise TrackingError(f"{self.name} has no version {str(version)!r}: {self._inventory()}")
        return found

    def versions(self) -> list[Version]:
        """All versions, the newest first; empty if nothing was registered yet."""
        client = self.store.client
        with self._explained(f"list the versions of {self.name}"):
            found = [*every_page(client.search_model_versions, f"name = '{self.name}'", max_results=1000)]
            aliases = client.get_registered_model(self.name).aliases if found else {}
        return sorted((_version(each, aliases) for each in found), key=lambda v: -v.number)

    def list_versions(self) -> pd.DataFrame:
        """All versions as a table, the newest first.

        Columns: `version`, `aliases` (comma-separated), `created` (UTC), `model_id`, `run_id`, then one column a tag
        and one a metric of the logged model (such as `auc/<dataset>`).
        """
        rows = []
        for version in self.versions():
            tags = {key: value for key, value in version.tags.items() if key != MODEL_TAG}
            row: dict[str, Any] = {"version": version.number, "aliases": ", ".join(version.aliases)}
            row |= {"created": version.created, "model_id": version.model_id, "run_id": version.run_id}
            rows.append(row | tags | self.metrics(version))
        return pd.DataFrame(rows, columns=None if rows else ["version", "aliases", "created", "model_id", "run_id"])

    def metrics(self, version: Version) -> dict[str, float]:
        """The newest value of every metric of the version's logged model; empty where that was deleted."""
        with suppress(MlflowException):
            logged = self.store.client.get_logged_model(version.model_id).metrics or []
            return {m.key: float(m.value) for m in sorted(logged, key=lambda m: (m.timestamp, m.step))}
        return {}

    def tag(self, number: int, tags: Mapping[str, Any]) -> None:
        """Set tags of a version; values over 5,000 characters are cut."""
        for key, value in cleaned(tags, MAX_TAG).items():
            self.store.client.set_model_version_tag(self.name, str(number), key, value)

    def _explained(self, doing: str) -> AbstractContextManager[None]:
        return explained(doing, self.store.tracking_uri)

    def _aliased(self, alias: str) -> Version | None:
        return next((version for version in self.versions() if alias in version.aliases), None)

    def _inventory(self) -> str:
        versions = self.versions()
        if not versions:
            return "nothing is registered yet, train and register a model first"
        named = [f"{alias}={version.number}" for version in versions for alias in version.aliases]
        numbers = ", ".join(str(version.number) for version in reversed(versions))
        return f"there are the versions {numbers} and the aliases {', '.join(named) or '(none)'}"

    def _move(self, wanted: Mapping[str, int | None], record: Event) -> None:
        """Set aliases (None removes one) if the champion is still `record.before`.

        Nothing happens where `record.version` is the champion already.

        Raises:
            ConcurrentPromotionError: it is another one, and nothing was changed; from a server also after the change,
                when somebody else promoted at the same moment.
        """
        key = f"{HISTORY}{record.when.replace('-', '').replace(':', '').replace('+0000', 'Z')}.{uuid.uuid4().hex[:6]}"
        tag = key, shortened(json.dumps(asdict(record)), MAX_TAG)
        with self._explained(f"move the aliases of {self.name}"):
            if self.store.is_server:
                self._through_a_server(wanted, record, tag)
            else:
                with transaction(database_path(self.store.tracking_uri)) as database:
                    if not self._is_done(record, aliased(database, self.name, CHAMPION)):
                        set_aliases(database, self.name, wanted, tag)

    def _through_a_server(self, wanted: Mapping[str, int | None], record: Event, tag: tuple[str, str]) -> None:
        """The champion goes last, so that a kill between two calls leaves one, and the same call again completes it."""
        client = self.store.client
        if self._is_done(record, self._champion_of_a_server()):
            return
        client.set_registered_model_tag(self.name, *tag)
        for alias, number in sorted(wanted.items(), key=lambda each: each[0] == CHAMPION):
            if number is not None:
                client.set_registered_model_alias(self.name, alias, str(number))
            else:
                client.delete_registered_model_alias(self.name, alias)
        now = self._champion_of_a_server()
        rivals = {
            str(each.version)
            for each in self.history()
            if each.before == record.before and each.version != record.version and each.when >= record.when
        }
        if now != record.version or rivals:
            raise ConcurrentPromotionError(
                f"version {record.version} of {self.name} was promoted at the same moment as version "
                f"{', '.join(sorted(rivals or {str(now)}))}, and version {now} is the champion: "
                "look at `counterforge models history` and promote the one that you want again"
            )

    def _champion_of_a_server(self) -> int | None:
        number = self.store.client.get_registered_model(self.name).aliases.get(CHAMPION)
        return None if number is None else int(number)

    def _is_done(self, record: Event, now: int | None) -> bool:
        """Whether somebody made the same change already."""
        if now in (record.before, record.version):
            return now != record.before
        then = "there was no champion" if record.before is None else f"version {record.before} was the champion"
        raise ConcurrentPromotionError(
            f"version {record.version} of {self.name} was decided on when {then}, but version {now} is it now: "
            "run the same command again to be held against that one"
        )


def _version(entity: Any, aliases: Mapping[str, Any]) -> Version:
    tags = dict(entity.tags)
    return Version(
        name=entity.name,
        number=int(entity.version),
        model_id=tags.get(MODEL_TAG) or entity.model_id or "",
        run_id=entity.run_id or None,
        aliases=tuple(sorted(alias for alias, number in aliases.items() if int(number) == int(entity.version))),
        created=datetime.fromtimestamp(entity.creation_timestamp / 1000, UTC),
        tags=tags,
    )
