"""Passwords are hidden in every kind of text, and nothing else is."""

from __future__ import annotations

import io
import logging
import time

import pytest

from core.errors import UserError
from core.secrets import has_password, redact, redact_logs, redacted, without_account


@pytest.mark.parametrize(
    "text",
    [
        "postgresql://user:s3cret@host/name",
        "postgresql+psycopg://user:s3cret@host:5432/name?sslmode=require",
        "postgresql://:s3cret@host/name",
        "postgresql://user:s3cret/with#odd?signs@host/name",
        "postgresql://user:p@s3cret@host/name",
        "http://user:s3cret@host:5000/path",
        "http://user:p@s3cret@host:5000/path",
        "s3://key:s3cret@bucket/folder",
        "cannot open ('postgresql://user:s3cret@host/name'): it is away",
        'a JSON {"storage": "postgresql://user:s3cret@host/name"}',
        "postgresql://host/name?user=me&password=s3cret&sslmode=require",
        "https://host/file?X-Amz-Credential=s3cret&X-Amz-Signature=s3cret&x=1",
        "https://host/file?sv=2020&sig=s3cret",
        "connection failed: host=db user=me password=s3cret dbname=x",
        "host=db password='s3cret s3cret'",
        "Authorization: Basic s3cret",
    ],
)
def test_a_password_is_hidden(text: str) -> None:
    assert "s3cret" not in redact(text)
    assert "***" in redact(text)
    assert has_password(text)
    assert redact(redact(text)) == redact(text)
    with pytest.raises(UserError) as raised:
        raise UserError(text)
    assert "s3cret" not in str(raised.value)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "http://127.0.0.1:5000/#/models/detector@champion",
        "http://127.0.0.1:5000/path, or mail a@b.c",
        "models:/counterforge-detector@champion",
        "sqlite:////folder/mlflow.db?timeout=60",
        "postgresql://host:5432/name",
        "postgresql://user@host/name",
        "give postgresql://user:password@host/name",  # a hint of our own
        "synthetic_share 1.4 is not in [0, 1] (configs/faces.yaml, balance)",
        "learning_rate=0.001, tokens=3",
        "file:///a/b:c@d",
    ],
)
def test_what_holds_no_password_stays(text: str) -> None:
    assert redact(text) == text
    assert not has_password(text)


def test_the_rest_of_an_address_stays() -> None:
    assert redact("postgresql://user:s3cret@host:5432/name") == "postgresql://user:***@host:5432/name"


def test_passwords_of_the_environment_are_hidden_anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "correct horse")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "battery/staple")
    monkeypatch.setenv("PGPASSWORD", "short")  # as a word of its own it may mean something else
    monkeypatch.setenv("COUNTERFORGE_STORAGE", "postgresql://me:per%40cent-coded@host/name")
    said = redact("correct horse, battery/staple, short, per%40cent-coded, per@cent-coded")
    assert said == "***, ***, short, ***, ***"


def test_at_any_depth() -> None:
    address = "http://me:s3cret@host"
    hidden = "http://me:***@host"
    given = {"a": [address, {"b": (address, 1, None)}], "c": 2.5}
    assert redacted(given) == {"a": [hidden, {"b": (hidden, 1, None)}], "c": 2.5}


def test_the_account_of_an_address() -> None:
    assert without_account("http://host:5000/x") == ("http://host:5000/x", None, None)
    assert without_account("http://me:a%40b@host:5000/x") == ("http://host:5000/x", "me", "a@b")
    assert without_account("https://token@host") == ("https://host", "token", None)


def test_logs_and_their_tracebacks_are_redacted() -> None:
    factory, stream = logging.getLogRecordFactory(), io.StringIO()
    log, handler = logging.Logger("alone"), logging.StreamHandler(stream)
    log.addHandler(handler)
    try:
        redact_logs()
        redact_logs()
        log.warning("%s does not answer", "http://me:s3cret@host")
        try:
            raise RuntimeError("no answer of http://me:s3cret@host")
        except RuntimeError:
            log.exception("trial %d failed", 3)
        log.warning("%d is malformed", "this")
    finally:
        logging.setLogRecordFactory(factory)
    said = stream.getvalue()
    assert "http://me:***@host does not answer" in said
    assert "RuntimeError: no answer of http://me:***@host" in said
    assert "s3cret" not in said


@pytest.mark.parametrize("piece", ["a", "a://b:", "a://b:@", "&password", "&a", "http://", "password=", "b:c@"])
def test_megabytes_take_no_time(piece: str) -> None:
    started = time.monotonic()
    redact(piece * (2_000_000 // len(piece)))
    UserError(piece * (2_000_000 // len(piece)))
    assert time.monotonic() - started < 20
