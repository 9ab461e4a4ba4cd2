"""API keys: made here, shown once, kept as hashes only.

A key is 256 random bits, so that a plain SHA-256 keeps it: there is nothing to guess that a slow hash would protect.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import secrets
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from core.errors import UserError
from core.files import write_text

FILE = "keys.json"
_PREFIX = "cf_"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class Key(BaseModel):
    """What is kept of one key."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    created: datetime
    revoked: datetime | None = None


_KEYS = TypeAdapter(list[Key])


class KeyFile:
    """The keys of a service, in `keys.json` of its data folder; read anew when the file changes.

    Every method raises a UserError where the file is damaged or cannot be read.
    """

    def __init__(self, data: Path) -> None:
        self.path = data / FILE
        self._seen: tuple[int, int] | None = None
        self._keys: list[Key] = []

    def all(self) -> list[Key]:
        """All, revoked ones too."""
        try:
            status = self.path.stat()
        except FileNotFoundError:
            self._seen, self._keys = None, []
            return []
        except OSError as error:
            raise UserError(f"{self.path} cannot be read ({error.strerror}): change its owner") from error
        stamp = status.st_mtime_ns, status.st_size
        if stamp != self._seen:
            try:
                self._keys = _KEYS.validate_json(self.path.read_bytes())
            except OSError as error:
                raise UserError(f"{self.path} cannot be read ({error.strerror}): change its owner") from error
            except ValidationError as error:
                raise UserError(f"{self.path} is no file of keys: delete it and make new ones") from error
            self._seen = stamp
        return self._keys

    def add(self, name: str) -> str:
        """Make a key and return it; it cannot be read again."""
        if not _NAME.fullmatch(name):
            raise UserError(f"{name!r} is no name for a key: 1 to 64 letters, digits, dots, dashes or underscores")
        with self._lock():
            keys = self.all()
            if any(key.name == name and key.revoked is None for key in keys):
                raise UserError(f"there is a key {name} already: revoke it, or take another name")
            token = _PREFIX + secrets.token_urlsafe(32)
            self._write([*keys, Key(name=name, sha256=_hash(token), created=datetime.now(UTC))])
        return token

    def revoke(self, name: str) -> None:
        """From now on the key of that name is refused."""
        with self._lock():
            keys = self.all()
            if not any(key.name == name and key.revoked is None for key in keys):
                raise UserError(f"there is no key {name}: see `counterforge serve keys list`")
            now = datetime.now(UTC)
            gone = [key.model_copy(update={"revoked": key.revoked or now}) if key.name == name else key for key in keys]
            self._write(gone)

    def owner(self, token: str) -> str | None:
        """The name of the key, or None where it is unknown or revoked."""
        digest, owner = _hash(token), None
        for key in self.all():
            if hmac.compare_digest(key.sha256, digest) and key.revoked is None:
                owner = key.name
        return owner

    def _lock(self) -> FileLock:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        return FileLock(self.path.with_suffix(".lock"))

    def _write(self, keys: list[Key]) -> None:
        write_text(self.path, json.dumps([key.model_dump(mode="json") for key in keys], indent=2) + "\n")
        self.path.chmod(0o600)
        self._seen = None


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
