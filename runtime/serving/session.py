"""The token and what a browser keeps in its place."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterator
from urllib.parse import unquote_to_bytes

COOKIE = b"dedos_session_"
MOST_COOKIES = 16
"""Cookies of our name that are looked at: others on this host may have set some, too."""
_PORT = re.compile(rb":(\d{1,5})$")


class Session:
    """Recognises whoever shows the token: as Bearer, in the address, or by the cookie that followed.

    The cookie holds a value derived from the token, not the token: who reads it can use this
    server, but learns nothing that opens another one. It stays good over a restart and ends with
    the token. It is named after the port, since browsers share cookies among ports of a host.
    """

    def __init__(self, token: str) -> None:
        self._token = token.encode()
        value = hmac.digest(self._token, b"session of the page", hashlib.sha256)
        self._value = value.hex().encode()

    def knows(self, headers: dict[bytes, bytes], query: bytes, port: int) -> bool:
        """Return whether a request shows the token or the cookie; headers: by lower-case name."""
        scheme, _, value = headers.get(b"authorization", b"").partition(b" ")
        shown = [value.strip()] if scheme.lower() == b"bearer" else []
        name = cookie_name(headers, port)
        # All are compared, so that the time tells nothing.
        fits = [self._is_token(text) for text in shown]
        fits.append(self.is_opened_by(query))
        fits += [_same(text, self._value) for text in _cookies(headers, name)]
        return any(fits)

    def is_opened_by(self, query: bytes) -> bool:
        """Return whether the query part of an address holds the token."""
        return self._is_token(_token_of(query))

    def cookie(self, headers: dict[bytes, bytes], port: int) -> bytes:
        """Return what `set-cookie` says after that."""
        name = cookie_name(headers, port)
        return name + b"=" + self._value + b"; HttpOnly; SameSite=Strict; Path=/"

    def _is_token(self, shown: bytes) -> bool:
        return _same(shown, self._token)


def cookie_name(headers: dict[bytes, bytes], port: int) -> bytes:
    """Return the cookie's name, by the port that the browser sees; port: that is listened on.

    >>> cookie_name({b"host": b"box:8081"}, 8080), cookie_name({b"host": b"box"}, 8080)
    (b'dedos_session_8081', b'dedos_session_8080')
    """
    seen = _PORT.search(headers.get(b"host", b""))
    return COOKIE + (seen[1] if seen else str(port).encode())


def _token_of(query: bytes) -> bytes:
    for pair in query.split(b"&"):
        name, _, value = pair.partition(b"=")
        if name == b"token":
            return unquote_to_bytes(value.replace(b"+", b" "))
    return b""


def _cookies(headers: dict[bytes, bytes], name: bytes) -> Iterator[bytes]:
    """Yield the values of one name, whatever stands between them."""
    tried = 0
    for pair in headers.get(b"cookie", b"").split(b";"):
        key, _, value = pair.partition(b"=")
        if key.strip() == name and tried < MOST_COOKIES:
            tried += 1
            yield value.strip().strip(b'"')


def _same(shown: bytes, wanted: bytes) -> bool:
    # Digests have one length, so that not even the token's length can be told by the time.
    return hmac.compare_digest(hashlib.sha256(shown).digest(), hashlib.sha256(wanted).digest())
