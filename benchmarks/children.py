"""Processes of a benchmark's own that may hang or die: waited for, and ended with all they started."""

from __future__ import annotations

import contextlib
import os
import signal
import time


def ended(child: int, patience_s: float) -> int | None:
    """Wait for a forked process that made itself a group of its own, then end it with that group.

    Return how it ended, an exit code or minus a signal, None if it had to be ended.
    """
    over = False
    deadline_s = time.monotonic() + patience_s
    try:
        while not (over := _is_over(child)) and time.monotonic() < deadline_s:
            time.sleep(0.02)
    finally:
        for end in (os.killpg, os.kill):  # it may have died, or not yet have a group of its own
            with contextlib.suppress(ProcessLookupError):
                end(child, signal.SIGKILL)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return status if over else None


def _is_over(child: int) -> bool:
    # Not reaped, so that its number, which is its group's, stays its own.
    return os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
