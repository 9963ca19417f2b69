"""Images done and time left, on stderr: one live line on a terminal, else one now and then."""

from __future__ import annotations

import sys
import time

_QUIET_SECONDS = 10.0


class ProgressLine:
    """Told (done, total); name: what it is about, "" for nothing."""

    def __init__(self, name: str = "") -> None:
        self._name = f"{name}: " if name else ""
        self._live = sys.stderr.isatty()
        self._started = self._shown = time.monotonic()
        self._first: int | None = None
        self._unfinished = False

    def close(self) -> None:
        """End the live line, so that what follows starts on its own."""
        if self._unfinished:
            print(file=sys.stderr)
            self._unfinished = False

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if self._first is None:
            # What a resumed run had before took no time of this one.
            self._first = done
        if not self._live and now - self._shown < _QUIET_SECONDS:
            return
        self._shown = now
        here = done - self._first
        left = f", {(now - self._started) / here * (total - done):.0f} s left" if here else ""
        line = f"{self._name}image {done} of {total}{left}"
        if self._live:
            print(f"\r\x1b[K{line}", end="", file=sys.stderr, flush=True)
            self._unfinished = True
        else:
            print(line, file=sys.stderr, flush=True)
