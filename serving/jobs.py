"""Verdicts and the jobs that make them, in one database: SQLite for one machine, PostgreSQL for replicas.

A job is claimed for a time and belongs to nobody when that has passed, so that what a dead process began is taken up
again; a result is written by whoever still holds the claim, so that none is written twice.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import sqlalchemy as sql
from sqlalchemy.exc import SQLAlchemyError

from core.errors import UserError

Status = Literal["queued", "running", "done", "failed"]
_MOST_ATTEMPTS = 3

_META = sql.MetaData()
VERDICTS = sql.Table(
    "verdicts",
    _META,
    sql.Column("id", sql.String(32), primary_key=True),
    sql.Column("owner", sql.String(64), nullable=False, index=True),  # name of the key, or "local"
    sql.Column("name", sql.String(200), nullable=False),  # of the upload, for people only
    sql.Column("batch", sql.String(32), nullable=True, index=True),
    sql.Column("sha256", sql.String(64), nullable=False),
    sql.Column("size", sql.Integer, nullable=False),
    sql.Column("status", sql.String(8), nullable=False, index=True),
    sql.Column("created", sql.Float, nullable=False, index=True),  # seconds since 1970
    sql.Column("finished", sql.Float, nullable=True),
    sql.Column("holder", sql.String(32), nullable=True),
    sql.Column("held_until", sql.Float, nullable=True),
    sql.Column("attempts", sql.Integer, nullable=False),
    sql.Column("verdict", sql.String(12), nullable=True, index=True),
    sql.Column("result", sql.Text, nullable=True),  # JSON: the answer, or the problem of a failed one
)
FEEDBACK = sql.Table(
    "feedback",
    _META,
    sql.Column("verdict", sql.String(32), primary_key=True),
    sql.Column("owner", sql.String(64), nullable=False, index=True),
    sql.Column("truth", sql.String(4), nullable=False),
    sql.Column("note", sql.Text, nullable=False),
    sql.Column("consent_to_train", sql.Boolean, nullable=False),
    sql.Column("created", sql.Float, nullable=False),
    sql.Column("state", sql.String(12), nullable=False),  # quarantined | accepted | rejected
)


@dataclass(frozen=True)
class Job:
    """A row of `VERDICTS`."""

    id: str
    owner: str
    name: str
    batch: str | None
    sha256: str
    size: int
    status: Status
    created: float
    finished: float | None
    attempts: int
    verdict: str | None
    result: dict[str, Any] | None

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Job:
        """Of a row of the database."""
        own = {name: row[name] for name in cls.__dataclass_fields__}
        return cls(**own | {"result": json.loads(own["result"]) if own["result"] else None})


class Jobs:
    """The database. Every method raises a UserError where it cannot be reached or written.

    Args:
        address: SQLAlchemy's, or None for `serving.db` in the folder.
    """

    def __init__(self, data: Path, address: str | None = None) -> None:
        data.mkdir(parents=True, exist_ok=True)
        self.holder = uuid.uuid4().hex
        try:
            url = sql.make_url(address or f"sqlite:///{data / 'serving.db'}")
            if url.drivername == "postgresql":
                url = url.set(drivername="postgresql+psycopg")
            self.name = url.render_as_string(hide_password=True)
            options = (
                {"connect_args": {"timeout": 30}} if url.get_backend_name() == "sqlite" else {"pool_pre_ping": True}
            )
            self._engine = sql.create_engine(url, **options)
            if url.get_backend_name() == "sqlite":
                sql.event.listen(self._engine, "connect", _write_ahead)
            _META.create_all(self._engine)
        except (SQLAlchemyError, ImportError, OSError) as error:
            raise UserError(f"the database of jobs cannot be opened ({_reason(error)}): check `database`") from error

    def close(self) -> None:
        """Let go of all connections."""
        self._engine.dispose()

    def add(
        self,
        *,
        owner: str,
        name: str,
        sha256: str,
        size: int,
        batch: str | None = None,
        id: str = "",
        held: float = 0,
    ) -> Job:
        """A new job; who judges it at once, in the same request, holds it for so many seconds."""
        row = {
            "id": id or uuid.uuid4().hex,
            "owner": owner,
            "name": name[:200],
            "batch": batch,
            "sha256": sha256,
            "size": size,
            "status": "running" if held else "queued",
            "created": _now(),
            "holder": self.holder if held else None,
            "held_until": _now() + held if held else None,
            "attempts": int(held > 0),
        }
        self._do(sql.insert(VERDICTS).values(row))
        return self.get(str(row["id"]))

    def get(self, id: str) -> Job:
        """Raises KeyError where there is none."""
        with self._begin() as connection:
            row = connection.execute(sql.select(VERDICTS).where(VERDICTS.c.id == id)).mappings().first()
        if row is None:
            raise KeyError(id)
        return Job.of(row)

    def recent(
        self,
        owner: str | None = None,
        *,
        batch: str | None = None,
        verdict: str | None = None,
        text: str = "",
        limit: int = 100,
    ) -> list[Job]:
        """The latest first; of one owner, batch or verdict, and with a text in the name."""
        query = sql.select(VERDICTS).order_by(VERDICTS.c.created.desc(), VERDICTS.c.id).limit(limit)
        for column, wanted in (("owner", owner), ("batch", batch), ("verdict", verdict)):
            if wanted is not None:
                query = query.where(VERDICTS.c[column] == wanted)
        if text:
            query = query.where(VERDICTS.c.name.icontains(text, autoescape=True))
        with self._begin() as connection:
            return [Job.of(row) for row in connection.execute(query).mappings()]

    def claim(self, seconds: float) -> Job | None:
        """The oldest job that nobody holds, held from now on for so many seconds; None where there is none.

        One that was begun three times and never ended is failed: it kills whoever touches it.
        """
        now = _now()
        lost = sql.and_(VERDICTS.c.status == "running", VERDICTS.c.held_until < now)
        free = sql.or_(VERDICTS.c.status == "queued", lost)
        oldest = sql.select(VERDICTS.c.id).where(free).order_by(VERDICTS.c.created).limit(1)
        taken = (
            sql.update(VERDICTS)
            .where(VERDICTS.c.id == oldest.with_for_update(skip_locked=True).scalar_subquery(), free)
            .values(status="running", holder=self.holder, held_until=now + seconds, attempts=VERDICTS.c.attempts + 1)
            .returning(*VERDICTS.c)
        )
        with self._begin() as connection:
            row = connection.execute(taken).mappings().first()
        if row is None:
            return None
        if row["attempts"] > _MOST_ATTEMPTS:
            detail = f"it was begun {_MOST_ATTEMPTS} times and never ended"
            told = {"type": "about:blank", "title": "Processing failed", "status": 500, "detail": detail}
            self.finish(row["id"], told)
            return None
        return Job.of(row)

    def renew(self, seconds: float) -> None:
        """Hold all that this process holds for so many seconds from now on."""
        own = sql.and_(VERDICTS.c.holder == self.holder, VERDICTS.c.status == "running")
        self._do(sql.update(VERDICTS).where(own).values(held_until=_now() + seconds))

    def finish(self, id: str, result: Mapping[str, Any], *, verdict: str | None = None) -> bool:
        """Write the answer, or without a verdict the problem; False where somebody else holds the job by now."""
        values = {
            "status": "done" if verdict else "failed",
            "verdict": verdict,
            "result": json.dumps(result, allow_nan=False),
            "finished": _now(),
            "holder": None,
        }
        own = sql.and_(VERDICTS.c.id == id, VERDICTS.c.holder == self.holder, VERDICTS.c.status == "running")
        return bool(self._do(sql.update(VERDICTS).where(own).values(values)))

    def release(self, id: str) -> None:
        """Give a job back that was claimed and not begun."""
        own = sql.and_(VERDICTS.c.id == id, VERDICTS.c.holder == self.holder, VERDICTS.c.status == "running")
        back = {"status": "queued", "holder": None, "held_until": None, "attempts": VERDICTS.c.attempts - 1}
        self._do(sql.update(VERDICTS).where(own).values(back))

    def delete(self, id: str) -> bool:
        """Forget a verdict; feedback that may be kept stays."""
        return bool(self._do(sql.delete(VERDICTS).where(VERDICTS.c.id == id)))

    def waiting(self) -> int:
        """Jobs that are queued or running."""
        query = sql.select(sql.func.count()).select_from(VERDICTS).where(VERDICTS.c.status.in_(("queued", "running")))
        with self._begin() as connection:
            return int(connection.execute(query).scalar_one())

    def is_over(self, id: str, minutes: float) -> bool | None:
        """Whether a job ended so long ago, and no feedback keeps its upload; None where there is no such job."""
        kept = sql.exists().where(FEEDBACK.c.verdict == VERDICTS.c.id, FEEDBACK.c.consent_to_train)
        ended = VERDICTS.c.finished < _now() - 60 * minutes
        over = sql.select(sql.and_(sql.func.coalesce(ended, False), ~kept)).where(VERDICTS.c.id == id)
        with self._begin() as connection:
            found = connection.execute(over).scalar_one_or_none()
        return None if found is None else bool(found)

    def say(self, id: str, owner: str, truth: str, note: str, consent: bool) -> None:
        """Feedback on a verdict; said again, it takes the place of what was said before."""
        self._do(sql.delete(FEEDBACK).where(FEEDBACK.c.verdict == id))
        row = {"verdict": id, "owner": owner, "truth": truth, "note": note, "consent_to_train": consent}
        self._do(sql.insert(FEEDBACK).values(row | {"created": _now(), "state": "quarantined"}))

    def feedback(self, id: str) -> dict[str, Any] | None:
        """What was said about a verdict."""
        with self._begin() as connection:
            row = connection.execute(sql.select(FEEDBACK).where(FEEDBACK.c.verdict == id)).mappings().first()
        return dict(row) if row else None

    def _begin(self) -> Any:
        return _Explained(self._engine)

    def _do(self, statement: Any) -> int:
        with self._begin() as connection:
            return int(connection.execute(statement).rowcount)


class _Explained:
    """A transaction whose failures are told in a sentence."""

    def __init__(self, engine: sql.Engine) -> None:
        self._context = engine.begin()

    def __enter__(self) -> sql.Connection:
        try:
            return self._context.__enter__()
        except SQLAlchemyError as error:
            raise UserError(f"the database of jobs cannot be reached ({_reason(error)}): check `database`") from error

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        try:
            self._context.__exit__(kind, error, trace)
        except SQLAlchemyError as failure:
            raise UserError(f"the database of jobs cannot be written ({_reason(failure)})") from failure
        if isinstance(error, SQLAlchemyError):
            raise UserError(f"the database of jobs cannot be written ({_reason(error)})") from error


def utc(seconds: float | None) -> str | None:
    """Seconds since 1970 as ISO 8601."""
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def _now() -> float:
    return datetime.now(UTC).timestamp()


def _reason(error: Exception) -> str:
    return str(getattr(error, "orig", None) or error).splitlines()[0][:200]


def _write_ahead(connection: Any, _record: Any) -> None:
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")
