"""How a source is read, and opened again when it was lost."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Reconnect:
    """How a source that stopped delivering is opened again.

    Waits `first_s`, then twice as long each time up to `longest_s`, at most `attempts` times in a
    row, None for without end; a frame that arrives starts the count anew.
    """

    first_s: float = 0.5
    longest_s: float = 30.0
    attempts: int | None = 10

    def waits_s(self) -> Iterator[float]:
        """Yield the wait before every attempt.

        >>> list(Reconnect(attempts=4, longest_s=3.0).waits_s())
        [0.5, 1.0, 2.0, 3.0]
        """
        tries = itertools.count() if self.attempts is None else range(self.attempts)
        for attempt in tries:
            # Bounded, since a float cannot hold what comes after a day of waiting.
            yield min(self.longest_s, self.first_s * 2 ** min(attempt, 32))


NEVER = Reconnect(attempts=0)


@dataclass(frozen=True)
class FeedOptions:
    """How a source is read, and opened again when it was lost."""

    reconnect: Reconnect = field(default_factory=Reconnect)
    """How a source that failed, also at its first opening, is opened again."""

    stall_s: float = 2.0
    """Silence after which a source counts as stalled."""

    ahead: int = 2
    """Frames read ahead from a recording."""

    told: bool = True
    """Log the source's states and what it is lost to, False where the reader raises that."""

    lent: bool = False
    """The source is open already and somebody else's, who closes it: a live one is read when a
    frame is asked for, since it drops by itself what nobody asked for."""


LENT = FeedOptions(Reconnect(attempts=0), told=False, lent=True)
"""Of a source that its owner has opened."""
