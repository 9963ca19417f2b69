"""Addresses of sources and sinks: recognising them, and keeping credentials out of sight."""

from __future__ import annotations

import os
import re
from collections.abc import Collection
from pathlib import Path
from urllib.parse import parse_qsl

from dedos_deploy.borders import Refusal
from dedos_deploy.errors import nearest

RTSP_UDP = "rtsp+udp"
NETWORK_SCHEMES = ("rtsp", "rtsps", RTSP_UDP, "http", "https", "rtmp", "udp", "tcp", "srt")

_SCHEME = re.compile(r"^([a-zA-Z][a-zA-Z0-9+.-]*)://")
_SECRET_PARAMETER = re.compile(
    r"([?&;][^=&;#]*(?:token|key|pass|pwd|secret|auth|sig|user|login|cred)[^=&;#]*=)[^&;#]*",
    re.IGNORECASE,
)
HIDDEN = "***"
_PIPELINE_SECRET = re.compile(
    r"([\w-]*(?:token|key|pass|pw|secret|auth|user|login|cred)[\w-]*\s*=\s*)"
    r"(?:\"[^\"]*\"|'[^']*'|\S+)",
    re.IGNORECASE,
)

_COMMON = re.compile(r"images?|frames?|train|val|test|.*[*?\[].*", re.IGNORECASE)
"""Parts of a path that do not tell one source from another."""


def network_scheme(uri: str) -> str | None:
    """Return the lower-case scheme of a network address, None for anything else.

    >>> network_scheme("RTSP://host/1"), network_scheme("video.mp4")
    ('rtsp', None)
    """
    match = _SCHEME.match(uri)
    return match[1].lower() if match and match[1].lower() in NETWORK_SCHEMES else None


def settings_of(
    query: str, known: Collection[str], *, what: str, takes: str, refusal: Refusal
) -> dict[str, str]:
    """Return the settings behind the question mark of an address, by name.

    what: the address as errors name it; takes: what they say of those that there are. Raises the
    error that `refusal` makes of a sentence, for one that is not known or comes twice.

    >>> from dedos_deploy.errors import SourceError
    >>> settings_of("size=1x2&fps=", ("size", "fps"), what="'0'", takes="", refusal=SourceError)
    {'size': '1x2', 'fps': ''}
    """
    settings: dict[str, str] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name not in known:
            raise refusal(f"{what} has an unknown setting {name!r}{nearest(name, known)}; {takes}")
        if name in settings:
            raise refusal(f"{what} has the setting {name!r} twice; write it once")
        settings[name] = value
    return settings


def redact(uri: str) -> str:
    """Return `uri` without user, password and secret-looking query values.

    When in doubt more is hidden: everything up to the last `@`, since passwords are often unescaped.

    >>> redact("rtsp://admin:hunter2@10.0.0.5:554/live?token=abc&fps=5")
    'rtsp://***@10.0.0.5:554/live?token=***&fps=5'
    >>> redact("video.mp4")
    'video.mp4'
    >>> redact("gst:rtspsrc location=rtsp://u:p@cam/1 user-pw=hunter2 ! decodebin")
    'gst:rtspsrc location=rtsp://***@cam/1 user-pw=*** ! decodebin'
    """
    if uri.startswith("gst:"):
        # Whatever looks like a secret or an address, up to the next space or quote.
        words = re.split(r"([\s\"']+)", _PIPELINE_SECRET.sub(rf"\g<1>{HIDDEN}", uri[4:]))
        return "gst:" + "".join(_redact_property(word) for word in words)
    match = _SCHEME.match(uri)
    if not match:
        return uri
    head, rest = match[0], uri[match.end() :]
    if "@" in rest:
        rest = f"{HIDDEN}@{rest[rest.rindex('@') + 1 :]}"
    return head + _SECRET_PARAMETER.sub(rf"\g<1>{HIDDEN}", rest)


def published_name(uri: str) -> str:
    """Return what a source is called in files that others get: a path without the folders that lie above it.

    Of a picture or label folder its last parts, as far as they say nothing alone; any other source as `redact`
    leaves it.

    >>> published_name("/home/me/street/images/train"), published_name("../walk.mp4")
    ('street/images/train', 'walk.mp4')
    >>> published_name("rtsp://admin:hunter2@10.0.0.5:554/live")
    'rtsp://***@10.0.0.5:554/live'
    """
    if uri.startswith("gst:") or _SCHEME.match(uri):
        return redact(uri)
    parts = Path(os.path.abspath(os.path.expanduser(uri))).parts[1:]
    kept = 1
    while kept < len(parts) and _COMMON.fullmatch(parts[-kept]):
        kept += 1
    return "/".join(parts[-kept:]) or "/"


def _redact_property(word: str) -> str:
    name, equals, value = word.partition("=")
    return f"{name}{equals}{redact(value)}" if equals and "://" in value else redact(word)
