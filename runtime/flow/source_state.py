"""How a source is while it is read."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class SourceState(enum.Enum):
    """connecting: not a frame yet, or being opened again; live: frames come; stalled: none came for a
    while, although nothing failed; lost: it failed and its attempts are used up; ended: it had an
    end and has reached it."""

    CONNECTING = "connecting"
    LIVE = "live"
    STALLED = "stalled"
    LOST = "lost"
    ENDED = "ended"

    @property
    def final(self) -> bool:
        return self in (SourceState.LOST, SourceState.ENDED)


@dataclass(frozen=True)
class FeedReport:
    """state, and for how many seconds; frames: read so far; drops: by cause; reconnects: how often
    it was opened again; error: the last failure, without credentials, "" for none; source_id: its
    address without credentials, "" before it was opened; warnings: what was wrong although reading
    went on."""

    state: SourceState
    since_s: float
    frames: int
    drops: dict[str, int]
    reconnects: int
    error: str
    source_id: str = ""
    warnings: tuple[str, ...] = ()
