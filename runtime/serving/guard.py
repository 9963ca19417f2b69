"""Who may ask, from where, how much and how often: before any request reaches a camera."""

from __future__ import annotations

import ipaddress
import json
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from dedos_deploy.errors import BadInputError
from dedos_deploy.runtime.serving.bodies import MAX_BODY, TOO_LARGE, Bodies, Body, Refusal
from dedos_deploy.runtime.serving.peers import Rates, peer_of
from dedos_deploy.runtime.serving.session import Session

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

SAFE = ("GET", "HEAD", "OPTIONS")
LOOPBACK_NAMES = (b"localhost", b"127.0.0.1", b"[::1]")
SHORTEST_TOKEN = 16
REFUSED_PER_SECOND = 20.0
"""Requests without the token, or from the wrong place, that are told why."""
ONCE = (b"host", b"origin", b"content-length", b"authorization", b"sec-fetch-site")
CONNECTION = "dedos.connection"
"""Key of the connection in the scope of a request."""
HEADERS = (
    # Other sites may neither show nor read what cameras see, nor may anybody keep it.
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
)
_NAME = rb"[a-z0-9_.-]{1,253}|\[[0-9a-f:.]{2,45}\]"
_HOST = re.compile(rb"(" + _NAME + rb")(?::[0-9]{1,5})?", re.IGNORECASE)
_ORIGIN = re.compile(rb"[a-z][a-z0-9+.-]{0,20}://([^/?#@\s]{0,260})", re.IGNORECASE)


