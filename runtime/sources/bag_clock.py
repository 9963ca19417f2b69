"""When the pictures of a recording were taken, out of two clocks of which either may be wrong."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from statistics import mean, median

JUMP_NS = 10**9
"""A header's clock that runs this much ahead of the log's between two messages has jumped."""
STILL_NS = 10**7
"""A header's clock may stand still for so long: two cameras share a topic and a trigger."""

LATEST_NS = 2**31 * 10**9
"""No clock of ROS 2 goes further; what does was never set."""


class RecordingClock:
    """Times of messages, never going back: each header's stamp as long as it goes on from the time
    before, otherwise the time before and what has passed by the log's clock.

    used_log: of how many messages the stamp is missing, or stands still, goes back or jumps.
    """

    def __init__(self) -> None:
        self.used_log = 0
        self._last: tuple[int, int] | None = None

    def time_ns(self, stamp_ns: int, logged_ns: int) -> int:
        """Return the time of the next message, nanoseconds. stamp_ns: 0 for none.

        >>> clock = RecordingClock()
        >>> [clock.time_ns(*both) for both in ((100, 107), (200, 207), (0, 307), (400, 407))]
        [100, 200, 300, 400]
        """
        if stamp_ns >= LATEST_NS:
            stamp_ns = 0
        if logged_ns >= LATEST_NS:
            logged_ns = self._last[1] if self._last else 0
        if self._last is None:
            time_ns = stamp_ns or logged_ns
            self.used_log += not stamp_ns
        else:
            before_ns, logged_before_ns = self._last
            passed_ns = max(0, logged_ns - logged_before_ns)
            time_ns = before_ns + passed_ns
            if _goes_on(stamp_ns - before_ns, passed_ns):
                time_ns = stamp_ns
            else:
                self.used_log += 1
        self._last = time_ns, logged_ns
        return time_ns


def rate_of(times_ns: Iterable[int]) -> float | None:
    """Return the usual rate, per second, at ascending times; None if there is none.

    >>> rate_of([0, 10**8, 2 * 10**8, 9 * 10**8]), rate_of([0, 0, 10**8, 10**8, 2 * 10**8])
    (10.0, 20.0)
    """
    steps = [after - before for before, after in pairwise(times_ns)]
    # Of cameras that share a topic and a trigger every other step, or more, is none.
    forward = [step for step in steps if step > 0]
    if not forward:
        return None
    # Without the pauses, of which one among few would make a camera seem slow.
    longest = 1.5 * median(forward)
    return 1e9 / mean(step for step in steps if step <= longest)


def _goes_on(step_ns: int, passed_ns: int) -> bool:
    """Return whether a header's clock is to be believed. passed_ns: meanwhile by the log's clock, 0
    where that says nothing."""
    if step_ns == 0:
        return passed_ns < STILL_NS
    return step_ns > 0 and (passed_ns == 0 or step_ns <= passed_ns + JUMP_NS)
