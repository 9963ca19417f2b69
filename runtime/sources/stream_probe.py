"""Why a stream cannot be opened, asked of its server, since OpenCV does not say."""

from __future__ import annotations

import re
import socket
from urllib.parse import urlsplit

PORTS = {"rtsp": 554, "rtsps": 322, "http": 80, "https": 443, "rtmp": 1935}
ASKS_FOR_PASSWORD = (401, 403)
_STATUS = re.compile(rb"(?:RTSP|HTTP)/\d\.\d (\d{3})")


def why_not(uri: str, *, timeout_s: float = 2.0) -> str:
    """Return what is wrong with a stream's address or server, in a clause that may follow "because"; a
    general one where it cannot be found out. Takes at most about `timeout_s` for each of two steps.
    """
    general = "its server gives no stream there; check the address, and that it plays elsewhere"
    try:
        parts = urlsplit(uri)
        host, port = parts.hostname, parts.port or PORTS.get(parts.scheme.lower())
    except ValueError:
        return "its address is not well formed; write scheme://user:password@host:port/path"
    if host is None or port is None or parts.scheme.lower() not in PORTS:
        return general
    try:
        connection = socket.create_connection((host, port), timeout_s)
    except socket.gaierror:
        return f"the name {host!r} is not known here; check it, and this machine's network"
    except ConnectionRefusedError:
        return f"nothing listens on port {port} of {host!r}; check the port, and that it is switched on"
    except OSError as error:
        reason = error.strerror or str(error)
        return f"{host!r} does not answer on port {port} ({reason}); check the network in between"
    with connection:
        status = _ask(connection, uri, parts.scheme.lower(), host, timeout_s)
    if status in ASKS_FOR_PASSWORD:
        if parts.username:
            return "its server does not accept this user and password; correct them"
        return (
            "its server asks for a user and password, and none was given; write them as "
            f"{parts.scheme}://user:password@{host}/..."
        )
    if status == 404:
        return f"its server knows no {parts.path or '/'!r}; check the path"
    return general


def _ask(
    connection: socket.socket, uri: str, scheme: str, host: str, timeout_s: float
) -> int | None:
    """Return the status of one request without credentials, None where it cannot be asked."""
    parts = urlsplit(uri)
    if scheme not in ("rtsp", "http"):
        return None
    address = f"{scheme}://{parts.netloc.rpartition('@')[2]}{parts.path or '/'}"
    query = f"?{parts.query}" if parts.query else ""
    request = (
        f"DESCRIBE {address}{query} RTSP/1.0\r\nCSeq: 1\r\nAccept: application/sdp\r\n\r\n"
        if scheme == "rtsp"
        else f"GET {parts.path or '/'}{query} HTTP/1.0\r\nHost: {host}\r\n\r\n"
    )
    try:
        connection.settimeout(timeout_s)
        connection.sendall(request.encode())
        found = _STATUS.match(connection.recv(256))
    except OSError:
        return None
    return int(found[1]) if found else None