@dataclass(frozen=True)
class Access:
    """Where a server listens, and whom it answers."""

    host: str = "127.0.0.1"
    """Address to listen on."""

    port: int = 8080
    """Port to listen on."""

    token: str | None = field(default=None, repr=False)
    """What every request must show, None on a loopback address."""

    per_second: float = 50.0
    """Requests in a second of one address that are answered, with bursts of three times as many."""

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise BadInputError(f"the port must lie in 0 to 65535, not {self.port}")
        if self.token is not None and len(self.token) < SHORTEST_TOKEN:
            raise BadInputError(
                f"the token has {len(self.token)} letters, at least {SHORTEST_TOKEN} are needed; "
                "make one with: python -c 'import secrets; print(secrets.token_urlsafe())'"
            )
        if self.token is None and not is_loopback(self.host):
            raise BadInputError(
                f"listening on {self.host!r} lets other machines in, which needs a token; give "
                "--token TOKEN or set DEDOS_TOKEN, or listen on 127.0.0.1"
            )


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach an address.

    >>> is_loopback("127.0.0.1"), is_loopback("0.0.0.0"), is_loopback("localhost")
    (True, False, True)
    """
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class Guard:
    """ASGI middleware: answers 4xx itself for whatever must not go through.

    Without a token, requests must be addressed to this machine by a loopback name, which keeps pages
    of other sites out (DNS rebinding). With one, a `Session` recognises it. Pages of other sites get
    nothing but the page itself when somebody goes there, and change nothing. The rate counts after
    that, per address; what is refused has a rate of its own, so that a flood of it locks out nobody
    who is known.
    """

    def __init__(
        self, app: Any, access: Access, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._app = app
        self._access = access
        self._session = None if access.token is None else Session(access.token)
        self._known = Rates(access.per_second, clock=clock)
        self._refused = Rates(REFUSED_PER_SECOND, clock=clock)
        self._bodies = Bodies()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            # Nothing here speaks websockets; lifespan goes through.
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return
        headers = _headers_of(scope)
        send = _with_headers(send, self._cookie(scope, headers or {}))
        refusal = self._refusal(scope, headers)
        if refusal is not None:
            await answer(send, *refusal)
            return
        if CONNECTION in scope:
            scope[CONNECTION].is_proven = True
        await self._pass(scope, headers or {}, receive, send)

    async def _pass(
        self, scope: Scope, headers: dict[bytes, bytes], receive: Receive, send: Send
    ) -> None:
        with Body(self._bodies, receive, send) as body:
            body.expect(int(headers.get(b"content-length", b"0")))
            if body.refusal is None:
                await self._app(scope, body.receive, body.send)
            if body.refusal is not None and not body.is_answered:
                await answer(send, *body.refusal)

    def _refusal(self, scope: Scope, headers: dict[bytes, bytes] | None) -> Refusal | None:
        peer = peer_of((scope.get("client") or ("",))[0])
        if headers is None:
            refusal: Refusal | None = 400, "this request says something twice"
        else:
            refusal = (
                _malformed(headers) or self._stranger(scope, headers) or _foreign(scope, headers)
            )
        rates = self._known if refusal is None else self._refused
        return refusal if rates.take(peer) else _TOO_MANY

    def _stranger(self, scope: Scope, headers: dict[bytes, bytes]) -> Refusal | None:
        if self._session is None:
            host = _HOST.fullmatch(headers.get(b"host", b""))
            if host is None or host[1].lower() not in LOOPBACK_NAMES:
                return 421, "this server answers only to localhost; open it by that name"
        elif not self._session.knows(headers, scope["query_string"], _port(scope)):
            return (
                401,
                "this needs the token; open the page with ?token=TOKEN, or send it as Bearer",
            )
        return None

    def _cookie(self, scope: Scope, headers: dict[bytes, bytes]) -> bytes | None:
        if self._session is None or not self._session.is_opened_by(scope["query_string"]):
            return None
        return self._session.cookie(headers, _port(scope))


_TOO_MANY = 429, "too many requests; ask again in a second"


def _headers_of(scope: Scope) -> dict[bytes, bytes] | None:
    """Return headers by name, cookies joined; None when one that decides something occurs twice."""
    headers: dict[bytes, bytes] = {}
    for name, value in scope["headers"]:
        if name in headers and name in ONCE:
            return None
        headers[name] = headers[name] + b"; " + value if name in headers else value
    return headers


def _malformed(headers: dict[bytes, bytes]) -> Refusal | None:
    host, origin = headers.get(b"host"), headers.get(b"origin", b"null")
    if host and not _HOST.fullmatch(host):
        return 400, "the Host of this request is no name of a machine"
    if origin != b"null" and _authority(origin) is None:
        return 400, "the Origin of this request is no address of a site"
    length = headers.get(b"content-length", b"0")
    if b"transfer-encoding" in headers and b"content-length" in headers:
        return 400, "a request says its length in one way, not in two"
    if not re.fullmatch(rb"[0-9]{1,20}", length):
        return 400, "the Content-Length of this request is no number"
    if int(length) > MAX_BODY:
        return TOO_LARGE
    return None


def _foreign(scope: Scope, headers: dict[bytes, bytes]) -> Refusal | None:
    """Refuse what pages of other sites ask for, by what browsers say about them."""
    if headers.get(b"sec-fetch-site", b"none") not in (b"none", b"same-origin"):
        goes_there = headers.get(b"sec-fetch-mode") == b"navigate"
        as_page = headers.get(b"sec-fetch-dest") == b"document"
        if not (goes_there and as_page and scope["path"] == "/" and scope["method"] == "GET"):
            return 403, "pages of other sites get nothing here; open the server's own page"
    origin = headers.get(b"origin")
    if scope["method"] not in SAFE and origin is not None:
        if _authority(origin) != headers.get(b"host", b"").lower():
            return 403, "this page may not change anything here; use the server's own page"
    return None


def _authority(origin: bytes) -> bytes | None:
    """Return host and port of an origin; empty where it has none, as `file://`."""
    match = _ORIGIN.fullmatch(origin)
    if match is None or (match[1] and not _HOST.fullmatch(match[1])):
        return None
    return match[1].lower()


def _port(scope: Scope) -> int:
    server = scope.get("server")
    return int(server[1] or 0) if server else 0


def _with_headers(send: Send, cookie: bytes | None) -> Send:
    """Return `send`, adding to every answer what it does not say itself."""

    async def send_with_headers(message: Any) -> None:
        if message["type"] == "http.response.start":
            said = {name.lower() for name, _ in message["headers"]}
            added = [pair for pair in HEADERS if pair[0] not in said]
            if message["status"] in (429, 503):
                added.append((b"retry-after", b"1"))
            if cookie is not None and message["status"] < 400:
                added.append((b"set-cookie", cookie))
            message["headers"] = [*message["headers"], *added]
        await send(message)

    return send_with_headers


async def answer(send: Send, status: int, text: str) -> None:
    """Send one sentence, as the API does."""
    body = json.dumps({"detail": text}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if status == 400:
        # What follows cannot be trusted to begin where it seems to.
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
