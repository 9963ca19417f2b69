"""Addresses of sources and sinks: recognising them, and keeping credentials out of sight."""

from __future__ import annotations

import re

NETWORK_SCHEMES = ("rtsp", "rtsps", "http", "https", "rtmp", "udp", "tcp", "srt")

_SCHEME = re.compile(r"^([a-zA-Z][a-zA-Z0-9+.-]*)://")
_SECRET_PARAMETER = re.compile(
    r"([?&;][^=&;#]*(?:token|key|pass|pwd|secret|auth|sig|user|login|cred)[^=&;#]*=)[^&;#]*",
    re.IGNORECASE,
)
HIDDEN = "***"


def network_scheme(uri: str) -> str | None:
    """Return the lower-case scheme of a network address, None for anything else.

    >>> network_scheme("RTSP://host/1"), network_scheme("video.mp4")
    ('rtsp', None)
    """
    match = _SCHEME.match(uri)
    return match[1].lower() if match and match[1].lower() in NETWORK_SCHEMES else None


def redact(uri: str) -> str:
    """Return `uri` without user, password and secret-looking query values.

    When in doubt more is hidden: everything up to the last `@`, since passwords are often unescaped.

    >>> redact("rtsp://admin:hunter2@10.0.0.5:554/live?token=abc&fps=5")
    'rtsp://***@10.0.0.5:554/live?token=***&fps=5'
    >>> redact("video.mp4")
    'video.mp4'
    """
    match = _SCHEME.match(uri)
    if not match:
        return uri
    head, rest = match[0], uri[match.end() :]
    if "@" in rest:
        rest = f"{HIDDEN}@{rest[rest.rindex('@') + 1 :]}"
    return head + _SECRET_PARAMETER.sub(rf"\g<1>{HIDDEN}", rest)
