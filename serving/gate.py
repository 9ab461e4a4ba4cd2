"""What stands before every request: keys, rates, origins and headers, all before any of the body is received."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, MutableMapping
from http import HTTPStatus
from typing import Any
from urllib.parse import urlsplit

from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter

from core.errors import UserError
from serving.config import LOOPBACK, ServingConfig
from serving.keys import KeyFile

Message = MutableMapping[str, Any]
App = Callable[[Message, Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Awaitable[None]]
LOCAL = "local"  # the owner of what is asked without keys, from this machine
_FREE = ("/healthz", "/readyz", "/static/")  # for probes and before a key is given
_PAGES = frozenset({"/", "/recent", "/model"})  # hold no data; what they show they ask for with the key
_HEADERS = {
    "content-security-policy": "default-src 'self'; img-src 'self' blob: data:; media-src 'self' blob:; "
    "object-src 'none'; base-uri 'none'; frame-ancestors 'none'; form-action 'self'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "x-frame-options": "DENY",
    "cross-origin-resource-policy": "same-origin",
}
# FastAPI's page of the interface loads its script from elsewhere: it gets no more than it needs.
_DOCS_POLICY = "default-src 'self' https://cdn.jsdelivr.net; img-src 'self' data: https://fastapi.tiangolo.com; style-src 'self' https://cdn.jsdelivr.net 'unsafe-inline'; script-src 'self' https://cdn.jsdelivr.net 'unsafe-inline'"  # noqa: E501


def problem(status: int, detail: str, **more: Any) -> dict[str, Any]:
    """An answer of RFC 9457: `{type, title, status, detail}`."""
    return {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status, "detail": detail, **more}


class Gate:
    """ASGI middleware. Sets `scope["state"]["owner"]` to the name of the key, or `local` where no keys are asked."""

    def __init__(self, app: App, config: ServingConfig, keys: KeyFile) -> None:
        self.app, self.config, self.keys = app, config, keys
        self._limiter = MovingWindowRateLimiter(MemoryStorage())
        self._rate = RateLimitItemPerMinute(config.requests_per_minute)

    async def __call__(self, scope: Message, receive: Any, send: Any) -> None:
        """One request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        path = scope["path"]

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                known = {name for name, _ in message["headers"]}
                extra = _HEADERS | ({"content-security-policy": _DOCS_POLICY} if path == "/docs" else {})
                pairs = [(name.encode(), value.encode()) for name, value in extra.items()]
                message["headers"] = [*message["headers"], *(pair for pair in pairs if pair[0] not in known)]
            await send(message)

        refused = self._refused(scope, path)
        if refused is None:
            await self.app(scope, receive, send_with_headers)
            return
        told, headers = refused
        body = json.dumps(told).encode()
        start = {
            "type": "http.response.start",
            "status": told["status"],
            "headers": [
                (b"content-type", b"application/problem+json"),
                (b"content-length", str(len(body)).encode()),
                (b"connection", b"close"),  # what the client goes on sending is not read
                *((name.encode(), value.encode()) for name, value in headers.items()),
            ],
        }
        await send_with_headers(start)
        await send({"type": "http.response.body", "body": body})

    def _refused(self, scope: Message, path: str) -> tuple[dict[str, Any], dict[str, str]] | None:
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        client = scope["client"][0] if scope.get("client") else "unknown"
        host = headers.get("host", "")
        if not self.config.open_to_others and _name(host) not in LOOPBACK | {"testserver"}:
            # A page from elsewhere whose name was made to point here (DNS rebinding).
            return problem(403, f"this service answers on {self.config.host} only, not as {host[:100]!r}"), {}
        origin = headers.get("origin")
        if origin not in (None, "null") and urlsplit(origin).netloc != host:
            return problem(403, "requests from other web sites are not answered"), {}
        owner = LOCAL
        if path.startswith(_FREE) or (path in _PAGES and scope["method"] in ("GET", "HEAD")):
            scope.setdefault("state", {})["owner"] = owner
            return None
        try:
            keys = self.keys.all()
        except UserError as error:
            return problem(503, str(error)), {"retry-after": "10"}
        if self.config.open_to_others or any(key.revoked is None for key in keys):
            token = headers.get("authorization", "").removeprefix("Bearer ").strip() or headers.get("x-api-key", "")
            if not token:
                return (
                    problem(401, "give a key: Authorization: Bearer KEY (make one with `counterforge serve keys add`)"),
                    {"www-authenticate": "Bearer"},
                )
            known = self.keys.owner(token)
            if known is None:
                return problem(403, "the key is unknown or revoked: ask for another"), {}
            owner = known
        if not self._limiter.hit(self._rate, owner if owner != LOCAL else client):
            wait = 60 // max(self.config.requests_per_minute, 1) + 1
            told = problem(429, f"more than {self.config.requests_per_minute} requests a minute: slow down")
            return told, {"retry-after": str(wait)}
        scope.setdefault("state", {})["owner"] = owner
        return None


def _name(host: str) -> str:
    """The host's name without its port; of an IPv6 address, without brackets."""
    return urlsplit(f"//{host}").hostname or ""
