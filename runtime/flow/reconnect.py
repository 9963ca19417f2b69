"""How often, and after which pauses, a source that was lost is opened again."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass


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
