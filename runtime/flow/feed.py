"""One source on its own thread: opened again when it is lost, its newest frame kept ready."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import NoReturn

from dedos_deploy.closing import Closing
from dedos_deploy.errors import SourceError
from dedos_deploy.runtime.flow.feed_options import FeedOptions
from dedos_deploy.runtime.flow.source_state import FeedReport, SourceState
from dedos_deploy.runtime.flow.stages import ObservedSource, StageBoard
from dedos_deploy.runtime.flow.workers import Handover, Worker
from dedos_deploy.runtime.frame import Frame
from dedos_deploy.runtime.processes import OneProcess
from dedos_deploy.runtime.sources.contract import POLL_S, SUPERSEDED, Outcome, Source

log = logging.getLogger(__name__)

FEED_JOIN_S = 0.9
"""How long a driver that may hang is waited for."""


class Feed(Closing):
    """A source that never blocks who reads it, and comes back when it was lost.

    Live sources keep only their newest frame, recordings wait until theirs are taken. A source that
    raises is closed and opened again as `options` say; nothing it does reaches another feed.
    """

    def __init__(
        self,
        name: str,
        open_it: Callable[[], Source],
        *,
        options: FeedOptions | None = None,
        on_frame: Callable[[], None] = lambda: None,
        stages: StageBoard | None = None,
    ) -> None:
        """name: for logs and threads; open_it: called on the feed's thread, again after a loss;
        on_frame: called there when a frame is ready or the feed is over; stages: told of every
        opening and read."""
        self.name = name
        self.failure: BaseException | None = None
        self._open_it = open_it
        self._options = options or FeedOptions()
        self._on_frame = on_frame
        self._stages = stages or StageBoard()
        self._lock = threading.Lock()
        self._drops: Counter[str] = Counter()
        self._inner_drops: dict[str, int] = {}
        self._state = SourceState.CONNECTING
        self._since_s = self._last_frame_s = time.monotonic()
        self._paused_s: float | None = None
        self._frames = 0
        self._next_id = 0
        self._openings = 0
        self._error = ""
        self._source_id = ""
        self._warnings: tuple[str, ...] = ()
        self._taken = 0
        self._asked = 0
        self._asking = threading.Event()
        self._stop_s = float("inf")
        self._process = OneProcess("Feed")
        self._ready: Handover[Frame] = Handover(self._options.ahead, when_full="wait")
        self._worker = Worker(f"dedos-source {name}", self._run, self._ready)

    def take(self) -> Frame | None:
        """Return the frame that is ready, None if there is none; never waits."""
        self._process.check()
        frame = self._ready.take()
        self._taken += frame is not None
        return frame

    def read(self, timeout_s: float) -> Frame | Outcome:
        """Return the next frame as a source does; raises what the source was lost to."""
        self.ask()
        item = self._worker.get(timeout_s)
        self._taken += isinstance(item, Frame)
        return item

    def ask(self) -> None:
        """Have a frame read, where none is read before it is asked for."""
        if not self.waiting:
            self._asked = self._taken + 1
            self._asking.set()

    @property
    def waiting(self) -> bool:
        """Whether a frame is ready."""
        return len(self._ready) > 0

    @property
    def over(self) -> bool:
        """Whether no frame will come any more."""
        with self._lock:
            return self._state.final and not self.waiting

    def count_drop(self, cause: str) -> None:
        """Count a frame that was taken and not labelled."""
        self._process.check()
        with self._lock:
            self._drops[cause] += 1

    def report(self) -> FeedReport:
        """Return how it is, from any thread."""
        self._process.check()
        now_s = time.monotonic()
        with self._lock:
            state, since_s = self._state, self._since_s
            silent_s = now_s - self._last_frame_s
            is_silent = not self.waiting and silent_s > self._options.stall_s
            if state is SourceState.LIVE and self._paused_s is not None:
                state, since_s = SourceState.PAUSED, self._paused_s
            elif state is SourceState.LIVE and is_silent:
                state, since_s = SourceState.STALLED, self._last_frame_s
            drops = Counter(self._inner_drops)
            drops.update(self._drops)
            return FeedReport(
                state,
                now_s - since_s,
                self._frames,
                dict(drops),
                self._reconnects,
                self._error,
                self._source_id,
                (*self._warnings, *self._losses()),
            )

    @property
    def runs(self) -> bool:
        return self._worker.runs

    def request_stop(self) -> None:
        """Ask the thread to end and give no more frames; returns at once."""
        self._process.check()
        self._stop_s = min(self._stop_s, time.monotonic())
        self._worker.abandon()
        self._asking.set()

    def close(self, timeout_s: float = FEED_JOIN_S) -> None:
        """Stop, and wait for the thread a moment after the first request: one that is stuck in a
        driver is left behind."""
        self.request_stop()
        if not self._worker.join(max(0.0, self._stop_s + timeout_s - time.monotonic())):
            log.warning(
                "feed %s did not end within %.1f s and is left behind",
                self.name,
                timeout_s,
                extra={"camera": self.name},
            )

    @property
    def _reconnects(self) -> int:
        return max(0, self._openings - 1)

    def _losses(self) -> tuple[str, ...]:
        if not self._reconnects:
            return ()
        return (f"{self._source_id!r} was lost and opened again {self._reconnects} times",)

    # On the feed's thread

    def _run(self, emit: Callable[[Frame], bool], stop: threading.Event) -> None:
        waits = self._options.reconnect.waits_s()
        while not stop.is_set():
            seen = self._frames
            try:
                self._read_all(emit, stop)
                # One that was stopped has not ended; it stays what it was.
                if not stop.is_set():
                    self._enter(SourceState.ENDED)
                return
            except BaseException as error:
                # Whatever a source raises is its own; a bug in one must not end the others.
                failure = error
            if self._frames > seen:
                waits = self._options.reconnect.waits_s()
            wait_s = next(waits, None)
            if wait_s is None or not isinstance(failure, Exception):
                self._lose(failure)
            self._say(failure)
            self._note(failure)
            self._enter(SourceState.CONNECTING)
            stop.wait(wait_s)

    def _read_all(self, emit: Callable[[Frame], bool], stop: threading.Event) -> None:
        with contextlib.ExitStack() as opened:
            source = self._opened()
            if not self._options.lent:
                opened.enter_context(source)
            self._openings += 1
            opened.callback(self._keep_warnings, source)
            while self._is_asked(source, stop) and not stop.is_set():
                item = source.read(POLL_S)
                self._inner_drops = dict(source.drops)
                self._note_pause(source.paused)
                if item is Outcome.END:
                    return
                if isinstance(item, Frame) and not self._put(item, emit, live=source.live):
                    return

    def _note_pause(self, paused: bool) -> None:
        with self._lock:
            if paused is (self._paused_s is None):
                # What has been paused is not stalled when it goes on.
                self._last_frame_s = time.monotonic()
                self._paused_s = self._last_frame_s if paused else None

    def _keep_warnings(self, source: Source) -> None:
        self._warnings = tuple(dict.fromkeys((*self._warnings, *source.warnings)))

    def _opened(self) -> Source:
        with self._stages.busy("open", self.name):
            source = self._open_it()
            source.first_id = self._next_id
        self._source_id = source.source_id
        return ObservedSource(source, self._stages, subject=self.name)

    def _is_asked(self, source: Source, stop: threading.Event) -> bool:
        """Return whether to read on, waiting for somebody to ask where that is needed."""
        while source.live and self._options.lent and self._asked <= self._frames:
            self._asking.wait(POLL_S)
            self._asking.clear()
            if stop.is_set():
                return False
        return True

    def _put(self, frame: Frame, emit: Callable[[Frame], bool], *, live: bool) -> bool:
        superseded = self._ready.clear() if live else 0
        with self._lock:
            came = self._state is not SourceState.LIVE
            if came:
                self._state, self._since_s = SourceState.LIVE, time.monotonic()
            self._frames += 1
            self._next_id = frame.frame_id + 1
            self._last_frame_s = time.monotonic()
            if superseded:
                self._drops[SUPERSEDED] += superseded
        if came:
            self._tell(SourceState.LIVE)
        taken = emit(frame)
        self._on_frame()
        return taken

    def _say(self, error: BaseException) -> None:
        level = logging.WARNING if isinstance(error, SourceError) else logging.ERROR
        log.log(
            level,
            "camera %s: %s: %s",
            self.name,
            type(error).__name__,
            error,
            extra={"camera": self.name},
        )

    def _note(self, error: BaseException) -> None:
        with self._lock:
            self._error = str(error) or type(error).__name__
            # A source that is opened again counts its own drops from nothing.
            self._drops.update(self._inner_drops)
            self._inner_drops = {}

    def _lose(self, error: BaseException) -> NoReturn:
        """Give up, and raise what the source is lost to."""
        if self._options.told:
            self._say(error)
        attempts = self._options.reconnect.attempts
        if self._frames and attempts and isinstance(error, Exception):
            error = SourceError(
                f"source {self._source_id!r} stopped delivering frames and did not come back in "
                f"{attempts} attempts over {time.monotonic() - self._since_s:.0f} s; check the device "
                f"and its connection (at last: {error})"
            )
        self.failure = error
        self._note(error)
        self._enter(SourceState.LOST)
        raise error

    def _enter(self, state: SourceState) -> None:
        with self._lock:
            new = self._state is not state
            if new:
                self._state, self._since_s = state, time.monotonic()
        if new:
            self._tell(state)
        self._on_frame()

    def _tell(self, state: SourceState) -> None:
        if self._options.told:
            log.info(
                "camera %s is %s",
                self.name,
                state.value,
                extra={"camera": self.name, "state": state.value},
            )
