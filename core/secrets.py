"""Passwords stay out of all that is shown or kept: error sentences, dry-runs, reports, logs, runs and studies.

An address such as `postgresql://user:password@host/name` is written with `***` in the password's place, wherever in a
text it stands; so are the values of the environment variables that hold passwords.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

HIDDEN = "***"
# In a text a shorter value would hide words that have nothing to do with it.
_SHORTEST = 8
_SECRET_VARIABLE = re.compile(r"(^|_)(PASSWORD|PASSWD|PGPASSWORD|TOKEN|SECRET|SECRET_KEY|SECRET_ACCESS_KEY)$")
_ADDRESS_VARIABLES = (
    "COUNTERFORGE_STORAGE",
    "MLFLOW_TRACKING_URI",
    "MLFLOW_BACKEND_STORE_URI",
    "MLFLOW_S3_ENDPOINT_URL",
)
# All repetitions are bounded, so that text of any length takes linear time.
_START = r"(?<![A-Za-z0-9+.\-])([A-Za-z][A-Za-z0-9+.\-]{0,30}://[^\s:/?#@\"]{0,200}):(?!password@)"  # a hint's word
_PATTERNS = (
    # The user's part of an address ends before its path (RFC 3986) ...
    (re.compile(_START + r"[^\s/?#\"]{0,500}@"), rf"\1:{HIDDEN}@"),
    # ... but SQLAlchemy takes all up to the @ for the password of a database, slashes too.
    (re.compile(r"(?!https?:|ftps?:|s3:|gs:|file:|sqlite:)" + _START + r"[^\s@\"]{0,500}@"), rf"\1:{HIDDEN}@"),
    (
        re.compile(
            r"(?i)([?&;][\w-]{0,40}(?:password|passwd|pwd|secret|token|signature|credential|access_?key|\bsig)=)[^&\s\"'#]*"
        ),
        rf"\1{HIDDEN}",
    ),
    (re.compile(r"(?i)\b(password|passwd|pwd)=('[^']*'|[^\s&;,)\"']+)"), rf"\1={HIDDEN}"),  # as libpq writes it
    (re.compile(r"(?i)\b(authorization['\"]?\s*[:=]\s*['\"]?(?:basic|bearer)\s+)[^\s'\"]+"), rf"\1{HIDDEN}"),
)


def redact(text: str) -> str:
    """The text with `***` in place of every password, token or signature that can be told as one.

    Redact before you shorten: an address that was cut off in its password is none that could be recognised.
    """
    if "://" in text or "=" in text or ":" in text:
        for pattern, replacement in _PATTERNS:
            text = pattern.sub(replacement, text)
    for secret in _known():
        text = text.replace(secret, HIDDEN)
    return text


def redacted(value: Any) -> Any:
    """The same for all texts in mappings, lists and tuples, at any depth."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, Mapping):
        return {redacted(key): redacted(item) for key, item in value.items()}
    if isinstance(value, list):
        return [redacted(item) for item in value]
    return tuple(redacted(item) for item in value) if type(value) is tuple else value


def has_password(address: str) -> bool:
    """Whether the address names a password."""
    return redact(address) != address


def without_account(address: str) -> tuple[str, str | None, str | None]:
    """An http address without its user and password; both apart, decoded, or None."""
    parts = urlsplit(address)
    account, at, host = parts.netloc.rpartition("@")
    if not at:
        return address, None, None
    user, colon, password = account.partition(":")
    return urlunsplit(parts._replace(netloc=host)), unquote(user), unquote(password) if colon else None


def redact_logs() -> None:
    """Let every log record of this process be redacted when it is made, its traceback too."""
    make = logging.getLogRecordFactory()
    if getattr(make, "redacts", False):
        return

    def record(*args: Any, **options: Any) -> logging.LogRecord:
        made = make(*args, **options)
        try:
            message = made.getMessage()
        except (TypeError, ValueError):  # a malformed call of the log; the handler says so
            return made
        made.msg, made.args = redact(message), None
        if made.exc_info and made.exc_info[0] is not None:
            made.exc_text = redact(logging.Formatter().formatException(made.exc_info))
        return made

    record.redacts = True  # type: ignore[attr-defined]
    logging.setLogRecordFactory(record)


def _known() -> list[str]:
    """Passwords that the environment holds, the longest first."""
    found = {value for name, value in os.environ.items() if _SECRET_VARIABLE.search(name)}
    for name in _ADDRESS_VARIABLES:
        match = re.match(_START + r"(?P<password>.*)@", os.environ.get(name, ""), re.DOTALL)
        if match:
            found |= {match["password"], unquote(match["password"])}
    return sorted((value for value in found if len(value) >= _SHORTEST), key=len, reverse=True)
