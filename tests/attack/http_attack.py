"""A served site for attacks, and requests as bytes, which no client library would send."""

from __future__ import annotations

import contextlib
import socket
import struct
import sys
import time
from collections.abc import Iterator
from pathlib import Path

TESTS = Path(__file__).parents[1]
sys.path += [str(TESTS / name) for name in ("runtime", "serving")]

TOKEN = "a-token-that-is-long-enough"
PATIENCE_S = 10.0


def request(
    path: str, *headers: str, method: str = "GET", host: str = "localhost", body: bytes = b""
) -> bytes:
    """Return one request; what a test wants to say wrong it says in `headers` or `host`."""
    lines = [f"{method} {path} HTTP/1.1", f"Host: {host}", *headers]
    if body:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), PATIENCE_S)


def answer_of(connection: socket.socket) -> tuple[int, bytes]:
    """Return status and rest of the one answer that comes; (0, b"") when none does."""
    content = b""
    with contextlib.suppress(OSError):
        while b"\r\n\r\n" not in content or len(content) < _length(content):
            more = connection.recv(65536)
            if not more:
                break
            content += more
    return (int(content.split()[1]) if content else 0), content


def _length(content: bytes) -> int:
    head, _, _ = content.partition(b"\r\n\r\n")
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return len(head) + 4 + int(line.partition(b":")[2])
    # Without a length it ends with the connection, but for a stream, which does not end.
    return 0 if b"multipart/" in head else sys.maxsize


def ask(port: int, sent: bytes) -> tuple[int, bytes]:
    with connect(port) as connection:
        connection.sendall(sent)
        return answer_of(connection)


def reset(connection: socket.socket) -> None:
    """End a connection as a crashed browser does."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def is_closed_within(connection: socket.socket, seconds: float) -> bool:
    """Return whether the other side ends a connection; what it sends is thrown away."""
    deadline_s = time.monotonic() + seconds
    connection.settimeout(0.2)
    while time.monotonic() < deadline_s:
        with contextlib.suppress(TimeoutError):
            try:
                if not connection.recv(65536):
                    return True
            except ConnectionError:
                return True
    return False


@contextlib.contextmanager
def many(port: int, count: int, sent: bytes) -> Iterator[list[socket.socket]]:
    """Open so many connections that send the same and then wait."""
    opened: list[socket.socket] = []
    try:
        for _ in range(count):
            connection = connect(port)
            opened.append(connection)
            # Some are closed while they are still being opened.
            with contextlib.suppress(ConnectionError):
                connection.sendall(sent)
        yield opened
    finally:
        for connection in opened:
            connection.close()
