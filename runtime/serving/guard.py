"""Who may ask, from where, how much and how often: before any request reaches a camera."""

from __future__ import annotations

import hmac
import ipaddress
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from http.cookies import SimpleCookie
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from dedos_deploy.errors import BadInputError

MAX_BODY = 16 * 2**20
COOKIE = "dedos_token"
UNSAFE = ("POST", "PUT", "DELETE", "PATCH")
LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")
SHORTEST_TOKEN = 16

Scope = dict[str, Any]
Receive = Callable[[], Any]
Send = Callable[[Any], Any]


@dataclass(frozen=True)
class Access:
    """host, port: to listen on; token: what every request must show, None on a loopback address;
    per_second: requests in a second that are answered, with bursts of three times as many."""

    host: str = "127.0.0.1"
    port: int = 8080
    token: str | None = None
    per_second: float = 50.0

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
    of other sites out (DNS rebinding). With one it is taken from `Authorization: Bearer`, the cookie,
    or `?token=`, which sets the cookie, and compared in constant time. Requests that change
    something must come from this site's own pages, if they come from a page.
    """

    def __init__(
        self, app: Any, access: Access, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._app = app
        self._access = access
        self._clock = clock
        self._lock = threading.Lock()
        self._tokens = 3 * access.per_second
        self._at_s = clock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            # Nothing here speaks websockets; lifespan goes through.
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return
        headers = {
            name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]
        }
        refusal = self._refusal(scope, headers)
        if refusal is not None:
            await _answer(send, *refusal)
            return
        reader = _Limited(receive)
        await self._app(scope, reader, self._with_cookie(scope, send))

    def _refusal(self, scope: Scope, headers: dict[str, str]) -> tuple[int, str] | None:
        if not self._may_pass():
            return 429, "too many requests; ask again in a second"
        if self._access.token is None and not _names_loopback(headers.get("host", "")):
            return 421, "this server answers only to localhost; open it by that name"
        if self._access.token is not None and not self._is_known(scope, headers):
            return (
                401,
                "this needs the token; open the page with ?token=TOKEN, or send it as Bearer",
            )
        if scope["method"] in UNSAFE:
            origin = headers.get("origin")
            if origin is not None and urlsplit(origin).netloc != headers.get("host"):
                return 403, "this page may not change anything here; use the server's own page"
        length = headers.get("content-length", "0")
        if not length.isdigit() or int(length) > MAX_BODY:
            return 413, f"the body may have {MAX_BODY} bytes; send less"
        return None

    def _is_known(self, scope: Scope, headers: dict[str, str]) -> bool:
        shown = [dict(parse_qsl(scope["query_string"].decode("latin-1"))).get("token", "")]
        scheme, _, value = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            shown.append(value.strip())
        cookie: SimpleCookie = SimpleCookie()
        cookie.load(headers.get("cookie", ""))
        if COOKIE in cookie:
            shown.append(cookie[COOKIE].value)
        wanted = (self._access.token or "").encode()
        # All are compared, so that the time tells nothing.
        return any([hmac.compare_digest(text.encode(), wanted) for text in shown])

    def _with_cookie(self, scope: Scope, send: Send) -> Send:
        token = self._access.token
        asked = dict(parse_qsl(scope["query_string"].decode("latin-1")))
        if token is None or "token" not in asked:
            return send

        async def send_with_cookie(message: Any) -> None:
            if message["type"] == "http.response.start":
                cookie = f"{COOKIE}={token}; HttpOnly; SameSite=Strict; Path=/"
                message["headers"] = [*message["headers"], (b"set-cookie", cookie.encode())]
            await send(message)

        return send_with_cookie

    def _may_pass(self) -> bool:
        rate = self._access.per_second
        with self._lock:
            now_s = self._clock()
            self._tokens = min(3 * rate, self._tokens + (now_s - self._at_s) * rate)
            self._at_s = now_s
            if self._tokens < 1:
                return False
            self._tokens -= 1
            return True


class _Limited:
    """A body that says no length is cut off where the limit is."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._size = 0

    async def __call__(self) -> Any:
        message = await self._receive()
        self._size += len(message.get("body", b""))
        if self._size > MAX_BODY:
            return {"type": "http.disconnect"}
        return message


def _names_loopback(host: str) -> bool:
    name = urlsplit(f"//{host}").hostname or ""
    return name in LOOPBACK_NAMES


async def _answer(send: Send, status: int, text: str) -> None:
    import json

    body = json.dumps({"detail": text}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
