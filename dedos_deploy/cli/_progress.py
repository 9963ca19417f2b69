"""Parts of a long operation as lines on stderr, with the seconds they take and those left."""

from __future__ import annotations

import sys
import threading
import time
from typing import TextIO

from dedos_deploy.progress import Progress

TICK_S = 0.5
SILENT_S = 2.0
"""A part longer than this shows that it is alive."""

LOG_EVERY_S = 15.0
"""How often a running part writes a line when stderr is a file."""


class WarningLines(Progress):
    """Says on stderr what should be known, and nothing of how far it is."""

    def warn(self, text: str) -> None:
        print(f"warning: {text}", file=sys.stderr)


class ProgressLines(Progress):
    """Draws `[3/7] building the engine, profile K=64 … 12 s`.

    On a terminal the running line is rewritten in place; in a file it comes when the part starts
    to be long, then every LOG_EVERY_S. A part that ended keeps one line with its seconds.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._live = self._stream.isatty()
        self._lock = threading.Lock()
        self._title = self._note = ""
        self._reached: tuple[float, str] | None = None
        self._first: tuple[float, float] | None = None
        self._start_s = self._next_log_s = 0.0
        self._stop = threading.Event()
        self._ticker: threading.Thread | None = None
        self._width = 0

    def begin(self, number: int, count: int, what: str) -> None:
        with self._lock:
            self._title, self._note = f"[{number}/{count}] {what}", ""
            self._reached = self._first = None
            self._start_s = time.monotonic()
            self._next_log_s = SILENT_S
        self._stop.clear()
        # A daemon, so that a part which ends the process cannot be kept waiting by its clock.
        self._ticker = threading.Thread(target=self._tick, name="progress-clock", daemon=True)
        self._ticker.start()

    def note(self, text: str) -> None:
        with self._lock:
            if text != self._note:
                self._note, self._reached, self._first = text, None, None

    def reached(self, fraction: float, text: str) -> None:
        with self._lock:
            self._reached = fraction, text
            # What a resumed run had before took no time of this one.
            self._first = self._first or (fraction, time.monotonic())

    def warn(self, text: str) -> None:
        with self._lock:
            self._clear()
            self._write(f"warning: {text}\n")

    def end(self, *, completed: bool) -> None:
        self._stop.set()
        if self._ticker is not None:
            self._ticker.join()
            self._ticker = None
        with self._lock:
            self._clear()
            # What is stopped at once has an error of its own, which says all there is to say.
            if completed or self._elapsed() >= SILENT_S:
                word = "" if completed else ", stopped"
                self._write(f"{self._title} … {self._elapsed():.1f} s{word}\n")

    def _tick(self) -> None:
        while not self._stop.wait(TICK_S):
            with self._lock:
                self._show()

    def _show(self) -> None:
        elapsed = self._elapsed()
        parts = [self._title, *([self._note] if self._note else []), *self._how_far()]
        line = f"{', '.join(parts)} … {elapsed:.0f} s"
        if self._live and elapsed >= SILENT_S:
            self._write("\r" + line.ljust(self._width))
            self._width = len(line)
        elif not self._live and elapsed >= self._next_log_s:
            self._write(line + "\n")
            self._next_log_s = elapsed + LOG_EVERY_S

    def _how_far(self) -> list[str]:
        if self._reached is None or self._first is None:
            return []
        (fraction, text), (first, since_s) = self._reached, self._first
        if fraction <= first:
            return [text]
        left_s = (time.monotonic() - since_s) / (fraction - first) * (1 - fraction)
        return [text, f"{left_s:.0f} s left"]

    def _elapsed(self) -> float:
        return time.monotonic() - self._start_s

    def _clear(self) -> None:
        if self._width:
            self._write("\r" + " " * self._width + "\r")
            self._width = 0

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()
