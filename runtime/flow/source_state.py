"""How a source is while it is read."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class SourceState(enum.Enum):
    """connecting: not a frame yet, or being opened again; live: frames come; stalled: none came for a
    while, although nothing failed; paused: somebody holds it; lost: it failed and its attempts are
    used up; ended: it had an end and has reached it."""

    CONNECTING = "connecting"
    LIVE = "live"
    STALLED = "stalled"
    PAUSED = "paused"
    LOST = "lost"
    ENDED = "ended"

    @property
    def final(self) -> bool:
        return self in (SourceState.LOST, SourceState.ENDED)


@dataclass(frozen=True)
class FeedReport:
    """How a source is."""

    state: SourceState
    since_s: float
    """Seconds that `state` has lasted."""

    frames: int
    """Frames read so far."""

    drops: dict[str, int]
    """Frames dropped, by cause."""

    reconnects: int
    """How often the source was opened again."""

    error: str
    """The last failure, without credentials, "" for none."""

    source_id: str = ""
    """Address of the source without credentials, "" before it was opened."""

    warnings: tuple[str, ...] = ()
    """What was wrong although reading went on."""
