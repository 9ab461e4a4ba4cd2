"""Moving the registry's aliases: all of one change at once, by compare and set, with a record that is only added to.

Two people may promote at the same moment, each after a gate that held a candidate against the champion of then. MLflow
sets one alias a call and compares nothing, so that both would succeed and the first winner would vanish from
`previous`. Over SQLite the change is one transaction that holds the database's write lock from before the comparison:
a server over the same file takes the same lock, which a lock file of ours would not make it do. A remote server offers
no transaction: there the champion is compared before and after, which finds a collision but cannot prevent it.
"""

from __future__ import annotations

import getpass
import json
import socket
import sqlite3
import uuid
from collections.abc import Mapping
from contextlib import closing, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from mlflow.exceptions import MlflowException
from mlflow.utils.workspace_utils import DEFAULT_WORKSPACE_NAME

from tracking.artifacts import database_path
from tracking.errors import TrackingError, explained
from tracking.names import MAX_TAG, shortened
from tracking.store import Store

CHAMPION, PREVIOUS, CHALLENGER = "champion", "previous", "challenger"
HISTORY = "history."
_WAIT_SECONDS = 60
_MAX_WHY = 4000


class Overtaken(TrackingError):  # noqa: N818  it is what happened, and nobody's error
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
    return Event(datetime.now(UTC).isoformat(timespec="microseconds"), who(), what, version, before, why[:_MAX_WHY])


def who() -> str:
    """user@host of this process."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # a container's user may have no name
        user = "unknown"
    return f"{user}@{socket.gethostname()}"


def move_aliases(store: Store, name: str, wanted: Mapping[str, int | None], record: Event) -> None:
    """Set the aliases of the registered model `name` (None removes one) if its champion is still `record.before`.

    Nothing happens where `record.version` is the champion already.

    Raises:
        Overtaken: it is another one, and nothing was changed; from a server also after the change, when somebody else
            promoted at the same moment.
        TrackingError: the store refuses.
    """
    key = f"{HISTORY}{record.when.replace('-', '').replace(':', '').replace('+0000', 'Z')}.{uuid.uuid4().hex[:6]}"
    value = shortened(json.dumps(asdict(record)), MAX_TAG)
    with explained(f"move the aliases of {name}", store.tracking_uri):
        if store.is_server:
            _through_a_server(store, name, wanted, record, key, value)
        else:
            _in_one_transaction(store, name, wanted, record, key, value)


def history(store: Store, name: str) -> list[Event]:
    """Every change of the champion of `name`, the newest first; empty where nothing was registered."""
    with explained(f"read the history of {name}", store.tracking_uri):
        try:
            tags = store.client.get_registered_model(name).tags
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


def _in_one_transaction(
    store: Store, name: str, wanted: Mapping[str, int | None], record: Event, key: str, value: str
) -> None:
    file = database_path(store.tracking_uri)
    place = (DEFAULT_WORKSPACE_NAME, name)
    uri = f"{file.as_uri()}?mode=rw"
    with closing(sqlite3.connect(uri, uri=True, timeout=_WAIT_SECONDS, isolation_level=None)) as database:
        database.execute("BEGIN IMMEDIATE")
        try:
            found = database.execute(
                "SELECT version FROM registered_model_aliases WHERE workspace = ? AND name = ? AND alias = ?",
                (*place, CHAMPION),
            ).fetchone()
            if _already(name, int(found[0]) if found else None, record):
                database.execute("ROLLBACK")
                return
            for alias, number in wanted.items():
                database.execute(
                    "DELETE FROM registered_model_aliases WHERE workspace = ? AND name = ? AND alias = ?",
                    (*place, alias),
                )
                if number is not None:
                    database.execute(
                        "INSERT INTO registered_model_aliases (workspace, name, alias, version) VALUES (?, ?, ?, ?)",
                        (*place, alias, number),
                    )
            database.execute(
                "INSERT INTO registered_model_tags (workspace, name, key, value) VALUES (?, ?, ?, ?)",
                (*place, key, value),
            )
            database.execute("COMMIT")
        except BaseException:
            if database.in_transaction:
                database.execute("ROLLBACK")
            raise


def _through_a_server(
    store: Store, name: str, wanted: Mapping[str, int | None], record: Event, key: str, value: str
) -> None:
    """The champion goes last, so that a kill between two calls leaves one, and the same call again completes it."""
    client = store.client
    if _already(name, _champion(client, name), record):
        return
    client.set_registered_model_tag(name, key, value)
    for alias, number in sorted(wanted.items(), key=lambda each: each[0] == CHAMPION):
        if number is not None:
            client.set_registered_model_alias(name, alias, str(number))
        else:
            client.delete_registered_model_alias(name, alias)
    now = _champion(client, name)
    rivals = [
        each
        for each in history(store, name)
        if each.before == record.before and each.version != record.version and each.when >= record.when
    ]
    if now != record.version or rivals:
        others = ", ".join(sorted({str(each.version) for each in rivals} or {str(now)}))
        raise Overtaken(
            f"version {record.version} of {name} was promoted at the same moment as version {others}, and version "
            f"{now} is the champion: look at `counterforge models history` and promote the one that you want again"
        )


def _champion(client: Any, name: str) -> int | None:
    number = client.get_registered_model(name).aliases.get(CHAMPION)
    return None if number is None else int(number)


def _already(name: str, now: int | None, record: Event) -> bool:
    """Whether somebody made the same change already."""
    if now == record.before:
        return False
    if now == record.version:
        return True
    then = "there was no champion" if record.before is None else f"version {record.before} was the champion"
    raise Overtaken(
        f"version {record.version} of {name} was decided on when {then}, but version {now} is it now: "
        "run the same command again to be held against that one"
    )
